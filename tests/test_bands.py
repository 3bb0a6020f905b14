"""Bands of rows: the same numbers in less memory, on every board."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from boards import assert_bit_exact
from hypothesis import given
from hypothesis import strategies as st

from clio_cc import execution, reference
from clio_cc.arena import ALIGNMENT, live_bytes, plan_arena
from clio_cc.band_costs import ChainCosts
from clio_cc.band_search import MOST_EXTRA_MACS, BandSearch
from clio_cc.bands import Chain, by_rows, in_bands
from clio_cc.operators.base import Operator, Tensor
from clio_cc.operators.conv import Conv
from clio_cc.operators.elementwise import Add, Mul
from clio_cc.operators.movement import Concat, Pad, Transpose
from clio_cc.operators.pool import MaxPool
from clio_cc.operators.table import Table
from clio_cc.program import Program
from clio_cc.qformat import Requantize

Random = np.random.Generator


def conv(rng: Random, index: int, x: Tensor, kind: str) -> Conv:
    """A random pointwise, depthwise or full convolution of `x`."""
    height, width, channels = x.shape
    taps = 1 if kind == "pointwise" else int(rng.choice([1, 2, 3, 5]))
    stride, dilation = (1, 1) if kind == "pointwise" else (int(rng.integers(1, 3)), int(rng.integers(1, 3)))
    reach = dilation * (taps - 1) + 1
    pads = (0, 0, 0, 0) if kind == "pointwise" else tuple(int(p) for p in rng.integers(0, reach, 4))
    groups = channels if kind == "depthwise" else 1
    cout = channels if kind == "depthwise" else int(rng.integers(1, 9))
    out = [(s + pads[i] + pads[i + 2] - reach) // stride + 1 for i, s in enumerate((height, width))]
    if min(out) < 1:
        return conv(rng, index, x, "pointwise")
    return Conv(
        name=f"conv{index}",
        kind="Conv",
        inputs=(x,),
        output=Tensor(f"t{index}", (out[0], out[1], cout), 1.0),
        weight=rng.integers(-128, 128, (cout, taps, taps, channels // groups)).astype(np.int8),
        bias=rng.integers(-999, 999, cout).astype(np.int32),
        requantize=Requantize(rng.integers(4, 9, cout)),
        stride=(stride, stride),
        dilation=(dilation, dilation),
        pads=(pads[0], pads[1], pads[2], pads[3]),
        groups=groups,
    )


def operator(rng: Random, index: int, x: Tensor) -> Operator:
    """A random operator that works by rows."""
    kind = str(rng.choice(["pointwise", "depthwise", "full", "table", "pool"]))
    if kind == "table":
        table = rng.integers(-128, 128, 256).astype(np.int8)
        y = Tensor(f"t{index}", x.shape, 1.0)
        return Table(name=f"table{index}", kind="Tanh", inputs=(x,), output=y, table=table)
    if kind == "pool" and min(x.shape[:2]) >= 2:
        y = Tensor(f"t{index}", (x.shape[0] // 2, x.shape[1] // 2, x.shape[2]), 1.0)
        return MaxPool(
            name=f"pool{index}", kind="MaxPool", inputs=(x,), output=y, window=(2, 2), stride=(2, 2)
        )
    return conv(rng, index, x, "pointwise" if kind == "pool" else kind)


def add(index: int, a: Tensor, b: Tensor) -> Add:
    """The sum of two tensors."""
    output, requantize = Tensor(f"t{index}", a.shape, 1.0), Requantize(np.array([1]))
    return Add(
        name=f"add{index}",
        kind="Add",
        inputs=(a, b),
        output=output,
        multipliers=(1, 1),
        requantize=requantize,
    )


def concat(index: int, a: Tensor, b: Tensor, axis: int) -> Concat:
    """Two tensors side by side."""
    shape = list(a.shape)
    shape[axis] += b.shape[axis]
    output, requantize = Tensor(f"t{index}", tuple(shape), 1.0), Requantize(np.array([0]))
    return Concat(
        name=f"concat{index}", kind="Concat", inputs=(a, b), output=output, axis=axis, multipliers=(1, 1),
        requantize=requantize,
    )  # fmt: skip


def whole_operator(rng: Random, index: int, x: Tensor) -> Operator:
    """A random operator that does not work by rows."""
    height, width, channels = x.shape
    kind = str(rng.choice(["transpose", "pad", "concat", "far"]))
    name = f"{kind}{index}"
    if kind == "transpose":
        output = Tensor(f"t{index}", (width, height, channels), 1.0)
        return Transpose(name=name, kind="Transpose", inputs=(x,), output=output, permutation=(1, 0, 2))
    if kind == "pad":
        output = Tensor(f"t{index}", (height + 2, width, channels), 1.0)
        return Pad(name=name, kind="Pad", inputs=(x,), output=output, pads=(1, 0, 1, 0), value=3)
    if kind == "concat":
        return concat(index, x, x, 0)
    output = Tensor(f"t{index}", (height + 2, width + 2, channels), 1.0)
    weight = rng.integers(-128, 128, (channels, 1, 1, channels)).astype(np.int8)
    return Conv(
        name=name, kind="Conv", inputs=(x,), output=output, weight=weight, bias=np.arange(channels),
        requantize=Requantize(np.full(channels, 8)), pads=(1, 1, 1, 1),
    )  # fmt: skip


def random_chain(seed: int, length: int) -> Program:
    """Operators in a row."""
    rng = np.random.default_rng(seed)
    x = Tensor("x", (int(rng.integers(6, 20)), int(rng.integers(3, 9)), int(rng.integers(1, 9))), 1.0)
    operators: list[Operator] = []
    for index in range(length):
        operators.append(operator(rng, index, operators[-1].output if operators else x))
    return Program((x,), tuple(operators), (operators[-1].output.name,))


def random_net(seed: int, length: int) -> Program:
    """Operators that each read the one before, and sums and concatenations that reach further back."""
    rng = np.random.default_rng(seed)
    x = Tensor("x", (int(rng.integers(6, 20)), int(rng.integers(3, 9)), int(rng.integers(1, 9))), 1.0)
    known, operators = [x], []
    for index in range(length):
        last = known[-1]
        alike = [t for t in known if t.shape == last.shape]
        beside = [t for t in known if t.shape[:2] == last.shape[:2]]
        kind = str(rng.choice(["conv", "any", "any", "add", "concat", "mul", "whole"]))
        if kind == "add":
            op: Operator = add(index, last, alike[int(rng.integers(len(alike)))])
        elif kind == "concat" and last.shape[2] < 30:
            op = concat(index, last, beside[int(rng.integers(len(beside)))], 2)
        elif kind == "mul" and (scales := [t for t in known if t.bytes == last.shape[2] == t.shape[-1]]):
            output, requantize = Tensor(f"t{index}", last.shape, 1.0), Requantize(np.array([7]))
            op = Mul(
                name=f"mul{index}", kind="Mul", inputs=(last, scales[0]), output=output, requantize=requantize
            )
        elif kind == "whole":
            op = whole_operator(rng, index, last)
        else:
            op = operator(rng, index, last) if kind == "any" else conv(rng, index, last, "pointwise")
        operators.append(op)
        known.append(op.output)
    outputs = tuple(dict.fromkeys([*rng.choice([t.name for t in known[1:]], 1), known[-1].name]))
    return Program((x,), tuple(operators), outputs)


def bottlenecks(blocks: int = 2) -> Program:
    """Inverted bottlenecks with a residual: what bands are for."""
    rng = np.random.default_rng(1)
    x = Tensor("x", (24, 24, 8), 1.0)
    operators: list[Operator] = []
    current = x
    for block in range(blocks):
        begin = current
        shapes = [(1, 1, 48, 8), (3, 1, 1, 48), (1, 1, 8, 48)]
        for part, (taps, _, cout, cin) in enumerate(shapes):
            groups = 48 if part == 1 else 1
            weight = rng.integers(-128, 128, (48 if part == 1 else cout, taps, taps, 1 if part == 1 else cin))
            pad = taps // 2
            op = Conv(
                name=f"block{block}_{part}",
                kind="Conv",
                inputs=(current,),
                output=Tensor(f"b{block}_{part}", (24, 24, len(weight)), 1.0),
                weight=weight.astype(np.int8),
                bias=np.zeros(len(weight), np.int32),
                requantize=Requantize(np.full(len(weight), 8)),
                pads=(pad, pad, pad, pad),
                groups=groups,
            )
            operators.append(op)
            current = op.output
        operators.append(add(block, begin, current))
        current = operators[-1].output
    return Program((x,), tuple(operators), (current.name,))


def shrink(program: Program, limit: int) -> Program | None:
    """The program in bands, within a limit."""
    return BandSearch(program, lambda _: limit).fitting()


def smallest(program: Program, limit: int = 1 << 30) -> Program:
    """The program in the bands that take the least memory."""
    found = BandSearch(program, lambda _: limit).smallest()
    assert found is not None
    return found


def assert_same(program: Program, banded: Program) -> None:
    """Both compute the same bytes."""
    inputs = execution.random_inputs(program, 2)
    for expected, got in zip(reference.run(program, inputs), reference.run(banded, inputs), strict=True):
        np.testing.assert_array_equal(expected, got)


def chains(program: Program) -> list[Chain]:
    """Every chain that may be computed in bands, in every number of rows, found the slow way."""
    ops, found = program.operators, []
    for first, last in itertools.combinations(range(len(ops)), 2):
        inner = {op.output.name for op in ops[first:last]}
        read = {tensor.name for op in (*ops[:first], *ops[last + 1 :]) for tensor in op.inputs}
        needed = {tensor.name for op in ops[first : last + 1] for tensor in op.inputs}
        if (
            all(map(by_rows, ops[first : last + 1]))
            and inner <= needed
            and not inner & {*read, *program.outputs}
        ):
            found += [Chain(first, last, rows) for rows in range(1, ops[last].output.shape[0])]
    return found


@given(st.integers(0, 10_000), st.integers(2, 7), st.data())
def test_any_chain_in_any_bands_gives_the_same_bytes(seed: int, length: int, data: st.DataObject) -> None:
    program = random_net(seed, length)
    possible = chains(program)
    if possible:
        assert_same(program, in_bands(program, data.draw(st.sampled_from(possible))))


def test_several_chains_at_once() -> None:
    program = bottlenecks(3)
    banded = in_bands(program, Chain(8, 10, 5), Chain(0, 3, 3), Chain(4, 7, 24))
    assert [len(op.inputs) for op in banded.operators if op.kind == "RowStack"] == [8, 1, 5]
    assert_same(program, banded)
    assert in_bands(program).operators == program.operators


@given(st.integers(0, 10_000), st.integers(1, 7))
def test_a_chains_peak_and_macs_are_those_of_the_program_in_bands(seed: int, length: int) -> None:
    """Known from a few bands of the chain alone."""
    program = random_net(seed, length)
    costs, whole = ChainCosts(program), live_bytes(program)
    for chain in chains(program):
        banded = in_bands(program, chain)
        live = live_bytes(banded)
        behind = len(banded.operators) - (len(program.operators) - chain.last - 1)
        assert abs(costs.peak(chain) - max(live[chain.first : behind])) <= ALIGNMENT  # sums are rounded up
        assert costs.cost(chain)[0] == banded.macs - program.macs
        assert (live[: chain.first], live[behind:]) == (whole[: chain.first], whole[chain.last + 1 :])


@given(st.integers(0, 10_000), st.integers(2, 7))
def test_what_the_search_finds(seed: int, length: int) -> None:
    """The same bytes in less memory for not too many MACs; and the same plan whenever it is made."""
    program = random_net(seed, length)
    small = smallest(program)
    assert plan_arena(small).bytes <= plan_arena(program).bytes
    assert small.macs <= (1 + MOST_EXTRA_MACS) * program.macs
    assert_same(program, small)
    assert smallest(program).describe() == small.describe()


@given(st.integers(0, 10_000), st.integers(2, 4))
def test_no_chains_do_with_fewer_macs(seed: int, length: int) -> None:
    """Against all sets of one or two chains."""
    program = random_net(seed, length)
    heights = [op.output.shape[0] for op in program.operators]
    single = [c for c in chains(program) if c.rows in {-(-heights[c.last] // n) for n in range(2, 30)}]
    pairs = [(a, b) for a, b in itertools.combinations(single, 2) if a.last < b.first][:50]
    whole = max(live_bytes(program))
    made = [program, *(in_bands(program, *each) for each in [*((c,) for c in single), *pairs])]
    figures = [(max(live_bytes(each)), each.macs) for each in made]
    for limit in sorted({peak for peak, _ in figures})[:5]:
        found = BandSearch(program, lambda _: 0).lowest(limit + ALIGNMENT)
        if found is None:  # a few bytes are lost
            found = BandSearch(program, lambda _: 0).lowest(limit + limit // 20)
        assert found is not None
        least = min(macs for peak, macs in figures if peak <= limit)
        # In bands, rows that nobody reads are not computed: a few MACs less, which the search is not after.
        assert program.macs + found.cost[0] <= max(least, program.macs)
    assert BandSearch(program, lambda _: 0).lowest(whole) == BandSearch(program, lambda _: 0).lowest(1 << 30)


def test_shrink_meets_the_limit_and_computes_the_same() -> None:
    program = bottlenecks()
    limit = plan_arena(program).bytes // 2
    small = shrink(program, limit)
    assert small is not None
    assert plan_arena(small).bytes <= limit
    assert program.macs < small.macs < 1.5 * program.macs  # rows that two bands share are computed twice
    assert_same(program, small)


def test_what_fits_is_left_alone_and_what_cannot_is_given_up() -> None:
    program = bottlenecks()
    assert shrink(program, plan_arena(program).bytes) is program
    assert shrink(program, 8 * 24 * 24 - 1) is None  # its input alone is larger
    assert BandSearch(program, lambda _: 8 * 24 * 24 - 1).smallest() is None


def test_bands_take_room_of_their_own() -> None:
    """On boards that run from RAM: the more operators, the less is left."""
    program = bottlenecks()

    def room(made: Program) -> int:
        return 30_000 - 100 * (len(made.operators) - len(program.operators))

    for found in (BandSearch(program, room).fitting(), BandSearch(program, room).smallest()):
        assert found is not None
        assert plan_arena(found).bytes <= room(found)
    assert BandSearch(program, lambda made: 10**9 - 10**6 * len(made.operators)).smallest() is program


def test_more_macs_than_wanted_if_that_is_what_it_takes() -> None:
    program = bottlenecks()
    limit = plan_arena(smallest(program)).bytes - 8
    forced = smallest(program, limit)
    assert plan_arena(forced).bytes <= limit
    assert forced.macs > (1 + MOST_EXTRA_MACS) * program.macs


def test_slices_and_stacks_are_places_in_the_arena() -> None:
    program = shrink(bottlenecks(), 20_000)
    assert program is not None
    arena = plan_arena(program)
    assert arena.bytes >= max(live_bytes(program))
    for op in program.operators:
        if op.kind == "RowSlice":
            (x,), row = op.inputs, op.output.bytes // op.output.shape[0]
            assert arena.offsets[op.output.name] == arena.offsets[x.name] + op.first * row  # type: ignore[attr-defined]
        if op.kind == "RowStack":
            place = arena.offsets[op.output.name]
            for part in op.inputs:
                assert arena.offsets[part.name] == place
                place += part.bytes


@pytest.mark.parametrize("limit", [20_000, 14_000])
def test_bands_are_bit_exact_on_every_board(limit: int, tmp_path: Path, tool: Callable[[str], str]) -> None:
    for command in ("arm-none-eabi-gcc", "riscv64-unknown-elf-gcc", "qemu-system-arm", "qemu-system-riscv32"):
        tool(command)
    program = shrink(bottlenecks(), limit)
    assert program is not None
    assert_bit_exact(program, execution.random_inputs(program, 3), tmp_path)


def test_the_smallest_bands_are_bit_exact_on_every_board(tmp_path: Path, tool: Callable[[str], str]) -> None:
    for command in ("arm-none-eabi-gcc", "riscv64-unknown-elf-gcc", "qemu-system-arm", "qemu-system-riscv32"):
        tool(command)
    program = smallest(bottlenecks())
    assert plan_arena(program).bytes < plan_arena(bottlenecks()).bytes / 2
    assert_bit_exact(program, execution.random_inputs(program, 3), tmp_path)
