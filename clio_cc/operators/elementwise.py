"""Add and Mul of two tensors; the second may be one value per channel (``(1, 1, channels)``) or have the first's shape.

Add:  ``clamp((q0 * m0 + q1 * m1 + 2**(shift-1)) >> shift)``: the multipliers bring both inputs to a common step. In mode
shift they are powers of two, so this is the alignment of binary points; in mode mulshift they are 15-bit integers.
Mul:  the product is the accumulator, requantized like a Conv's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clio_cc.operators.base import Kernel, Operator, Sweep, Tensor, elementwise_sweep
from clio_cc.qformat import Int8Array, IntArray, Requantize, check_accumulator, fraction_bits

INT16_MAX = 2**15 - 1
MULTIPLIER_BITS = 15  # a product with an int8 leaves room in an int32 for every sum of two


def rescale_terms(scales: Sequence[float], output_scale: float) -> tuple[tuple[int, ...], int]:
    """Return multipliers and one shift with ``multiplier / 2**shift`` ≈ ``scale / output_scale`` for each of `scales`.

    Exact where all scales are powers of two within 2**15 of each other, else the nearest with 15-bit multipliers: a term too
    small to matter at the output's step may come to 0.

    Raises:
        ValueError: the scales lie too far apart for 15 bits.
    """
    ratios = [scale / output_scale for scale in scales]
    exponents = [fraction_bits(ratio) for ratio in ratios]
    powers = [exponent for exponent in exponents if exponent is not None]
    largest = MULTIPLIER_BITS - math.frexp(max(ratios))[1]
    shift = min(30, largest)
    if len(powers) == len(ratios) and max(0, *powers) <= shift + 1:
        shift = max(0, *powers)
    multipliers = tuple(math.floor(math.ldexp(ratio, shift) + 0.5) for ratio in ratios)
    if not 0 <= shift <= 30 or max(multipliers) > 2**MULTIPLIER_BITS:
        raise ValueError(f"scales {list(scales)} and {output_scale} lie too far apart to be added in 32 bits")
    return multipliers, shift


@dataclass(frozen=True, eq=False, kw_only=True)
class Elementwise(Operator):
    """What Add and Mul share: two inputs, a requantization, and the loop."""

    requantize: Requantize

    def __post_init__(self) -> None:
        first, second = self.inputs
        if first.shape != self.output.shape or not (second.shape == first.shape or self._per_channel(second)):
            raise ValueError(
                f"{self.name}: shapes {first.shape} and {second.shape} do not fit {self.output.shape}"
            )
        check_accumulator(np.array([self.accumulator_bound()]), self.name)

    def _per_channel(self, tensor: Tensor) -> bool:
        return tensor.bytes == self.inputs[0].shape[-1] == tensor.shape[-1]

    def accumulator_bound(self) -> int:
        """Return the largest magnitude of the accumulator, rounding included."""
        raise NotImplementedError

    def combine(self, a: Any, b: Any) -> Any:
        """Return the accumulator of int32 `a` and `b`: numpy arrays and TIR expressions alike."""
        raise NotImplementedError

    def evaluate(self, inputs: Sequence[Int8Array]) -> Int8Array:
        a, b = (value.astype(np.int32) for value in inputs)
        acc: IntArray = np.asarray(self.combine(a, b.reshape(len(b), *self._broadcast_shape())))
        return self.requantize.apply(acc)

    def _broadcast_shape(self) -> tuple[int, ...]:
        first, second = self.inputs
        if second.shape == first.shape:
            return second.shape
        return (1,) * (len(first.shape) - 1) + (first.shape[-1],)

    @property
    def in_place(self) -> tuple[int, ...]:
        return (0, 1) if self.inputs[0].shape == self.inputs[1].shape else (0,)

    def sweep(self, index: int) -> Sweep | None:
        # A value per channel is read again for every pixel.
        return elementwise_sweep(self.output.bytes) if self.inputs[index].shape == self.output.shape else None

    def constants(self) -> tuple[Any, ...]:
        """Everything besides shapes that the code depends on."""
        raise NotImplementedError

    def micro_kernel(self) -> tuple[str, tuple[int, int], tuple[int, ...]] | None:
        """Return a micro-kernel's name, the order of its inputs and its last arguments; None where it takes plain C."""
        raise NotImplementedError

    def kernel(self) -> Kernel:
        elements, period = self.inputs[0].bytes, self.inputs[1].bytes
        requantize = self.requantize
        multiplier = None if requantize.multiplier is None else int(requantize.multiplier[0])
        shift, lo, hi = int(requantize.shift[0]), requantize.lo, requantize.hi
        key = (type(self).__name__, elements, period, self.constants(), multiplier, shift, lo, hi)

        def build() -> Any:
            from clio_cc.operators import elementwise_tir

            return elementwise_tir.elementwise(self)

        return Kernel(key, build)


@dataclass(frozen=True, eq=False, kw_only=True)
class Add(Elementwise):
    """Sum of two tensors.

    Attributes:
        multipliers: One per input, from :func:`rescale_terms`.
    """

    multipliers: tuple[int, int]

    def accumulator_bound(self) -> int:
        return 128 * sum(map(abs, self.multipliers)) + int(self.requantize.rounding[0])

    def combine(self, a: Any, b: Any) -> Any:
        m0, m1 = self.multipliers
        return a * m0 + b * m1

    def constants(self) -> tuple[Any, ...]:
        return self.multipliers

    def micro_kernel(self) -> tuple[str, tuple[int, int], tuple[int, ...]] | None:
        shift, bounds = int(self.requantize.shift[0]), (self.requantize.lo, self.requantize.hi)
        if self.requantize.multiplier is not None or max(map(abs, self.multipliers)) > INT16_MAX:
            return None
        bits = [fraction_bits(1 / m) if m > 0 else None for m in self.multipliers]
        if bits[0] is not None and bits[1] is not None:
            common, doubled = min(bits[0], bits[1]), abs(bits[0] - bits[1])
            if shift - common >= doubled:
                order = (0, 1) if bits[0] >= bits[1] else (1, 0)
                return "clio_add_bytes", order, (doubled, shift - common, *bounds)
        return "clio_add", (0, 1), (*self.multipliers, shift, *bounds)


@dataclass(frozen=True, eq=False, kw_only=True)
class Mul(Elementwise):
    """Product of two tensors; the second may hold one value per channel, as squeeze-and-excitation does."""

    def accumulator_bound(self) -> int:
        return 128 * 128 + int(self.requantize.rounding[0])

    def combine(self, a: Any, b: Any) -> Any:
        return a * b

    def constants(self) -> tuple[Any, ...]:
        return ()

    def micro_kernel(self) -> tuple[str, tuple[int, int], tuple[int, ...]] | None:
        if self.requantize.multiplier is not None:
            return None
        return "clio_mul", (0, 1), (int(self.requantize.shift[0]), self.requantize.lo, self.requantize.hi)
