"""Executed instructions, RAM and flash of the device code, per network and board, against CMSIS-NN.

    python benchmarks/device_instructions.py [--per-layer] [--json] [--net NAME …] [--out FILE]

Counted on the emulated boards (``qemu-system-arm -icount``): exact to one instruction, repeatable; not cycles.
The networks lie beside the repository (../shared/data); without them only the repository's example is measured. Softmax
is left out, as in the figures compared with.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from clio_cc import execution, memory
from clio_cc.arena import plan_arena
from clio_cc.calibrate import load_samples
from clio_cc.codegen.model import device_sources, vectors_source
from clio_cc.compiler import front_end
from clio_cc.lower import lower
from clio_cc.partition import partition_points
from clio_cc.program import Program
from clio_cc.project import device_glue, project_files
from clio_cc.quantize import quantize_model
from clio_cc.targets import TARGETS, Target

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
BOARDS = {"stm32f7": "m7", "nrf5340": "m33", "gap8": "rv32"}


@dataclass(frozen=True)
class Net:
    """A network to measure: `shape` of the tensor to stop at ('' for the whole without its softmax)."""

    name: str
    path: Path
    shape: tuple[int, ...] = ()
    fill: bool = False


MODELS, STRUCTURES = SHARED / "data/models", SHARED / "data/models_structure"
NETS = (
    Net("digits", ROOT / "examples/digits/digits.onnx"),
    Net("resnet8", MODELS / "resnet8_cifar10.onnx"),
    Net("dscnn", MODELS / "dscnn_kws.onnx"),
    Net("vww", MODELS / "mobilenetv1_025_vww96.onnx"),
    Net("mbv2_32", STRUCTURES / "mobilenetv2_cifar_bn_op13.onnx", (8, 8, 64), True),
    Net("mbv2_96", MODELS / "mobilenetv2_imagenette96.onnx", (6, 6, 64)),
)

# CMSIS-NN 99f736a with its best flags, gcc 12.2 -O3, counted on the same emulated boards in the same way.
CMSIS_NN = {
    ("resnet8", "m7"): 29.57e6, ("resnet8", "m33"): 29.62e6, ("dscnn", "m7"): 7.72e6, ("dscnn", "m33"): 7.77e6,
    ("vww", "m7"): 24.37e6, ("vww", "m33"): 24.44e6, ("mbv2_32", "m7"): 101.16e6, ("mbv2_32", "m33"): 101.62e6,
    ("mbv2_96", "m7"): 79.97e6, ("mbv2_96", "m33"): 80.26e6,
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One network on one board."""

    net: str
    board: str
    instructions: int
    macs: int
    per_mac: float
    ratio_to_cmsis_nn: float | None
    ram_bytes: int | None
    flash_bytes: int | None
    layers: tuple[dict[str, Any], ...] = ()


def program_of(net: Net, folder: Path) -> Program:
    """Quantize a network on seeded inputs: the numbers do not change what is executed."""
    path = net.path
    if net.fill:
        path = folder / f"{net.name}.onnx"
        subprocess.run([sys.executable, SHARED / "tools/fill_weights.py", net.path, path], check=True)
    graph = front_end(path)
    network = lower(graph, _cut(graph, net))
    return quantize_model(graph, network, load_samples(graph, None).take(8)).program


class Stop(NamedTuple):
    """A tensor to stop at."""

    name: str
    tensor: str


def _cut(graph: Any, net: Net) -> list[Stop]:
    """Where to stop: the last tensor of the wanted shape that is a partition point, or what the softmax reads."""
    if not net.shape:
        last = graph.graph.outputs[0].producer()
        return [Stop("logits", str(last.inputs[0].name))] if last.op_type == "Softmax" else []
    height, width, channels = net.shape
    points = [p for p in partition_points(graph) if p.shape == (1, channels, height, width)]
    return [Stop(points[0].name, points[0].tensor)]


def measure(net: Net, folder: Path) -> Iterator[Row]:
    """Yield a row per board."""
    program = program_of(net, folder)
    arena = plan_arena(program)
    inputs = [np.zeros((1, *tensor.shape), np.int8) for tensor in program.inputs]
    for batch, tensor in zip(inputs, program.inputs, strict=True):
        batch[:] = np.random.default_rng(0).integers(-128, 128, (1, *tensor.shape))
    sources = device_sources(program, arena, "Benchmark.")
    sources["test/clio_vectors.c"] = vectors_source(program, inputs, "Benchmark.")
    for target in TARGETS:
        yield _measure_on(net, program, sources, arena.bytes, target, inputs, folder / net.name / target.name)


def _measure_on(
    net: Net,
    program: Program,
    sources: dict[str, str],
    arena_bytes: int,
    target: Target,
    inputs: list[Any],
    folder: Path,
) -> Row:
    footprint = memory.measure(sources, target, arena_bytes, memory.table_bytes(program))
    glue = device_glue(
        target,
        model=net.name,
        tool="benchmark",
        arena_bytes=arena_bytes,
        stack_bytes=footprint.stack_bytes or 4096,
    )
    project_files(sources, glue).write(folder / "device")
    result = execution.execute(
        program, folder / "device", target.emulated, inputs, folder / "build", icount=True
    )
    if result.first_mismatch is not None:
        raise SystemExit(f"{net.name}: {result.first_mismatch}")
    total, board = sum(result.instructions), BOARDS[target.name]
    reference = CMSIS_NN.get((net.name, board))
    return Row(
        net.name,
        board,
        total,
        program.macs,
        round(total / program.macs, 3),
        None if reference is None else round(total / reference, 3),
        footprint.ram_bytes,
        footprint.flash_bytes,
        tuple(
            {
                "name": op.name,
                "kind": op.kind,
                "shape": list(op.output.shape),
                "macs": op.macs,
                "instructions": count,
            }
            for op, count in zip(program.operators, result.instructions, strict=True)
        ),
    )


def _print_rows(rows: list[Row], per_layer: bool) -> None:
    print(
        "| net | board | instructions | per MAC | ratio to CMSIS-NN | RAM B | flash B |\n|---|---|---|---|---|---|---|"
    )
    for row in rows:
        ratio = "" if row.ratio_to_cmsis_nn is None else f"{row.ratio_to_cmsis_nn:.2f}"
        print(
            f"| {row.net} | {row.board} | {row.instructions:,} | {row.per_mac:.2f} | {ratio} "
            f"| {row.ram_bytes:,} | {row.flash_bytes:,} |"
        )
    for row in rows if per_layer else []:
        print(f"\n**{row.net} on {row.board}**\n")
        print("| operator | kind | output | MACs | instructions | per MAC |\n|---|---|---|---|---|---|")
        for layer in row.layers:
            per_mac = f"{layer['instructions'] / layer['macs']:.2f}" if layer["macs"] else ""
            shape = "x".join(map(str, layer["shape"]))
            name = layer["name"].split(";")[0]
            print(
                f"| {name} | {layer['kind']} | {shape} | {layer['macs']:,} | {layer['instructions']:,} | {per_mac} |"
            )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--net", action="append", choices=[net.name for net in NETS])
    parser.add_argument("--per-layer", action="store_true")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--out", type=Path, help="also write the JSON into this file")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for net in NETS:
            if net.path.exists() and net.name in (args.net or [net.name]):
                rows += list(measure(net, Path(folder)))
    found = [
        asdict(row) if args.per_layer else {k: v for k, v in asdict(row).items() if k != "layers"}
        for row in rows
    ]
    text = json.dumps(found, indent=2) + "\n"
    if args.out:
        args.out.write_text(text)
    if args.json:
        print(text, end="")
    else:
        _print_rows(rows, args.per_layer)


if __name__ == "__main__":
    main()
