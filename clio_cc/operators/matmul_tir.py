"""TIR of the matmul that operators/matmul.py describes. Imports TVM."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from tvm.s_tir import Schedule, TensorIntrin
from tvm.script.ir_builder import tirx as T

from clio_cc.codegen import tir
from clio_cc.operators import epilogue_tir
from clio_cc.operators.matmul import Image

if TYPE_CHECKING:
    from clio_cc.operators.conv import Conv
    from clio_cc.operators.matmul import Runs


@cache
def _matmul_intrinsic(pixels: int, channels: int, blocks: int) -> str:
    """Register ``clio_matmul_<pixels>x<channels>`` for a depth of `blocks` × 4 lanes; return its name."""

    def describe(body: bool) -> Any:
        with tir.prim_func_of(
            ("acc", (pixels, channels), "int32"),
            ("columns", (blocks, pixels, 2, 2), "int16"),
            ("weight", (blocks, channels, 2, 2), "int8"),
            offset_factor=1,
            strided=("columns",),
        ) as f:
            acc, columns, weight = f.arguments
            T.reads(
                acc[0:pixels, 0:channels],
                columns[0:blocks, 0:pixels, 0:2, 0:2],
                weight[0:blocks, 0:channels, 0:2, 0:2],
            )
            T.writes(acc[0:pixels, 0:channels])
            if body:
                _multiply(acc, columns, weight, (pixels, channels, blocks), tuple, "matmul")
            else:
                name = f"clio_matmul_{pixels}x{channels}"
                step = columns.strides[0]
                tir.call(
                    name,
                    acc.access_ptr("rw"),
                    columns.access_ptr("r"),
                    step,
                    weight.access_ptr("r"),
                    blocks * 4,
                )
        return f.func

    name = f"clio_matmul_{pixels}x{channels}_k{blocks * 4}"
    TensorIntrin.register(name, describe(True), describe(False), override=True)
    return name


def _multiply(
    acc: Any,
    columns: Any,
    weight: Any,
    tile: tuple[int, int, int],
    outer: Callable[[], tuple[Any, ...]],
    name: str,
) -> None:
    """Emit ``acc[p, c] += sum(columns[b, p, …] * weight[*outer(), b, c, …])``: the block to be tensorized.

    A block sees loops only through its axes, so `outer` is called inside it to bind those of the outer loops.
    """
    with T.grid(*_matmul_loops(tile)) as loops, T.sblock(name):
        index = outer()
        axes = iter(
            loops
        )  # an axis of extent 1 is left out: the pattern matcher folds it away on one side only
        p, c = (T.axis.spatial(extent, next(axes)) if extent > 1 else 0 for extent in tile[:2])
        block, high, low = (
            T.axis.reduce(extent, next(axes)) if extent > 1 else 0 for extent in (tile[2], 2, 2)
        )
        product = tir.int32(columns[block, p, low, high]) * tir.int32(weight[(*index, block, c, high, low)])
        tir.store(acc, acc[p, c] + product, p, c)


def _matmul_loops(tile: tuple[int, int, int]) -> list[int]:
    return [extent for extent in (*tile, 2, 2) if extent > 1]


def matmul(op: Conv, runs: Runs, tile: tuple[int, int]) -> Any:
    """Return the scheduled PrimFunc: x, weight, bias[, multiplier], shift, columns (scratch), y.

    Shapes as :func:`clio_cc.operators.conv.pack_weights` has them; `columns` is ``[k/4, pixels, 2, 2]``.
    """
    image = Image.of(op)
    cout = op.image_out[2]
    per_group, blocks = cout // op.groups, runs.count * runs.lanes // 4
    with tir.prim_func(
        ((image.height * image.width * image.channels,), "int8"),
        ((op.groups, -(-per_group // tile[1]), blocks, tile[1], 2, 2), "int8"),
        *epilogue_tir.parameters(op, cout),
        ((blocks, tile[0], 2, 2), "int16"),
        ((image.out_h * image.out_w * cout,), "int8"),
    ) as f:
        x, weight, *epilogue, columns, y = f.arguments
        tensorized: list[tuple[str, tuple[int, int, int]]] = []
        with tir.loop(image.out_h) as row:
            for first_pixel, pixel_tiles, pixels in tir.tiles(image.out_w, tile[0]):
                with tir.loop(pixel_tiles) as pixel_tile, tir.loop(op.groups) as group:
                    column = first_pixel + pixel_tile * pixels
                    for i in range(pixels):
                        _gather(op, image, runs, x, columns, (row, column + i), i, group)
                    for first_channel, channel_tiles, channels in tir.tiles(per_group, tile[1]):
                        with tir.loop(channel_tiles) as channel_tile:
                            name = f"matmul{len(tensorized)}"
                            where = ChannelTile(
                                op.groups, group, first_channel // tile[1], channel_tiles, channel_tile
                            )
                            channel = group * per_group + first_channel + channel_tile * channels
                            acc = T.sblock_alloc_buffer((pixels, tile[1]), "int32")
                            epilogue_tir.start(acc, epilogue[0], channel, channels)
                            _multiply(acc, columns, weight, (pixels, tile[1], blocks), where.axes, name)
                            epilogue_tir.finish(
                                op, acc, epilogue, channel, channels, y, row * image.out_w + column
                            )
                            tensorized.append((name, (pixels, tile[1], blocks)))
    schedule = Schedule(f.func)
    for name, shape in tensorized:
        loops = schedule.get_loops(schedule.get_sblock(name))
        schedule.tensorize(loops[-len(_matmul_loops(shape))], _matmul_intrinsic(*shape))
    return schedule.mod["main"]


@dataclass(frozen=True)
class ChannelTile:
    """Where the weights of a tile of output channels lie: group, and tile number `first` + `tile` of it."""

    groups: int
    group: Any
    first: int
    tiles: int
    tile: Any

    def axes(self) -> tuple[Any, Any]:
        """Return the leading indices of the weights, binding the loops as axes of the current block."""
        group = T.axis.spatial(self.groups, self.group) if self.groups > 1 else 0
        tile = T.axis.spatial(self.tiles, self.tile) if self.tiles > 1 else 0
        return group, self.first + tile


def _gather(
    op: Conv, image: Image, runs: Runs, x: Any, columns: Any, position: tuple[Any, Any], slot: int, group: Any
) -> None:
    """Emit the copy of one pixel's receptive field into slot `slot` of `columns`, a run at a time."""
    _, kh, kw, _ = op.weight.shape
    (sh, sw), (dh, dw), (top, left, _, _) = op.stride, op.dilation, op.pads
    length, step = runs.pixels * runs.channels, 4 * int(columns.shape[1])
    with T.sblock("gather"), tir.loop(runs.count) as run:
        y0, first_row, rows = tir.window(position[0], image.out_h, kh, sh, dh, top, image.height)
        x0, first_column, pixels = tir.window(position[1], image.out_w, kw, sw, dw, left, image.width)
        tap_row, tap_column = (run, 0) if runs.per_row == 1 else (run // kw, run % kw)
        row_inside = tir.inside(tap_row, first_row, rows)
        source = (y0 + (tap_row - first_row) * dh) * image.width * image.channels + group * runs.channels
        target = tir.at(columns, run * (runs.lanes // 4), slot, 0, 0)

        def copy(offset: Any) -> None:
            tir.call("clio_gather", target, step, tir.at(x, offset), length)

        def copy_padded(offset: Any, before: Any, count: Any) -> None:
            tir.call(
                "clio_gather_padded", target, step, tir.at(x, offset), before, count, length - before - count
            )

        if runs.per_row == 1:
            whole = True if isinstance(pixels, int) else T.EQ(pixels, kw)
            offset, count = source + x0 * image.channels, pixels * image.channels
            if row_inside is not True:
                count = T.if_then_else(row_inside, count, 0)
                offset_inside = T.if_then_else(row_inside, offset, 0)
            else:
                offset_inside = offset
            tir.either(
                tir.both(row_inside, whole),
                lambda: copy(offset),
                lambda: copy_padded(offset_inside, first_column * image.channels, count),
            )
        else:
            offset = source + (x0 + (tap_column - first_column) * dw) * image.channels
            inside = tir.both(row_inside, tir.inside(tap_column, first_column, pixels))
            tir.either(inside, lambda: copy(offset), lambda: copy_padded(0, 0, 0))
