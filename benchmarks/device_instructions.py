"""Executed instructions, RAM and flash of the device code, per network and board, against CMSIS-NN.

    python benchmarks/device_instructions.py [--per-layer] [--json] [--net NAME …] [--board NAME …] [--out FILE] [--readme]

Counted on the emulated boards (``qemu-system-arm -icount``): exact to one instruction, repeatable; not cycles.
Every network is measured in three ways: as `compile` makes it (``latency``), with ``--optimize ram``, and ``untuned``, every
operator with its default schedule. CMSIS-NN's figures, layer by layer, are in cmsis_nn.json. The networks lie beside the
repository (../shared/data); without them only the repository's example is measured. Softmax is left out, as in the figures
compared with. ``--readme`` writes the tables into README.md and the JSON into device_instructions.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import documents
import numpy as np
from networks import ROOT, Net, available, program_of
from rich.console import Console
from rich.progress import track

from clio_cc import execution, memory
from clio_cc.arena import Arena, plan_arena
from clio_cc.codegen.model import device_sources, vectors_source
from clio_cc.operators.base import Operator
from clio_cc.operators.conv import Conv
from clio_cc.program import Program
from clio_cc.project import device_glue, project_files
from clio_cc.scheduling import planned
from clio_cc.targets import TARGETS, Target

BOARDS = {"stm32f7": "m7", "nrf5340": "m33", "gap8": "rv32"}
WAYS = ("latency", "ram", "untuned")
HERE = Path(__file__).resolve().parent
RESULTS = HERE / "device_instructions.json"


@dataclass(frozen=True)
class Layer:
    """One operator; `cmsis_nn` is None where nothing is compared."""

    name: str
    kind: str
    shape: tuple[int, ...]
    schedule: str
    macs: int
    instructions: int
    cmsis_nn: int | None


@dataclass(frozen=True)
class Row:
    """One network on one board, in one way."""

    net: str
    board: str
    way: str
    instructions: int
    macs: int
    per_mac: float
    ratio_to_cmsis_nn: float | None
    arena_bytes: int
    arena_to_anchor: float | None
    ram_bytes: int | None
    flash_bytes: int | None
    code_bytes: int | None
    layers: tuple[Layer, ...] = ()


@cache
def cmsis_nn() -> Mapping[str, Any]:
    """Net → arena and layers."""
    found: Mapping[str, Any] = json.loads((HERE / "cmsis_nn.json").read_text())["nets"]
    return found


def measure(net: Net, targets: Sequence[Target], folder: Path) -> Iterator[Row]:
    """Yield a row per board and way."""
    quantized = program_of(net, folder)
    for target in targets:
        for way in WAYS:
            program = quantized if way == "untuned" else planned(quantized, target, way)
            yield _measure_on(net, program, plan_arena(program), target, way, folder / target.name / way)


def _measure_on(net: Net, program: Program, arena: Arena, target: Target, way: str, folder: Path) -> Row:
    rng = np.random.default_rng(0)
    inputs = [rng.integers(-128, 128, (1, *tensor.shape)).astype(np.int8) for tensor in program.inputs]
    sources = device_sources(program, arena, "Benchmark.")
    sources["test/clio_vectors.c"] = vectors_source(program, inputs, "Benchmark.")
    tables = memory.table_bytes(program)
    footprint = memory.measure(sources, target, arena.bytes, tables)
    glue = device_glue(
        target,
        model=net.name,
        tool="benchmark",
        arena_bytes=arena.bytes,
        stack_bytes=footprint.stack_bytes or 4096,
    )
    project_files(sources, glue).write(folder / "device")
    result = execution.execute(
        program, folder / "device", target.emulated, inputs, folder / "build", icount=True
    )
    if result.first_mismatch is not None:
        raise SystemExit(f"{net.name}: {result.first_mismatch}")
    total, board = sum(result.instructions), BOARDS[target.name]
    layers = _layers(program, result.instructions, net.name, board)
    known = cmsis_nn().get(net.name)
    reference = sum(layer[board] for layer in known["layers"]) if known and board != "rv32" else None
    flash = footprint.flash_bytes
    return Row(
        net.name,
        board,
        way,
        total,
        program.macs,
        round(total / program.macs, 3),
        None if reference is None else round(total / reference, 3),
        arena.bytes,
        None if known is None else round(arena.bytes / known["arena_bytes"], 3),
        footprint.ram_bytes,
        flash,
        None if flash is None else flash - tables,
        layers,
    )


def _layers(program: Program, counts: Sequence[int], net: str, board: str) -> tuple[Layer, ...]:
    """Operators beside CMSIS-NN's layers of the same work, in order; a band of rows is compared with its share."""
    open_layers = [] if board == "rv32" or net not in cmsis_nn() else list(cmsis_nn()[net]["layers"])
    found = []
    for op, count in zip(program.operators, counts, strict=True):
        same = next((each for each in open_layers if _same(op, each)), None)
        if same is not None:
            open_layers.remove(same)
        schedule = str(op.scheduled) if isinstance(op, Conv) else ""
        reference = None if same is None else int(same[board])
        found.append(Layer(op.name, kind_of(op), op.output.shape, schedule, op.macs, count, reference))
    return tuple(found)


def _same(op: Operator, layer: Mapping[str, Any]) -> bool:
    shape = tuple(layer["output"])
    output = op.output.shape if len(op.output.shape) == 3 else (1, 1, *op.output.shape)
    computes = op.macs > 0 or op.kind.startswith(("Add", "GlobalAveragePool", "AveragePool"))
    return computes and output == shape and op.macs == layer["macs"]


def kind_of(op: Operator) -> str:
    """Return the kind of layer that is compared."""
    if not isinstance(op, Conv):
        return op.kind.split("+")[0]
    if len(op.output.shape) == 1:
        return "fully connected"
    window = f"{op.weight.shape[1]}x{op.weight.shape[2]}"
    if op.depthwise:
        return f"depthwise {window}"
    return f"first {window}" if op.image_in[2] <= 4 else f"conv {window}"


def instructions_table(rows: Sequence[Row]) -> list[str]:
    """The rows of way `latency`, as lines of Markdown, with the untuned figure beside."""
    untuned = {(row.net, row.board): row for row in rows if row.way == "untuned"}
    lines = [
        "| net | board | instructions | per MAC | ratio to CMSIS-NN | untuned | gain | RAM B | flash B | of it code B |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if row.way != "latency":
            continue
        ratio = "" if row.ratio_to_cmsis_nn is None else f"{row.ratio_to_cmsis_nn:.2f}"
        before = untuned[row.net, row.board].instructions
        lines.append(
            f"| {row.net} | {row.board} | {row.instructions:,} | {row.per_mac:.2f} | {ratio} | {before:,} "
            f"| {100 * (1 - row.instructions / before):.1f} % "
            f"| {row.ram_bytes:,} | {row.flash_bytes:,} | {row.code_bytes:,} |"
        )
    return lines


def memory_table(rows: Sequence[Row]) -> list[str]:
    """Arenas of both modes beside the sum of live tensors, as lines of Markdown."""
    lines = [
        "| net | board | live tensors B | arena, `latency` B | ratio | arena, `ram` B | ratio | MACs | instructions |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    small = {(row.net, row.board): row for row in rows if row.way == "ram"}
    for row in rows:
        known = cmsis_nn().get(row.net)
        if row.way != "latency" or row.board == "rv32" or known is None:
            continue
        ram = small[row.net, row.board]
        lines.append(
            f"| {row.net} | {row.board} | {known['arena_bytes']:,} | {row.arena_bytes:,} | {row.arena_to_anchor:.2f} "
            f"| {ram.arena_bytes:,} | {ram.arena_to_anchor:.2f} | {100 * (ram.macs / row.macs - 1):+.1f} % "
            f"| {100 * (ram.instructions / row.instructions - 1):+.1f} % |"
        )
    return lines


def kinds_table(rows: Sequence[Row]) -> list[str]:
    """For every kind of layer the instructions beside CMSIS-NN's, all networks together, and the worst layer."""
    lines = [
        "| kind of layer | board | layers | instructions | CMSIS-NN | ratio | worst layer's ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    found: dict[tuple[str, str], list[Layer]] = {}
    for row in rows:
        for layer in row.layers if row.way == "latency" else ():
            if layer.cmsis_nn is not None:
                found.setdefault((layer.kind, row.board), []).append(layer)
    for (kind, board), layers in sorted(found.items()):
        ours, theirs = sum(each.instructions for each in layers), sum(each.cmsis_nn or 0 for each in layers)
        worst = max(each.instructions / (each.cmsis_nn or 1) for each in layers)
        lines.append(
            f"| {kind} | {board} | {len(layers)} | {ours:,} | {theirs:,} | {ours / theirs:.2f} | {worst:.2f} |"
        )
    return lines


def layers_tables(rows: Sequence[Row]) -> list[str]:
    """Every operator of every row of way `latency`."""
    lines = []
    for row in rows:
        if row.way != "latency":
            continue
        lines += [
            f"\n**{row.net} on {row.board}**\n",
            "| operator | kind | output | schedule | MACs | instructions | per MAC | ratio to CMSIS-NN |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for layer in row.layers:
            per_mac = f"{layer.instructions / layer.macs:.2f}" if layer.macs else ""
            ratio = "" if layer.cmsis_nn is None else f"{layer.instructions / layer.cmsis_nn:.2f}"
            lines.append(
                f"| {layer.name.split(';')[0]} | {layer.kind} | {'x'.join(map(str, layer.shape))} | {layer.schedule} "
                f"| {layer.macs:,} | {layer.instructions:,} | {per_mac} | {ratio} |"
            )
    return lines


TABLES = {"instructions": instructions_table, "kinds": kinds_table, "memory": memory_table}


def with_tables(text: str, rows: Sequence[Row]) -> str:
    """Return README's text with the tables of `rows` between their marks."""
    return documents.with_tables(
        text, Path(__file__).name, {name: table(rows) for name, table in TABLES.items()}
    )


def to_json(rows: Sequence[Row], layers: bool) -> str:
    """Return the rows as JSON."""
    found = [{key: value for key, value in asdict(row).items() if layers or key != "layers"} for row in rows]
    return "[\n" + ",\n".join(json.dumps(each) for each in found) + "\n]\n"


def from_json(text: str) -> list[Row]:
    """Return the rows of :func:`to_json` with layers."""
    rows = []
    for each in json.loads(text):
        layers = tuple(Layer(**{**layer, "shape": tuple(layer["shape"])}) for layer in each.pop("layers", ()))
        rows.append(Row(**each, layers=layers))
    return rows


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--net", action="append", choices=[net.name for net in available(None)])
    parser.add_argument("--board", action="append", choices=list(BOARDS.values()))
    parser.add_argument("--per-layer", action="store_true")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--out", type=Path, help="also write the JSON into this file")
    parser.add_argument(
        "--readme", action="store_true", help="write README's tables and the JSON beside this script"
    )
    args = parser.parse_args()
    targets = [target for target in TARGETS if BOARDS[target.name] in (args.board or BOARDS.values())]
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        nets = available(args.net)
        for net in track(nets, "measuring", console=Console(stderr=True), transient=True):
            rows += measure(net, targets, Path(folder) / net.name)
    if args.out:
        args.out.write_text(to_json(rows, args.per_layer))
    if args.readme:
        RESULTS.write_text(to_json(rows, layers=True))
        readme = ROOT / "README.md"
        readme.write_text(with_tables(readme.read_text(), rows))
    if args.json:
        print(to_json(rows, args.per_layer), end="")
        return
    for table in TABLES.values():
        print("\n".join(table(rows)), end="\n\n")
    if args.per_layer:
        print("\n".join(layers_tables(rows)))


if __name__ == "__main__":
    main()
