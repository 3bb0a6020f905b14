"""TIR of the pools. Imports TVM."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tvm.script.ir_builder import tirx as T

from clio_cc.codegen import tir
from clio_cc.qformat import INT8_MAX, INT8_MIN

if TYPE_CHECKING:
    from clio_cc.operators.pool import AveragePool, MaxPool, Pool


def max_pool(op: MaxPool) -> Any:
    """Return the PrimFunc: x, y."""
    return _pool(op, INT8_MIN, T.max, lambda acc, _: tir.int8(acc))


def average_pool(op: AveragePool) -> Any:
    """Return the PrimFunc: x, y."""

    def mean(total: Any, inside: Any) -> Any:
        divisor = op.denominator * (op.window[0] * op.window[1] if op.count_padding else inside)
        rounded = T.floordiv(total * (2 * op.numerator) + divisor, 2 * divisor)
        return tir.int8(tir.clamp(rounded, INT8_MIN, INT8_MAX))

    return _pool(op, 0, lambda acc, value: acc + value, mean)


def _pool(op: Pool, start: int, fold: Callable[[Any, Any], Any], finish: Callable[[Any, Any], Any]) -> Any:
    """Fold each window from `start`; `finish` gets the result and the number of taps inside the image."""
    (height, width, channels), (out_h, out_w, _) = op.inputs[0].shape, op.output.shape
    with (
        tir.prim_func(((height * width * channels,), "int8"), ((out_h * out_w * channels,), "int8")) as f,
        tir.loop(out_h) as row,
        tir.loop(out_w) as column,
        tir.loop(channels) as channel,
        tir.block(),
    ):
        x, y = f.arguments
        y0, _, rows = tir.window(row, out_h, op.window[0], op.stride[0], op.dilation[0], op.pads[0], height)
        x0, _, columns = tir.window(
            column, out_w, op.window[1], op.stride[1], op.dilation[1], op.pads[1], width
        )
        acc = T.sblock_alloc_buffer((1,), "int32")
        tir.store(acc, T.int32(start), 0)
        with tir.loop(rows) as r, tir.loop(columns) as c:
            source = ((y0 + r * op.dilation[0]) * width + x0 + c * op.dilation[1]) * channels + channel
            tir.store(acc, fold(acc[0], tir.int32(x[source])), 0)
        tir.store(y, finish(acc[0], rows * columns), (row * out_w + column) * channels + channel)
    return f.func
