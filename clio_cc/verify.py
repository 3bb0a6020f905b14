"""Verify: does every board compute what the reference says, operator by operator, and link to what was stated?"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from clio_cc import reference, results, toolchain
from clio_cc.artifacts import FLOAT_ONNX
from clio_cc.cloud import RECEIVED, UNITS
from clio_cc.errors import ClioError
from clio_cc.execution import Execution, Mismatch, ZoneRun, execute, run_between_zones
from clio_cc.float_run import TOLERANCE, difference, run_each
from clio_cc.packing import pack_units
from clio_cc.program import Program
from clio_cc.project import ZONES
from clio_cc.qformat import Int8Array
from clio_cc.split_run import device_inputs, to_graph
from clio_cc.targets import HOST, Board, find_target

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

BOARDS = ("all", "host", "emulated")

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Stated:
    """A figure of the manifest and what the linker says; None where it cannot be known."""

    stated: int | None
    linked: int | None

    @property
    def agrees(self) -> bool:
        """Nothing stated, nothing linked to compare with, or the same."""
        return None in (self.stated, self.linked) or self.stated == self.linked


@dataclass(frozen=True)
class Split:
    """What a partition point's two halves give. Differences are relative to the largest of the right output.

    Attributes:
        partition: Name of the point.
        error: Between the original model and its two halves, nothing quantized.
        graph_error: Between what follows the heads in the cloud's graph as written and the original model's second half,
            fed the same.
        quantized_error: Between the original model and the device's half quantized with the cloud's graph as written, all
            units sent.
    """

    partition: str
    error: float
    graph_error: float
    quantized_error: float


@dataclass(frozen=True)
class Verification:
    """Everything that `verify` checked.

    Attributes:
        executions: One per board that ran.
        skipped: Boards that could not be tried, with the reason.
        ram: Arena and stack.
        flash: Code and constants.
        stack: Reserved in the manifest, and used on the emulated board without hooks (at most as much).
        splits: One per partition point.
        local_error: Largest difference, relative to the original's largest output, between the original model and the
            device's outputs; None where the cloud has the last word.
        changed: Files that are not what `compile` wrote.
        zones: The run of one input between red zones; None where no emulated board ran.
    """

    inputs: int
    executions: tuple[Execution, ...]
    skipped: tuple[str, ...]
    ram: Stated
    flash: Stated
    stack: Stated
    splits: tuple[Split, ...]
    local_error: float | None
    changed: tuple[str, ...]
    zones: ZoneRun | None = None

    @property
    def first_mismatch(self) -> Mismatch | None:
        """The first that any board showed."""
        return next((e.first_mismatch for e in self.executions if e.first_mismatch is not None), None)

    @property
    def problems(self) -> list[str]:
        """What is wrong, a sentence each."""
        found = [f"{path} is not what compile wrote" for path in self.changed]
        found += [str(e.first_mismatch) for e in self.executions if e.first_mismatch is not None]
        found += [
            f"{e.board}: clio_unit hands out other bytes for partition point '{name}' than the reference"
            for e in self.executions
            if e.first_mismatch is None  # wrong outputs make wrong units
            for name in e.wrong_units
        ]
        found += self._zone_problems()
        for what, figure in (("RAM", self.ram), ("flash", self.flash)):
            if not figure.agrees:
                found.append(f"{what}: stated {figure.stated} bytes, linked {figure.linked}")
        if (
            self.stack.stated is not None
            and self.stack.linked is not None
            and self.stack.linked > self.stack.stated
        ):
            found.append(f"stack: stated {self.stack.stated} bytes, used {self.stack.linked}")
        for split in self.splits:
            at = f"partition point '{split.partition}': "
            if split.error > TOLERANCE:
                found.append(f"{at}the two halves differ from the original model by {split.error:.2g}")
            if split.graph_error > TOLERANCE:
                found.append(
                    f"{at}the cloud's graph differs from the original model's second half by {split.graph_error:.2g}"
                )
        return found

    def _zone_problems(self) -> list[str]:
        if self.zones is None:
            return []
        found = [str(trespass) for trespass in self.zones.trespasses]
        if self.zones.wrong and not found and self.first_mismatch is None:
            found.append(
                f"{self.zones.board}: operator {self.zones.wrong[0]} depends on bytes of the arena that nothing should need"
            )
        return found

    @property
    def passed(self) -> bool:
        """Nothing is wrong."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """The object of ``verify --json`` (DESIGN §8)."""
        mismatch = self.first_mismatch
        names = ["reference", *("host" if e.board == HOST.name else "qemu" for e in self.executions)]
        return {
            "bit_exact": all(e.exact for e in self.executions) and bool(self.executions),
            "executors": names,
            "inputs": self.inputs,
            "first_mismatch": None if mismatch is None else asdict(mismatch),
            "ram_bytes": asdict(self.ram),
            "flash_bytes": asdict(self.flash),
            "cloud_max_error": _largest(split.error for split in self.splits),
            "cloud_graph_max_error": _largest(split.graph_error for split in self.splits),
            "quantized_max_error": _largest(
                [
                    *(split.quantized_error for split in self.splits),
                    *([] if self.local_error is None else [self.local_error]),
                ]
            ),
            "red_zones": None if self.zones is None else asdict(self.zones),
            "stack_bytes": {"stated": self.stack.stated, "used": self.stack.linked},
            "boards": [e.board for e in self.executions],
            "skipped": list(self.skipped),
            "problems": self.problems,
        }

    def lines(self) -> list[str]:
        """The result for people."""
        lines = []
        for e in self.executions:
            spent = f", {sum(e.instructions):,} instructions" if any(e.instructions) else ""
            verdict = "bit-exact" if e.exact else "DIFFERS"
            lines.append(f"{e.board}: {verdict} on {e.inputs} inputs, every operator{spent}")
        if self.zones is not None:
            verdict = "CROSSED" if self._zone_problems() else "kept"
            lines.append(
                f"{self.zones.board}: red zones around every operator {verdict} on {self.zones.inputs} input"
            )
        lines += [f"{text}" for text in self.skipped]
        for what, figure in (("RAM", self.ram), ("flash", self.flash), ("stack", self.stack)):
            if figure.stated is not None and figure.linked is not None:
                lines.append(
                    f"{what}: stated {figure.stated:,} B, {'used' if what == 'stack' else 'linked'} {figure.linked:,} B"
                )
        for split in self.splits:
            lines.append(
                f"split at {split.partition}: up to {split.error:.2g} of its range away from the original model, "
                f"quantized {split.quantized_error:.2g}"
            )
        if self.local_error is not None:
            lines.append(f"quantized: up to {self.local_error:.2g} of its range away from the original model")
        return [*lines, *(f"PROBLEM: {text}" for text in self.problems)]


def _largest(values: Iterable[float]) -> float | None:
    """A figure for JSON, which has no infinity."""
    found = max(values, default=np.inf)
    return found if np.isfinite(found) else None


def verify(
    out: Path, count: int, data: Path | None, image_scale: float, board: str, progress: Progress
) -> Verification:
    """Check a folder that `compile` wrote: see the module's text.

    Args:
        out: The folder.
        count: Number of inputs; seeded random ones where `data` does not give them.
        data: Real inputs, as for calibration.
        image_scale: Pixels of images are divided by this.
        board: ``all`` (host, and emulated where its tools are installed), ``host``, or ``emulated``.
        progress: Told (stage, done, of).

    Raises:
        ClioError: the folder is not whole, the data does not fit, or a tool of the board asked for is missing.
    """
    if board not in BOARDS:
        raise ClioError(f"unknown board '{board}'", hint=f"choose {', '.join(BOARDS)}")
    manifest = results.read_manifest(out)
    program = results.read_program(out)
    target = find_target(manifest["target"])
    boards: list[Board] = [] if board == "emulated" else [HOST]
    skipped = []
    missing = toolchain.missing_tools(target.emulated)
    if board == "all" and missing:
        skipped.append(f"{target.emulated.name}: not run, {' and '.join(missing)} not installed")
    elif board != "host":
        boards.append(target.emulated)
    floats = _float_inputs(out, count, data, image_scale)
    inputs = device_inputs(manifest["inputs"], floats)
    executions = []
    linked, stack_used, zones = None, None, None
    with tempfile.TemporaryDirectory(prefix="clio-cc-") as temporary:
        for number, each in enumerate(boards):
            progress("running boards", number, len(boards))
            build_dir = Path(temporary) / each.name
            executions.append(execute(program, out / "device", each, inputs, build_dir, icount=True))
            if each is target.emulated:
                plain = toolchain.build(out / "device", each, build_dir / "plain", hook=False)
                linked = toolchain.linked_sizes(plain)
                stack_used = toolchain.run(plain).stack_bytes
                if (out / "device" / ZONES).is_file():  # else changed_files tells
                    one = [batch[-1:] for batch in inputs]
                    zones = run_between_zones(program, out / "device", each, one, build_dir / "zones")
        progress("running boards", len(boards), len(boards))
    device = manifest["device"]
    stack = device["stack_bytes"]
    ram_linked = None if linked is None or stack is None else linked.ram_bytes + stack
    splits, local_error = _against_original(out, manifest, program, floats, inputs)
    return Verification(
        len(inputs[0]),
        tuple(executions),
        tuple(skipped),
        Stated(device["ram_bytes"], ram_linked),
        Stated(device["flash_bytes"], None if linked is None else linked.flash_bytes),
        Stated(stack, stack_used),
        splits,
        local_error,
        tuple(results.changed_files(out, manifest)),
        zones,
    )


Floats = Mapping[str, npt.NDArray[np.float32]]


def _float_inputs(out: Path, count: int, data: Path | None, image_scale: float) -> Floats:
    import onnx_ir as ir

    from clio_cc.calibrate import load_samples

    samples = load_samples(ir.load(out / FLOAT_ONNX), data, scale=image_scale, most=count)
    return samples.take(count).inputs


def _against_original(
    out: Path, manifest: Mapping[str, Any], program: Program, floats: Floats, inputs: Sequence[Int8Array]
) -> tuple[tuple[Split, ...], float | None]:
    """Return the errors at each partition point, and of the device's own answer, if it gives one."""
    import onnx
    import onnx_ir as ir

    wanted = run_each(onnx.load(out / FLOAT_ONNX), floats)
    outputs = reference.run(program, inputs)
    model = ir.load(out / FLOAT_ONNX)
    splits = []
    for entry, tap, value in zip(manifest["partitions"], program.taps, outputs, strict=False):
        tensor = str(entry["tensor"])
        head, tail = _float_halves(model, tensor)
        crossing = np.concatenate(run_each(head, floats)[0])
        units = pack_units(reference.units_of(tap, value), tap.bits)
        *answers, restored = _cloud_answers(out / entry["cloud"], tensor, units)
        split = Split(
            tap.partition,
            difference(wanted, run_each(tail, {tensor: crossing})),
            difference(run_each(tail, {tensor: np.concatenate(restored)}), answers),
            difference(wanted, answers),
        )
        splits.append(split)
    own = list(zip(outputs, manifest["outputs"], strict=True))[len(program.taps) :]
    got = [list(to_graph(value, entry) * np.float32(entry["scale"])) for value, entry in own]
    return tuple(splits), difference(wanted, got) if got else None


def _cloud_answers(path: Path, tensor: str, units: npt.NDArray[Any]) -> list[list[npt.NDArray[Any]]]:
    """Return what a cloud graph makes of all units as they travel, and last the tensor at the cut that its heads restore."""
    import onnx

    cloud = onnx.load(path)
    cloud.graph.output.append(onnx.ValueInfoProto(name=tensor))
    return run_each(cloud, {UNITS: units, RECEIVED: np.full(len(units), units.shape[1], np.int64)})


def _float_halves(model: ir.Model, tensor: str) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Cut the float graph at a tensor."""
    from clio_cc import graph

    inputs, outputs = (
        [str(value.name) for value in values] for values in (model.graph.inputs, model.graph.outputs)
    )
    return (
        graph.to_proto(graph.extract(model, inputs, [tensor])),
        graph.to_proto(graph.extract(model, [tensor], outputs)),
    )
