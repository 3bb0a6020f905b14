"""TIR of the depthwise kernel that operators/depthwise.py describes. Imports TVM."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tvm.script.ir_builder import tirx as T

from clio_cc.codegen import tir
from clio_cc.operators import epilogue_tir
from clio_cc.operators.depthwise import CHANNELS

if TYPE_CHECKING:
    from clio_cc.operators.conv import Conv


def depthwise(op: Conv, pixels: int, shift: int | None) -> Any:
    """Return the PrimFunc: x, weight, bias[, multiplier][, shift], y.

    Args:
        op: What to compute; weights as :func:`clio_cc.operators.depthwise.pack_weights` has them.
        pixels: 2 to compute two at a time where windows of 3 columns lie wholly inside.
        shift: Of all channels, if they have one.
    """
    height, width, channels = op.image_in
    out_h, out_w, _ = op.image_out
    _, kh, kw, _ = op.weight.shape
    (sh, sw), (dh, dw), (top, left, _, _) = op.stride, op.dilation, op.pads
    with tir.prim_func(
        ((height * width * channels,), "int8"),
        (((channels + CHANNELS - 1) // CHANNELS, kh, kw, CHANNELS), "int16"),
        *epilogue_tir.parameters(op, channels, shift),
        ((out_h * out_w * channels,), "int8"),
    ) as f:
        x, weight, *epilogue, y = f.arguments

        def sums(row: Any, first: int, tile: int, channel_tile: Any, column: Any, together: int) -> None:
            channel = first + channel_tile * tile
            y0, first_row, rows = tir.window(row, out_h, kh, sh, dh, top, height)
            x0, first_column, columns = tir.window(column, out_w, kw, sw, dw, left, width)
            acc = T.sblock_alloc_buffer((together, tile), "int32")
            epilogue_tir.start(acc, epilogue[0], channel, tile)
            with T.sblock("depthwise"):
                source = tir.at(x, (y0 * width + x0) * channels + channel)
                taps = tir.at(weight, first // CHANNELS + channel_tile, first_row, first_column, 0)
                x_row, x_column = dh * width * channels, dw * channels
                if together == 2:
                    steps: tuple[Any, ...] = (rows, x_row, x_column, sw * channels)
                    tir.call("clio_depthwise_pair", tir.at(acc, 0, 0), source, taps, *steps)
                else:
                    steps = (rows, columns, x_row, x_column, kw * CHANNELS)
                    tir.call(f"clio_depthwise_{tile}", tir.at(acc, 0, 0), source, taps, *steps)
            pixel = row * out_w + column
            if shift is None:
                epilogue_tir.finish(op, acc, epilogue, channel, tile, y, pixel)
            else:
                epilogue_tir.finish_alike(op, acc, shift, channel, tile, y, pixel)

        with tir.loop(out_h) as row:
            for first, tiles, tile in tir.tiles(channels, CHANNELS):
                with tir.loop(tiles) as channel_tile:
                    for start, count in tir.segments(out_w, kw, sw, dw, left, width):
                        inside = (
                            start * sw >= left and (start + count - 1) * sw - left + dw * (kw - 1) < width
                        )
                        together = pixels if inside and tile == CHANNELS else 1
                        for begin, blocks, block in tir.tiles(count, together):
                            with tir.loop(blocks) as number:
                                column = start + begin + number * block
                                sums(row, first, tile, channel_tile, column, block)
    return f.func
