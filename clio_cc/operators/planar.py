"""The planar kernel of Conv, for depthwise 3×3: four channels at a time are transposed into planes of int16.

In a plane a row's neighbors lie side by side, so that one instruction multiplies two of them. Planes hold a band of rows
with zeros in the padding; the rows that two bands share are moved, so that every element is transposed once. A channel's
element is read before the output is written there, and no other channels are touched: the output may be where the input is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from clio_cc.operators.alike import alike
from clio_cc.operators.base import Kernel, Sweep
from clio_cc.operators.depthwise import CHANNELS, tables_of
from clio_cc.operators.epilogue import code_key
from clio_cc.operators.schedule import Schedule

if TYPE_CHECKING:
    from clio_cc.operators.conv import Conv

TAPS = 3
BAND_ROWS = 8


def schedules(op: Conv) -> tuple[Schedule, ...]:
    """Return the ways to compute `op`: tiles are the rows of a band × channels."""
    plain = op.weight.shape[1:3] == (TAPS, TAPS) and op.stride == op.dilation == (1, 1)
    if not op.depthwise or not plain or len(op.weight) < CHANNELS or max(op.pads) >= TAPS:
        return ()
    height = op.image_out[0]
    # Bands of one size, so that there is one copy of the code; even, as two rows are computed together.
    parts = [rows for rows in range(2, min(height, BAND_ROWS + 1)) if height % rows == 0]
    even = [rows for rows in parts if rows % 2 == 0] or parts
    bands = {height, *even[-1:], *even[:1]}
    return tuple(Schedule("planar", (rows, CHANNELS)) for rows in sorted(bands, reverse=True))


def pitch_of(op: Conv) -> int:
    """Return the elements of a plane's row: whole pairs, and one more pair behind them."""
    return (op.image_out[1] + TAPS) // 2 * 2


def scratch_bytes(op: Conv, schedule: Schedule) -> int:
    """Return the bytes of four planes."""
    return CHANNELS * (schedule.tile[0] + TAPS - 1) * pitch_of(op) * 2


def sweep(op: Conv, schedule: Schedule) -> Sweep | None:  # noqa: ARG001
    """Channels are the outermost loop: input and output are gone through many times."""
    return None


def in_place(op: Conv, schedule: Schedule) -> bool:  # noqa: ARG001
    """Return whether the output may begin where the input begins: its pixels and rows must lie where the input's lie."""
    return op.image_out[1:] == op.image_in[1:] and op.image_out[0] <= op.image_in[0]


def pack_weights(weight: npt.NDArray[Any]) -> npt.NDArray[np.int16]:
    """Return ``[channels, 3, 3]`` as the kernel reads them: int16 ``[channels, 3, 4]``, rows of (w0, w1, w1, w2)."""
    return np.ascontiguousarray(weight.astype(np.int16)[..., [0, 1, 1, 2]])


def kernel(op: Conv, schedule: Schedule) -> Kernel:
    """Return the kernel: x, weight, bias[, multiplier][, shift], scratch, y."""
    same = alike(op)
    shift = None if same is None else same.shift
    key = (
        "planar", op.image_in, op.image_out, op.pads, code_key(op.requantize), shift, schedule,
    )  # fmt: skip

    def build() -> Any:
        from clio_cc.operators import planar_tir

        return planar_tir.planar(op, schedule.tile[0], shift)

    return Kernel(key, build, tables_of(op, same, pack_weights), scratch_bytes(op, schedule))
