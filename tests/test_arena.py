"""The memory plan, replayed: every byte that an operator reads is still what was written there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import random_operators
from hypothesis import given
from hypothesis import strategies as st

from clio_cc.arena import ALIGNMENT, Arena, plan_arena, scratch_name
from clio_cc.operators.base import Operator, Tensor
from clio_cc.operators.conv import Conv
from clio_cc.operators.elementwise import Add, Mul
from clio_cc.operators.movement import Concat, Reshape
from clio_cc.operators.table import Table
from clio_cc.program import Program, Tap
from clio_cc.qformat import Requantize

Numbers = npt.NDArray[np.int64]
SHIFT = Requantize(np.array([1]))


class WrongPlanError(AssertionError):
    """The plan breaks the program."""


class Memory:
    """The arena, filled with serial numbers: one for every byte ever written."""

    def __init__(self, arena: Arena) -> None:
        self.bytes = np.full(arena.bytes, -1, np.int64)
        self.offsets = arena.offsets
        self.numbers: dict[str, Numbers] = {}
        self.serial = 0

    def place(self, name: str, size: int) -> slice:
        start = self.offsets[name]
        if start < 0 or start + size > len(self.bytes):
            raise WrongPlanError(f"{name} lies at {start}, outside the arena")
        return slice(start, start + size)

    def write(self, tensor: Tensor) -> None:
        numbers = np.arange(self.serial, self.serial + tensor.bytes).reshape(tensor.shape)
        self.serial += tensor.bytes
        self.numbers[tensor.name] = numbers
        self.bytes[self.place(tensor.name, tensor.bytes)] = numbers.reshape(-1)

    def spoil(self, name: str, size: int) -> None:
        self.bytes[self.place(name, size)] = -2

    def check(self, tensor: Tensor, when: str) -> None:
        if not np.array_equal(
            self.bytes[self.place(tensor.name, tensor.bytes)], self.numbers[tensor.name].reshape(-1)
        ):
            raise WrongPlanError(f"{tensor.name} is lost {when}")


class Forgetful(Memory):
    """Loses the last tensor."""

    def check(self, tensor: Tensor, when: str) -> None:
        if tensor.name == "t1":
            self.bytes[:] = -3
        super().check(tensor, when)


def replay(program: Program, arena: Arena) -> None:
    """Run a program in its arena as the C code would, and see that nothing is lost.

    A kernel may write any of its output and scratch before it has read all of its inputs, except that an in-place
    operator reads element i before it writes element i. Operators without a kernel write nothing: their output must
    be there already.
    """
    memory = Memory(arena)
    for tensor in program.inputs:
        memory.write(tensor)
    for tensor in program.inputs:
        memory.check(tensor, "before the first operator")
    for op in program.operators:
        step(op, memory)
    for name in program.lasting:
        memory.check(program.tensors[name], "at the end")
    for tap in range(len(program.taps)):
        replay_to(program, tap, Memory(arena))


def replay_to(program: Program, number: int, memory: Memory) -> None:
    """The same for a run to one tap: it skips operators, so that what they would have written is not there."""
    for tensor in program.inputs:
        memory.write(tensor)
    tap = program.taps[number]
    for index in program.operators_to(number):
        step(program.operators[index], memory)
    memory.check(program.tensors[tap.tensor], f"at the end of a run to {tap.partition}")


def step(op: Operator, memory: Memory) -> None:
    kernel = op.kernel()
    if kernel is not None and kernel.scratch_bytes:
        memory.spoil(scratch_name(op), kernel.scratch_bytes)
    for tensor in op.inputs:
        memory.check(tensor, f"when {op.name} reads it")
    if kernel is None:
        moved: Any = op.evaluate([memory.numbers[t.name][None] for t in op.inputs])  # type: ignore[misc]
        memory.numbers[op.output.name] = moved[0]
        memory.check(op.output, f"though {op.name} has no code")
    else:
        check_apart(op, kernel.scratch_bytes, memory.offsets)
        memory.write(op.output)


def check_apart(op: Operator, scratch_bytes: int, offsets: Mapping[str, int]) -> None:
    """An output is apart from the scratch buffer, and from inputs that it may not overwrite."""
    start = offsets[op.output.name]
    end = start + op.output.bytes
    if scratch_bytes:
        scratch = offsets[scratch_name(op)]
        if scratch % ALIGNMENT or (scratch < end and start < scratch + scratch_bytes):
            raise WrongPlanError(f"{op.name}: scratch at {scratch}, output at {start}")
    for tensor in op.inputs:
        first = offsets[tensor.name]
        together = first < end and start < first + tensor.bytes
        # In place: element i is read last when element i is written, of every input that has as many.
        same = first == start and tensor.bytes == op.output.bytes and op.in_place
        if together and not same:
            raise WrongPlanError(f"{op.name} overwrites its input {tensor.name}")


# --- random programs ------------------------------------------------------------------------------


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """Small programs of operators that share, overwrite, join and need scratch, over operands from anywhere before."""
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.sampled_from([1, 3, 4, 8])))
    tensors = [Tensor(f"x{i}", shape, 1.0) for i in range(draw(st.integers(1, 3)))]
    inputs = tuple(tensors)
    operators: list[Operator] = []
    for index in range(draw(st.integers(1, 12))):
        make = draw(st.sampled_from([table, reshape, add, mul, concat, conv]))
        op = make(index, [draw(st.sampled_from(tensors)) for _ in range(2)])
        if op is not None:
            operators.append(op)
            tensors.append(op.output)
    last = [op.output.name for op in operators[-1:]] or [inputs[0].name]
    more = draw(st.lists(st.sampled_from([t.name for t in tensors]), max_size=2))
    tapped = draw(st.lists(st.sampled_from(tensors), max_size=3, unique=True))
    taps = tuple(Tap(f"at {t.name}", t.name, t.shape[-1], t.bytes // t.shape[-1]) for t in tapped)
    outputs = dict.fromkeys(
        [*(t.name for t in tapped), *([*last, *more] if draw(st.booleans()) or not taps else [])]
    )
    return Program(inputs, tuple(operators), tuple(outputs), taps)


def table(index: int, operands: Sequence[Tensor]) -> Operator:
    x = operands[0]
    y = replace(x, name=f"t{index}")
    return Table(name=y.name, kind="Tanh", inputs=(x,), output=y, table=np.arange(-128, 128).astype(np.int8))


def reshape(index: int, operands: Sequence[Tensor]) -> Operator:
    x = operands[0]
    y = Tensor(f"t{index}", (x.bytes,) if len(x.shape) == 3 else (1, 1, x.bytes), x.scale)
    return Reshape(name=y.name, kind="Reshape", inputs=(x,), output=y)


def add(index: int, operands: Sequence[Tensor]) -> Operator | None:
    a, b = operands
    if a.shape != b.shape:
        return None
    y = replace(a, name=f"t{index}")
    return Add(name=y.name, kind="Add", inputs=(a, b), output=y, multipliers=(1, 1), requantize=SHIFT)


def mul(index: int, operands: Sequence[Tensor]) -> Operator | None:
    a, b = operands
    if a.shape != b.shape and not b.bytes == b.shape[-1] == a.shape[-1]:
        return None
    y = replace(a, name=f"t{index}")
    return Mul(name=y.name, kind="Mul", inputs=(a, b), output=y, requantize=SHIFT)


def concat(index: int, operands: Sequence[Tensor]) -> Operator | None:
    a, b = operands
    axis = len(a.shape) - 1
    if len(a.shape) != len(b.shape) or a.shape[:axis] != b.shape[:axis]:
        return None
    y = Tensor(f"t{index}", (*a.shape[:axis], a.shape[axis] + b.shape[axis]), 1.0)
    return Concat(
        name=y.name,
        kind="Concat",
        inputs=(a, b),
        output=y,
        axis=axis,
        multipliers=(1, 1),
        requantize=Requantize(np.array([0])),
    )


def conv(index: int, operands: Sequence[Tensor]) -> Operator:
    x = operands[0]
    y = replace(x, name=f"t{index}")
    channels = x.shape[-1] if len(x.shape) == 3 else x.bytes
    return Conv(
        name=y.name,
        kind="Conv",
        inputs=(x,),
        output=y,
        weight=np.ones((channels, 1, 1, channels), np.int8),
        bias=np.zeros(channels, np.int32),
        requantize=Requantize(np.zeros(channels, np.int32)),
    )


# --- tests ----------------------------------------------------------------------------------------


@given(program=programs())
def test_nothing_is_overwritten_while_it_is_needed(program: Program) -> None:
    replay(program, plan_arena(program))


@given(program=programs())
def test_size_alignment_and_determinism(program: Program) -> None:
    arena = plan_arena(program)
    assert arena.live_bytes <= arena.bytes
    assert arena.bytes % ALIGNMENT == 0
    largest = max((sum(t.bytes for t in {*op.inputs, op.output}) for op in program.operators), default=0)
    assert arena.bytes <= ALIGNMENT * 100 + sum(t.bytes for t in program.tensors.values()) + sum(
        kernel.scratch_bytes for op in program.operators if (kernel := op.kernel()) is not None
    )
    if all(not op.in_place and op.kernel() is not None for op in program.operators):
        assert arena.bytes >= largest
    again = plan_arena(program)
    assert (again.bytes, again.offsets, again.live_bytes, again.worst) == (
        arena.bytes,
        arena.offsets,
        arena.live_bytes,
        arena.worst,
    )


@pytest.mark.parametrize("family", random_operators.FAMILIES)
def test_every_family(family: str) -> None:
    program = random_operators.program_of(family, 10)
    replay(program, plan_arena(program))


def chain(*makers: Any) -> Program:
    """x0 → first → second …: each operator reads the one before, twice if it takes two."""
    tensors = [Tensor("x0", (2, 2, 4), 1.0)]
    operators = []
    for index, make in enumerate(makers):
        operators.append(make(index, [tensors[-1], tensors[-1]]))
        tensors.append(operators[-1].output)
    return Program((tensors[0],), tuple(operators), (tensors[-1].name,))


def test_in_place_operators_cost_nothing() -> None:
    assert plan_arena(chain(table, add, table, reshape)).bytes == 16


def test_scratch_and_output_of_a_conv_lie_beside_its_input() -> None:
    program = chain(conv)
    kernel = program.operators[0].kernel()
    assert kernel is not None
    arena = plan_arena(program)
    assert arena.bytes == arena.live_bytes == 16 + 16 + kernel.scratch_bytes
    assert arena.worst == "t0"


def test_a_chain_needs_two_buffers_whatever_its_length() -> None:
    assert plan_arena(chain(*[conv] * 9)).bytes == plan_arena(chain(conv)).bytes


def test_taps_on_the_way_cost_nothing_but_their_encoders() -> None:
    program = chain(*[conv] * 6)
    plain = plan_arena(program).bytes
    outputs = ("t1", "t3", "t5")
    tapped = replace(program, outputs=outputs, taps=tuple(Tap(name, name, 4, 4) for name in outputs))
    assert plan_arena(tapped).bytes == plain
    assert plan_arena(replace(program, outputs=outputs)).bytes == plain + 32  # kept to the end


def test_the_replay_sees_wrong_plans() -> None:
    """The check itself: plans that are wrong in each way."""
    program = chain(conv, conv)
    arena = plan_arena(program)
    replay(program, arena)
    same, outside = dict.fromkeys(arena.offsets, 0), {**arena.offsets, "t1": arena.bytes}
    onto_scratch = {**arena.offsets, "t0": arena.offsets["t0#scratch"]}
    both = Program((*program.inputs, Tensor("x1", (2, 2, 4), 1.0)), program.operators, program.outputs)
    for wrong, offsets, message in (
        (program, same, "x0 is lost when t0 reads it"),
        (program, outside, f"t1 lies at {arena.bytes}, outside the arena"),
        (program, onto_scratch, f"t0: scratch at {arena.offsets['t0#scratch']}, output at {arena.offsets['t0#scratch']}"),
        (program, {**arena.offsets, "t0": arena.offsets["x0"]}, "t0 overwrites its input x0"),
        (both, {**arena.offsets, "x1": arena.offsets["x0"]}, "x0 is lost before the first operator"),
    ):  # fmt: skip
        with pytest.raises(WrongPlanError) as caught:
            replay(wrong, replace(arena, offsets=offsets))
        assert str(caught.value) == message
    kept = replace(program, outputs=("x0", "t1"))
    with pytest.raises(WrongPlanError, match=r"^x0 is lost at the end$"):
        replay(kept, arena)
    tapped = replace(program, outputs=("x0", "t1"), taps=(Tap("early", "x0", 4, 4), Tap("late", "t1", 4, 4)))
    replay(tapped, arena)
    with pytest.raises(WrongPlanError, match=r"^t1 is lost at the end of a run to late$"):
        replay_to(tapped, 1, Forgetful(arena))
    alias = chain(reshape)
    with pytest.raises(WrongPlanError, match=r"^t0 is lost though t0 has no code$"):
        replay(alias, replace(plan_arena(alias), bytes=64, offsets={"x0": 0, "t0": 16}))
