"""The matmul kernel of Conv: everything but depthwise.

The receptive fields of a tile of pixels are gathered into an int16 buffer (widened once, zeros for the padding), then a
register-tiled micro-kernel multiplies them with a tile of output channels.

The buffers are laid out in blocks of four lanes, so that SXTB16, which takes bytes 0 and 2 of a word, finds its operands
without a shuffle: weights as they are (``[..., 2, 2]``), activations with the last two axes exchanged. Blocks of one tile
lie side by side, so that one pointer walks through all its weights and one through all its pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from clio_cc.operators.base import Kernel, Sweep
from clio_cc.operators.epilogue import code_key, epilogue_tables
from clio_cc.operators.schedule import Schedule
from clio_cc.operators.windows import first_bytes, sweep_by_tiles
from clio_cc.qformat import Int8Array

if TYPE_CHECKING:
    from clio_cc.operators.conv import Conv

# Pixels × output channels of the micro-kernel: the most that a Cortex-M's registers hold.
TILE = (3, 2)


@dataclass(frozen=True)
class Runs:
    """How a receptive field is cut into runs of contiguous bytes, each padded to whole blocks of four lanes.

    A run is a whole filter row (all channels) where its pixels lie side by side, else one tap of one group.
    """

    count: int
    per_row: int
    pixels: int
    channels: int

    @property
    def lanes(self) -> int:
        """Lanes of one run, a multiple of 4."""
        return -(-self.pixels * self.channels // 4) * 4


def runs_of(op: Conv) -> Runs:
    """Return the runs of one receptive field of one group."""
    _, kh, kw, cin = op.weight.shape
    if op.groups == 1 and (op.dilation[1] == 1 or kw == 1):
        return Runs(kh, 1, kw, cin)
    return Runs(kh * kw, kw, 1, cin)


@dataclass(frozen=True)
class Image:
    """What the matmul walks over. To a 1×1 filter that sees every pixel the image is one long row."""

    height: int
    width: int
    channels: int
    out_h: int
    out_w: int

    @staticmethod
    def of(op: Conv) -> Image:
        """Return those of `op`."""
        (height, width, channels), (out_h, out_w, _) = op.image_in, op.image_out
        if (*op.weight.shape[1:3], *op.stride) == (1, 1, 1, 1) and not any(op.pads):
            return Image(1, height * width, channels, 1, out_h * out_w)
        return Image(height, width, channels, out_h, out_w)


def schedules(op: Conv) -> tuple[Schedule, ...]:
    """Return the ways to compute `op`, the default first."""
    if op.depthwise:
        return ()
    out_h, out_w, cout = op.image_out
    pixels = out_h * out_w if op.weight.shape[1:3] == (1, 1) else out_w
    return (Schedule("matmul", (min(TILE[0], pixels), min(TILE[1], cout // op.groups))),)


def scratch_bytes(op: Conv, schedule: Schedule) -> int:
    """Return the bytes of the receptive fields of one tile; without packing weights, as memory is planned many times."""
    runs = runs_of(op)
    return schedule.tile[0] * runs.count * runs.lanes * 2


def sweep(op: Conv, schedule: Schedule) -> Sweep:
    """Return how the input is read and the output written: tile after tile of pixels, a whole tile's input first.

    Each further group gathers the same pixels again, after the stores of the one before.
    """
    image = Image.of(op)
    image_in = (image.height, image.width, image.channels)
    image_out = (image.out_h, image.out_w, op.image_out[2])
    return _sweep(image_in, image_out, op.stride, op.dilation, op.pads, op.groups, schedule.tile[0])


@cache
def _sweep(
    image_in: tuple[int, int, int],
    image_out: tuple[int, int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    pads: tuple[int, int, int, int],
    groups: int,
    pixels: int,
) -> Sweep:
    tiled = sweep_by_tiles(first_bytes(image_in, image_out, stride, dilation, pads), image_out[2], pixels)
    # One step for a tile's reads and writes where they alternate.
    return tiled if groups == 1 else Sweep(tiled.reads_from[:-1], tiled.writes_to[1:])


def in_place(op: Conv, schedule: Schedule) -> bool:  # noqa: ARG001
    """Return False: neighboring pixels need what a pixel's output would overwrite."""
    return False


def pack_weights(op: Conv, channels: int) -> Int8Array:
    """Return the weights as the matmul reads them: int8 ``[groups, tiles, k/4, channels of a tile, 2, 2]``.

    Zeros fill runs up to whole blocks and the last tile of a group.
    """
    runs = runs_of(op)
    per_group = len(op.weight) // op.groups
    rows = op.weight.reshape(op.groups, per_group, runs.count, runs.pixels * runs.channels)
    padded = np.pad(rows, ((0, 0), (0, -per_group % channels), (0, 0), (0, runs.lanes - rows.shape[3])))
    tiles = padded.reshape(op.groups, -1, channels, runs.count * runs.lanes // 4, 2, 2)
    return np.ascontiguousarray(tiles.transpose(0, 1, 3, 2, 4, 5))


def kernel(op: Conv, schedule: Schedule) -> Kernel:
    """Return the kernel: x, weight, bias[, multiplier], shift, columns (scratch), y."""
    key = (
        "matmul", op.image_in, op.image_out, op.weight.shape[1:], op.stride, op.dilation, op.pads, op.groups,
        code_key(op.requantize), schedule,
    )  # fmt: skip

    def build() -> Any:
        from clio_cc.operators import matmul_tir

        return matmul_tir.matmul(op, runs_of(op), schedule.tile)

    tables = (("weight", pack_weights(op, schedule.tile[1])), *epilogue_tables(op.requantize, op.bias))
    return Kernel(key, build, tables, scratch_bytes(op, schedule))
