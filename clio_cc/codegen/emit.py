"""C text, line by line: the one emitter that everything here prints through (TVM's functions are printed by TVM)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

C_TYPES = {
    "int8": "int8_t",
    "int16": "int16_t",
    "int32": "int32_t",
    "uint16": "uint16_t",
    "uint32": "uint32_t",
}
LINE = 116


class Emitter:
    """Collects lines under the current indent."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._indent = ""

    def line(self, text: str = "") -> None:
        """Add one line."""
        self._lines.append(f"{self._indent}{text}".rstrip())

    def lines(self, text: str) -> None:
        """Add several lines."""
        for line in text.rstrip("\n").split("\n"):
            self.line(line)

    @contextmanager
    def block(self, opening: str, closing: str = "}") -> Iterator[None]:
        """Indent what is emitted inside, between two lines."""
        self.line(opening)
        outer, self._indent = self._indent, f"{self._indent}    "
        yield
        self._indent = outer
        self.line(closing)

    def comment(self, text: str) -> None:
        """Add a comment. Names come from the user's model: what C could read as something else is taken apart."""
        ascii_only = text.encode("ascii", "backslashreplace").decode()
        safe = ascii_only.replace("*/", "* /").replace("/*", "/ *").replace("??", "? ?").replace("\r", " ")
        lines = safe.split("\n")
        for number, line in enumerate(lines):
            before, after = ("/* " if number == 0 else " * "), (" */" if number == len(lines) - 1 else "")
            self.line(f"{before}{line}{after}")

    def array(self, declaration: str, values: npt.NDArray[Any]) -> None:
        """Add an array definition, values filled to the width of a line."""
        self.line(f"{declaration} = {{")
        row = "   "
        for value in values.reshape(-1).tolist():
            word = f" {value}," if value != -(2**31) else " (-2147483647 - 1),"
            if len(row) + len(word) > LINE:
                self._lines.append(row)
                row = "   "
            row += word
        self._lines.append(row)
        self.line("};")

    def text(self) -> str:
        """Return everything, newline at the end."""
        return "\n".join(self._lines) + "\n"


def c_type(dtype: np.dtype[Any]) -> str:
    """Return the C99 type of a numpy dtype."""
    return C_TYPES[str(dtype)]
