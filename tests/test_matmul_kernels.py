"""Every schedule of every Conv that is not depthwise, with every way to requantize, bit for bit on every board."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from boards import assert_bit_exact
from test_conv_kernels import CASES, SAME, Case, conv_of

from clio_cc import execution
from clio_cc.operators import wide
from clio_cc.operators.conv import Conv
from clio_cc.program import Program
from clio_cc.qformat import Requantize
from clio_cc.targets import TARGETS

MATMUL: dict[str, Case] = {
    **{name: case for name, case in CASES.items() if not name.startswith("depthwise")},
    **{f"1x1 on {c} channels": Case((3, 3, c), 8, (1, 1)) for c in (1, 8, 13, 16, 24, 31, 32, 36, 64, 100)},
    "1x1, strided, 16 channels": Case((7, 8, 16), 4, (1, 1), stride=(2, 2)),
    "1x1, padded, 12 channels": Case((3, 3, 12), 6, (1, 1), pads=SAME),
    "two pixels of a row": Case((4, 4, 8), 8, (3, 3)),
    "3x3, an even width": Case((6, 8, 8), 8, (3, 3), pads=SAME),
    "3x3, an odd width": Case((5, 7, 8), 12, (3, 3), pads=SAME),
    "3x3, strided, an even width": Case((8, 8, 4), 4, (3, 3), pads=(0, 0, 1, 1), stride=(2, 2)),
    "3x3, strided, three channels": Case((9, 8, 3), 8, (3, 3), pads=SAME, stride=(2, 2)),
    "3x3, no padding": Case((6, 6, 4), 4, (3, 3)),
    "3x3, dilated rows, an even width": Case((8, 6, 4), 4, (3, 3), dilation=(2, 1), pads=(2, 1, 2, 1)),
    "5x5 on two channels": Case((6, 6, 2), 6, (5, 5), pads=(2, 2, 2, 2)),
    "many weights": Case((4, 4, 32), 16, (3, 3), pads=SAME),
    "many channels": Case((4, 5, 24), 96, (1, 1)),
}
Make = Callable[[int, np.random.Generator], Requantize]


def multiplied(lo: int, hi: int) -> Make:
    return lambda n, rng: Requantize(rng.integers(40, 46, n), rng.integers(2**30, 2**31, n), lo, hi)


def shifted(least: int, most: int, lo: int, hi: int) -> Make:
    return lambda n, rng: Requantize(rng.integers(least, most, n), None, lo, hi)


CLAMPS = ((0, 127), (-128, 127), (0, 96), (-128, 100), (3, 90))
EPILOGUES: tuple[Make, ...] = (
    *(multiplied(*clamp) for clamp in CLAMPS),
    # Shifted sums that fit 16 bits, and some that do not.
    *(shifted(9, 14, *clamp) for clamp in CLAMPS),
    *(shifted(0, 9, *clamp) for clamp in CLAMPS),
)


def scheduled(conv: Conv) -> list[Conv]:
    """`conv` by each of its schedules, between tensors of its own."""
    return [
        replace(
            conv,
            name=f"{conv.name} {schedule}",
            inputs=(replace(conv.inputs[0], name=f"x {conv.name} {schedule}"),),
            output=replace(conv.output, name=f"y {conv.name} {schedule}"),
            schedule=schedule,
        )
        for schedule in conv.schedules
    ]


def test_every_schedule_of_every_case(tool: Callable[[str], str], tmp_path: Path) -> None:
    for target in TARGETS:
        tool(target.emulated.compiler.command)
        tool(target.emulated.qemu[0])
    rng = np.random.default_rng(6)
    found: list[Conv] = []
    for number, (name, case) in enumerate(MATMUL.items()):
        # Every case with three of the epilogues, and so every epilogue with several cases.
        for kind in [(number + 5 * i) % len(EPILOGUES) for i in range(3)]:
            plain = conv_of(f"{name} {kind}", case, False, rng)
            found += scheduled(replace(plain, requantize=EPILOGUES[kind](case.cout, rng)))
    names = {micro_kernel(op) for op in found if wide_one(op)}
    assert names == {f"clio_wide_2x{n}_{f}" for n in (2, 4) for f in ("relu", "relu_to", "signed", "clamp")}
    program = Program(
        tuple(op.inputs[0] for op in found), tuple(found), tuple(op.output.name for op in found)
    )
    assert_bit_exact(program, execution.random_inputs(program, 3), tmp_path, ("-O1",))


def wide_one(op: Conv) -> bool:
    return op.schedule is not None and op.schedule.kernel == "wide"


def micro_kernel(op: Conv) -> str:
    assert op.schedule is not None
    return wide.micro_kernel_of(op, wide.Layout.of(op, op.schedule))[0]


def test_wide_schedules() -> None:
    rng = np.random.default_rng(0)

    def tiles(case: Case, multiplied: bool = False) -> list[tuple[int, int]]:
        conv = conv_of("conv", case, multiplied, rng)
        return [schedule.tile for schedule in conv.schedules if schedule.kernel == "wide"]

    assert tiles(Case((2, 2, 8), 6, (1, 1))) == [(2, 6)]
    assert tiles(Case((8, 8, 64), 64, (3, 3), pads=SAME)) == [(2, 64), (2, 32), (2, 16), (2, 8), (2, 4)]
    nothing: list[tuple[int, int]] = []
    assert tiles(Case((1, 3, 8), 6, (1, 1))) == nothing  # too few pixels
    assert tiles(Case((2, 2, 8), 7, (1, 1))) == nothing
    assert tiles(Case((2, 2, 8), 4, (1, 1), groups=2)) == nothing
    assert tiles(Case((2, 2, 8), 4, (1, 1)), multiplied=True) == nothing


def test_wide_sweep() -> None:
    conv = conv_of("conv", Case((4, 5, 24), 96, (1, 1)), False, np.random.default_rng(0))
    whole, half = (op for op in scheduled(conv) if wide_one(op))
    sweep = whole.sweep(0)
    assert sweep is not None
    # A pair of pixels is read before its outputs are written.
    assert sweep.reads_from[:3].tolist() == [0, 48, 96]
    assert sweep.writes_to[:3].tolist() == [0, 192, 384]
    assert half.sweep(0) is None


@pytest.mark.parametrize("lo", [0, -128])
def test_packed_accumulators_must_fit(lo: int) -> None:
    conv = conv_of("conv", Case((2, 2, 64), 4, (1, 1)), False, np.random.default_rng(0))
    bound = int(np.ceil(np.log2(conv.accumulator_bound().max())))
    names = {}
    for shift in (bound - 14, bound - 17):
        op = replace(conv, requantize=Requantize(np.full(4, shift), None, lo, 127))
        names[shift] = micro_kernel(scheduled(op)[-1])
    expected = ["relu", "clamp"] if lo == 0 else ["signed", "signed"]
    assert list(names.values()) == [f"clio_wide_2x2_{name}" for name in expected]
