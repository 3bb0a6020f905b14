"""Conv at the edges of what its kernels distinguish, bit for bit on every board."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from boards import assert_bit_exact

from clio_cc import execution
from clio_cc.arena import plan_arena
from clio_cc.operators.base import Tensor
from clio_cc.operators.conv import Conv
from clio_cc.operators.schedule import Schedule
from clio_cc.program import Program
from clio_cc.qformat import Requantize
from clio_cc.targets import TARGETS


@dataclass(frozen=True)
class Case:
    """A shape of Conv."""

    image: tuple[int, int, int]
    cout: int
    kernel: tuple[int, int]
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1


SAME = (1, 1, 1, 1)
CASES: dict[str, Case] = {
    "1x1": Case((3, 5, 8), 6, (1, 1)),
    "1x1, odd channels": Case((5, 5, 7), 3, (1, 1)),
    "1x1, strided": Case((5, 6, 4), 4, (1, 1), stride=(2, 3)),
    "1x1, padded": Case((3, 4, 4), 4, (1, 1), pads=SAME),
    "1x1, groups of one output": Case((3, 4, 6), 3, (1, 1), groups=3),
    "one pixel": Case((1, 1, 64), 10, (1, 1)),
    "one pixel, one output": Case((1, 1, 9), 1, (1, 1)),
    "whole image": Case((3, 4, 5), 2, (3, 4)),
    "3x3": Case((6, 7, 4), 6, (3, 3), pads=SAME),
    "3x3 on three channels": Case((7, 7, 3), 5, (3, 3), pads=(0, 0, 1, 1), stride=(2, 2)),
    "3x3 on two rows": Case((2, 9, 4), 4, (3, 3), pads=SAME),
    "one column": Case((7, 1, 4), 4, (3, 3), pads=SAME),
    "one row": Case((1, 9, 4), 5, (1, 3), pads=(0, 1, 0, 1)),
    "two columns out": Case((5, 4, 4), 4, (3, 3)),
    "10x4 on one channel": Case((12, 9, 1), 8, (10, 4), pads=(4, 1, 5, 1), stride=(2, 2)),
    "asymmetric pads": Case((5, 6, 4), 4, (4, 3), pads=(3, 0, 0, 2), stride=(1, 2)),
    "windows wholly in the padding": Case((3, 3, 2), 3, (2, 2), pads=(3, 3, 3, 3)),
    "the same, dilated": Case((4, 4, 2), 3, (3, 3), pads=(6, 6, 6, 6), dilation=(2, 2)),
    "the same, a wide row": Case((2, 20, 4), 4, (1, 7), pads=(0, 13, 0, 13), dilation=(1, 2)),
    "dilated rows": Case((8, 6, 4), 4, (3, 3), dilation=(3, 1), pads=(3, 1, 3, 1)),
    "dilated": Case((8, 9, 5), 5, (3, 3), dilation=(2, 2), pads=(4, 4, 4, 4)),
    "groups": Case((6, 6, 8), 12, (3, 3), groups=2, pads=SAME),
    "groups, dilated": Case((6, 7, 4), 6, (3, 3), groups=2, dilation=(2, 3), pads=(2, 3, 2, 3)),
    "channel multiplier": Case((5, 5, 3), 9, (3, 3), groups=3, pads=SAME),
    "depthwise": Case((6, 7, 8), 8, (3, 3), groups=8, pads=SAME),
    "depthwise, 5 channels": Case((7, 5, 5), 5, (3, 3), groups=5, pads=SAME),
    "depthwise, 5x5": Case((7, 7, 7), 7, (5, 5), groups=7, pads=(2, 2, 2, 2)),
    "depthwise, strided": Case((8, 8, 4), 4, (3, 3), groups=4, pads=(0, 0, 1, 1), stride=(2, 2)),
    "depthwise, dilated": Case((6, 5, 4), 4, (3, 3), groups=4, dilation=(2, 2), pads=(2, 2, 2, 2)),
    "depthwise, wider than the image": Case((3, 2, 6), 6, (3, 7), groups=6, pads=(1, 3, 1, 3)),
    "depthwise, in the padding": Case((4, 4, 4), 4, (3, 3), groups=4, pads=(5, 5, 5, 5)),
    "depthwise, 2x1": Case((5, 4, 2), 2, (2, 1), groups=2, stride=(3, 2), pads=(1, 0, 0, 0)),
}


def conv_of(name: str, case: Case, multiplied: bool, rng: np.random.Generator) -> Conv:
    (height, width, cin), (kh, kw), cout = case.image, case.kernel, case.cout
    top, left, bottom, right = case.pads
    out_h = (height + top + bottom - case.dilation[0] * (kh - 1) - 1) // case.stride[0] + 1
    out_w = (width + left + right - case.dilation[1] * (kw - 1) - 1) // case.stride[1] + 1
    weight = rng.integers(-128, 128, (cout, kh, kw, cin // case.groups)).astype(np.int8)
    if multiplied:
        requantize = Requantize(rng.integers(40, 46, cout), rng.integers(2**30, 2**31, cout), -128, 100)
    else:
        requantize = Requantize(rng.integers(7, 13, cout), None, 0 if cout % 2 else -128)
    return Conv(
        name=name,
        kind="Conv",
        inputs=(Tensor(f"x {name}", (height, width, cin), 1.0),),
        output=Tensor(f"y {name}", (out_h, out_w, cout), 1.0),
        weight=weight,
        bias=rng.integers(-20000, 20000, cout).astype(np.int32),
        requantize=requantize,
        stride=case.stride,
        dilation=case.dilation,
        pads=case.pads,
        groups=case.groups,
    )


def test_every_case_on_every_board(tool: Callable[[str], str], tmp_path: Path) -> None:
    for target in TARGETS:
        tool(target.emulated.compiler.command)
        tool(target.emulated.qemu[0])
    rng = np.random.default_rng(5)
    operators = tuple(
        conv_of(f"{name}{', multiplied' if multiplied else ''}", case, multiplied, rng)
        for name, case in CASES.items()
        for multiplied in (False, True)
    )
    outputs = tuple(op.output.name for op in operators)
    program = Program(tuple(op.inputs[0] for op in operators), operators, outputs)
    assert_bit_exact(program, execution.random_inputs(program, 3), tmp_path, ("-O1",))


DEPTHWISE: dict[str, Case] = {
    **{name: case for name, case in CASES.items() if name.startswith("depthwise")},
    **{f"{w} wide": Case((4, w, 4), 4, (3, 3), groups=4, pads=SAME) for w in range(1, 10)},
    "12 rows, 6 channels": Case((12, 6, 6), 6, (3, 3), groups=6, pads=SAME),
    "9 rows, 7 channels": Case((9, 5, 7), 7, (3, 3), groups=7, pads=SAME),
    "no padding": Case((8, 9, 8), 8, (3, 3), groups=8),
    "padding of two": Case((6, 4, 5), 5, (3, 3), groups=5, pads=(2, 2, 2, 2)),
    "padding above and left": Case((10, 7, 4), 4, (3, 3), groups=4, pads=(2, 1, 0, 0)),
    "padding below and right": Case((10, 6, 4), 4, (3, 3), groups=4, pads=(0, 0, 2, 1)),
    "padding above only": Case((9, 8, 4), 4, (3, 3), groups=4, pads=(1, 0, 0, 0)),
    "strided, odd": Case((9, 7, 9), 9, (3, 3), groups=9, pads=SAME, stride=(2, 2)),
}
EPILOGUES: dict[str, Callable[[int, np.random.Generator], Requantize]] = {
    "multiplied": lambda n, rng: Requantize(rng.integers(40, 46, n), rng.integers(2**30, 2**31, n), -128, 100),
    "multiplied, ReLU6": lambda n, rng: Requantize(rng.integers(40, 46, n), rng.integers(2**30, 2**31, n), 0, 96),
    **{
        f"alike, {lo}..{hi}": lambda n, rng, lo=lo, hi=hi: Requantize(rng.integers(5, 12, n), None, lo, hi)  # type: ignore[misc]
        for lo, hi in ((0, 127), (-128, 127), (0, 96), (-128, 100), (0, 0))
    },
    **{
        f"apart, {lo}..{hi}": lambda n, rng, lo=lo, hi=hi: Requantize(rng.permutation(n) * 11 % 14, None, lo, hi)  # type: ignore[misc]
        for lo, hi in ((0, 127), (-128, 127), (0, 96), (-100, 90))
    },
}  # fmt: skip


def test_every_schedule_of_every_depthwise_case(tool: Callable[[str], str], tmp_path: Path) -> None:
    for target in TARGETS:
        tool(target.emulated.compiler.command)
        tool(target.emulated.qemu[0])
    rng = np.random.default_rng(6)
    found = []
    for number, (name, case) in enumerate(DEPTHWISE.items()):
        # Every case with three of the epilogues, and so every epilogue with several cases.
        for kind in [list(EPILOGUES)[(3 * number + i) % len(EPILOGUES)] for i in range(3)]:
            plain = conv_of(f"{name}, {kind}", case, False, rng)
            op = replace(plain, requantize=EPILOGUES[kind](case.cout, rng))
            found += [with_schedule(op, schedule) for schedule in op.schedules]
    operators = tuple(found)
    assert {op.schedule.kernel for op in operators if op.schedule} == {"depthwise", "planar"}
    program = Program(
        tuple(op.inputs[0] for op in operators), operators, tuple(op.output.name for op in operators)
    )
    assert_bit_exact(program, execution.random_inputs(program, 3), tmp_path, ("-O1",))


def with_schedule(op: Conv, schedule: Schedule) -> Conv:
    """`op` by one of its schedules, between tensors of its own."""
    x, y = (
        replace(op.inputs[0], name=f"x {op.name} {schedule}"),
        replace(op.output, name=f"y {op.name} {schedule}"),
    )
    return replace(op, name=f"{op.name} {schedule}", inputs=(x,), output=y, schedule=schedule)


def test_planar_in_place(tool: Callable[[str], str], tmp_path: Path) -> None:
    """Two depthwise Convs one behind the other: the second one's output lies where its input lies."""
    for target in TARGETS:
        tool(target.emulated.compiler.command)
        tool(target.emulated.qemu[0])
    rng = np.random.default_rng(8)
    first = conv_of("first", Case((8, 6, 8), 8, (3, 3), groups=8, pads=SAME), False, rng)
    second = replace(
        conv_of("second", Case((8, 6, 8), 8, (3, 3), groups=8, pads=SAME), True, rng), inputs=(first.output,)
    )
    for schedule in [schedule for schedule in second.schedules if schedule.kernel == "planar"]:
        program = Program(
            first.inputs, (first, replace(second, schedule=schedule)), (first.output.name, second.output.name)
        )
        apart = plan_arena(program)
        assert apart.offsets[second.output.name] != apart.offsets[first.output.name]
        program = replace(program, outputs=(second.output.name,))
        arena = plan_arena(program)
        assert arena.offsets[second.output.name] == arena.offsets[first.output.name]
        assert_bit_exact(program, execution.random_inputs(program, 3), tmp_path / str(schedule), ("-O1",))
