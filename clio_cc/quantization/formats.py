"""Choice of scales by loss: for activations per tensor, for weights per output channel.

In mode *shift* the candidates are powers of two, in mode *mulshift* a fine grid below the largest
magnitude. The loss is the mean square error that rounding and saturation make together, so a rare large
value may saturate where that is worth the finer step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from clio_cc.qformat import INT8_MAX, INT8_MIN
from clio_cc.quantization.layers import Float

Mode = Literal["shift", "mulshift"]

_GRID = np.linspace(1.02, 0.3, 19)  # mulshift: share of the range that is kept
_SMALLEST, _LARGEST = 2.0**-40, 2.0**40  # a tensor of zeros still needs a scale
_SEARCHED = 2**16  # values are enough to tell the candidates apart


@dataclass(frozen=True, eq=False)
class Formats:
    """Scales that are given, powers of two: what has one is quantized by it, whatever calibration says.

    Attributes:
        scales: By tensor.
        weight_scales: ``[cout]`` by the tensor that a Conv or Gemm writes.
    """

    scales: Mapping[str, float] = field(default_factory=dict)
    weight_scales: Mapping[str, Float] = field(default_factory=dict)


def power_at_least(value: float) -> float:
    """Return the smallest power of two that is not below `value`."""
    mantissa, exponent = math.frexp(value)
    return math.ldexp(1.0, exponent - 1 if mantissa == 0.5 else exponent)


def candidates(largest: float, mode: Mode) -> list[float]:
    """Return scales worth trying for values up to `largest`, coarsest first."""
    whole = min(max(largest / INT8_MAX, _SMALLEST), _LARGEST)
    if mode == "mulshift":
        return [float(whole * share) for share in _GRID]
    top = power_at_least(whole)
    return [top * 2.0**-k for k in range(5)]


def error_of(values: Float, scale: float, lo: int = INT8_MIN, hi: int = INT8_MAX) -> float:
    """Return the mean square error of `values` rounded to multiples of `scale` within ``[lo, hi]`` steps."""
    steps = np.clip(np.floor(values / scale + 0.5), lo, hi)
    return float(np.mean((steps * scale - values) ** 2))


def activation_scale(values: Float, largest: float, mode: Mode) -> float:
    """Return the scale with the least mean square error on `values` (``[..., channels]``), whose largest magnitude is known.

    Of many values whole rows are left out: every n-th value would be every n-th channel.
    """
    rows = values.reshape(-1, values.shape[-1])
    thin = rows[:: max(1, rows.size // _SEARCHED)].astype(np.float64)
    return min(candidates(largest, mode), key=lambda scale: error_of(thin, scale))


def weight_scales(weight: Float, power: Float, mode: Mode) -> Float:
    """Return one scale per output channel.

    Args:
        weight: ``[cout, inputs]``.
        power: Mean square of each input, ``[cout, inputs]`` or ``[inputs]``; weighs the errors.
        mode: Which scales are allowed.
    """
    largest = np.abs(weight).max(axis=1)
    best = np.full(len(weight), np.inf)
    chosen = np.zeros(len(weight))
    for scales in zip(*(candidates(float(value), mode) for value in largest), strict=True):
        scale = np.array(scales)
        steps = np.clip(np.floor(weight / scale[:, None] + 0.5), INT8_MIN, INT8_MAX)
        loss = ((steps * scale[:, None] - weight) ** 2 * power).sum(axis=1)
        better = loss < best
        best, chosen = np.where(better, loss, best), np.where(better, scale, chosen)
    return chosen
