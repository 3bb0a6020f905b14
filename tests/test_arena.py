"""The memory plan, and the check that replays it: every byte that is read is still what was written there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import random_operators
from hypothesis import given
from hypothesis import strategies as st

from clio_cc.arena import ALIGNMENT, Arena, plan_arena, scratch_name
from clio_cc.arena_check import WrongPlanError, check_arena
from clio_cc.operators.base import Operator, Sweep, Tensor
from clio_cc.operators.conv import Conv
from clio_cc.operators.elementwise import Add, Mul
from clio_cc.operators.movement import WITHOUT_CODE, Concat, Reshape, RowSlice, RowStack
from clio_cc.operators.pool import MaxPool
from clio_cc.operators.table import Table
from clio_cc.program import Program, Tap
from clio_cc.qformat import Requantize

SHIFT = Requantize(np.array([1]))

# --- random programs ------------------------------------------------------------------------------


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """Small programs of operators that share, overwrite, join and need scratch, over operands from anywhere before."""
    shape = (draw(st.integers(1, 6)), draw(st.integers(1, 5)), draw(st.sampled_from([1, 3, 4, 8])))
    tensors = [Tensor(f"x{i}", shape, 1.0) for i in range(draw(st.integers(1, 3)))]
    inputs = tuple(tensors)
    operators: list[Operator] = []
    for index in range(draw(st.integers(1, 12))):
        make = draw(st.sampled_from([table, reshape, add, mul, concat, conv, window, window, pool, bands]))
        rng = np.random.default_rng(draw(st.integers(0, 1000)))
        newest = draw(st.booleans())  # chains, where much may overlap, and anything
        made = make(
            index, [draw(st.sampled_from(tensors[-1:] if newest else tensors)) for _ in range(2)], rng
        )
        operators += made
        tensors += [op.output for op in made[-1:]]
    last = [op.output.name for op in operators[-1:]] or [inputs[0].name]
    more = draw(st.lists(st.sampled_from([t.name for t in tensors]), max_size=2))
    tapped = draw(st.lists(st.sampled_from(tensors), max_size=3, unique=True))
    taps = tuple(Tap(f"at {t.name}", t.name, t.shape[-1], t.bytes // t.shape[-1]) for t in tapped)
    outputs = dict.fromkeys(
        [*(t.name for t in tapped), *([*last, *more] if draw(st.booleans()) or not taps else [])]
    )
    return Program(inputs, tuple(operators), tuple(outputs), taps)


Made = list[Operator]
Random = np.random.Generator


def table(index: int, operands: Sequence[Tensor], _: Random) -> Made:
    return [table_of(operands[0], replace(operands[0], name=f"t{index}"))]


def table_of(x: Tensor, y: Tensor) -> Operator:
    return Table(name=y.name, kind="Tanh", inputs=(x,), output=y, table=np.arange(-128, 128).astype(np.int8))


def reshape(index: int, operands: Sequence[Tensor], _: Random) -> Made:
    x = operands[0]
    y = Tensor(f"t{index}", (x.bytes,) if len(x.shape) == 3 else (1, 1, x.bytes), x.scale)
    return [Reshape(name=y.name, kind="Reshape", inputs=(x,), output=y)]


def add(index: int, operands: Sequence[Tensor], _: Random) -> Made:
    a, b = operands
    if a.shape != b.shape:
        return []
    y = replace(a, name=f"t{index}")
    return [Add(name=y.name, kind="Add", inputs=(a, b), output=y, multipliers=(1, 1), requantize=SHIFT)]


def mul(index: int, operands: Sequence[Tensor], _: Random) -> Made:
    a, b = operands
    if a.shape != b.shape and not b.bytes == b.shape[-1] == a.shape[-1]:
        return []
    y = replace(a, name=f"t{index}")
    return [Mul(name=y.name, kind="Mul", inputs=(a, b), output=y, requantize=SHIFT)]


def concat(index: int, operands: Sequence[Tensor], rng: Random) -> Made:
    a, b = operands
    axis = int(rng.integers(0, len(a.shape)))
    if len(a.shape) != len(b.shape) or (a.shape[:axis], a.shape[axis + 1 :]) != (
        b.shape[:axis],
        b.shape[axis + 1 :],
    ):
        return []
    shape = (*a.shape[:axis], a.shape[axis] + b.shape[axis], *a.shape[axis + 1 :])
    y = Tensor(f"t{index}", shape, 1.0)
    unchanged = Requantize(np.array([0]))
    return [
        Concat(
            name=y.name, kind="Concat", inputs=(a, b), output=y, axis=axis, multipliers=(1, 1), requantize=unchanged
        )
    ]  # fmt: skip


def conv(index: int, operands: Sequence[Tensor], rng: Random) -> Made:
    x = operands[0]
    channels = x.shape[-1] if len(x.shape) == 3 else x.bytes
    cout = channels if rng.random() < 0.5 else int(rng.integers(1, 12))
    return [conv_of(x, f"t{index}", (cout, 1, 1, channels))]


def conv_of(x: Tensor, name: str, shape: tuple[int, ...], **how: Any) -> Conv:
    """A Conv with weights of that shape and the output that it then has."""
    cout, kh, kw, _ = shape
    height, width, _ = x.shape if len(x.shape) == 3 else (1, 1, x.bytes)
    (sh, sw), (dh, dw) = how.get("stride", (1, 1)), how.get("dilation", (1, 1))
    top, left, bottom, right = how.get("pads", (0, 0, 0, 0))
    rows = (height + top + bottom - dh * (kh - 1) - 1) // sh + 1
    columns = (width + left + right - dw * (kw - 1) - 1) // sw + 1
    y = Tensor(name, (rows, columns, cout) if len(x.shape) == 3 else (cout,), 1.0)
    return Conv(
        name=name, kind="Conv", inputs=(x,), output=y, weight=np.ones(shape, np.int8),
        bias=np.zeros(cout, np.int32), requantize=Requantize(np.zeros(cout, np.int32)), **how,
    )  # fmt: skip


def window(index: int, operands: Sequence[Tensor], rng: Random) -> Made:
    """Any window over an image: strides, dilation and pads; groups, depthwise among them."""
    x = operands[0]
    if len(x.shape) != 3:
        return []
    height, width, channels = x.shape
    kh, kw = (int(rng.integers(1, min(4, side) + 1)) for side in (height, width))
    dilation = (
        int(rng.integers(1, 1 + max(1, (height - 1) // max(1, kh - 1)))),
        int(rng.integers(1, 1 + max(1, (width - 1) // max(1, kw - 1)))),
    )
    dilation = (min(dilation[0], 2), min(dilation[1], 2))
    groups = int(rng.choice([g for g in (1, 2, channels) if channels % g == 0]))
    cout = channels if groups == channels else groups * int(rng.integers(1, 5))
    pads, stride = tuple(int(v) for v in rng.integers(0, 4, 4)), tuple(int(v) for v in rng.integers(1, 4, 2))
    shape = (cout, kh, kw, channels // groups)
    return [conv_of(x, f"t{index}", shape, stride=stride, dilation=dilation, pads=pads, groups=groups)]


def pool(index: int, operands: Sequence[Tensor], rng: Random) -> Made:
    x = operands[0]
    if len(x.shape) != 3:
        return []
    height, width, channels = x.shape
    kh, kw = (int(rng.integers(1, min(3, side) + 1)) for side in (height, width))
    top, left = int(rng.integers(0, kh)), int(rng.integers(0, kw))
    sh, sw = (int(v) for v in rng.integers(1, 3, 2))
    y = Tensor(f"t{index}", ((height + top - kh) // sh + 1, (width + left - kw) // sw + 1, channels), 1.0)
    return [
        MaxPool(
            name=y.name, kind="MaxPool", inputs=(x,), output=y, window=(kh, kw), stride=(sh, sw), pads=(top, left, 0, 0)
        )
    ]  # fmt: skip


def bands(index: int, operands: Sequence[Tensor], rng: Random) -> Made:
    """A Conv of one or three rows, in two bands of rows; a table behind it."""
    x = operands[0]
    if len(x.shape) != 3 or x.shape[0] < 3:
        return []
    height, width, channels = x.shape
    halo, cut = int(rng.integers(0, 2)), int(rng.integers(1, height - 1))
    shape = (int(rng.integers(1, 9)), 1 + 2 * halo, 1, channels)
    made: Made = []
    parts = []
    for number, (start, end) in enumerate(((0, cut), (cut, height))):
        first, behind = max(0, start - halo), min(height, end + halo)
        name = f"t{index} band {number}"
        part = Tensor(f"{name} of x", (behind - first, width, channels), 1.0)
        pads = (halo - (start - first), 0, halo - (behind - end), 0)
        made.append(RowSlice(name=part.name, kind="RowSlice", inputs=(x,), output=part, first=first))
        made.append(conv_of(part, f"{name} of conv", shape, pads=pads))
        parts.append(replace(made[-1].output, name=name))
        made.append(table_of(made[-1].output, parts[-1]))
    y = Tensor(f"t{index}", (height, width, shape[0]), 1.0)
    return [*made, RowStack(name=y.name, kind="RowStack", inputs=tuple(parts), output=y)]


# --- tests ----------------------------------------------------------------------------------------


@given(program=programs())
def test_nothing_is_overwritten_while_it_is_needed(program: Program) -> None:
    check_arena(program, plan_arena(program))


@given(program=programs())
def test_size_alignment_and_determinism(program: Program) -> None:
    arena = plan_arena(program)
    assert arena.live_bytes <= arena.bytes
    assert arena.bytes % ALIGNMENT == 0
    assert arena.bytes <= ALIGNMENT * 100 + sum(t.bytes for t in program.tensors.values()) + sum(
        kernel.scratch_bytes for op in program.operators if (kernel := op.kernel()) is not None
    )
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
    check_arena(program, plan_arena(program))


def chain(*makers: Any, height: int = 2) -> Program:
    """x0 → first → second …: each operator reads the one before, twice if it takes two."""
    tensors, rng = [Tensor("x0", (height, 2, 4), 1.0)], np.random.default_rng(0)
    operators: Made = []
    for index, make in enumerate(makers):
        operators += make(index, [tensors[-1], tensors[-1]], rng)
        tensors.append(operators[-1].output)
    return Program((tensors[0],), tuple(operators), (tensors[-1].name,))


def same(index: int, operands: Sequence[Tensor], _: Random) -> Made:
    """A 1×1 Conv with as many channels as before: pixel by pixel over its input."""
    return [conv_of(operands[0], f"t{index}", (4, 1, 1, 4))]


def wider(index: int, operands: Sequence[Tensor], _: Random) -> Made:
    return [conv_of(operands[0], f"t{index}", (2 * operands[0].shape[-1], 1, 1, operands[0].shape[-1]))]


def rows(index: int, operands: Sequence[Tensor], _: Random) -> Made:
    """A depthwise Conv of three rows."""
    channels = operands[0].shape[-1]
    return [conv_of(operands[0], f"t{index}", (channels, 3, 1, 1), pads=(1, 0, 1, 0), groups=channels)]


def test_in_place_operators_cost_nothing() -> None:
    assert plan_arena(chain(table, add, table, reshape)).bytes == 16


def scratch_of(program: Program, index: int = 0) -> int:
    return program.operators[index].scratch_bytes


def test_a_pixelwise_conv_lies_over_its_input() -> None:
    program = chain(same)
    arena = plan_arena(program)
    assert arena.offsets["t0"] == arena.offsets["x0"]
    assert arena.bytes == arena.live_bytes == 16 + scratch_of(program)
    assert arena.worst == "t0"


def test_the_input_of_a_wider_conv_lies_at_its_end() -> None:
    program = chain(wider)
    arena = plan_arena(program)
    assert arena.offsets["x0"] == arena.offsets["t0"] + 16
    assert arena.bytes == arena.live_bytes == 32 + scratch_of(program)


def test_a_depthwise_conv_runs_two_rows_ahead() -> None:
    arena = plan_arena(chain(rows, height=10))
    assert arena.offsets["x0"] == arena.offsets["t0"] + 16
    assert arena.bytes == arena.live_bytes == 80 + 16


def test_bands_of_an_output_lie_over_bands_of_the_input() -> None:
    """Rows of the input are consumed as rows of the output come to be."""
    x0 = Tensor("x0", (10, 2, 4), 1.0)
    program = Program((x0,), tuple(bands(0, [x0], np.random.default_rng(1))), ("t0",))
    arena = plan_arena(program)
    check_arena(program, arena)
    x, y = arena.offsets["x0"], arena.offsets["t0"]
    assert y < x < y + program.tensors["t0"].bytes


def test_what_is_read_later_is_not_overwritten() -> None:
    program = chain(wider)
    x, y = program.inputs[0], program.operators[0].output
    later = replace(
        program, operators=(*program.operators, table_of(x, Tensor("z", x.shape, 1.0))), outputs=("z",)
    )
    arena = plan_arena(later)
    check_arena(later, arena)
    assert arena.bytes >= x.bytes + y.bytes


def test_a_chain_needs_no_more_than_its_largest_step() -> None:
    assert plan_arena(chain(*[same] * 9)).bytes == plan_arena(chain(same)).bytes


def test_taps_on_the_way_cost_nothing() -> None:
    program = chain(*[same] * 6)
    plain = plan_arena(program).bytes
    outputs = ("t1", "t3", "t5")
    tapped = replace(program, outputs=outputs, taps=tuple(Tap(name, name, 4, 4) for name in outputs))
    assert plan_arena(tapped).bytes == plain
    check_arena(tapped, plan_arena(tapped))
    assert plan_arena(replace(program, outputs=outputs)).bytes == plain + 32  # kept to the end


@pytest.mark.parametrize("seed", range(8))
def test_a_tap_made_of_bands_is_whole_when_its_run_ends(seed: int) -> None:
    """Nothing else reads it, so that only the run to the tap needs its first band to the end."""
    x, rng = Tensor("x0", (6, 2, 3), 1.0), np.random.default_rng(seed)
    operators = [*bands(0, [x], rng), *conv(1, [x], rng)]
    y = operators[-2].output
    tap = Tap("at t0", y.name, y.shape[-1], y.bytes // y.shape[-1])
    program = Program((x,), tuple(operators), (y.name, "t1"), (tap,))
    check_arena(program, plan_arena(program))


# --- the check itself -----------------------------------------------------------------------------


class Unswept(Table):
    """Reads and writes in an order that nobody has stated."""

    def sweep(self, index: int) -> None:  # type: ignore[override]
        pass


def test_the_check_sees_wrong_plans() -> None:
    """Plans that are wrong in each way."""
    program = chain(wider, table)
    check_arena(program, plan_arena(program))
    offsets = {"x0": 0, "t0#scratch": 256, "t0": 16, "t1": 64}
    arena = Arena(512, offsets, (), 0, "")
    check_arena(program, replace(arena, offsets={**offsets, "x0": 32}))
    both = Program((*program.inputs, Tensor("x1", (2, 2, 4), 1.0)), program.operators, program.outputs)
    kept = replace(program, outputs=("x0", "t1"))
    tap = Tap("at t0", "t0", 8, 4)
    for wrong, moved, message in (
        (
            program,
            {"x0": 8},
            "t0 writes byte 4 of t0 in step 1, over byte 12 of x0, which it reads up to step 1",
        ),
        (program, {"t1": 505}, "t1 lies at 505, outside the arena of 512 bytes"),
        (program, {"t0": 256}, "scratch of t0 lies at 256, its output at 256"),
        (program, {"t0#scratch": 260}, "scratch of t0 lies at 260, its output at 16"),
        (program, {"t0#scratch": 0, "t0": 64}, "byte 0 of x0 is scratch when t0 reads it"),
        (both, {"x1": 8}, "byte 8 of x0 is overwritten by byte 0 of x1 as the caller has written it"),
        (kept, {"t1": 8}, "byte 8 of x0 is overwritten by byte 0 of t1 when it is sent after t1"),
        (replace(program, outputs=("t0",), taps=(tap,)), {"x0": 24}, "t0 writes byte 20 of t0 in step 1"),
    ):
        with pytest.raises(WrongPlanError) as caught:
            check_arena(wrong, replace(arena, offsets={**offsets, **moved}))
        assert str(caught.value).startswith(message)
    alias = chain(reshape)
    with pytest.raises(WrongPlanError, match=r"^byte 0 of t0 lies elsewhere, though t0 moves nothing$"):
        check_arena(alias, Arena(64, {"x0": 0, "t0": 16}, (), 0, ""))
    unswept = replace(chain(table), operators=(Unswept(**vars(chain(table).operators[0])),))
    with pytest.raises(WrongPlanError, match=r"^t0 writes over byte 4 of x0 while it reads$"):
        check_arena(unswept, Arena(64, {"x0": 16, "t0": 20}, (), 0, ""))


@given(family=st.sampled_from(sorted(random_operators.FAMILIES)), seed=st.integers(0, 10_000))
def test_a_byte_below_its_lead_is_seen(family: str, seed: int) -> None:
    """As far behind its output as it must be, an input is safe; one byte nearer it is not."""
    op = random_operators.program_of(family, 1, seed).operators[0]
    sweep = op.sweep(0)
    names = [t.name for t in op.inputs]
    if sweep is None or len(set(names)) != len(names):
        return
    far = 8 * (sum(t.bytes for t in op.inputs) + op.output.bytes)
    offsets = {t.name: far * (2 + i) for i, t in enumerate(op.inputs)}
    offsets |= {op.output.name: far, scratch_name(op): far * 8}
    program = Program(op.inputs, (op,), (op.output.name,))

    def check(lead: int) -> None:
        arena = Arena(far * 8, {**offsets, names[0]: far + lead}, (), 0, "")
        check_arena(program, replace(arena, bytes=far * 8 + op.scratch_bytes * 8))

    nearest = max(sweep.lead, -op.inputs[0].bytes)  # or wholly below
    check(nearest)
    nearer = nearest - 1
    if nearest == sweep.lead and not (nearer == 0 and op.in_place):
        with pytest.raises(WrongPlanError):
            check(nearer)


def test_an_understated_lead_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planner alone believes that a kernel reads further ahead than it does."""
    program = chain(rows, height=10)
    truth = plan_arena(program)
    monkeypatch.setattr(
        Sweep, "lead", property(lambda self: int((self.writes_to - self.reads_from).max()) - 8)
    )
    wrong = plan_arena(program)
    assert wrong.bytes == truth.bytes - 8
    with pytest.raises(
        WrongPlanError,
        match=r"^t0 writes byte 8 of t0 in step 1, over byte 0 of x0, which it reads up to step 1$",
    ):
        check_arena(program, wrong)


def survives(program: Program, offsets: dict[str, int], size: int) -> bool:
    """The slow twin of the check: byte by byte, step by step, a step's writes before its reads."""
    runs = [
        tuple(range(len(program.operators))),
        *(program.operators_to(i) for i in range(len(program.taps))),
    ]
    lasting = [program.lasting, *([tap.tensor] for tap in program.taps)]
    return all(
        run_survives(program, run, left, offsets, [("", 0)] * size)
        for run, left in zip(runs, lasting, strict=True)
    )


Label = tuple[str, int]


def run_survives(
    program: Program, run: Sequence[int], left: Sequence[str], offsets: dict[str, int], memory: list[Label]
) -> bool:
    labels = {t.name: [(t.name, i) for i in range(t.bytes)] for t in program.tensors.values()}

    def there(tensor: Tensor, first: int = 0) -> bool:
        start = offsets[tensor.name]
        return memory[start + first : start + tensor.bytes] == labels[tensor.name][first:]

    for tensor in program.inputs:
        memory[offsets[tensor.name] : offsets[tensor.name] + tensor.bytes] = labels[tensor.name]
    good = all(map(there, program.inputs))
    for op in (program.operators[index] for index in run):
        y, start = op.output, offsets[op.output.name]
        if isinstance(op, WITHOUT_CODE):
            skipped = op.first * (y.bytes // y.shape[0]) if isinstance(op, RowSlice) else 0
            labels[y.name] = [label for t in op.inputs for label in labels[t.name]][
                skipped : skipped + y.bytes
            ]
            lie = [offsets[t.name] + i for t in op.inputs for i in range(t.bytes)]
            good = good and lie[skipped : skipped + y.bytes] == list(range(start, start + y.bytes))
            continue
        if op.scratch_bytes:
            scratch = offsets[scratch_name(op)]
            memory[scratch : scratch + op.scratch_bytes] = [("scratch", 0)] * op.scratch_bytes
            good = (
                good
                and scratch % 8 == 0
                and not (scratch < start + y.bytes and start < scratch + op.scratch_bytes)
            )
        before = list(memory)
        for i, x in enumerate(op.inputs):
            memory[:] = before
            sweep = op.sweep(i) or Sweep(np.array([0]), np.array([y.bytes]))
            if i in op.in_place and offsets[x.name] == start:
                sweep = Sweep(np.array([0]), np.array([0]))
            for first, written in zip(sweep.reads_from.tolist(), sweep.writes_to.tolist(), strict=True):
                memory[start : start + written] = labels[y.name][:written]
                good = good and there(x, min(first, x.bytes))
        memory[:] = before
        memory[start : start + y.bytes] = labels[y.name]
    return good and all(there(program.tensors[name]) for name in left)


@given(program=programs(), data=st.data())
def test_a_buffer_moved_onto_another_is_seen_unless_it_is_as_good(
    program: Program, data: st.DataObject
) -> None:
    """The check against a slow one: every byte of every step, one after the other."""
    arena = plan_arena(program, 0)
    name = data.draw(st.sampled_from(sorted(arena.offsets)))
    moved = {**arena.offsets, name: data.draw(st.integers(0, arena.bytes // ALIGNMENT)) * ALIGNMENT}
    wrong = replace(arena, offsets=moved, bytes=2 * arena.bytes + 8)
    try:
        check_arena(program, wrong)
    except WrongPlanError:
        assert not survives(program, moved, wrong.bytes)
    else:
        assert survives(program, moved, wrong.bytes)
