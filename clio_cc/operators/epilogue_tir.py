"""TIR around the micro-kernels of Conv: the accumulators' start, and what becomes of them. Imports TVM."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tvm.script.ir_builder import tirx as T

from clio_cc.codegen import tir

if TYPE_CHECKING:
    from clio_cc.operators.conv import Conv


def parameters(op: Conv, channels: int, alike: int | None = None) -> list[tuple[tuple[int, ...], str]]:
    """Return shapes and types of the epilogue's tables: bias, the multiplier if there is one, shift.

    Only the bias where all channels are shifted `alike`, see operators/alike.py.
    """
    if alike is not None:
        return [((channels,), "int32")]
    multiplier = [((channels,), "int32")] if op.requantize.multiplier is not None else []
    return [((channels,), "int32"), *multiplier, ((channels,), "int8")]


def requantized(op: Conv, acc: Any, tables: list[Any], channel: Any) -> Any:
    """Return what an accumulator of output channel `channel` becomes; `tables` are as in :func:`parameters`."""
    multiplier = tables[1][channel] if len(tables) == 3 else None
    return tir.rescaled(acc, tir.int32(tables[-1][channel]), multiplier, op.requantize.lo, op.requantize.hi)


def start(acc: Any, bias: Any, channel: Any, channels: int) -> None:
    """Emit the accumulators' start, ``[pixels, tile]``: the bias; zeros where the tile has more than `channels`."""
    pixels, width = acc.shape
    with T.sblock("bias"):
        for p in range(int(pixels)):
            for c in range(int(width)):
                tir.store(acc, bias[channel + c] if c < channels else 0, p, c)


def finish(op: Conv, acc: Any, epilogue: list[Any], channel: Any, channels: int, y: Any, pixel: Any) -> None:
    """Emit the accumulators' requantization and the stores of `channels` channels from `channel` on, from `pixel` on."""
    # All values first, then all stores: a store of bytes may change any table as far as the C compiler knows.
    pixels, cout = int(acc.shape[0]), op.image_out[2]
    with T.sblock("requantize"):
        for c in range(channels):
            for p in range(pixels):
                tir.store(acc, requantized(op, acc[p, c], epilogue, channel + c), p, c)
        for p in range(pixels):
            first = (pixel + p) * cout + channel
            if channels == 4:
                tir.call("clio_store_4", tir.at(y, first), *(acc[p, c] for c in range(4)))
                continue
            for c in range(channels):
                tir.store(y, tir.int8(acc[p, c]), first + c)


def finish_alike(op: Conv, acc: Any, shift: int, channel: Any, channels: int, y: Any, pixel: Any) -> None:
    """The same for accumulators that all have one shift, see operators/alike.py."""
    pixels, cout = int(acc.shape[0]), op.image_out[2]
    bounds = shift, op.requantize.lo, op.requantize.hi
    with T.sblock("requantize"):
        for p in range(pixels):
            first = (pixel + p) * cout + channel
            if channels == 4:
                tir.call("clio_store_4_shifted", tir.at(y, first), *(acc[p, c] for c in range(4)), *bounds)
                continue
            for c in range(channels):
                value = T.call_extern("int32", "clio_shifted", acc[p, c], *bounds)
                tir.store(y, tir.int8(value), first + c)
