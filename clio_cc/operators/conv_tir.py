"""TIR of Conv: the two kernels that operators/conv.py describes. Imports TVM."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from tvm.s_tir import Schedule, TensorIntrin

from clio_cc.codegen import tir
from clio_cc.codegen.tir import T

if TYPE_CHECKING:
    from clio_cc.operators.conv import Conv, Runs


def _epilogue_parameters(op: Conv, channels: int) -> list[tuple[tuple[int, ...], str]]:
    multiplier = [((channels,), "int32")] if op.requantize.multiplier is not None else []
    return [((channels,), "int32"), *multiplier, ((channels,), "int8")]


def _requantized(op: Conv, acc: Any, tables: list[Any], channel: Any) -> Any:
    """`tables` are the epilogue's parameters: bias, the multiplier if there is one, shift."""
    multiplier = tables[1][channel] if len(tables) == 3 else None
    return tir.requantize(acc, tir.int32(tables[-1][channel]), multiplier, op.requantize.lo, op.requantize.hi)


def _split(extent: int, tile: int) -> list[tuple[int, int, int]]:
    """Cut `extent` into (start, tiles, tile): whole tiles, then what is left as one smaller tile."""
    whole = extent // tile
    parts = [(0, whole, tile), (whole * tile, 1, extent - whole * tile)]
    return [part for part in parts if part[1] and part[2]]


@cache
def _matmul_intrinsic(pixels: int, channels: int, blocks: int) -> str:
    """Register the micro-kernel ``clio_matmul_<pixels>x<channels>`` for a depth of `blocks` × 4 lanes; return its name."""

    def describe(body: bool) -> Any:
        with tir.prim_func_of(
            ("acc", (pixels, channels), "int32"),
            ("columns", (pixels, blocks, 2, 2), "int16"),
            ("weight", (channels, blocks, 2, 2), "int8"),
            offset_factor=1,
        ) as f:
            acc, columns, weight = f.arguments
            T.reads(acc[0:pixels, 0:channels], columns[0:pixels, 0:blocks, 0:2, 0:2], weight[0:channels, 0:blocks, 0:2, 0:2])
            T.writes(acc[0:pixels, 0:channels])
            if body:
                _multiply(acc, columns, weight, (pixels, channels, blocks), lambda: 0, "matmul")
            else:
                name = f"clio_matmul_{pixels}x{channels}"
                tir.call(name, acc.access_ptr("rw"), columns.access_ptr("r"), weight.access_ptr("r"), blocks * 4)
        return f.func

    name = f"clio_matmul_{pixels}x{channels}_k{blocks * 4}"
    TensorIntrin.register(name, describe(True), describe(False), override=True)
    return name


def _multiply(
    acc: Any, columns: Any, weight: Any, tile: tuple[int, int, int], first_channel: Callable[[], Any], name: str
) -> None:
    """Emit ``acc[p, c] += sum(columns[p, k] * weight[first_channel + c, k])`` as the block that is tensorized.

    A block sees loops only through its axes, so `first_channel` is called inside it to bind those of the outer loops.
    """
    with T.grid(*_matmul_loops(tile)) as loops, T.sblock(name):
        first = first_channel()
        axes = iter(loops)  # an axis of extent 1 is left out: the pattern matcher folds it away on one side only
        p, c = (T.axis.spatial(extent, next(axes)) if extent > 1 else 0 for extent in tile[:2])
        block, high, low = (T.axis.reduce(extent, next(axes)) if extent > 1 else 0 for extent in (tile[2], 2, 2))
        product = tir.int32(columns[p, block, low, high]) * tir.int32(weight[first + c, block, high, low])
        tir.store(acc, acc[p, c] + product, p, c)


def _matmul_loops(tile: tuple[int, int, int]) -> list[int]:
    return [extent for extent in (*tile, 2, 2) if extent > 1]


def matmul(op: Conv, runs: Runs, tile: tuple[int, int]) -> Any:
    """Return the scheduled PrimFunc: x, weight, bias[, multiplier], shift, columns (scratch), y."""
    height, width, cin = op.image_in
    out_h, out_w, cout = op.image_out
    pixels, per_group = out_h * out_w, cout // op.groups
    depth, rows = runs.count * runs.lanes, min(tile[0], out_h * out_w)
    with tir.prim_func(
        ((height * width * cin,), "int8"),
        ((cout, depth // 4, 2, 2), "int8"),
        *_epilogue_parameters(op, cout),
        ((rows, depth // 4, 2, 2), "int16"),
        ((pixels * cout,), "int8"),
    ) as f:
        x, weight, *epilogue, columns, y = f.arguments
        tensorized: list[tuple[str, tuple[int, int, int]]] = []
        for first_pixel, pixel_tiles, tile_pixels in _split(pixels, tile[0]):
            with tir.loop(pixel_tiles) as pixel_tile, tir.loop(op.groups) as group:
                pixel = first_pixel + pixel_tile * tile_pixels
                for i in range(tile_pixels):
                    _gather(op, runs, x, columns, pixel + i, i, group)
                for channels in _split(per_group, tile[1]):
                    with tir.loop(channels[1]) as channel_tile:
                        where = ChannelTile(group, op.groups, per_group, channel_tile, channels)
                        name = f"matmul{len(tensorized)}"
                        _matmul_tile(op, columns, weight, epilogue, y, (pixel, tile_pixels), where, name)
                        tensorized.append((name, (tile_pixels, channels[2], depth // 4)))
    schedule = Schedule(f.func)
    for name, shape in tensorized:
        loops = schedule.get_loops(schedule.get_sblock(name))
        schedule.tensorize(loops[-len(_matmul_loops(shape))], _matmul_intrinsic(*shape))
    return schedule.mod["main"]


@dataclass(frozen=True)
class ChannelTile:
    """Where a tile of output channels lies: its group, and its place in a (start, tiles, tile) part of the group."""

    group: Any
    groups: int
    per_group: int
    tile: Any
    part: tuple[int, int, int]

    def first(self, group: Any, tile: Any) -> Any:
        """Return the first channel for the given group and tile index."""
        start, _, size = self.part
        return group * self.per_group + start + tile * size

    def first_in_block(self) -> Any:
        """Return the first channel, binding the loops as axes of the current block."""
        group = T.axis.spatial(self.groups, self.group) if self.groups > 1 else 0
        tile = T.axis.spatial(self.part[1], self.tile) if self.part[1] > 1 else 0
        return self.first(group, tile)


def _matmul_tile(
    op: Conv, columns: Any, weight: Any, epilogue: list[Any], y: Any, pixel: tuple[Any, int], where: ChannelTile, name: str
) -> None:
    (first_pixel, pixels), channels, cout = pixel, where.part[2], op.image_out[2]
    first_channel = where.first(where.group, where.tile)
    acc = T.sblock_alloc_buffer((pixels, channels), "int32")
    with T.sblock("bias"):
        for p in range(pixels):
            for c in range(channels):
                tir.store(acc, epilogue[0][first_channel + c], p, c)
    _multiply(acc, columns, weight, (pixels, channels, int(columns.shape[1])), where.first_in_block, name)
    with T.sblock("requantize"):
        for p in range(pixels):
            for c in range(channels):
                value = _requantized(op, acc[p, c], epilogue, first_channel + c)
                tir.store(y, value, (first_pixel + p) * cout + first_channel + c)


def _gather(op: Conv, runs: Runs, x: Any, columns: Any, pixel: Any, slot: int, group: Any) -> None:
    """Emit the copy of one pixel's receptive field into row `slot` of `columns`, a run at a time."""
    height, width, cin = op.image_in
    out_h, out_w, _ = op.image_out
    _, kh, kw, _ = op.weight.shape
    (sh, sw), (dh, dw), (top, left, _, _) = op.stride, op.dilation, op.pads
    length = runs.pixels * runs.channels
    pointwise = (kh, kw, sh, sw) == (1, 1, 1, 1) and not any(op.pads)
    with T.sblock("gather"):
        if pointwise:
            tir.call("clio_gather", tir.at(columns, slot, 0, 0, 0), tir.at(x, pixel * cin + group * runs.channels), 0, length, 0)
            return
        row, column = (pixel // out_w, pixel % out_w) if out_h > 1 else (0, pixel)
        y0, first_row, rows = tir.window(row, out_h, kh, sh, dh, top, height)
        x0, first_column, pixels = tir.window(column, out_w, kw, sw, dw, left, width)
        with tir.loop(runs.count) as run:
            tap_row, tap_column = (run, 0) if runs.per_row == 1 else (run // kw, run % kw)
            inside_row = tir.inside(tap_row, first_row, rows)
            source_row = y0 + (tap_row - first_row) * dh
            if runs.per_row == 1:
                before, count = first_column * cin, pixels * cin
                source_column = x0
            else:
                inside_column = tir.inside(tap_column, first_column, pixels)
                inside_row = tir.both(inside_row, inside_column)
                before, count, source_column = 0, length, x0 + (tap_column - first_column) * dw
            source = (source_row * width + source_column) * cin + group * runs.channels
            if inside_row is not True:
                count = T.if_then_else(inside_row, count, 0)
                source = T.if_then_else(inside_row, source, 0)
            target = tir.at(columns, slot, run * (runs.lanes // 4), 0, 0)
            tir.call("clio_gather", target, tir.at(x, source), before, count, length - before - count)


def depthwise(op: Conv) -> Any:
    """Return the PrimFunc: x, weight (``[kh, kw, channels]``), bias[, multiplier], shift, y."""
    height, width, channels = op.image_in
    out_h, out_w, _ = op.image_out
    _, kh, kw, _ = op.weight.shape
    (sh, sw), (dh, dw), (top, left, _, _) = op.stride, op.dilation, op.pads
    with tir.prim_func(
        ((height * width * channels,), "int8"),
        ((kh * kw * channels,), "int8"),
        *_epilogue_parameters(op, channels),
        ((out_h * out_w * channels,), "int8"),
    ) as f:
        x, weight, *epilogue, y = f.arguments
        with tir.loop(out_h) as row, tir.loop(out_w) as column:
            y0, first_row, rows = tir.window(row, out_h, kh, sh, dh, top, height)
            x0, first_column, columns = tir.window(column, out_w, kw, sw, dw, left, width)
            for first, tiles, tile in _split(channels, 4):
                with tir.loop(tiles) as channel_tile:
                    channel = first + channel_tile * tile
                    acc = T.sblock_alloc_buffer((tile,), "int32")
                    with T.sblock("depthwise"):
                        for c in range(tile):
                            tir.store(acc, epilogue[0][channel + c], c)
                        source = tir.at(x, (y0 * width + x0) * channels + channel)
                        taps = tir.at(weight, (first_row * kw + first_column) * channels + channel)
                        strides = (dh * width * channels, dw * channels, kw * channels, channels)
                        tir.call(f"clio_depthwise_{tile}", tir.at(acc, 0), source, taps, rows, columns, *strides)
                        for c in range(tile):
                            value = _requantized(op, acc[c], epilogue, channel + c)
                            tir.store(y, value, (row * out_w + column) * channels + channel + c)
    return f.func
