"""TIR of the matmul that operators/wide.py describes. Imports TVM."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tvm.script.ir_builder import tirx as T

from clio_cc.codegen import tir
from clio_cc.operators.matmul import Image
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
                    f"clio_widen_{layout.tile}", tir.at(scratch, 0), tir.at(weight, channel * lanes), tir.at(bias, channel),
                    tir.at(shift, channel), lanes, block,
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
    columns = tir.at(scratch, layout.columns)
    row_bytes, step = image.width * image.channels, op.stride[1] * image.channels
    y0 = pixel // image.out_w * op.stride[0] - op.pads[0]
    x0 = pixel % image.out_w * op.stride[1] - op.pads[1]
    first = y0 * row_bytes + x0 * image.channels

    def widen_stage() -> None:
        tir.call("clio_gather_staged", columns, tir.at(scratch, layout.stage), layout.lanes)

    def inside() -> None:
        if kw * cin % 4 == 0:
            tir.call(
                "clio_gather_2", columns, tir.at(x, first), step if count == PIXELS else 0, kw * cin, kh,
                op.dilation[0] * row_bytes,
            )  # fmt: skip
            return
        with tir.loop(kh) as run:
            for i in range(count):
                source = tir.at(x, first + i * step + run * op.dilation[0] * row_bytes)
                target = i * layout.lanes + run * kw * cin
                tir.call("clio_copy", tir.at(scratch, layout.stage), target, source, kw * cin)
        widen_stage()

    def anywhere() -> None:
        with tir.loop(count) as i:
            _stage(op, image, layout, x, scratch, pixel + i, i * layout.lanes)
        widen_stage()

    if op.dilation[1] == 1 or kw == 1:
        tir.either(_inside(op, image, pixel, count), inside, anywhere)
    else:
        anywhere()


def _inside(op: Conv, image: Image, pixel: Any, count: int) -> Any:
    """Whether `count` pixels from number `pixel` on lie side by side, and all their taps inside the image."""
    _, kh, kw, _ = op.weight.shape
    rows = _inside_axis(
        pixel // image.out_w, 1, image.out_h, kh, op.stride[0], op.dilation[0], op.pads[0], image.height
    )
    columns = _inside_axis(
        pixel % image.out_w, count, image.out_w, kw, op.stride[1], op.dilation[1], op.pads[1], image.width
    )
    return tir.both(rows, columns)


def _inside_axis(
    position: Any, count: int, outputs: int, taps: int, stride: int, dilation: int, pad: int, size: int
) -> Any:
    """The same for `count` positions from `position` on along one axis; no test that always holds."""
    first = -(-pad // stride)
    last = min((size - 1 + pad - dilation * (taps - 1)) // stride, outputs - 1) - (count - 1)
    # Pairs begin at even positions only where they cannot run over the end of a row.
    furthest = outputs - count if outputs % count == 0 else outputs - 1
    after = True if first <= 0 else position >= first
    before = True if last >= furthest else position <= last
    return tir.both(after, before)


def _stage(op: Conv, image: Image, layout: Layout, x: Any, scratch: Any, pixel: Any, at: Any) -> None:
    """Emit the copy of the receptive field of pixel number `pixel` to byte `at` of the stage."""
    _, kh, kw, cin = op.weight.shape
    (sh, sw), (dh, dw), (top, left, _, _) = op.stride, op.dilation, op.pads
    row_bytes = image.width * image.channels
    y0, first_row, rows = tir.window(pixel // image.out_w, image.out_h, kh, sh, dh, top, image.height)
    x0, first_column, columns = tir.window(pixel % image.out_w, image.out_w, kw, sw, dw, left, image.width)
    source = y0 * row_bytes + x0 * image.channels
    if not (isinstance(rows, int) and isinstance(columns, int)):
        # A window wholly in the padding has no first byte.
        source = T.if_then_else(T.And(rows > 0, columns > 0), source, 0)
    # Pixels of a row side by side are one piece.
    pieces, piece = (1, columns * cin) if dw == 1 else (columns, cin)
    tir.call(
        "clio_stage", tir.at(scratch, layout.stage), at, tir.at(x, source),
        first_row * kw * cin, rows, (kh - first_row - rows) * kw * cin, dh * row_bytes,
        first_column * cin, pieces, piece, (kw - first_column - columns) * cin, dw * image.channels,
    )  # fmt: skip
