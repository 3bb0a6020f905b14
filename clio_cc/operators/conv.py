"""Conv and Gemm: int8 × int8 sums in int32, bias, requantize. A Gemm is a 1×1 Conv over one pixel.

Two kernels. *Matmul* (everything but depthwise): the receptive fields of a tile of pixels are gathered into
an int16 buffer (widened once, zeros for the padding), then a register-tiled micro-kernel multiplies them with
a tile of output channels. *Depthwise*: a micro-kernel sums the window of four channels of one pixel.

The matmul's buffers are laid out in blocks of four lanes, so that SXTB16, which takes bytes 0 and 2 of a
word, finds its operands without a shuffle: weights as they are (``[..., 2, 2]``), activations with the last
two axes exchanged. Blocks of one tile lie side by side, so that one pointer walks through all its weights and
one through all its pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from clio_cc.operators.base import Kernel, Operator
from clio_cc.qformat import FloatArray, Int8Array, IntArray, Requantize, check_accumulator

# Pixels × output channels of the matmul micro-kernel: the most that a Cortex-M's registers hold.
TILE = (3, 2)


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
    def scratch_bytes(self) -> int:
        runs = runs_of(self)  # without packing weights: memory is planned many times
        return 0 if self.depthwise else matmul_tile(self)[0] * runs.count * runs.lanes * 2

    def kernel(self) -> Kernel:
        return _depthwise_kernel(self) if self.depthwise else _matmul_kernel(self)


def _as_image(shape: tuple[int, ...]) -> tuple[int, int, int]:
    return (shape[0], shape[1], shape[2]) if len(shape) == 3 else (1, 1, int(np.prod(shape)))


def epilogue_tables(requantize: Requantize, bias: IntArray) -> tuple[tuple[str, Any], ...]:
    """The per-channel tables of a requantization: bias and rounding constant, multiplier, shift."""
    tables: list[tuple[str, Any]] = [("bias", (bias + requantize.rounding).astype(np.int32))]
    if requantize.multiplier is not None:
        tables.append(("multiplier", requantize.multiplier.astype(np.int32)))
    tables.append(("shift", requantize.shift.astype(np.int8)))
    return tuple(tables)


@dataclass(frozen=True)
class Runs:
    """How a receptive field is cut into runs of contiguous bytes, each padded to whole blocks of four lanes.

    A run is a whole filter row (all channels) where its pixels lie side by side, else one tap of one group.
    """

    count: int
    per_row: int
    pixels: int
    channels: int

    @property
    def lanes(self) -> int:
        """Lanes of one run, a multiple of 4."""
        return -(-self.pixels * self.channels // 4) * 4


def runs_of(op: Conv) -> Runs:
    """Return the runs of one receptive field of one group."""
    _, kh, kw, cin = op.weight.shape
    if op.groups == 1 and (op.dilation[1] == 1 or kw == 1):
        return Runs(kh, 1, kw, cin)
    return Runs(kh * kw, kw, 1, cin)


def matmul_tile(op: Conv) -> tuple[int, int]:
    """Return the pixels and output channels that the matmul computes together."""
    out_h, out_w, cout = op.image_out
    pixels = out_h * out_w if op.weight.shape[1:3] == (1, 1) else out_w
    return min(TILE[0], pixels), min(TILE[1], cout // op.groups)


def pack_weights(op: Conv) -> Int8Array:
    """Return the weights as the matmul reads them: int8 ``[groups, tiles, k/4, channels of a tile, 2, 2]``.

    Zeros fill runs up to whole blocks and the last tile of a group.
    """
    runs, channels = runs_of(op), matmul_tile(op)[1]
    per_group = len(op.weight) // op.groups
    rows = op.weight.reshape(op.groups, per_group, runs.count, runs.pixels * runs.channels)
    padded = np.pad(rows, ((0, 0), (0, -per_group % channels), (0, 0), (0, runs.lanes - rows.shape[3])))
    tiles = padded.reshape(op.groups, -1, channels, runs.count * runs.lanes // 4, 2, 2)
    return np.ascontiguousarray(tiles.transpose(0, 1, 3, 2, 4, 5))


def pack_depthwise_weights(op: Conv) -> npt.NDArray[np.int16]:
    """Return the weights as the depthwise kernel reads them: int16 ``[channels/4, kh, kw, 4]`` in lane order.

    Two bytes a weight: they are few, and their widening would be a quarter of the instructions.
    """
    taps = op.weight[..., 0].transpose(1, 2, 0)
    padded = np.pad(taps, ((0, 0), (0, 0), (0, -len(op.weight) % 4))).astype(np.int16)
    blocks = padded.reshape(*padded.shape[:2], -1, 4)[..., [0, 2, 1, 3]]
    return np.ascontiguousarray(blocks.transpose(2, 0, 1, 3))


def _matmul_kernel(op: Conv) -> Kernel:
    runs, requantize, tile = runs_of(op), op.requantize, matmul_tile(op)
    wide = requantize.multiplier is not None
    key = (
        "matmul", op.image_in, op.image_out, op.weight.shape[1:], op.stride, op.dilation, op.pads, op.groups,
        (requantize.lo, requantize.hi, wide), tile,
    )  # fmt: skip

    def build() -> Any:
        from clio_cc.operators import conv_tir

        return conv_tir.matmul(op, runs, tile)

    tables = (("weight", pack_weights(op)), *epilogue_tables(requantize, op.bias))
    return Kernel(key, build, tables, op.scratch_bytes)


def _depthwise_kernel(op: Conv) -> Kernel:
    requantize = op.requantize
    key = (
        "depthwise", op.image_in, op.image_out, op.weight.shape[1:3], op.stride, op.dilation, op.pads,
        (requantize.lo, requantize.hi, requantize.multiplier is not None),
    )  # fmt: skip

    def build() -> Any:
        from clio_cc.operators import conv_tir

        return conv_tir.depthwise(op)

    tables = (("weight", pack_depthwise_weights(op)), *epilogue_tables(requantize, op.bias))
    return Kernel(key, build, tables)
