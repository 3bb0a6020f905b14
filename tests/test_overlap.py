"""Kernels whose input lies as near to their output as their sweeps allow, bit for bit on every board."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import random_operators
from boards import boards_of, write_projects

from clio_cc import execution
from clio_cc.arena import ALIGNMENT, Arena, plan_arena, scratch_name
from clio_cc.arena_check import WrongPlanError, check_arena
from clio_cc.operators.base import Operator, Tensor
from clio_cc.operators.conv import Conv
from clio_cc.operators.elementwise import Add
from clio_cc.operators.pool import MaxPool
from clio_cc.operators.table import Table
from clio_cc.program import Program
from clio_cc.qformat import Requantize
from clio_cc.targets import TARGETS, Target

Tool = Callable[[str], str]
SWEPT = (
    "conv",
    "grouped",
    "depthwise",
    "gemm",
    "add",
    "mul",
    "max_pool",
    "average_pool",
    "table",
    "concat",
    "softmax",
)


def aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


@dataclass(frozen=True)
class Overlap:
    """An operator in memory of its own, input number `index` over its output."""

    op: Operator
    index: int
    nearer: int = 0
    """Bytes by which it begins before it may; -1 for where the output begins, as the operator may work in place."""

    @property
    def lead(self) -> int:
        """Where the input begins, counted from the output."""
        sweep = self.op.sweep(self.index)
        if self.nearer < 0 or sweep is None:
            return 0
        # A kernel that reads everything before it writes anything may have its input anywhere: where the output begins.
        lead = sweep.lead if sweep.lead > -self.op.inputs[self.index].bytes else 0
        return aligned(lead) - self.nearer

    def place(self, start: int) -> tuple[dict[str, int], int]:
        """Offsets from `start` on, and where they end."""
        offsets: dict[str, int] = {}
        at = start
        sizes = [(t.name, t.bytes) for i, t in enumerate(self.op.inputs) if i != self.index]
        if self.op.scratch_bytes:
            sizes.append((scratch_name(self.op), self.op.scratch_bytes))
        for name, size in sizes:
            offsets[name] = at
            at += aligned(size)
        x, y = self.op.inputs[self.index], self.op.output
        offsets[y.name] = at + max(0, -self.lead)
        offsets[x.name] = offsets[y.name] + self.lead
        return offsets, aligned(max(offsets[x.name] + x.bytes, offsets[y.name] + y.bytes))


def scheduled(op: Operator) -> Iterator[Operator]:
    """The operator by all its schedules."""
    if not isinstance(op, Conv):
        yield op
        return
    for number, schedule in enumerate(op.schedules):
        x = replace(op.inputs[0], name=f"{op.inputs[0].name} {number}")
        y = replace(op.output, name=f"{op.output.name} {number}")
        yield replace(op, schedule=schedule, inputs=(x,), output=y, name=f"{op.name} {number}")


def window(
    x: Tensor, name: str, cout: int, taps: int, rng: np.random.Generator, groups: int = 1, **how: Any
) -> Conv:
    """A Conv with square filters whose outputs spread over int8."""
    (height, width, _), depth = x.shape, x.shape[2] // groups
    reach = how.get("dilation", (1, 1))[0] * (taps - 1) + 1
    pads, stride = how.get("pads", (0, 0, 0, 0)), how.get("stride", (1, 1))
    rows = (height + pads[0] + pads[2] - reach) // stride[0] + 1
    columns = (width + pads[1] + pads[3] - reach) // stride[1] + 1
    shift = 7 + int(np.log2(taps * np.sqrt(depth)))
    return Conv(
        name=name, kind="Conv", inputs=(x,), output=Tensor(name, (rows, columns, cout), 1.0),
        weight=rng.integers(-128, 128, (cout, taps, taps, depth)).astype(np.int8),
        bias=rng.integers(-500, 500, cout).astype(np.int32), requantize=Requantize(np.full(cout, shift)),
        groups=groups, **how,
    )  # fmt: skip


def depthwise_cases() -> Iterator[Conv]:
    """Depthwise 3×3 in one band of rows and several, with a rest of channels, and with fewer rows out than in."""
    rng = np.random.default_rng(1)
    for number, (shape, pads) in enumerate(
        (
            ((12, 7, 8), (1, 1, 1, 1)),
            ((8, 6, 6), (1, 1, 1, 1)),
            ((10, 5, 4), (0, 1, 0, 1)),
            ((9, 4, 5), (1, 2, 0, 0)),
        )
    ):
        yield window(
            Tensor(f"x of dw{number}", shape, 1.0), f"dw{number}", shape[2], 3, rng, shape[2], pads=pads
        )


def overlaps(family: str, count: int, nearer: int) -> Iterator[Overlap]:
    drawn = list(random_operators.program_of(family, count, seed=3).operators)
    for each in [*drawn, *(depthwise_cases() if family == "depthwise" else ())]:
        for op in scheduled(each):
            if nearer == 0 and op.in_place and op.sweep(0) is None:
                yield Overlap(op, 0, -1)
            for index in range(len(op.inputs)):
                if op.sweep(index) is not None:
                    yield Overlap(op, index, nearer)


def together(cases: list[Overlap]) -> tuple[Program, Arena]:
    """One program of all cases, and the plan that they ask for."""
    offsets: dict[str, int] = {}
    operators, end = [], 0
    for number, case in enumerate(cases):
        names = {t.name: f"{t.name} of {number}" for t in (*case.op.inputs, case.op.output)}
        op = replace(
            case.op,
            name=f"{case.op.name} of {number}",
            inputs=tuple(replace(t, name=names[t.name]) for t in case.op.inputs),
            output=replace(case.op.output, name=names[case.op.output.name]),
        )
        places, end = replace(case, op=op).place(end)
        offsets |= places
        operators.append(op)
    inputs = tuple(t for op in operators for t in op.inputs)
    program = Program(inputs, tuple(operators), tuple(op.output.name for op in operators))
    return program, Arena(end, offsets, (), 0, "")


@pytest.fixture(params=TARGETS, ids=lambda target: str(target.name))
def target(request: pytest.FixtureRequest, tool: Tool) -> Target:
    found: Target = request.param
    tool(found.emulated.compiler.command)
    tool(found.emulated.qemu[0])
    return found


def wrong_on(target: Target, program: Program, arena: Arena, folder: Path) -> dict[str, tuple[int, ...]]:
    """Board → operators that are wrong there."""
    project = write_projects(program, folder, arena)[target]
    inputs = [batch[-1:] for batch in execution.random_inputs(program, 3)]
    return {
        board.name: execution.run_between_zones(program, project, board, inputs, folder / board.name).wrong
        for board in boards_of(target)
    }


def test_as_near_as_a_sweep_allows(target: Target, tmp_path: Path) -> None:
    cases = [case for family in SWEPT for case in overlaps(family, 5, 0)]
    assert {kind_of(case.op) for case in cases if case.nearer < 0} == {"planar"}
    program, arena = together(cases)
    check_arena(program, arena)
    for board, wrong in wrong_on(target, program, arena, tmp_path).items():
        assert [f"{board}: {cases[i].op.kind} {cases[i].op.name}" for i in wrong] == []


def test_nearer_than_a_sweep_allows(target: Target, tmp_path: Path) -> None:
    """The leads are needed: a few bytes nearer, kernels of every family read what they have overwritten."""
    cases = [case for family in SWEPT for case in overlaps(family, 5, 2 * ALIGNMENT)]
    cases = [case for case in cases if is_refused(case)]
    program, arena = together(cases)
    for wrong in wrong_on(target, program, arena, tmp_path).values():
        kinds = {kind_of(cases[i].op) for i in wrong}
        assert kinds == {kind_of(case.op) for case in cases}
        assert len(wrong) > len(cases) / 2


def is_refused(case: Overlap) -> bool:
    program, arena = together([case])
    try:
        check_arena(program, arena)
    except WrongPlanError:
        return True
    return False


def kind_of(op: Operator) -> str:
    return op.schedule.kernel if isinstance(op, Conv) and op.schedule else type(op).__name__


# --- chains ---------------------------------------------------------------------------------------


def chain(seed: int) -> Program:
    """Operators one behind the other, some with a shortcut around them."""
    rng = np.random.default_rng(seed)
    tensors = [
        Tensor(
            "x", (int(rng.integers(6, 14)), int(rng.integers(5, 12)), int(rng.choice([1, 3, 4, 8, 16]))), 1.0
        )
    ]
    operators: list[Operator] = []
    for index in range(10):
        op = link(rng, tensors, f"t{index}")
        operators.append(op)
        tensors.append(op.output)
    return Program((tensors[0],), tuple(operators), (tensors[-1].name,))


def link(rng: np.random.Generator, tensors: list[Tensor], name: str) -> Operator:
    """The next operator of a chain."""
    x = tensors[-1]
    height, width, channels = x.shape
    earlier = [t for t in tensors[:-1] if t.shape == x.shape]
    kind = rng.integers(0, 9)
    if kind == 0 and earlier:
        shift = Requantize(np.array([1]))
        inputs = (x, earlier[int(rng.integers(len(earlier)))])
        return Add(
            name=name,
            kind="Add",
            inputs=inputs,
            output=replace(x, name=name),
            multipliers=(1, 1),
            requantize=shift,
        )
    if kind == 1:
        table = rng.permutation(np.arange(-128, 128)).astype(np.int8)
        return Table(name=name, kind="Table", inputs=(x,), output=replace(x, name=name), table=table)
    if kind == 2 and min(height, width) >= 5:
        y = Tensor(name, ((height - 1) // 2 + 1, (width - 1) // 2 + 1, channels), 1.0)
        return MaxPool(
            name=name, kind="MaxPool", inputs=(x,), output=y, window=(3, 3), stride=(2, 2), pads=(1, 1, 1, 1)
        )
    if kind <= 4:
        same = (1, 1, 1, 1)
        how: dict[str, Any] = {"pads": same, "groups": channels} if channels > 1 else {"pads": same}
        op = window(x, name, channels, 3, rng, **how)
    elif kind == 5 and min(height, width) >= 5:
        op = window(x, name, int(rng.integers(2, 24)), 3, rng, pads=(1, 0, 2, 1), stride=(2, 2))
    elif kind == 6:
        dilated = (2, 2)
        op = window(x, name, int(rng.integers(2, 24)), 3, rng, pads=(2, 2, 2, 2), dilation=dilated)
    elif kind == 7 and channels % 2 == 0:
        op = window(x, name, 2 * int(rng.integers(1, 9)), 3, rng, pads=(1, 1, 1, 1), groups=2)
    else:
        op = window(x, name, int(rng.choice([4, 8, 12, 16, 24])), 1, rng)
    return replace(op, schedule=op.schedules[int(rng.integers(len(op.schedules)))])


def test_chains_over_each_other(target: Target, tmp_path: Path) -> None:
    overlapping = 0
    for seed in range(4):
        program = chain(seed)
        arena = plan_arena(program)
        check_arena(program, arena)
        apart = max(
            sum(t.bytes for t in {*op.inputs, op.output}) + op.scratch_bytes for op in program.operators
        )
        overlapping += arena.bytes < apart
        for board, wrong in wrong_on(target, program, arena, tmp_path / str(seed)).items():
            assert [f"{board}: {program.operators[i].kind} {program.operators[i].name}" for i in wrong] == []
    assert overlapping >= 3
