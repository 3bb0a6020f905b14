"""TIR of the matmul that operators/wide.py describes. Imports TVM."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clio_cc.codegen import tir
from clio_cc.operators import matmul_tir
from clio_cc.operators.matmul import Image, runs_of
from clio_cc.operators.wide import PIXELS, Layout

if TYPE_CHECKING:
    from clio_cc.operators.conv import Conv


def wide(op: Conv, layout: Layout, micro_kernel: tuple[str, tuple[int, ...]]) -> Any:
    """Return the PrimFunc: x, weight, bias, shift, scratch, y; `micro_kernel` from ``wide.micro_kernel_of``."""
    image, cout = Image.of(op), op.image_out[2]
    pixels, lanes, block = image.out_h * image.out_w, layout.lanes, layout.channels
    with tir.prim_func(
        ((image.height * image.width * image.channels,), "int8"),
        ((cout * lanes,), "int8"),
        ((cout,), "int32"),
        ((cout,), "int8"),
        ((layout.elements,), "int16"),
        ((pixels * cout,), "int8"),
    ) as f:
        x, weight, bias, shift, scratch, y = f.arguments
        name, bounds = micro_kernel
        with tir.loop(cout // block) as part:
            channel = part * block
            with tir.block():
                tir.call(
                    "clio_widen", tir.at(scratch, 0), tir.at(weight, channel * lanes), tir.at(bias, channel),
                    tir.at(shift, channel), lanes, block, layout.tile,
                )  # fmt: skip
            for first, pairs, width in tir.tiles(pixels, PIXELS):
                with tir.loop(pairs) as pair, tir.block():
                    pixel = first + pair * PIXELS
                    _gather(op, image, layout, x, scratch, pixel, width)
                    # A pair of which only the first pixel exists is stored in one place, the first one last.
                    tir.call(
                        name, tir.at(y, pixel * cout + channel), tir.at(scratch, layout.columns),
                        tir.at(scratch, 0), lanes, block, cout if width == PIXELS else 0, *bounds,
                    )  # fmt: skip
    return f.func


def _gather(op: Conv, image: Image, layout: Layout, x: Any, scratch: Any, pixel: Any, count: int) -> None:
    """Emit the widening of the receptive fields of `count` pixels from number `pixel` on."""
    _, kh, kw, cin = op.weight.shape
    runs, columns = runs_of(op), tir.at(scratch, layout.columns)
    row_bytes = image.width * image.channels

    def directly() -> None:
        y0 = pixel // image.out_w * op.stride[0] - op.pads[0]
        x0 = pixel % image.out_w * op.stride[1] - op.pads[1]
        step = op.stride[1] * image.channels if count == PIXELS else 0
        tir.call(
            "clio_gather_2", columns, tir.at(x, y0 * row_bytes + x0 * image.channels), step, kw * cin, kh,
            op.dilation[0] * row_bytes,
        )  # fmt: skip

    def staged() -> None:
        with tir.loop(count) as i:
            _stage(op, image, layout, x, scratch, pixel + i, i * layout.lanes)
        tir.call("clio_gather_staged", columns, tir.at(scratch, layout.stage), layout.lanes)

    if runs.per_row == 1 and kw * cin % 4 == 0 and (image.out_w % PIXELS == 0 or image.out_h == 1):
        tir.either(_inside(op, image, pixel, count), directly, staged)
    else:
        staged()


def _inside(op: Conv, image: Image, pixel: Any, count: int) -> Any:
    """Whether all taps of `count` pixels side by side, from number `pixel` on, lie inside the image."""
    _, kh, kw, _ = op.weight.shape
    row, column = pixel // image.out_w, pixel % image.out_w
    rows = _inside_axis(row, 1, image.out_h, kh, op.stride[0], op.dilation[0], op.pads[0], image.height)
    columns = _inside_axis(
        column, count, image.out_w, kw, op.stride[1], op.dilation[1], op.pads[1], image.width
    )
    return tir.both(rows, columns)


def _inside_axis(
    position: Any, count: int, outputs: int, taps: int, stride: int, dilation: int, pad: int, size: int
) -> Any:
    """The same along one axis; no test that no position fails."""
    first, last = -(-pad // stride), (size - 1 + pad - dilation * (taps - 1)) // stride - count + 1
    after = True if first <= 0 else position >= first
    before = True if last >= outputs - count else position <= last
    return tir.both(after, before)


def _stage(op: Conv, image: Image, layout: Layout, x: Any, scratch: Any, pixel: Any, at: Any) -> None:
    """Emit the copy of the receptive field of pixel number `pixel` to byte `at` of the stage."""
    runs = runs_of(op)
    length = runs.pixels * runs.channels
    stage = tir.at(scratch, layout.stage)

    def copy(run: Any, offset: Any) -> None:
        tir.call("clio_copy", stage, at + run * length, tir.at(x, offset), length)

    def copy_padded(run: Any, offset: Any, before: Any, count: Any) -> None:
        after = length - before - count
        tir.call("clio_copy_padded", stage, at + run * length, tir.at(x, offset), before, count, after)

    position = pixel // image.out_w, pixel % image.out_w
    matmul_tir.each_run(op, image, runs, position, 0, copy, copy_padded)
