"""Units of few bits on the wire: the values of a unit side by side, with no bits between them.

Value i of a unit lies in bits ``[i * bits, (i + 1) * bits)`` of its bytes, bit 0 the lowest of the first byte, in two's
complement; what is left of the last byte is zero. Units of 8 bits are their int8 values as they are.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from clio_cc.qformat import Int8Array, IntArray

UInt8Array = npt.NDArray[np.uint8]

UNIT_BITS = (4, 6, 8)
"""Bits that a value of a unit may have."""


def value_range(bits: int) -> tuple[int, int]:
    """Return the smallest and the largest value of so many bits."""
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


def packed_bytes(values: int, bits: int) -> int:
    """Return the bytes of a unit of so many values."""
    return -(-values * bits // 8)


def place_values(bits: int) -> IntArray:
    """Return what each bit of a value is worth, the lowest first: the highest is the sign."""
    worth: IntArray = 2 ** np.arange(bits)
    worth[-1] *= -1
    return worth


def pack(values: Int8Array, bits: int) -> UInt8Array:
    """Return values ``[..., n]`` in bytes, ``[..., packed_bytes(n, bits)]``.

    Raises:
        ValueError: a value does not fit.
    """
    low, high = value_range(bits)
    if values.min(initial=0) < low or values.max(initial=0) > high:
        raise ValueError(f"a value of {values.min()}..{values.max()} has more than {bits} bits")
    single = np.unpackbits(values.view(np.uint8)[..., None], axis=-1, count=bits, bitorder="little")
    return np.packbits(single.reshape(*values.shape[:-1], -1), axis=-1, bitorder="little")


def unpack(packed: UInt8Array, bits: int, count: int) -> Int8Array:
    """Return the first `count` values ``[..., count]`` of bytes ``[..., n]``."""
    single = np.unpackbits(packed, axis=-1, count=count * bits, bitorder="little")
    return (single.reshape(*packed.shape[:-1], count, bits) @ place_values(bits)).astype(np.int8)


def pack_units(units: Int8Array, bits: int) -> Int8Array | UInt8Array:
    """Return units ``[batch, units, *rest]`` as they travel: uint8 ``[batch, units, bytes]``, but as they are for 8 bits."""
    return units if bits == 8 else pack(units.reshape(*units.shape[:2], -1), bits)
