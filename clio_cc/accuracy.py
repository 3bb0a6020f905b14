"""What was evaluated on labelled data, per partition point and number of units: ``accuracy.csv``.

Written by `evaluate`, read by `plan`. Besides rows of partition points (``<point>,<units>``) it may hold the rows
of what they compete with: ``local,0,0`` (the whole network on the device), ``input,1`` (the raw input is sent),
``jpeg,<quality>`` (a JPEG is sent) and ``<point>/<bits>bit,<units>`` (all units of a point with fewer bits, as in
JALAD, ICPADS'18).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from clio_cc.errors import ClioError, raise_collected
from clio_cc.table import is_count, number, read_table, write_table

JPEG = "jpeg"
"""Partition of the rows in which a JPEG of the input is sent; its `slices` is the quality, 1 to 100."""
FEWER_BITS = re.compile(r"(.+)/([0-9]+)bit")
"""Partition of the rows in which a point's units are sent with fewer bits."""
METRICS = ("accuracy", "agreement")
"""Share of samples that were answered right, or like the original model."""


@dataclass(frozen=True)
class AccuracyRow:
    """One choice; the fields are the columns of ``accuracy.csv``, in this order.

    Attributes:
        bytes: On the wire, per sample; a mean is rounded up.
        metric: ``accuracy`` or ``agreement``, the same in all rows.
        value: 0 to 1.
        samples: That it was evaluated on, at least 1.
    """

    partition: str
    slices: int
    bytes: int
    metric: str
    value: float
    samples: int


COLUMNS = tuple(field.name for field in fields(AccuracyRow))
_COUNTS = ("slices", "bytes", "samples")


def to_csv(rows: Sequence[AccuracyRow]) -> str:
    """The text of ``accuracy.csv``; equal rows give equal text."""
    return write_table(COLUMNS, (asdict(row) for row in rows))


def read_accuracy(path: Path) -> tuple[AccuracyRow, ...]:
    """Read ``accuracy.csv``, perhaps edited by hand.

    Raises:
        ClioError: It cannot be read, or rows are at fault: all of them are named, with their lines.
    """
    rows: list[AccuracyRow] = []
    errors: list[str] = []
    lines: dict[tuple[str, str], int] = {}
    metric = ""
    for line, cells in read_table(path, COLUMNS):
        found = list(_mistakes(cells))
        key = cells["partition"], cells["slices"]
        if key in lines:
            found.append(f"'{key[0]},{key[1]}' is there twice, first in line {lines[key]}")
        lines.setdefault(key, line)
        metric = metric or cells["metric"]
        if cells["metric"] in METRICS and cells["metric"] != metric:
            found.append(f"metric must be the same in all rows, got '{cells['metric']}' after '{metric}'")
        errors += [f"{path}:{line}: {mistake}" for mistake in found]
        if not found:
            rows.append(_row(cells))
    raise_collected(errors)
    if not rows:
        raise ClioError("holds no rows", str(path))
    return tuple(rows)


def _mistakes(cells: Mapping[str, str]) -> Iterator[str]:
    if not cells["partition"]:
        yield "partition must have a name"
    for name in _COUNTS:
        if not is_count(cells[name]):
            yield f"{name} must be a whole number from 0 up, got '{cells[name]}'"
    if cells["samples"] == "0":
        yield "samples must be at least 1"
    if cells["metric"] not in METRICS:
        yield f"metric must be {' or '.join(METRICS)}, got '{cells['metric']}'"
    value = number(cells["value"])
    if value is None or value > 1:
        yield f"value must be a number from 0 to 1, got '{cells['value']}'"


def _row(cells: Mapping[str, str]) -> AccuracyRow:
    return AccuracyRow(
        partition=cells["partition"],
        slices=int(cells["slices"]),
        bytes=int(cells["bytes"]),
        metric=cells["metric"],
        value=float(cells["value"]),
        samples=int(cells["samples"]),
    )
