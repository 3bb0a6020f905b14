"""HTML and SVG that is escaped by construction and well-formed XML, and numbers as people read them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_SPECIAL = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;"}
_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
UNFOLDED_ROWS = 30
WIDE = 36
TIMES, DASH = "\u00d7", "\u2013"
_COMMAND = re.compile(r"`(clio-cc [^`]*)`")
_VOID = frozenset(("br", "meta"))


class Markup(str):
    """Text that is markup already; any other string is escaped where it is put into an element."""

    __slots__ = ()


Content = str | int | Iterable["Content"] | None


def escape(text: str) -> Markup:
    """Return text as markup; what XML cannot hold is replaced."""
    return Markup("".join(_SPECIAL.get(letter, letter) for letter in _NOT_XML.sub("\ufffd", text)))


def el(tag: str, *content: Content, **attributes: str | float | None) -> Markup:
    """Return an element. ``class_`` stands for class, ``_`` within a name for a hyphen; None leaves an attribute out."""
    written = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(_value(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    inside = join(content)
    if tag in _VOID:
        return Markup(f"<{tag}{written}/>")
    return Markup(f"<{tag}{written}>{inside}</{tag}>")


def join(content: Content) -> Markup:
    """Return content as markup; None is nothing."""
    if isinstance(content, Markup):
        return content
    if isinstance(content, str):
        return escape(content)
    if isinstance(content, int):
        return Markup(number(content))
    return Markup("".join(join(each) for each in content or ()))


def _value(value: str | float) -> str:
    return value if isinstance(value, str) else plain(value)


def plain(value: float) -> str:
    """A coordinate: three digits, no zeros at the end."""
    return f"{value:.3f}".rstrip("0").rstrip(".")


# --- numbers ----------------------------------------------------------------------------------------


def number(value: float, digits: int = 0) -> str:
    """``12,501,632``."""
    return f"{value:,.{digits}f}"


def size(value: int) -> str:
    """``8,192 B``, with a no-break space."""
    return f"{value:,}\u00a0B"


def large(value: float) -> str:
    """``12.5 M``, four digits: for texts where a table has the exact figure."""
    for factor, unit in ((1e9, "\u00a0G"), (1e6, "\u00a0M"), (1e3, "\u00a0k")):
        if value >= factor:
            return f"{value / factor:.4g}{unit}"
    return f"{value:,.4g}"


def bps(value: float) -> str:
    """``175.3 kbit/s``."""
    found = large(value)
    return f"{found}bit/s" if "\u00a0" in found else f"{found}\u00a0bit/s"


def time(us: float) -> str:
    """``24.1 ms``, four digits."""
    for factor, unit in ((1e6, "s"), (1e3, "ms")):
        if us >= factor:
            return f"{us / factor:,.4g}\u00a0{unit}"
    return f"{us:,.4g}\u00a0µs"


def energy(uj: float | None) -> str:
    """``5.2 mJ``; ``unknown`` for None."""
    if uj is None:
        return "unknown"
    for factor, unit in ((1e6, "J"), (1e3, "mJ")):
        if uj >= factor:
            return f"{uj / factor:,.4g}\u00a0{unit}"
    return f"{uj:,.4g}\u00a0µJ"


def percent(share: float | None, digits: int = 2) -> str:
    """``87.20 %``; ``unknown`` for None."""
    return "unknown" if share is None else f"{100 * share:.{digits}f}\u00a0%"


def dims(shape: Sequence[int]) -> str:
    """``1×64×8×8``."""
    return TIMES.join("?" if each < 0 else str(each) for each in shape)


def several(count: int, what: str) -> str:
    """``1 unit``, ``12 units``."""
    return f"{count:,} {what}" + ("" if count == 1 else "s")


# --- texts and tables -------------------------------------------------------------------------------


def short(name: str, most: int = 28) -> Markup:
    """A name, shortened in the middle where it is longer than `most`; then the whole is its title."""
    if len(name) <= most:
        return el("span", name, class_="name")
    tail = most * 3 // 5
    return el("span", f"{name[: most - tail - 1]}…{name[-tail:]}", class_="name", title=name)


def bar(share: float, kind: str = "") -> Markup:
    """A horizontal bar of a share of its cell, for a figure that stands beside it."""
    inner = el("span", style=f"width:{plain(100.0 * min(max(share, 0.0), 1.0))}%")
    return el("span", inner, class_=f"bar {kind}".strip(), aria_hidden="true")


def table(caption: str, heads: Sequence[Content], rows: Iterable[Sequence[Content]]) -> Markup:
    """A table that scrolls by itself where it is too wide; cells of whole numbers and :func:`figure` stand right."""
    every = [list(row) for row in rows]
    right = [_is_number(each) for each in every[0]] if every else [False] * len(heads)
    columns = zip(heads, right, strict=True)
    head = el("tr", [el("th", each, scope="col", class_="n" if n else None) for each, n in columns])
    body = [el("tr", [el("td", each, class_=_kind(each)) for each in row]) for row in every]
    inner = el("table", el("caption", caption), el("thead", head), el("tbody", body))
    return el("div", inner, class_="scroll", tabindex="0", role="region", aria_label=caption)


class Figure(str):
    """The text of a cell that is a number with its unit."""

    __slots__ = ()


def _kind(content: Content) -> str | None:
    """The class of a cell: ``n`` for numbers, ``w`` for texts that may break into lines."""
    if _is_number(content):
        return "n"
    return (
        "w" if isinstance(content, str) and not isinstance(content, Markup) and len(content) > WIDE else None
    )


def _is_number(content: Content) -> bool:
    return isinstance(content, int | Figure)


def folded(summary: Content, *content: Content, unfolded: bool = False) -> Markup:
    """What not everybody wants to see at once."""
    return el("details", el("summary", summary), *content, open="open" if unfolded else None)


def long_table(caption: str, heads: Sequence[Content], rows: Sequence[Sequence[Content]]) -> Markup | None:
    """A table that is folded where it has many rows; nothing where it has none."""
    if not rows:
        return None
    found = table(caption, heads, rows)
    return found if len(rows) <= UNFOLDED_ROWS else folded(f"{caption}: all {len(rows)} rows", found)


def paragraph(*content: Content) -> Markup:
    """A paragraph; commands between backticks are code."""
    return el("p", [prose(each) if isinstance(each, str) else each for each in content])


def prose(text: str) -> Markup:
    """Text in which commands between backticks are code."""
    if isinstance(text, Markup):
        return text
    pieces = _COMMAND.split(text)
    return join([el("code", each) if index % 2 else each for index, each in enumerate(pieces)])
