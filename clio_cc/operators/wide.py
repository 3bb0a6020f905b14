"""The matmul of Conv with widened weights: faster than operators/matmul.py per product, for more scratch memory.

The weights of a block of output channels are widened to int16 once, then used for every pixel. Pixels are taken two at a
time: their receptive fields are widened side by side, and one micro-kernel makes all outputs of the block from them.

Lanes are dense: a receptive field is one run of bytes, padded once. Where its rows are no multiple of four bytes, and at
the border of the image, it is put together in a buffer of bytes before it is widened.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from clio_cc.operators.base import Kernel, Sweep
from clio_cc.operators.epilogue import epilogue_tables
from clio_cc.operators.matmul import Image
from clio_cc.operators.schedule import Schedule
from clio_cc.operators.windows import first_bytes, sweep_by_tiles
from clio_cc.qformat import Int8Array

if TYPE_CHECKING:
    from clio_cc.operators.conv import Conv

PIXELS = 2
"""Of a tile; with 4 channels, or 2, that is what a Cortex-M's registers hold."""

# From here on a tile of 2 channels costs fewer instructions: it loads more operands at once, but ends twice as often.
_MANY_LANES = 32

# A micro-kernel's first blocks of four lanes are apart from its loop, which runs at least once.
_LEAST_LANES = 8
# With fewer pixels widening the weights costs more than it gains.
_LEAST_PIXELS = 4
# Blocks of fewer channels are offered where those of twice as many need more than this.
_SMALL_BYTES = 4096


@dataclass(frozen=True)
class Layout:
    """Where things lie in the scratch buffer, in int16 elements: widened weights, columns, then staged bytes."""

    lanes: int
    channels: int

    @staticmethod
    def of(op: Conv, schedule: Schedule) -> Layout:
        """Return that of a schedule."""
        taps = math.prod(op.weight.shape[1:])
        return Layout(max(_LEAST_LANES, -(-taps // 4) * 4), schedule.tile[1])

    @property
    def tile(self) -> int:
        """Output channels that the micro-kernel computes together."""
        return 2 if self.lanes >= _MANY_LANES or self.channels % 4 else 4

    @property
    def columns(self) -> int:
        """Every channel has its bias and its shift, an int32 each, besides its weights."""
        return self.channels * (self.lanes + 4)

    @property
    def stage(self) -> int:
        """Behind the columns of two pixels."""
        return self.columns + PIXELS * self.lanes

    @property
    def elements(self) -> int:
        """Of the whole buffer."""
        return self.stage + self.lanes


def schedules(op: Conv) -> tuple[Schedule, ...]:
    """Return the ways to compute `op`; a tile is two pixels × the channels whose weights are widened together."""
    out_h, out_w, cout = op.image_out
    if op.groups > 1 or op.requantize.multiplier is not None or cout % 2 or out_h * out_w < _LEAST_PIXELS:
        return ()
    found = [Schedule("wide", (PIXELS, cout))]
    while found[-1].tile[1] % 8 == 0 and scratch_bytes(op, found[-1]) > _SMALL_BYTES:
        found.append(Schedule("wide", (PIXELS, found[-1].tile[1] // 2)))
    return tuple(found)


def scratch_bytes(op: Conv, schedule: Schedule) -> int:
    """Return the bytes of the widened weights and the receptive fields of two pixels."""
    return 2 * Layout.of(op, schedule).elements


def sweep(op: Conv, schedule: Schedule) -> Sweep | None:
    """Return how the input is read and the output written: pixel pair after pixel pair, its input first.

    None where there are several blocks of channels: each reads the whole input.
    """
    if schedule.tile[1] < op.image_out[2]:
        return None
    image = Image.of(op)
    image_in = (image.height, image.width, image.channels)
    image_out = (image.out_h, image.out_w, op.image_out[2])
    return _sweep(image_in, image_out, op.stride, op.dilation, op.pads)


@cache
def _sweep(
    image_in: tuple[int, int, int],
    image_out: tuple[int, int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    pads: tuple[int, int, int, int],
) -> Sweep:
    first = first_bytes(image_in, image_out, stride, dilation, pads)
    return sweep_by_tiles(first.reshape(1, -1), image_out[2], PIXELS)


def in_place(op: Conv, schedule: Schedule) -> bool:  # noqa: ARG001
    """Return False: neighboring pixels need what a pixel's output would overwrite."""
    return False


def pack_weights(op: Conv, layout: Layout) -> Int8Array:
    """Return the weights as they are widened: int8 ``[tiles, lanes/4, channels of a tile, 4]``, zeros up to the lanes."""
    rows = op.weight.reshape(len(op.weight), -1)
    padded = np.pad(rows, ((0, 0), (0, layout.lanes - rows.shape[1])))
    blocks = padded.reshape(-1, layout.tile, layout.lanes // 4, 4)
    return np.ascontiguousarray(blocks.transpose(0, 2, 1, 3))


def micro_kernel_of(op: Conv, layout: Layout) -> tuple[str, tuple[int, ...]]:
    """Return the name of the micro-kernel, and the operator's bounds where they are further arguments.

    Those for bounds from 0 pack accumulators as they are shifted, so they must fit 16 bits.
    """
    lo, hi = op.requantize.lo, op.requantize.hi
    name = f"clio_wide_{PIXELS}x{layout.tile}"
    if (lo, hi) == (-128, 127):
        return f"{name}_signed", ()
    if lo == 0 and ((op.accumulator_bound() >> op.requantize.shift) < 2**15 - 1).all():
        return (f"{name}_relu", ()) if hi == 127 else (f"{name}_relu_to", (hi,))
    return f"{name}_clamp", (lo, hi)


def kernel(op: Conv, schedule: Schedule) -> Kernel:
    """Return the kernel: x, weight, bias, shift, scratch, y."""
    layout = Layout.of(op, schedule)
    micro_kernel = micro_kernel_of(op, layout)
    key = (
        "wide", op.image_in, op.image_out, op.weight.shape[1:], op.stride, op.dilation, op.pads, micro_kernel,
        schedule,
    )  # fmt: skip

    def build() -> Any:
        from clio_cc.operators import wide_tir

        return wide_tir.wide(op, layout, micro_kernel)

    tables = (("weight", pack_weights(op, layout)), *epilogue_tables(op.requantize, op.bias))
    return Kernel(key, build, tables, scratch_bytes(op, schedule))
