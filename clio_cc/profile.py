"""Time per layer, device and cloud, each figure with its source: ``profile.csv``.

Rows are the layers of the float graph in order of execution. Directly behind the last layer before a partition point stands
the point's own row, ``<point>/units`` with the operator ``Encode``: on the device what computes the units, in the cloud the
head that takes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clio_cc.errors import ClioError, raise_collected
from clio_cc.table import is_count, number, read_table, write_table
from clio_cc.targets.facts import Figure

if TYPE_CHECKING:
    from clio_cc.inspection import Layer

CLOUD_MACS_PER_S = Figure(
    1e10, "a round figure for one x86-64 core in float32, not measured ('clio-cc profile' measures)"
)
"""What `compile` takes for the cloud, so that its output does not depend on the machine that it runs on."""

ENCODE = "Encode"
FUSED = "fused into "

Partition = Mapping[str, Any]
"""One of the manifest's partitions."""


@dataclass(frozen=True)
class ProfileRow:
    """One layer; the fields are the columns of ``profile.csv``, in this order.

    Attributes:
        device_us: Time on the device; None where the device cannot run the layer.
        device_source: Where `device_us` comes from, or why there is none.
        cloud_us: Time in the cloud.
        cloud_source: Where `cloud_us` comes from.
    """

    layer: str
    op: str
    macs: int
    weight_bytes: int
    output_bytes: int
    device_us: float | None
    device_source: str
    cloud_us: float
    cloud_source: str

    def to_json(self) -> dict[str, object]:
        """The object of ``profile --json``."""
        return asdict(self)


@dataclass(frozen=True)
class Times:
    """Microseconds per row by its name, and where they come from."""

    us: Mapping[str, float]
    source: str


COLUMNS = tuple(field.name for field in fields(ProfileRow))
_COUNTS = ("macs", "weight_bytes", "output_bytes")
_TIMES = {"device_us": "device_source", "cloud_us": "cloud_source"}


def short_source(source: str) -> str:
    """The word that says what kind of source it is: ``emulated``, ``fused`` for ``fused into conv1``."""
    return FUSED.split(maxsplit=1)[0] if source.startswith(FUSED) else source.partition(": ")[0]


# --- rows and models --------------------------------------------------------------------------------


def encode_name(point: str) -> str:
    """The name of a partition point's own row, and of its encoder in the Program."""
    return f"{point}/units"


def expected_rows(layers: Sequence[str], partitions: Sequence[Partition]) -> dict[str, bool]:
    """The rows that a profile must have, in order, and whether they are those of partition points."""
    rows: dict[str, bool] = {}
    for layer in layers:
        rows[layer] = False
        rows.update((encode_name(p["name"]), True) for p in partitions if p["layer"] == layer)
    return rows


def modelled(
    layers: Sequence[Layer],
    device_macs_per_s: Figure,
    cloud_macs_per_s: Figure = CLOUD_MACS_PER_S,
    partitions: Sequence[Partition] = (),
) -> tuple[ProfileRow, ...]:
    """A profile from multiply-accumulates alone; layers without any count as 0 us on both sides.

    Args:
        layers: In order of execution, see :mod:`clio_cc.inspection`.
        device_macs_per_s: The target's rate.
        cloud_macs_per_s: The cloud's.
        partitions: Those that get a row of their own.
    """
    rows: list[ProfileRow] = []
    for layer in layers:
        sizes = (layer.macs, layer.weight_bytes, layer.output_bytes)
        device: tuple[float | None, str] = from_macs(layer.macs, device_macs_per_s)
        if not layer.device:
            device = (None, f"not on the device: {layer.reason}")
        rows.append(
            ProfileRow(layer.name, layer.op, *sizes, *device, *from_macs(layer.macs, cloud_macs_per_s))
        )
        rows += [
            _encode_row(partition, device_macs_per_s, cloud_macs_per_s)
            for partition in partitions
            if partition["layer"] == layer.name
        ]
    return tuple(rows)


def from_macs(macs: int, rate: Figure) -> tuple[float, str]:
    """Microseconds of that many multiply-accumulates, and the source to state."""
    return round(macs / rate.value * 1e6, 3), f"modelled: MACs at {rate.value / 1e6:g} MMAC/s; {rate.source}"


def _encode_row(partition: Partition, device: Figure, cloud: Figure) -> ProfileRow:
    encoder = partition.get("encoder") or {}
    macs, head_macs = int(encoder.get("macs", 0)), int(encoder.get("head_macs", 0))
    free = (0.0, "free: nothing runs here")
    units = int(partition.get("units", partition["slices"][-1]))
    return ProfileRow(
        encode_name(partition["name"]),
        ENCODE,
        macs,
        int(encoder.get("weight_bytes", 0)),
        units * int(partition["unit_bytes"]),
        *(from_macs(macs, device) if macs else free),
        *(from_macs(head_macs, cloud) if head_macs else free),
    )


def with_cloud(rows: Sequence[ProfileRow], times: Times) -> tuple[ProfileRow, ...]:
    """The rows with other times in the cloud; rows without one stay as they are."""
    return tuple(
        replace(row, cloud_us=times.us[row.layer], cloud_source=times.source)
        if row.layer in times.us
        else row
        for row in rows
    )


# --- the table ------------------------------------------------------------------------------------


def to_csv(rows: Sequence[ProfileRow]) -> str:
    """The text of ``profile.csv``; equal rows give equal text."""
    return write_table(COLUMNS, (asdict(row) for row in rows))


def read_profile(path: Path, expected: Mapping[str, bool] | None = None) -> tuple[ProfileRow, ...]:
    """Read ``profile.csv``, perhaps edited by hand.

    Args:
        path: The table.
        expected: The rows that it must have (:func:`expected_rows`); None for any.

    Raises:
        ClioError: It cannot be read, or rows are at fault: all of them are named, with their lines.
    """
    rows: list[ProfileRow] = []
    errors: list[str] = []
    layers: dict[str, int] = {}
    for line, cells in read_table(path, COLUMNS):
        found = list(_mistakes(cells))
        name = cells["layer"]
        if name in layers:
            found.append(f"layer '{name}' is there twice, first in line {layers[name]}")
        layers.setdefault(name, line)
        errors += [f"{path}:{line}: {mistake}" for mistake in found]
        if not found:
            rows.append(_row(cells))
    raise_collected(errors)
    if not rows:
        raise ClioError("holds no layers", str(path))
    if expected is not None:
        _check_rows(path, rows, layers, expected)
    return tuple(rows)


def _check_rows(
    path: Path, rows: Sequence[ProfileRow], lines: Mapping[str, int], expected: Mapping[str, bool]
) -> None:
    """Raise an error if the rows are not the expected ones, in their order."""
    errors = [
        f"{path}:{lines[row.layer]}: {unknown_layer(row.layer, expected)}"
        for row in rows
        if row.layer not in expected
    ]
    errors += [f"{path}: layer '{name}' is missing" for name in expected if name not in lines]
    if not errors:
        errors = [
            f"{path}:{lines[row.layer]}: layer '{row.layer}' stands where '{name}' belongs"
            for row, name in zip(rows, expected, strict=True)
            if row.layer != name
        ][:1]
        errors += [
            f"{path}:{lines[row.layer]}: the row of a partition point has the op {ENCODE}, got '{row.op}'"
            for row in rows
            if expected[row.layer] and row.op != ENCODE
        ]
    hint = "the rows are those that compile wrote; edit times and their sources, or compile again"
    raise_collected(errors and ["inconsistent profile", *errors], hint=hint)


def unknown_layer(name: str, known: Iterable[str]) -> str:
    """What to say of a layer that is not there."""
    close = get_close_matches(name, list(known), 1)
    return f"unknown layer '{name}'" + (f"; did you mean '{close[0]}'?" if close else "")


def _mistakes(cells: Mapping[str, str]) -> Iterator[str]:
    if not cells["layer"]:
        yield "layer must have a name"
    for name in _COUNTS:
        if not is_count(cells[name]):
            yield f"{name} must be a whole number from 0 up, got '{cells[name]}'"
    for name, source in _TIMES.items():
        may_be_empty = name == "device_us"
        if cells[name] or not may_be_empty:
            if number(cells[name]) is None:
                yield f"{name} must be a number from 0 up, got '{cells[name]}'"
            if not cells[source]:
                yield f"{source} must say where {name} comes from"


def _row(cells: Mapping[str, str]) -> ProfileRow:
    return ProfileRow(
        layer=cells["layer"],
        op=cells["op"],
        macs=int(cells["macs"]),
        weight_bytes=int(cells["weight_bytes"]),
        output_bytes=int(cells["output_bytes"]),
        device_us=number(cells["device_us"]),
        device_source=cells["device_source"],
        cloud_us=number(cells["cloud_us"]) or 0.0,
        cloud_source=cells["cloud_source"],
    )
