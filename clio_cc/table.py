"""CSV tables that people edit by hand: read with line numbers, written so that equal rows give equal text."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from clio_cc.errors import ClioError, raise_collected

Cell = str | float | None


def write_table(columns: Sequence[str], rows: Iterable[Mapping[str, Cell]]) -> str:
    """The text of a table; None is an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row[name]) for name in columns] for row in rows)
    return text.getvalue()


def _cell(value: Cell) -> str:
    if value is None:
        return ""
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def read_table(
    path: Path, columns: Sequence[str], *others: Sequence[str]
) -> list[tuple[int, dict[str, str]]]:
    """Rows of a CSV file with these columns, or with one of the other sets, each with its line; blank lines are skipped.

    Raises:
        ClioError: The file is missing, is no text, has other columns, or rows have another number of cells.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets put a byte order mark in front
    except FileNotFoundError:
        raise ClioError("no such file", str(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ClioError("cannot be read as UTF-8 text", str(path)) from error
    reader = csv.reader(io.StringIO(text, newline=""))
    header = next(reader, [])
    if header not in [list(columns), *map(list, others)]:
        wanted = " or ".join(f"'{','.join(each)}'" for each in (columns, *others))
        raise ClioError(f"the first line must be {wanted}, got '{','.join(header)}'", f"{path}:1")
    errors = []
    rows = []
    for cells in reader:
        if len(cells) == len(header):
            rows.append((reader.line_num, dict(zip(header, (cell.strip() for cell in cells), strict=True))))
        elif cells:
            errors.append(f"{path}:{reader.line_num}: a row has {len(header)} cells, got {len(cells)}")
    raise_collected(errors)
    return rows


def is_count(text: str) -> bool:
    """Whether a cell holds a whole number from 0 up."""
    return text.isascii() and text.isdigit()


def number(text: str) -> float | None:
    """The number from 0 up in a cell; None if it holds none."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 and "_" not in text else None
