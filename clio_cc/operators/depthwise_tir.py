"""TIR of the depthwise kernel that operators/depthwise.py describes. Imports TVM."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tvm.script.ir_builder import tirx as T

from clio_cc.codegen import tir
from clio_cc.operators import epilogue_tir

if TYPE_CHECKING:
    from clio_cc.operators.conv import Conv


def depthwise(op: Conv) -> Any:
    """Return the PrimFunc: x, weight, bias[, multiplier], shift, y.

    Weights as :func:`clio_cc.operators.conv.pack_depthwise_weights` has them.
    """
    height, width, channels = op.image_in
    out_h, out_w, _ = op.image_out
    _, kh, kw, _ = op.weight.shape
    (sh, sw), (dh, dw), (top, left, _, _) = op.stride, op.dilation, op.pads
    with tir.prim_func(
        ((height * width * channels,), "int8"),
        (((channels + 3) // 4, kh, kw, 4), "int16"),
        *epilogue_tir.parameters(op, channels),
        ((out_h * out_w * channels,), "int8"),
    ) as f:
        x, weight, *epilogue, y = f.arguments
        with tir.loop(out_h) as row:
            y0, first_row, rows = tir.window(row, out_h, kh, sh, dh, top, height)
            for first, tiles, tile in tir.tiles(channels, 4):
                with tir.loop(tiles) as channel_tile:
                    channel = first + channel_tile * tile
                    for start, count in tir.segments(out_w, kw, sw, dw, left, width):
                        with tir.loop(count, start) as column:
                            x0, first_column, columns = tir.window(column, out_w, kw, sw, dw, left, width)
                            acc = T.sblock_alloc_buffer((1, tile), "int32")
                            epilogue_tir.start(acc, epilogue[0], channel, tile)
                            with T.sblock("depthwise"):
                                source = tir.at(x, (y0 * width + x0) * channels + channel)
                                taps = tir.at(weight, first // 4 + channel_tile, first_row, first_column, 0)
                                strides = (dh * width * channels, dw * channels, kw * 4)
                                name = f"clio_depthwise_{tile}"
                                tir.call(name, tir.at(acc, 0, 0), source, taps, rows, columns, *strides)
                            epilogue_tir.finish(op, acc, epilogue, channel, tile, y, row * out_w + column)
    return f.func
