"""Softmax over a vector, as the last layer: a table of exponentials and one rounding division per output.

``e[i] = exponentials[max - q[i]]``,  ``y[i] = min(127, floor((2 * 128 * e[i] + sum) / (2 * sum)))`` in steps of 1/128.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clio_cc.operators.base import Kernel, Operator, Sweep, elementwise_sweep
from clio_cc.qformat import INT8_MAX, Int8Array, IntArray, check_accumulator

OUTPUT_SCALE = 1 / 128
ONE = 1 << 16  # exp(0) in the table


def exponentials(input_scale: float) -> IntArray:
    """Return int32 ``[256]``: entry d is ``exp(-d * input_scale)`` in steps of 2**-16."""
    table: IntArray = np.floor(np.exp(-np.arange(256) * input_scale) * ONE + 0.5).astype(np.int32)
    return table


@dataclass(frozen=True, eq=False, kw_only=True)
class Softmax(Operator):
    """See the module's text; input and output are vectors, the output's scale is 1/128."""

    table: IntArray

    def __post_init__(self) -> None:
        if len(self.output.shape) != 1 or self.output.scale != OUTPUT_SCALE:
            raise ValueError(f"{self.name}: a softmax takes a vector and gives steps of 1/128")
        check_accumulator(np.array([2 * 128 * ONE + 2 * ONE * self.output.bytes]), self.name)

    def evaluate(self, inputs: Sequence[Int8Array]) -> Int8Array:
        x = inputs[0].astype(np.int32)
        e = self.table[x.max(axis=1, keepdims=True) - x]
        total = e.sum(axis=1, keepdims=True)
        shares: Int8Array = np.minimum((2 * 128 * e + total) // (2 * total), INT8_MAX).astype(np.int8)
        return shares

    def sweep(self, index: int) -> Sweep:  # noqa: ARG002
        return elementwise_sweep(self.output.bytes)  # the largest value and the sum are found before

    def kernel(self) -> Kernel:
        elements = self.output.bytes

        def build() -> Any:
            from tvm.script.ir_builder import tirx as T

            from clio_cc.codegen import tir

            with tir.prim_func(((elements,), "int8"), ((256,), "int32"), ((elements,), "int8")) as f:
                x, table, y = f.arguments
                largest, total = T.sblock_alloc_buffer((1,), "int32"), T.sblock_alloc_buffer((1,), "int32")
                with tir.block():
                    tir.store(largest, T.int32(-128), 0)
                    tir.store(total, T.int32(0), 0)
                with tir.loop(elements) as i, tir.block():
                    tir.store(largest, T.max(largest[0], tir.int32(x[i])), 0)
                with tir.loop(elements) as i, tir.block():
                    tir.store(total, total[0] + table[largest[0] - tir.int32(x[i])], 0)
                with tir.loop(elements) as i, tir.block():
                    e = table[largest[0] - tir.int32(x[i])]
                    share = T.floordiv(e * 256 + total[0], total[0] * 2)
                    tir.store(y, tir.int8(T.min(share, INT8_MAX)), i)
            return f.func

        return Kernel(("softmax", elements), build, (("exponentials", self.table),))
