"""The device's arithmetic, defined once (DESIGN §3): int8 values, integer requantization, saturation.

A real value is ``q * scale`` with `q` int8 and zero point 0. In mode *shift* every scale is a power of two, ``2 ** -n``
with `n` fraction bits (Q-format); in mode *mulshift* a scale is any positive float and requantization multiplies first.
Accumulators are int32; whoever builds an operator proves that they cannot overflow (:func:`check_accumulator`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Int8Array = npt.NDArray[np.int8]
IntArray = npt.NDArray[np.integer]
FloatArray = npt.NDArray[np.floating]

INT8_MIN, INT8_MAX = -128, 127
INT32_MAX = 2**31 - 1
MAX_SHIFT = 30  # the rounding constant 2 ** (shift - 1) must leave room for the sum in an int32
MULSHIFT_MIN, MULSHIFT_MAX = 33, 62  # see Requantize


def fraction_bits(scale: float) -> int | None:
    """Return `n` if `scale` is exactly ``2 ** -n``, else None."""
    mantissa, exponent = math.frexp(scale)
    return 1 - exponent if mantissa == 0.5 else None


def describe_scale(scale: float) -> str:
    """Return a scale as people write it: ``Q3.4`` (sign, 3 integer and 4 fraction bits) or ``scale 0.0123``."""
    bits = fraction_bits(scale)
    return f"scale {scale:.6g}" if bits is None else f"Q{7 - bits}.{bits}"


def quantize(values: FloatArray, scale: float | FloatArray) -> Int8Array:
    """Return `values` as int8: nearest multiple of `scale`, halves away from zero downwards (half up), saturated."""
    steps = np.floor(np.asarray(values, np.float64) / scale + 0.5)
    return np.clip(steps, INT8_MIN, INT8_MAX).astype(np.int8)


@dataclass(frozen=True, eq=False)
class Requantize:
    """How an int32 accumulator becomes an int8 output, per output channel (or one entry for all).

    Without `multiplier`:  ``clamp((acc + 2**(shift-1)) >> shift)``, or ``clamp(acc)`` where shift is 0.
    With `multiplier`:     ``clamp((acc * multiplier + 2**(shift-1)) >> shift)`` in 64 bits. There shift is at least 33, so
    that the low word of the product never reaches the result and a core may keep only the high word (SMMUL).

    The shift is arithmetic, so halves round up; `lo` and `hi` (both within int8) saturate and are the ReLU or ReLU6 too.
    """

    shift: IntArray
    multiplier: IntArray | None = None
    lo: int = INT8_MIN
    hi: int = INT8_MAX

    def __post_init__(self) -> None:
        low, high = (0, MAX_SHIFT) if self.multiplier is None else (MULSHIFT_MIN, MULSHIFT_MAX)
        if self.shift.min() < low or self.shift.max() > high:
            raise ValueError(f"shift must be in [{low}, {high}], got {self.shift.min()}..{self.shift.max()}")
        if self.multiplier is not None and (self.multiplier.min() < 0 or self.multiplier.max() > INT32_MAX):
            raise ValueError("multiplier must be a non-negative int32")
        if not INT8_MIN <= self.lo <= self.hi <= INT8_MAX:
            raise ValueError(f"clamp [{self.lo}, {self.hi}] is not within int8")

    @property
    def rounding(self) -> IntArray:
        """The constant that a shift-only requantization adds before shifting, int32 per channel (0 with a multiplier)."""
        if self.multiplier is not None:
            return np.zeros_like(self.shift)
        return np.where(self.shift > 0, 1 << np.maximum(self.shift - 1, 0), 0)

    def apply(self, acc: IntArray) -> Int8Array:
        """Return `acc` (``[..., channels]``, int32 range) requantized to int8."""
        if self.multiplier is None:
            scaled = (acc + self.rounding.astype(acc.dtype)) >> self.shift.astype(acc.dtype)
        else:
            wide = acc.astype(np.int64) * self.multiplier.astype(np.int64)
            shift = self.shift.astype(np.int64)
            scaled = (wide + (np.int64(1) << (shift - 1))) >> shift
        result: Int8Array = np.clip(scaled, self.lo, self.hi).astype(np.int8)
        return result


def requantize_by_shift(scale: IntArray | FloatArray, lo: int = INT8_MIN, hi: int = INT8_MAX) -> Requantize:
    """Return the shift-only requantization by the powers of two in `scale` (accumulator scale over output scale).

    Raises:
        ValueError: a scale that is no power of two, or a shift outside [0, 30].
    """
    exponents = [fraction_bits(float(value)) for value in np.atleast_1d(scale)]
    if any(value is None for value in exponents):
        raise ValueError("a shift needs scales that are powers of two")
    return Requantize(np.array(exponents, np.int32), None, lo, hi)


def requantize_by_multiplier(scale: FloatArray, lo: int = INT8_MIN, hi: int = INT8_MAX) -> Requantize:
    """Return the multiplier+shift requantization nearest to `scale` (below 2 ** -2), 31 significant bits where possible.

    Raises:
        ValueError: a scale of 0.25 or more, which would need a shift below 33.
    """
    mantissa, exponent = np.frexp(np.atleast_1d(np.asarray(scale, np.float64)))
    multiplier = np.floor(mantissa * 2**31 + 0.5).astype(np.int64)
    shift = 31 - exponent.astype(np.int64)
    carry = (multiplier == 2**31) & (shift > MULSHIFT_MIN)
    multiplier, shift = np.where(carry, multiplier >> 1, multiplier), np.where(carry, shift - 1, shift)
    # Just below the largest scale: one step off rather than out of range.
    multiplier = np.minimum(multiplier, INT32_MAX)
    excess = np.maximum(shift - MULSHIFT_MAX, 0)  # a vanishing scale loses bits rather than leaving the range
    multiplier, shift = multiplier >> np.minimum(excess, 31), shift - excess
    return Requantize(shift, multiplier, lo, hi)


def check_accumulator(largest: IntArray, what: str) -> None:
    """Raise ``OverflowError`` unless every magnitude in `largest` fits an int32 accumulator."""
    worst = int(np.max(largest))
    if worst > INT32_MAX:
        raise OverflowError(f"{what}: the accumulator can reach {worst}, beyond int32")
