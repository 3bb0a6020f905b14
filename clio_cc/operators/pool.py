"""MaxPool and AveragePool; a GlobalAveragePool is an AveragePool over the whole image.

The average is the sum over the window followed by one rounding division (halves up):
``clamp(floor((2 * sum * numerator + divisor) / (2 * divisor)))`` with ``divisor = denominator * count``, where
``numerator / denominator`` is the input's scale over the output's and `count` the number of values averaged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from clio_cc.operators.base import Kernel, Operator, Sweep
from clio_cc.operators.windows import first_bytes, sweep_by_pixels
from clio_cc.qformat import INT8_MAX, INT8_MIN, Int8Array, IntArray, check_accumulator, fraction_bits


def rescale_ratio(input_scale: float, output_scale: float, count: int) -> tuple[int, int]:
    """Return (numerator, denominator) for averaging up to `count` values; the denominator is a power of two.

    Exact for scales that are powers of two; else as many bits as an int32 accumulator leaves, at most 15.
    """
    ratio = input_scale / output_scale
    bits = fraction_bits(ratio)
    if bits is not None:
        return (2**-bits, 1) if bits < 0 else (1, 2**bits)
    room = 31 - 9 - math.ceil(math.log2(count + 1))
    exponent = max(0, min(15, room) - max(0, math.frexp(ratio)[1]))
    return math.floor(math.ldexp(ratio, exponent) + 0.5), 2**exponent


@dataclass(frozen=True, eq=False, kw_only=True)
class Pool(Operator):
    """Windows over ``(height, width, channels)``.

    Attributes:
        window: Rows, columns.
        stride: Rows, columns.
        pads: Top, left, bottom, right.
        dilation: Rows, columns.
    """

    window: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)

    def __post_init__(self) -> None:
        (height, width, channels), shape = self.inputs[0].shape, self.output.shape
        top, left, bottom, right = self.pads
        rows, columns = ((k - 1) * d + 1 for k, d in zip(self.window, self.dilation, strict=True))
        expected = (
            (height + top + bottom - rows) // self.stride[0] + 1,
            (width + left + right - columns) // self.stride[1] + 1,
            channels,
        )
        if shape != expected or top >= rows or bottom >= rows or left >= columns or right >= columns:
            raise ValueError(
                f"{self.name}: window {self.window} over {self.inputs[0].shape} does not give {shape}"
            )

    def _windows(self, x: IntArray, fill: int) -> list[IntArray]:
        """Return, for every tap, what it sees: ``[batch, out_h, out_w, channels]``, `fill` in the padding."""
        top, left, bottom, right = self.pads
        image = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=fill)
        out_h, out_w, _ = self.output.shape
        (sh, sw), (dh, dw) = self.stride, self.dilation
        return [
            image[:, r * dh : r * dh + (out_h - 1) * sh + 1 : sh, c * dw : c * dw + (out_w - 1) * sw + 1 : sw]
            for r in range(self.window[0])
            for c in range(self.window[1])
        ]

    def sweep(self, index: int) -> Sweep:  # noqa: ARG002
        return _sweep(self.inputs[0].shape, self.output.shape, self.stride, self.dilation, self.pads)

    def _key(self) -> tuple[Any, ...]:
        return (self.inputs[0].shape, self.output.shape, self.window, self.stride, self.pads, self.dilation)


@cache
def _sweep(
    image_in: tuple[int, ...],
    image_out: tuple[int, ...],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    pads: tuple[int, int, int, int],
) -> Sweep:
    (height, width, channels), (out_h, out_w, _) = image_in, image_out
    first = first_bytes((height, width, channels), (out_h, out_w, channels), stride, dilation, pads)
    return sweep_by_pixels(first, channels)


@dataclass(frozen=True, eq=False, kw_only=True)
class MaxPool(Pool):
    """Largest value of each window; padding never wins. Input and output have the same scale."""

    def evaluate(self, inputs: Sequence[Int8Array]) -> Int8Array:
        largest: Int8Array = np.maximum.reduce(self._windows(inputs[0], INT8_MIN)).astype(np.int8)
        return largest

    def kernel(self) -> Kernel:
        def build() -> Any:
            from clio_cc.operators import pool_tir

            return pool_tir.max_pool(self)

        return Kernel(("max_pool", *self._key()), build)


@dataclass(frozen=True, eq=False, kw_only=True)
class AveragePool(Pool):
    """Mean of each window, see the module's text.

    Attributes:
        numerator: From :func:`rescale_ratio`.
        denominator: A power of two.
        count_padding: Padding counts as zeros; otherwise only values inside the image are averaged.
    """

    numerator: int
    denominator: int
    count_padding: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        count = self.window[0] * self.window[1]
        check_accumulator(np.array([count * (256 * self.numerator + self.denominator)]), self.name)

    def counts(self) -> IntArray:
        """Return the number of values averaged per output pixel, ``[out_h, out_w, 1]``."""
        if self.count_padding:
            out_h, out_w, _ = self.output.shape
            return np.full((out_h, out_w, 1), self.window[0] * self.window[1])
        height, width, _ = self.inputs[0].shape
        inside = self._windows(np.ones((1, height, width, 1), np.int32), 0)
        return np.asarray(np.sum(inside, axis=0)[0])

    def evaluate(self, inputs: Sequence[Int8Array]) -> Int8Array:
        total = np.zeros((len(inputs[0]), *self.output.shape), np.int32)
        for window in self._windows(inputs[0], 0):
            total += window
        divisor = self.denominator * self.counts()
        rounded = (2 * total.astype(np.int64) * self.numerator + divisor) // (2 * divisor)
        mean: Int8Array = np.clip(rounded, INT8_MIN, INT8_MAX).astype(np.int8)
        return mean

    def kernel(self) -> Kernel:
        def build() -> Any:
            from clio_cc.operators import pool_tir

            return pool_tir.average_pool(self)

        return Kernel(
            ("average_pool", *self._key(), self.numerator, self.denominator, self.count_padding), build
        )
