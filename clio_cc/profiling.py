"""Where the times of a profile come from.

The device, in the order of trust: a table measured on a real board; executed instructions of the emulated board times
cycles per instruction; a model from multiply-accumulates. The cloud: measured here, or a table. Every row says which.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from clio_cc import toolchain
from clio_cc.attribution import Attribution
from clio_cc.errors import ClioError, raise_collected
from clio_cc.execution import execute, random_inputs
from clio_cc.profile import ENCODE, FUSED, ProfileRow, Times, from_macs, short_source, unknown_layer
from clio_cc.program import Program
from clio_cc.table import number, read_table
from clio_cc.targets import Figure, Target
from clio_cc.units import format_bps

if TYPE_CHECKING:
    import onnx

AUTO, EMULATED, MODEL = "auto", "emulated", "model"
DEVICES = (AUTO, EMULATED, MODEL)
Progress = Callable[[str, int, int], None]

_BOARD_COLUMNS = (("layer", "device_us"), ("layer", "cycles"), ("layer", "instructions"))
_CLOUD_COLUMNS = (("layer", "cloud_us"),)
# Sources that this module and compile write; rows with any other were imported or edited by hand.
_OURS = ("modelled", "emulated", "fused", "free", "not on the device")


@dataclass(frozen=True)
class Request:
    """What the user asked for.

    Attributes:
        device: One of `DEVICES`.
        board_table: Times measured on a real board.
        clock_hz: Instead of the target's.
        cycles_per_instruction: Instead of the target's.
        cloud_table: Instead of measuring here.
        repeats: Runs on the cloud side to take the median of.

    Raises:
        ClioError: Two wishes exclude each other.
    """

    device: str = AUTO
    board_table: Path | None = None
    clock_hz: int | None = None
    cycles_per_instruction: float | None = None
    cloud_table: Path | None = None
    repeats: int = 20

    def __post_init__(self) -> None:
        if self.device not in DEVICES:
            raise ClioError(f"unknown device '{self.device}'", hint=f"choose {', '.join(DEVICES)}")
        if self.board_table is not None and self.device != AUTO:
            raise ClioError(f"--device {self.device} and --import exclude each other")
        if self.device == MODEL and self.counts:
            raise ClioError("--clock and --cpi turn counts into time; a model from MACs has none")

    @property
    def counts(self) -> bool:
        """The user says how counts become time."""
        return self.clock_hz is not None or self.cycles_per_instruction is not None

    def clock(self, target: Target) -> Figure:
        """Clock frequency in hertz."""
        return target.clock_hz if self.clock_hz is None else Figure(self.clock_hz, _GIVEN)

    def cpi(self, target: Target) -> Figure:
        """Cycles per instruction."""
        given = self.cycles_per_instruction
        return target.cycles_per_instruction if given is None else Figure(given, _GIVEN)


_GIVEN = "given on the command line"


@dataclass(frozen=True)
class Device:
    """What the device's side of a profile is made from.

    Attributes:
        program: The device's half.
        project: Its folder.
        target: The board.
        attribution: The operators' layers.
    """

    program: Program
    project: Path
    target: Target
    attribution: Attribution


def with_device(
    rows: Sequence[ProfileRow], device: Device, request: Request, progress: Progress
) -> tuple[tuple[ProfileRow, ...], tuple[str, ...]]:
    """Return the rows with the device's times as asked for, and what the user must be told.

    With `AUTO`, times that were imported or edited by hand stay; the others come from the emulated board, or from the model
    where its tools are missing or the target says that it is nearer to the truth (`Target.device_time`).

    Raises:
        ClioError: A table is at fault, the emulated board's tools are missing, or it computes something else.
    """
    rate = device.target.macs_per_s
    if request.board_table is not None:
        times = read_board(request.board_table, rows, device, request)
        rate = _rate_of(rows, times, rate)
        return tuple(_placed(row, times, device.attribution, rate) for row in rows), ()
    kept = {row.layer for row in rows if request.device == AUTO and not request.counts and not _is_ours(row)}
    if kept.issuperset(device.attribution.rows):
        return tuple(rows), ()
    kind, warnings = _kind(device.target, request)
    if kind == EMULATED:
        times = emulate(device, request, progress)
        rate = _rate_of(rows, times, rate)
        made = [_placed(row, times, device.attribution, rate) for row in rows]
    else:
        made = [_modelled(row, rate) for row in rows]
    return tuple(row if row.layer in kept else new for row, new in zip(rows, made, strict=True)), warnings


def _kind(target: Target, request: Request) -> tuple[str, tuple[str, ...]]:
    if request.device != AUTO or request.counts:
        return (EMULATED if request.counts else request.device), ()
    missing = toolchain.missing_tools(target.emulated) if target.device_time == EMULATED else []
    if missing:
        return MODEL, (f"device times are modelled, not emulated: {' and '.join(missing)} not installed",)
    return target.device_time, ()


def _is_ours(row: ProfileRow) -> bool:
    return short_source(row.device_source) in _OURS


def _placed(row: ProfileRow, times: Times, attribution: Attribution, rate: Figure) -> ProfileRow:
    """Return a row with its time, or with the reason why it has none of its own."""
    name = row.layer
    if name in times.us:
        return replace(row, device_us=times.us[name], device_source=times.source)
    if name in attribution.fused:
        return replace(row, device_us=0.0, device_source=f"{FUSED}{attribution.fused[name]}")
    if name in attribution.computed and row.macs == 0:
        return replace(row, device_us=0.0, device_source="free: no operator of its own")
    return _modelled(row, rate, "; not in the device's program, which ends at the last cut")


def _rate_of(rows: Sequence[ProfileRow], times: Times, otherwise: Figure) -> Figure:
    """What to model the layers with that were not timed: the rate of those that were."""
    macs = sum(row.macs for row in rows if row.layer in times.us)
    us = sum(times.us[row.layer] for row in rows if row.layer in times.us)
    return Figure(macs / us * 1e6, f"as the layers before; {times.source}") if macs and us else otherwise


def _modelled(row: ProfileRow, rate: Figure, note: str = "") -> ProfileRow:
    if row.device_us is None or (row.op == ENCODE and row.macs == 0):
        return row
    us, source = from_macs(row.macs, rate)
    return replace(row, device_us=us, device_source=source + note)


# --- the emulated board -------------------------------------------------------------------------------


def emulate(device: Device, request: Request, progress: Progress) -> Times:
    """Count executed instructions per operator on the emulated board, and turn them into time.

    Raises:
        ClioError: Its tools are missing, or it computes something else than the reference.
    """
    board, target = device.target.emulated, device.target
    stage = f"running {board.name}"
    progress(stage, 0, 1)
    inputs = [batch[2:] for batch in random_inputs(device.program, 3)]  # not the extremes that come first
    with tempfile.TemporaryDirectory(prefix="clio-cc-") as folder:
        done = execute(device.program, device.project, board, inputs, Path(folder), icount=True)
    progress(stage, 1, 1)
    if done.first_mismatch is not None:
        raise ClioError(str(done.first_mismatch), hint="clio-cc verify tells more")
    clock, cpi = request.clock(target), request.cpi(target)
    source = (
        f"emulated: instructions on QEMU's {board.name} x {cpi.value:g} cycles each at {format_bps(int(clock.value))}Hz; "
        f"cycles per instruction: {cpi.source}; clock: {clock.source}"
    )
    return Times(_to_us(device.attribution.sums(done.instructions), cpi.value / clock.value), source)


def _to_us(counts: Mapping[str, float], seconds: float) -> dict[str, float]:
    return {name: round(count * seconds * 1e6, 3) for name, count in counts.items()}


# --- the cloud --------------------------------------------------------------------------------------


def measure_both(
    original: onnx.ModelProto, points: Sequence[tuple[str, int, bytes]], repeats: int, progress: Progress
) -> Times:
    """Measure every layer of the original network, and in the cloud's graphs what stands before the layers: the heads.

    Args:
        original: The float graph.
        points: The name of a partition point's row, how many units it takes at most, and its cloud graph.
        repeats: Runs to take the median of.
        progress: Told (stage, done, of).
    """
    import numpy as np
    import onnx

    from clio_cc.cloud_time import measure_cloud

    layers = {node.name for node in original.graph.node}
    times = measure_cloud(original, repeats, progress=lambda done, of: progress("timing the cloud", done, of))
    us = dict(times.us)
    for done, (name, units, content) in enumerate(points, 1):
        graph = onnx.load_from_string(content)
        for index, node in enumerate(graph.graph.node):
            node.name = node.name or f"head {index}"
        found = measure_cloud(graph, repeats, {"received": np.array([units], np.int64)})
        us[name] = round(sum(spent for node, spent in found.us.items() if node not in layers), 3)
        progress("timing the heads", done, len(points))
    return Times(us, times.source)


# --- tables -----------------------------------------------------------------------------------------


def read_board(path: Path, rows: Sequence[ProfileRow], device: Device, request: Request) -> Times:
    """Read what was measured on a real board, or what the profiling firmware printed: microseconds, cycles or instructions.

    Layers that the device computes must be there, but for those that cost nothing; further layers may be.

    Raises:
        ClioError: The table is at fault; every mistake is named, with its line.
    """
    known = {row.layer: "" if row.device_us is not None else row.device_source for row in rows}
    column, values = _read_times(path, _BOARD_COLUMNS, known, device.attribution.rows)
    idle = {name for name in device.attribution.computed if name not in device.attribution.rows}
    values = {name: value for name, value in values.items() if value or name not in idle}
    if column == "device_us":
        if request.counts:
            raise ClioError("has device_us, which --clock and --cpi do not change", str(path))
        return Times(values, f"imported: {path.name}")
    clock = request.clock(device.target)
    per_count, each, origin = 1.0, "cycles", f"clock: {clock.source}"
    if column == "instructions":
        cpi = request.cpi(device.target)
        per_count, each = cpi.value, f"instructions x {cpi.value:g} cycles each"
        origin = f"cycles per instruction: {cpi.source}; {origin}"
    elif request.cycles_per_instruction is not None:
        raise ClioError("has cycles, which --cpi does not change", str(path))
    source = f"imported: {path.name}, {each} at {format_bps(int(clock.value))}Hz; {origin}"
    return Times(_to_us(values, per_count / clock.value), source)


def read_cloud(path: Path, rows: Sequence[ProfileRow]) -> Times:
    """Read the cloud's times, ``layer,cloud_us``; the rows of partition points may be missing.

    Raises:
        ClioError: As :func:`read_board`.
    """
    needed = [row.layer for row in rows if row.op != ENCODE]
    _, values = _read_times(path, _CLOUD_COLUMNS, dict.fromkeys((row.layer for row in rows), ""), needed)
    return Times(values, f"imported: {path.name}")


def _read_times(
    path: Path, columns: Sequence[tuple[str, str]], known: Mapping[str, str], needed: Collection[str]
) -> tuple[str, dict[str, float]]:
    """Return the second column's name, and its values by layer; `known` says of layers why they can have none."""
    errors: list[str] = []
    lines: dict[str, int] = {}
    values: dict[str, float] = {}
    column = ""
    for line, cells in read_table(path, *columns):
        name, (column, cell) = cells["layer"], list(cells.items())[1]
        value = number(cell)
        if name not in known:
            errors.append(f"{path}:{line}: {unknown_layer(name, known)}")
        elif known[name]:
            errors.append(f"{path}:{line}: layer '{name}' has no time: {known[name]}")
        if name in lines:
            errors.append(f"{path}:{line}: layer '{name}' is there twice, first in line {lines[name]}")
        if value is None:
            errors.append(f"{path}:{line}: {column} must be a number from 0 up, got '{cell}'")
        lines.setdefault(name, line)
        values[name] = value or 0.0
    if not lines:
        raise ClioError("holds no layers", str(path))
    errors += [f"{path}: layer '{name}' is missing" for name in needed if name not in lines]
    raise_collected(errors)
    return column, values
