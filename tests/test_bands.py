"""Bands of rows: the same numbers in less memory, on every board."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from boards import assert_bit_exact
from hypothesis import given
from hypothesis import strategies as st

from clio_cc import execution, reference
from clio_cc.arena import live_bytes, plan_arena
from clio_cc.bands import BAND_ROWS, Chain, in_bands, shrink
from clio_cc.operators.base import Operator, Tensor
from clio_cc.operators.conv import Conv
from clio_cc.operators.elementwise import Add
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


def random_chain(seed: int, length: int) -> Program:
    """Operators in a row."""
    rng = np.random.default_rng(seed)
    x = Tensor("x", (int(rng.integers(6, 20)), int(rng.integers(3, 9)), int(rng.integers(1, 9))), 1.0)
    operators: list[Operator] = []
    for index in range(length):
        operators.append(operator(rng, index, operators[-1].output if operators else x))
    return Program((x,), tuple(operators), (operators[-1].output.name,))


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
        total = Tensor(f"sum{block}", x.shape, 1.0)
        requantize = Requantize(np.array([1]))
        pair = (begin, current)
        operators.append(
            Add(
                name=f"add{block}",
                kind="Add",
                inputs=pair,
                output=total,
                multipliers=(1, 1),
                requantize=requantize,
            )
        )
        current = total
    return Program((x,), tuple(operators), (current.name,))


@given(st.integers(0, 10_000), st.integers(2, 6), st.sampled_from(BAND_ROWS), st.data())
def test_any_chain_in_any_bands_gives_the_same_bytes(
    seed: int, length: int, rows: int, data: st.DataObject
) -> None:
    program = random_chain(seed, length)
    first = data.draw(st.integers(0, length - 1))
    last = data.draw(st.integers(first, length - 1))
    banded = in_bands(program, Chain(first, last, rows))
    inputs = execution.random_inputs(program, 2)
    expected, got = reference.run(program, inputs), reference.run(banded, inputs)
    np.testing.assert_array_equal(expected[0], got[0])


def test_shrink_meets_the_limit_and_computes_the_same() -> None:
    program = bottlenecks()
    whole = plan_arena(program).bytes
    limit = whole // 3
    small = shrink(program, limit)
    assert small is not None
    assert plan_arena(small).bytes <= limit
    assert program.macs < small.macs < 1.5 * program.macs  # rows that two bands share are computed twice
    inputs = execution.random_inputs(program, 3)
    np.testing.assert_array_equal(reference.run(program, inputs)[0], reference.run(small, inputs)[0])


def test_shrink_leaves_alone_what_fits_and_gives_up_on_what_cannot() -> None:
    program = bottlenecks()
    assert shrink(program, plan_arena(program).bytes) is program
    assert shrink(program, 8 * 24 * 24 - 1) is None  # its input alone is larger


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
