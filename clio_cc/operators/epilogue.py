"""What follows an accumulator: the tables that a kernel requantizes by."""

from __future__ import annotations

from typing import Any

import numpy as np

from clio_cc.qformat import IntArray, Requantize


def code_key(requantize: Requantize) -> tuple[int, int, bool]:
    """Return what the code of a requantization depends on; the rest is in its tables."""
    return requantize.lo, requantize.hi, requantize.multiplier is not None


def epilogue_tables(requantize: Requantize, bias: IntArray) -> tuple[tuple[str, Any], ...]:
    """The per-channel tables of a requantization: bias and rounding constant, multiplier, shift."""
    tables: list[tuple[str, Any]] = [("bias", (bias + requantize.rounding).astype(np.int32))]
    if requantize.multiplier is not None:
        tables.append(("multiplier", requantize.multiplier.astype(np.int32)))
    tables.append(("shift", requantize.shift.astype(np.int8)))
    return tuple(tables)
