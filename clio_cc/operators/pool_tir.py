"""TIR of the pools. Imports TVM."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tvm.script.ir_builder import tirx as T

from clio_cc.codegen import tir
from clio_cc.qformat import INT8_MAX, INT8_MIN

if TYPE_CHECKING:
    from clio_cc.operators.pool import AveragePool, MaxPool, Pool


CHANNELS = 4
MOST_SUMMED = 256  # int8 values that an int16 has room for


def max_pool(op: MaxPool) -> Any:
    """Return the PrimFunc: x, y."""

    def four(window: tuple[Any, ...], y: Any, place: Any, _: Any) -> None:
        tir.call("clio_max_4", tir.at(y, place), *window)

    return _pool(op, four, INT8_MIN, T.max, lambda acc, _: tir.int8(acc))


def average_pool(op: AveragePool) -> Any:
    """Return the PrimFunc: x, y."""

    def mean(total: Any, inside: Any) -> Any:
        divisor = op.denominator * (op.window[0] * op.window[1] if op.count_padding else inside)
        rounded = T.floordiv(total * (2 * op.numerator) + divisor, 2 * divisor)
        return tir.clamp(rounded, INT8_MIN, INT8_MAX)

    def four(window: tuple[Any, ...], y: Any, place: Any, inside: Any) -> None:
        sums = T.sblock_alloc_buffer((CHANNELS,), "int32")
        tir.call("clio_sum_4", tir.at(sums, 0), *window)
        tir.call("clio_store_4", tir.at(y, place), *(mean(sums[c], inside) for c in range(CHANNELS)))

    fits = op.window[0] * op.window[1] <= MOST_SUMMED
    return _pool(
        op, four if fits else None, 0, lambda acc, value: acc + value, lambda acc, n: tir.int8(mean(acc, n))
    )


def _pool(
    op: Pool,
    four: Callable[[tuple[Any, ...], Any, Any, Any], None] | None,
    start: int,
    fold: Callable[[Any, Any], Any],
    finish: Callable[[Any, Any], Any],
) -> Any:
    """Go through the output, four channels at a time as far as there are so many.

    Args:
        op: The pool.
        four: Emits a micro-kernel: gets what describes the window to it, the output, where in it, and the number of pixels
            inside. None to take single channels for all.
        start: What to fold the values of a single channel's window from.
        fold: Of two values.
        finish: Of the result and the number of pixels inside.
    """
    (height, width, channels), (out_h, out_w, _) = op.inputs[0].shape, op.output.shape
    (kh, kw), (sh, sw), (dh, dw), (top, left, *_) = op.window, op.stride, op.dilation, op.pads
    with (
        tir.prim_func(((height * width * channels,), "int8"), ((out_h * out_w * channels,), "int8")) as f,
        tir.loop(out_h) as row,
        tir.loop(out_w) as column,
    ):
        x, y = f.arguments
        y0, _, rows = tir.window(row, out_h, kh, sh, dh, top, height)
        x0, _, columns = tir.window(column, out_w, kw, sw, dw, left, width)
        x_row, x_column = dh * width * channels, dw * channels
        for first, tiles, tile in tir.tiles(channels, 1 if four is None else CHANNELS):
            single = four is None or tile < CHANNELS
            with tir.loop(tiles * tile if single else tiles) as number, tir.block():
                channel = first + (number if single else number * CHANNELS)
                source, place = (
                    (y0 * width + x0) * channels + channel,
                    (row * out_w + column) * channels + channel,
                )
                if four is not None and not single:
                    window = (rows, columns, x_row, x_column)
                    if isinstance(rows, int) and isinstance(columns, int) and x_row == columns * x_column:
                        window = (1, rows * columns, x_row, x_column)
                    four((tir.at(x, source), *window), y, place, rows * columns)
                    continue
                acc = T.sblock_alloc_buffer((1,), "int32")
                tir.store(acc, T.int32(start), 0)
                with tir.loop(rows) as r, tir.loop(columns) as c:
                    tir.store(acc, fold(acc[0], tir.int32(x[source + r * x_row + c * x_column])), 0)
                tir.store(y, finish(acc[0], rows * columns), place)
    return f.func
