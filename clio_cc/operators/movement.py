"""Operators that move values: Reshape, Transpose, Pad, Concat (which may rescale what it moves)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clio_cc.operators.base import Kernel, Operator, Range, Sweep
from clio_cc.qformat import Int8Array, IntArray, Requantize, check_accumulator


@dataclass(frozen=True, eq=False, kw_only=True)
class _Moved(Operator):
    """What only moves values."""

    def range_of_output(self, ranges: Sequence[Range]) -> Range:
        return min(low for low, _ in ranges), max(high for _, high in ranges)


@dataclass(frozen=True, eq=False, kw_only=True)
class Reshape(_Moved):
    """The same bytes under another shape: no code, no copy."""

    def __post_init__(self) -> None:
        if self.inputs[0].bytes != self.output.bytes:
            raise ValueError(f"{self.name}: {self.inputs[0].shape} cannot become {self.output.shape}")

    def evaluate(self, inputs: Sequence[Int8Array]) -> Int8Array:
        return inputs[0].reshape(len(inputs[0]), *self.output.shape)

    def kernel(self) -> None:
        return None


@dataclass(frozen=True, eq=False, kw_only=True)
class RowSlice(_Moved):
    """Some rows of an image. They lie side by side in it, so this is the same bytes: no code, no copy.

    Attributes:
        first: First row.
    """

    first: int

    def __post_init__(self) -> None:
        (height, *rest), (rows, *expected) = self.inputs[0].shape, self.output.shape
        if rest != expected or not 0 <= self.first <= self.first + rows <= height:
            raise ValueError(
                f"{self.name}: {self.output.shape} from row {self.first} is not within {self.inputs[0].shape}"
            )

    def evaluate(self, inputs: Sequence[Int8Array]) -> Int8Array:
        return inputs[0][:, self.first : self.first + self.output.shape[0]]

    def kernel(self) -> None:
        return None


@dataclass(frozen=True, eq=False, kw_only=True)
class RowStack(_Moved):
    """Images on top of each other. The memory plan puts them where they belong in the output: no code, no copy."""

    def __post_init__(self) -> None:
        rows = sum(t.shape[0] for t in self.inputs)
        if any(
            (rows, *t.shape[1:]) != self.output.shape or t.scale != self.output.scale for t in self.inputs
        ):
            raise ValueError(f"{self.name}: does not give {self.output.shape}")

    def evaluate(self, inputs: Sequence[Int8Array]) -> Int8Array:
        return np.concatenate(inputs, axis=1)

    def kernel(self) -> None:
        return None


WITHOUT_CODE = (Reshape, RowSlice, RowStack)
"""Operators whose output is bytes that are there already."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Transpose(_Moved):
    """Axes in another order.

    Attributes:
        permutation: Output axis i is input axis ``permutation[i]``, the batch not counted.
    """

    permutation: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.output.shape != tuple(self.inputs[0].shape[axis] for axis in self.permutation):
            raise ValueError(
                f"{self.name}: {self.permutation} of {self.inputs[0].shape} is not {self.output.shape}"
            )

    def evaluate(self, inputs: Sequence[Int8Array]) -> Int8Array:
        return inputs[0].transpose(0, *(axis + 1 for axis in self.permutation))

    def kernel(self) -> Kernel:
        shape, permutation = self.inputs[0].shape, self.permutation

        def build() -> Any:
            from clio_cc.operators import movement_tir

            return movement_tir.transpose(shape, permutation)

        return Kernel(("transpose", shape, permutation), build)


@dataclass(frozen=True, eq=False, kw_only=True)
class Pad(Operator):
    """A border of one value around an image.

    Attributes:
        pads: Top, left, bottom, right.
        value: int8.
    """

    pads: tuple[int, int, int, int]
    value: int = 0

    def __post_init__(self) -> None:
        (height, width, channels), (top, left, bottom, right) = self.inputs[0].shape, self.pads
        if self.output.shape != (height + top + bottom, width + left + right, channels) or min(self.pads) < 0:
            raise ValueError(
                f"{self.name}: {self.inputs[0].shape} padded by {self.pads} is not {self.output.shape}"
            )

    def evaluate(self, inputs: Sequence[Int8Array]) -> Int8Array:
        top, left, bottom, right = self.pads
        return np.pad(inputs[0], ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=self.value)

    def kernel(self) -> Kernel:
        shape, pads, value = self.inputs[0].shape, self.pads, self.value

        def build() -> Any:
            from clio_cc.operators import movement_tir

            return movement_tir.pad(shape, pads, value)

        return Kernel(("pad", shape, pads, value), build)


@dataclass(frozen=True, eq=False, kw_only=True)
class Concat(Operator):
    """Tensors side by side along one axis, each rescaled to the output's format: ``clamp((q * m + 2**(shift-1)) >> shift)``.

    Attributes:
        axis: The batch not counted.
        multipliers: One per input, from :func:`clio_cc.operators.elementwise.rescale_terms`.
        requantize: One entry; without its own multiplier.
    """

    axis: int
    multipliers: tuple[int, ...]
    requantize: Requantize

    def __post_init__(self) -> None:
        sizes = [t.shape[self.axis] for t in self.inputs]
        expected = (*self.inputs[0].shape[: self.axis], sum(sizes), *self.inputs[0].shape[self.axis + 1 :])
        if self.output.shape != expected or len(self.multipliers) != len(self.inputs):
            raise ValueError(f"{self.name}: does not give {self.output.shape}")
        bound = 128 * max(map(abs, self.multipliers)) + int(self.requantize.rounding[0])
        check_accumulator(np.array([bound]), self.name)

    def evaluate(self, inputs: Sequence[Int8Array]) -> Int8Array:
        parts: list[IntArray] = [
            x.astype(np.int32) * m for x, m in zip(inputs, self.multipliers, strict=True)
        ]
        return self.requantize.apply(np.concatenate(parts, axis=self.axis + 1))

    def _rows(self) -> list[int]:
        """Bytes of each input that lie side by side in the output."""
        return [int(np.prod(t.shape[self.axis :], dtype=np.int64)) for t in self.inputs]

    def sweep(self, index: int) -> Sweep:
        rows = self._rows()
        runs, total = np.arange(self.inputs[index].bytes // rows[index]), sum(rows)
        reads, written = runs * rows[index], runs * total + sum(rows[: index + 1])
        if index:  # the inputs before have been written, up to the last row
            written = np.maximum(written, runs[-1] * total + sum(rows[:index]))
        return Sweep(reads, written)

    def kernel(self) -> Kernel:
        rows = self._rows()
        count = self.inputs[0].bytes // rows[0]
        shift, lo, hi = int(self.requantize.shift[0]), self.requantize.lo, self.requantize.hi

        def build() -> Any:
            from clio_cc.operators import movement_tir

            return movement_tir.concat(rows, count, self.multipliers, shift, lo, hi)

        return Kernel(("concat", tuple(rows), count, self.multipliers, shift, lo, hi), build)
