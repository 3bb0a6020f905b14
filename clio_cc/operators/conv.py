"""Conv and Gemm: int8 × int8 sums in int32, bias, requantize. A Gemm is a 1×1 Conv over one pixel. What
computes it is a kernel of one of `FAMILIES`, by one of its schedules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from clio_cc.operators import depthwise, matmul, planar, wide
from clio_cc.operators.base import Kernel, Operator, Range, Sweep
from clio_cc.operators.schedule import Schedule
from clio_cc.qformat import FloatArray, Int8Array, IntArray, Requantize, check_accumulator


class Family(Protocol):
    """A module with kernels for some Convs."""

    def schedules(self, op: Conv) -> tuple[Schedule, ...]:
        """Return the ways to compute `op`, the default first; none where the family does not fit it."""

    def scratch_bytes(self, op: Conv, schedule: Schedule) -> int:
        """Return the kernel's working memory; memory is planned many times, so without packing weights."""

    def kernel(self, op: Conv, schedule: Schedule) -> Kernel:
        """Return the kernel of one of `schedules`."""

    def sweep(self, op: Conv, schedule: Schedule) -> Sweep | None:
        """Return how the kernel goes through its input, or None if the output must lie elsewhere; costly ones cached."""

    def in_place(self, op: Conv, schedule: Schedule) -> bool:
        """Return whether the output may begin where the input begins, in whatever order both are gone through."""


FAMILIES: dict[str, Family] = {"matmul": matmul, "wide": wide, "depthwise": depthwise, "planar": planar}
"""By the `kernel` of their schedules; of several that fit a Conv the first has the default."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Conv(Operator):
    """2-D convolution over ``(height, width, channels)``, or a matrix product over ``(features,)``.

    Attributes:
        weight: int8 ``[cout, kh, kw, cin / groups]``.
        bias: int32 ``[cout]``, in steps of the accumulator.
        requantize: Per output channel.
        stride: Rows, columns.
        dilation: Rows, columns.
        pads: Top, left, bottom, right; padding is zero.
        groups: Channel groups.
        schedule: One of `schedules`; None for the default.

    Raises:
        OverflowError: the accumulator could leave int32 for some int8 input.
    """

    weight: Int8Array
    bias: IntArray
    requantize: Requantize
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    groups: int = 1
    schedule: Schedule | None = None

    def __post_init__(self) -> None:
        check_accumulator(self.accumulator_bound(), self.name)
        cout, kh, kw, cin = self.weight.shape
        (height, width, channels), (out_h, out_w, out_c) = self.image_in, self.image_out
        top, left, bottom, right = self.pads
        reach = (self.dilation[0] * (kh - 1) + 1, self.dilation[1] * (kw - 1) + 1)
        expected = (
            (height + top + bottom - reach[0]) // self.stride[0] + 1,
            (width + left + right - reach[1]) // self.stride[1] + 1,
            cout,
        )
        if (out_h, out_w, out_c) != expected or channels != cin * self.groups or cout % self.groups:
            shapes = f"shapes {self.image_in} → {self.image_out}"
            raise ValueError(f"{self.name}: {shapes} do not fit weights {self.weight.shape}")

    @property
    def image_in(self) -> tuple[int, int, int]:
        """Input shape as (height, width, channels); a vector is one pixel."""
        return _as_image(self.inputs[0].shape)

    @property
    def image_out(self) -> tuple[int, int, int]:
        """Output shape as (height, width, channels)."""
        return _as_image(self.output.shape)

    @property
    def depthwise(self) -> bool:
        """One filter per channel."""
        return self.groups == self.weight.shape[0] == self.image_in[2] and self.groups > 1

    @property
    def macs(self) -> int:
        out_h, out_w, _ = self.image_out
        return out_h * out_w * int(self.weight.size)

    def range_of_output(self, ranges: Sequence[Range]) -> Range:  # noqa: ARG002
        return self.requantize.lo, self.requantize.hi

    def accumulator_bound(self) -> IntArray:
        """Return the largest magnitude that each channel's accumulator can reach, rounding included."""
        weights = np.abs(self.weight.astype(np.int64)).reshape(len(self.weight), -1).sum(axis=1)
        bound: IntArray = 128 * weights + np.abs(self.bias.astype(np.int64)) + self.requantize.rounding
        return bound

    def accumulate(self, x: Int8Array) -> IntArray:
        """Return the int32 accumulators ``[batch, height, width, cout]``, bias included."""
        image = x.reshape(len(x), *self.image_in)
        top, left, bottom, right = self.pads
        if any(self.pads):
            image = np.pad(image, ((0, 0), (top, bottom), (left, right), (0, 0)))
        sums = self._depthwise_sums(image) if self.depthwise else self._matmul_sums(image)
        return sums + self.bias.astype(np.int32)

    def evaluate(self, inputs: Sequence[Int8Array]) -> Int8Array:
        acc = self.accumulate(inputs[0])
        return self.requantize.apply(acc).reshape(len(acc), *self.output.shape)

    def _windows(self, image: Int8Array) -> list[list[Int8Array]]:
        """For each tap (row, column of the filter) the strided view of the pixels it sees."""
        out_h, out_w, _ = self.image_out
        (sh, sw), (dh, dw) = self.stride, self.dilation
        _, kh, kw, _ = self.weight.shape

        def view(r: int, c: int) -> Int8Array:
            return image[
                :, r * dh : r * dh + (out_h - 1) * sh + 1 : sh, c * dw : c * dw + (out_w - 1) * sw + 1 : sw
            ]

        return [[view(r, c) for c in range(kw)] for r in range(kh)]

    def _depthwise_sums(self, image: Int8Array) -> IntArray:
        sums: IntArray = np.zeros((len(image), *self.image_out), np.int32)
        for r, row in enumerate(self._windows(image)):
            for c, window in enumerate(row):
                sums += window.astype(np.int32) * self.weight[:, r, c, 0].astype(np.int32)
        return sums

    def _matmul_sums(self, image: Int8Array) -> IntArray:
        # Floating point only as a container for integers: float32 holds every integer up to 2**24, float64 up
        # to 2**53, so the BLAS product is exact, in whatever order it adds.
        exact = np.float32 if int(self.accumulator_bound().max()) < 2**24 else np.float64
        windows = self._windows(image)
        per_in, per_out = self.weight.shape[3], self.weight.shape[0] // self.groups
        parts = []
        for g in range(self.groups):
            taps = [w[..., g * per_in : (g + 1) * per_in] for row in windows for w in row]
            columns: FloatArray = np.concatenate(taps, axis=-1).astype(exact)
            rows = self.weight[g * per_out : (g + 1) * per_out].reshape(per_out, -1)
            filters: FloatArray = rows.astype(exact)
            # One large product rather than one per row of the image.
            sums = columns.reshape(-1, columns.shape[-1]) @ filters.T
            parts.append(sums.astype(np.int32).reshape(*columns.shape[:-1], per_out))
        return np.concatenate(parts, axis=-1)

    @property
    def schedules(self) -> tuple[Schedule, ...]:
        return tuple(schedule for family in FAMILIES.values() for schedule in family.schedules(self))

    @cached_property
    def scheduled(self) -> Schedule:
        """The schedule that it is computed by."""
        return self.schedule or self.schedules[0]

    @property
    def scratch_bytes(self) -> int:
        return FAMILIES[self.scheduled.kernel].scratch_bytes(self, self.scheduled)

    def kernel(self) -> Kernel:
        return self._kernel

    @cached_property
    def _kernel(self) -> Kernel:
        """Found once: packing weights takes long, and planning asks for tables and code again and again."""
        return FAMILIES[self.scheduled.kernel].kernel(self, self.scheduled)

    @property
    def in_place(self) -> tuple[int, ...]:
        return (0,) if FAMILIES[self.scheduled.kernel].in_place(self, self.scheduled) else ()

    def sweep(self, index: int) -> Sweep | None:  # noqa: ARG002
        return FAMILIES[self.scheduled.kernel].sweep(self, self.scheduled)


def _as_image(shape: tuple[int, ...]) -> tuple[int, int, int]:
    return (shape[0], shape[1], shape[2]) if len(shape) == 3 else (1, 1, int(np.prod(shape)))
