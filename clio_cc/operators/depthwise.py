"""The depthwise kernel of Conv: a micro-kernel sums the windows of four channels of one pixel, or of two side by side."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from clio_cc.operators.alike import Alike, alike
from clio_cc.operators.base import Kernel, Sweep
from clio_cc.operators.epilogue import code_key, epilogue_tables
from clio_cc.operators.schedule import Schedule
from clio_cc.operators.windows import first_bytes, sweep_by_rows

if TYPE_CHECKING:
    from clio_cc.operators.conv import Conv

CHANNELS = 4


def schedules(op: Conv) -> tuple[Schedule, ...]:
    """Return the ways to compute `op`, the default first."""
    if not op.depthwise:
        return ()
    channels = min(CHANNELS, len(op.weight))
    pairs = channels == CHANNELS and op.weight.shape[2] == 3
    return (Schedule("depthwise", (2 if pairs else 1, channels)),)


def scratch_bytes(op: Conv, schedule: Schedule) -> int:  # noqa: ARG001
    """Nothing is copied."""
    return 0


def sweep(op: Conv, schedule: Schedule) -> Sweep:  # noqa: ARG001
    """Return how the input is read and the output written: each row over and over, for every four channels."""
    return _sweep(op.image_in, op.image_out, op.stride, op.dilation, op.pads)


@cache
def _sweep(
    image_in: tuple[int, int, int],
    image_out: tuple[int, int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    pads: tuple[int, int, int, int],
) -> Sweep:
    return sweep_by_rows(first_bytes(image_in, image_out, stride, dilation, pads), image_out[2])


def in_place(op: Conv, schedule: Schedule) -> bool:  # noqa: ARG001
    """Return False: neighboring pixels need what a pixel's output would overwrite."""
    return False


def pack_weights(weight: npt.NDArray[Any]) -> npt.NDArray[np.int16]:
    """Return ``[channels, kh, kw]`` as the kernel reads them: int16 ``[channels/4, kh, kw, 4]`` in lane order.

    Two bytes a weight: they are few, and their widening would be a quarter of the instructions.
    """
    taps = weight.transpose(1, 2, 0)
    padded = np.pad(taps, ((0, 0), (0, 0), (0, -len(weight) % CHANNELS))).astype(np.int16)
    blocks = padded.reshape(*padded.shape[:2], -1, CHANNELS)[..., [0, 2, 1, 3]]
    return np.ascontiguousarray(blocks.transpose(2, 0, 1, 3))


def kernel(op: Conv, schedule: Schedule) -> Kernel:
    """Return the kernel: x, weight, bias[, multiplier][, shift], y."""
    same = alike(op)
    shift = None if same is None else same.shift
    key = (
        "depthwise", op.image_in, op.image_out, op.weight.shape[1:3], op.stride, op.dilation, op.pads,
        code_key(op.requantize), shift, schedule,
    )  # fmt: skip

    def build() -> Any:
        from clio_cc.operators import depthwise_tir

        return depthwise_tir.depthwise(op, schedule.tile[0], shift)

    return Kernel(key, build, tables_of(op, same, pack_weights))


def tables_of(
    op: Conv, same: Alike | None, pack: Callable[[npt.NDArray[Any]], npt.NDArray[np.int16]]
) -> tuple[tuple[str, npt.NDArray[Any]], ...]:
    """Return weight, bias[, multiplier][, shift]: the last two where channels are not shifted alike."""
    if same is not None:
        return ("weight", pack(same.weight)), ("bias", same.bias)
    return ("weight", pack(op.weight[..., 0])), *epilogue_tables(op.requantize, op.bias)
