"""The one error that users see."""

from __future__ import annotations

from collections.abc import Iterable


class ClioError(Exception):
    """Input at fault: what is wrong, where it is, and what to do about it.

    Args:
        message: One sentence without a full stop, e.g. ``unknown target 'stm32f4'``.
        where: ``file:line`` for tables; file, node name and operator for graphs; empty if the message says it.
        hint: What to do, e.g. ``did you mean 'stm32f7'?``.
    """

    def __init__(self, message: str, where: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text}\n  hint: {self.hint}" if self.hint else text


def raise_collected(errors: Iterable[str], where: str = "", hint: str = "", most: int = 10) -> None:
    """Raise one :class:`ClioError` for several mistakes, at most `most` of them spelled out; do nothing for none."""
    found = list(errors)
    if not found:
        return
    if len(found) > most:
        found = [*found[:most], f"... and {len(found) - most} more"]
    raise ClioError("\n  ".join(found), where, hint)
