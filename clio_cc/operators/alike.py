"""One shift for all channels of a depthwise Conv, moved from the requantization into the weights.

``(acc + r) >> s`` is ``((acc + r) << k) >> (s + k)``: with weights and bias of channel c multiplied by ``2**(shift - s_c)``
every accumulator is shifted by the same constant, which costs no instruction where a saturation follows. The weights are
int16 on the device anyway. An upper bound below 127 is met by an addition before the shift and a saturating subtraction
behind it, see ``clio_shifted``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from clio_cc.qformat import INT8_MAX, INT8_MIN, IntArray

if TYPE_CHECKING:
    from clio_cc.operators.conv import Conv

PREFERRED_SHIFT = 11
"""Int8 weights of shifts 3 to 11 fit an int16 at it: one constant for most layers, so that they share their code."""


@dataclass(frozen=True, eq=False)
class Alike:
    """Weights and bias of a depthwise Conv whose accumulators are all shifted alike.

    Attributes:
        shift: 1 to 31.
        weight: int16 ``[channels, kh, kw]``.
        bias: int32 ``[channels]``, the rounding and the distance of the upper bound from 127 included.
    """

    shift: int
    weight: npt.NDArray[np.int16]
    bias: IntArray


def alike(op: Conv) -> Alike | None:
    """Return `op` with one shift, or None where the weights do not fit it."""
    requantize = op.requantize
    if requantize.multiplier is not None or requantize.lo not in (0, INT8_MIN) or requantize.hi < 0:
        return None
    shift = np.broadcast_to(requantize.shift.astype(np.int64), (len(op.weight),))
    weight, bias = op.weight[..., 0].astype(np.int64), (op.bias + requantize.rounding).astype(np.int64)
    constant, value = _constants(op, weight, bias, shift)
    # A channel that always has the same value is as good as one without weights, whatever its shift.
    weight = np.where(constant[:, None, None], 0, weight)
    most = int(shift[~constant].max(initial=1))
    for common in sorted({PREFERRED_SHIFT, most}):
        if common < most:
            continue
        factor = np.left_shift(1, np.where(constant, 0, common - shift))
        scaled = weight * factor[:, None, None]
        start = np.where(constant, value << common, bias * factor) + (INT8_MAX - requantize.hi << common)
        reach = np.abs(start) + 128 * np.abs(scaled).sum(axis=(1, 2))
        if scaled.max() < 2**15 and scaled.min() >= -(2**15) and reach.max() < 2**31:
            return Alike(common, scaled.astype(np.int16), start.astype(np.int32))
    return None


def _constants(
    op: Conv, weight: IntArray, bias: IntArray, shift: IntArray
) -> tuple[npt.NDArray[np.bool_], IntArray]:
    """Return which channels have the same output for every input, and that output."""
    positive = np.maximum(weight, 0).sum(axis=(1, 2))
    negative = np.maximum(-weight, 0).sum(axis=(1, 2))
    lowest = bias + INT8_MIN * positive - INT8_MAX * negative
    highest = bias + INT8_MAX * positive - INT8_MIN * negative
    least, most = (np.clip(acc >> shift, op.requantize.lo, op.requantize.hi) for acc in (lowest, highest))
    return least == most, least
