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
        with tir.loop(height) as row, tir.block():
            place = tir.at(y, (row + top) * out_row + left * channels)
            tir.call("clio_move", place, tir.at(x, row * width * channels), width * channels)
    return f.func


def concat(rows: Sequence[int], count: int, multipliers: Sequence[int], shift: int, lo: int, hi: int) -> Any:
    """Return the PrimFunc: the inputs (`count` rows of ``rows[i]`` bytes each), y."""
    total = sum(rows)
    with tir.prim_func(*(((count * row,), "int8") for row in rows), ((count * total,), "int8")) as f:
        *inputs, y = f.arguments
        start = 0
        for x, row, multiplier in zip(inputs, rows, multipliers, strict=True):
            factor, halvings = _reduced(multiplier, shift)
            plain = (factor, halvings, lo, hi) == (1, 0, -128, 127)
            name, last = ("clio_move", ()) if plain else ("clio_rescale", (factor, halvings, lo, hi))
            with tir.loop(count) as outer, tir.block():
                tir.call(name, tir.at(y, outer * total + start), tir.at(x, outer * row), row, *last)
            start += row
    return f.func


def _reduced(multiplier: int, shift: int) -> tuple[int, int]:
    """Return multiplier and shift of the same rescaling whose multiplier fits an int16: it is odd, or nothing is shifted."""
    while shift > 0 and multiplier % 2 == 0:
        multiplier, shift = multiplier // 2, shift - 1
    # Without a shift every value but 0 is saturated by less.
    return (min(multiplier, 128), 0) if shift == 0 else (multiplier, shift)
