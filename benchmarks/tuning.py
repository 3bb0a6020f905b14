"""Measure every schedule of many shapes on the emulated boards, and write what ``clio-cc compile`` chooses by.

    python benchmarks/tuning.py [--target NAME …] [--random N] [--dry-run]

Writes ``targets/<board>/schedules.json``: instructions of every schedule of every shape of the benchmark networks and of
some random shapes, and a linear model of each kernel for shapes that were not measured. The table says how well the
model chooses where it was not fitted: with one network's shapes left out, how many more instructions its choices for that
network take than the best. Shapes that the file holds already are measured again, so that the file does not depend on
which networks lie beside the repository.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
from networks import ROOT, available, program_of
from rich.progress import track

from clio_cc import execution
from clio_cc.arena import plan_arena
from clio_cc.codegen.model import device_sources, vectors_source
from clio_cc.costs import Costs, Shape, costs_of, costs_path, fit_model
from clio_cc.operators.base import Tensor
from clio_cc.operators.conv import Conv
from clio_cc.operators.schedule import Schedule
from clio_cc.program import Program
from clio_cc.project import device_glue, project_files
from clio_cc.qformat import Requantize
from clio_cc.targets import TARGETS, Target, find_target


def op_of(shape: Shape) -> Conv:
    """Return a Conv of this shape with seeded weights and ReLU's clamp: its numbers do not matter here."""
    rng = np.random.default_rng(0)
    (height, width, _), (cout, kh, kw, _) = shape.image, shape.weight
    top, left, bottom, right = shape.pads
    out = (
        (height + top + bottom - shape.dilation[0] * (kh - 1) - 1) // shape.stride[0] + 1,
        (width + left + right - shape.dilation[1] * (kw - 1) - 1) // shape.stride[1] + 1,
        cout,
    )
    return Conv(
        name="op",
        kind="Conv",
        inputs=(Tensor("x", shape.image, 1.0),),
        output=Tensor("y", out, 1.0),
        weight=rng.integers(-128, 128, shape.weight).astype(np.int8),
        bias=rng.integers(-1000, 1000, cout).astype(np.int32),
        requantize=Requantize(np.full(cout, 9), None, 0, 127),
        stride=shape.stride,
        dilation=shape.dilation,
        pads=shape.pads,
        groups=shape.groups,
    )


def random_shapes() -> Iterator[Shape]:
    """Yield shapes as small networks have them, always the same ones: images, rows as of audio and sensors, single pixels.

    Half of the convolutions beyond 1x1 are depthwise; strides are 1 or 2, and channels may be few or odd.
    """
    rng = np.random.default_rng(1)
    while True:
        height, width = (int(side) for side in rng.integers(3, 49, 2))
        if rng.random() < 0.4:
            height, width = [(height, 1), (1, width), (1, 1), (width % 4 + 1, height % 4 + 1)][
                rng.integers(4)
            ]
        k = int(rng.choice([1, 3, 3, 5]))
        window = (k if height > 1 else 1, k if width > 1 else 1)
        channels, cout = (int(rng.choice([1, 3, 4, 8, 16, 24, 32, 48, 64, 96])) for _ in range(2))
        depthwise = window != (1, 1) and channels > 1 and rng.random() < 0.5
        cout = channels if depthwise else cout
        weight = (cout, *window, 1 if depthwise else channels)
        if height * width * channels > 24_576 or height * width * np.prod(weight) > 4e6:
            continue
        stride = int(rng.choice([1, 2])) if k > 1 else 1
        pads = (window[0] // 2, window[1] // 2, window[0] // 2, window[1] // 2)
        yield Shape(
            (height, width, channels), weight, (stride, stride), (1, 1), pads, cout if depthwise else 1
        )


def shapes_of(programs: Iterable[Program]) -> list[Shape]:
    """Return the shapes of all convolutions, each once."""
    found = {Shape.of(op) for program in programs for op in program.operators if isinstance(op, Conv)}
    return sorted(found, key=repr)


def measure(shape: Shape, target: Target, folder: Path) -> dict[str, int]:
    """Return the instructions of every schedule of one shape."""
    op = op_of(shape)
    operators = tuple(
        replace(op, name=f"op{i}", output=replace(op.output, name=f"y{i}"), schedule=schedule)
        for i, schedule in enumerate(op.schedules)
    )
    # No operator may overwrite the input that the next one reads.
    keep = replace(op, name="last", output=replace(op.output, name="last"))
    program = Program(op.inputs, (*operators, keep), ("last",))
    arena = plan_arena(program)
    inputs = execution.random_inputs(program, 1)
    sources = device_sources(program, arena, "Tuning.")
    sources["test/clio_vectors.c"] = vectors_source(program, inputs, "Tuning.")
    glue = device_glue(target, model="tuning", tool="tuning", arena_bytes=arena.bytes, stack_bytes=4096)
    project_files(sources, glue).write(folder / "device")
    result = execution.execute(
        program, folder / "device", target.emulated, inputs, folder / "build", icount=True
    )
    if result.first_mismatch is not None:
        raise SystemExit(f"{shape}: {result.first_mismatch}")
    return dict(zip(map(str, op.schedules), result.instructions, strict=False))


Instructions = Mapping[Shape, Mapping[str, int]]


def samples(measured: Instructions) -> list[tuple[Conv, Schedule, int]]:
    """Return what the model is fitted to."""
    return [
        (op, schedule, counts[str(schedule)])
        for shape, counts in measured.items()
        for op in [op_of(shape)]
        for schedule in op.schedules
    ]


def _modelled(costs: Costs, op: Conv, schedule: Schedule) -> float:
    found = costs.modelled(op, schedule)
    return float("inf") if found is None else found


def regret(costs: Costs, measured: Instructions) -> float:
    """Return how many more instructions the model's choices take than the best ones, as a share."""
    taken = best = 0
    for shape, counts in measured.items():
        op = op_of(shape)
        by_model = min(op.schedules, key=lambda schedule: _modelled(costs, op, schedule))
        taken += counts[str(by_model)]
        best += min(counts.values())
    return taken / best - 1 if best else 0.0


def tune(target: Target, nets: dict[str, list[Shape]], extra: list[Shape]) -> Costs:
    """Measure and fit; prints how well the model chooses for networks that it does not know."""
    known = costs_of(target).measured
    shapes = sorted({*known, *extra, *(shape for found in nets.values() for shape in found)}, key=repr)
    with tempfile.TemporaryDirectory() as folder:
        measured = {
            shape: measure(shape, target, Path(folder) / str(i))
            for i, shape in enumerate(track(shapes, f"measuring on {target.emulated.name}"))
        }
    print(
        f"\n**{target.name}**: {len(shapes)} shapes\n\n| net left out | instructions above the best |\n|---|---|"
    )
    for name, own in [*nets.items(), ("random shapes", extra)]:
        model = fit_model(samples({shape: measured[shape] for shape in shapes if shape not in own}))
        share = regret(Costs(model=model), {shape: measured[shape] for shape in own})
        print(f"| {name} | {100 * share:.1f} % |")
    return Costs(measured, fit_model(samples(measured)))


def main() -> None:
    """Run the tuner."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", action="append", choices=[target.name for target in TARGETS])
    parser.add_argument("--random", type=int, default=60, help="random shapes beside those of the networks")
    parser.add_argument("--dry-run", action="store_true", help="write nothing")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        nets = {net.name: shapes_of([program_of(net, Path(folder))]) for net in available(None)}
    extra = list(islice(random_shapes(), args.random))
    for name in args.target or [target.name for target in TARGETS]:
        target = find_target(name)
        costs = tune(target, nets, extra)
        if not args.dry_run:
            (ROOT / "targets" / costs_path(target)).write_text(costs.to_json())


if __name__ == "__main__":
    main()
