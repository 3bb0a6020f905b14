"""TIR of the operators that move values. Imports TVM."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from tvm.script.ir_builder import tirx as T

from clio_cc.codegen import tir


def transpose(shape: tuple[int, ...], permutation: tuple[int, ...]) -> Any:
    """Return the PrimFunc: x, y."""
    elements = math.prod(shape)
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    with tir.prim_func(((elements,), "int8"), ((elements,), "int8")) as f, ExitStack() as loops:
        x, y = f.arguments
        source, target = 0, 0
        for axis in permutation:
            variable = loops.enter_context(tir.loop(shape[axis]))
            source, target = source + variable * strides[axis], target * shape[axis] + variable
        loops.enter_context(tir.block())
        tir.store(y, x[source], target)
    return f.func


def pad(shape: tuple[int, ...], pads: tuple[int, int, int, int], value: int) -> Any:
    """Return the PrimFunc: x, y. Fill first, then copy: the border is small and the copy has no test inside."""
    (height, width, channels), (top, left, bottom, right) = shape, pads
    out_row, out_rows = (left + width + right) * channels, top + height + bottom
    with tir.prim_func(((height * width * channels,), "int8"), ((out_rows * out_row,), "int8")) as f:
        x, y = f.arguments
        with tir.loop(out_rows * out_row) as i, tir.block():
            tir.store(y, T.int8(value), i)
        with tir.loop(height) as row, tir.loop(width * channels) as i, tir.block():
            tir.store(y, x[row * width * channels + i], (row + top) * out_row + left * channels + i)
    return f.func


def concat(rows: Sequence[int], count: int, multipliers: Sequence[int], shift: int, lo: int, hi: int) -> Any:
    """Return the PrimFunc: the inputs (`count` rows of ``rows[i]`` bytes each), y."""
    total = sum(rows)
    with tir.prim_func(*(((count * row,), "int8") for row in rows), ((count * total,), "int8")) as f:
        *inputs, y = f.arguments
        start = 0
        for x, row, multiplier in zip(inputs, rows, multipliers, strict=True):
            plain = multiplier == 1 << shift and (lo, hi) == (-128, 127)
            rounding = (1 << shift) >> 1
            with tir.loop(count) as outer, tir.loop(row) as i, tir.block():
                value = x[outer * row + i]
                if not plain:
                    value = tir.requantize(tir.int32(value) * multiplier + rounding, shift, None, lo, hi)
                tir.store(y, value, outer * total + start + i)
            start += row
    return f.func
