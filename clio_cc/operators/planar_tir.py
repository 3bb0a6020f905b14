"""TIR of the planar kernel that operators/planar.py describes. Imports TVM."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tvm.script.ir_builder import tirx as T

from clio_cc.codegen import tir
from clio_cc.operators import epilogue_tir
from clio_cc.operators.depthwise import CHANNELS
from clio_cc.operators.planar import TAPS, pitch_of

if TYPE_CHECKING:
    from clio_cc.operators.conv import Conv


def planar(op: Conv, rows: int, shift: int | None) -> Any:
    """Return the PrimFunc: x, weight, bias[, multiplier][, shift], scratch, y.

    Args:
        op: Whose depthwise window is 3×3.
        rows: Of a band of the output; a divisor of its height.
        shift: Of all channels, if they have one.
    """
    (height, width, channels), (out_h, out_w, _) = op.image_in, op.image_out
    pitch = pitch_of(op)
    step = (rows + TAPS - 1) * pitch
    with tir.prim_func(
        ((height * width * channels,), "int8"),
        ((channels, TAPS, 4), "int16"),
        *epilogue_tir.parameters(op, channels, shift),
        ((CHANNELS, rows + TAPS - 1, pitch), "int16"),
        ((out_h * out_w * channels,), "int8"),
    ) as f:
        x, weight, *tables, planes, y = f.arguments
        # The padding left and right, and above and below where there is one band, stays zero.
        with tir.block():
            tir.call("clio_planar_clear", tir.at(planes, 0, 0, 0), CHANNELS * step, 0, 1)
        with tir.loop((channels + CHANNELS - 1) // CHANNELS) as group:
            channel = group * CHANNELS
            count = CHANNELS if channels % CHANNELS == 0 else T.min(CHANNELS, channels - channel)
            with tir.loop(out_h // rows) as band, tir.block():
                _fill(op, rows, x, planes, band, channel, count)
                name, *last = (
                    ("clio_planar_alike", shift)
                    if shift is not None
                    else ("clio_planar_shift" if len(tables) == 2 else "clio_planar_multiply",)
                )
                tir.call(
                    name,
                    tir.at(y, band * rows * out_w * channels + channel), out_w * channels, channels,
                    tir.at(planes, 0, 0, 0), step, pitch, tir.at(weight, channel, 0, 0),
                    tir.at(tables[0], channel), rows, out_w, count,
                    *(tir.at(table, channel) for table in tables[1:]), *last,
                    op.requantize.lo, op.requantize.hi,
                )  # fmt: skip
    return f.func


def _fill(op: Conv, rows: int, x: Any, planes: Any, band: Any, channel: Any, count: Any) -> None:
    """Emit what brings the input of a band of `rows` rows of output into the planes."""
    (height, width, channels), (out_h, out_w, _) = op.image_in, op.image_out
    pitch, (top, left, _, _) = pitch_of(op), op.pads
    step, kept, bands = (rows + TAPS - 1) * pitch, TAPS - 1, out_h // rows
    end = rows + TAPS - 1
    first: Any = top
    if bands == 1:
        end = min(end, height + top)
    else:
        below = max(0, out_h + TAPS - 1 - height - top)
        if top:
            with T.If(band == 0), T.Then():
                tir.call("clio_planar_clear", tir.at(planes, 0, 0, 0), top * pitch, step, CHANNELS)
        with T.If(band > 0), T.Then():
            tir.call("clio_planar_keep", tir.at(planes, 0, 0, 0), step, rows * pitch, kept * pitch)
        first, end = T.if_then_else(band > 0, kept, top), T.min(end, height + top - band * rows)
        if below:
            with T.If(band == bands - 1), T.Then():
                tir.call(
                    "clio_planar_clear",
                    tir.at(planes, 0, rows + kept - below, 0),
                    below * pitch,
                    step,
                    CHANNELS,
                )
    columns = min(width, out_w + TAPS - 1 - left)
    source = ((band * rows + first - top) * width) * channels + channel
    tir.call(
        "clio_planar_gather",
        tir.at(planes, 0, first, left), step, pitch, tir.at(x, source), width * channels, channels,
        end - first, columns, count,
    )  # fmt: skip
