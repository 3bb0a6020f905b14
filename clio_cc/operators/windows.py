"""Where the windows of convolutions and pools begin in their image: what their sweeps are made of."""

from __future__ import annotations

import numpy as np

from clio_cc.operators.base import NEVER, Sweep
from clio_cc.qformat import IntArray


def first_inside(outputs: int, stride: int, dilation: int, pad: int) -> IntArray:
    """Return, for every output position along an axis, the first input coordinate that its window may read: 0 or more.

    Beyond the image where the window lies wholly behind it.
    """
    origins = np.arange(outputs, dtype=np.int64) * stride - pad
    starts: IntArray = origins + np.maximum(0, -(origins // dilation)) * dilation
    return starts


def first_bytes(
    image_in: tuple[int, int, int],
    image_out: tuple[int, int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    pads: tuple[int, int, int, int],
) -> IntArray:
    """Return ``[out_h, out_w]``: the first byte that each output pixel's window may read, NEVER if it reads none."""
    height, width, channels = image_in
    rows = first_inside(image_out[0], stride[0], dilation[0], pads[0])
    columns = first_inside(image_out[1], stride[1], dilation[1], pads[1])
    inside = (rows < height)[:, None] & (columns < width)
    first: IntArray = np.where(inside, (rows[:, None] * width + columns) * channels, NEVER)
    return first


def sweep_by_rows(first: IntArray, channels: int) -> Sweep:
    """Return the sweep of a kernel that reads and writes a row of output in any order, but row after row.

    Args:
        first: From :func:`first_bytes`.
        channels: Of the output.
    """
    height, width = first.shape
    return Sweep(first.min(axis=1), np.arange(1, height + 1) * width * channels)


def sweep_by_pixels(first: IntArray, channels: int) -> Sweep:
    """The same for one that does so pixel after pixel."""
    return Sweep(first.reshape(-1), np.arange(1, first.size + 1) * channels)


def sweep_by_tiles(first: IntArray, channels: int, pixels: int) -> Sweep:
    """The same for one that reads all that a tile of pixels side by side needs before it writes any of it.

    Args:
        pixels: Of a tile; the last one of a row may be smaller.
    """
    height, width = first.shape
    starts = np.arange(0, width, pixels)
    ends = np.arange(height)[:, None] * width + np.minimum(starts + pixels, width)
    reads = np.minimum.reduceat(first, starts, axis=1)
    return Sweep.read_then_written(reads.reshape(-1), ends.reshape(-1) * channels)
