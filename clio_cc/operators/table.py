"""Any function of one value, by a table of its 256 results: Sigmoid, Tanh, HardSwish, a Relu that nothing could absorb …"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clio_cc.operators.base import Kernel, Operator, Sweep, elementwise_sweep
from clio_cc.qformat import FloatArray, Int8Array, quantize


def tabulate(
    function: Callable[[FloatArray], FloatArray], input_scale: float, output_scale: float
) -> Int8Array:
    """Return the 256 results of `function` (float64 in and out), entry i for the int8 input ``i - 128``."""
    points = np.arange(-128, 128, dtype=np.float64) * input_scale
    return quantize(function(points), output_scale)


@dataclass(frozen=True, eq=False, kw_only=True)
class Table(Operator):
    """``table[q + 128]``.

    Attributes:
        table: int8 ``[256]``.
    """

    table: Int8Array

    def __post_init__(self) -> None:
        if self.table.shape != (256,) or self.inputs[0].shape != self.output.shape:
            raise ValueError(f"{self.name}: needs 256 entries and equal shapes")

    def evaluate(self, inputs: Sequence[Int8Array]) -> Int8Array:
        return np.asarray(self.table[inputs[0].astype(np.int16) + 128])

    @property
    def in_place(self) -> tuple[int, ...]:
        return (0,)

    def sweep(self, index: int) -> Sweep:  # noqa: ARG002
        return elementwise_sweep(self.output.bytes)

    def kernel(self) -> Kernel:
        elements = self.output.bytes

        def build() -> Any:
            from clio_cc.codegen import tir

            parameters = ((elements,), "int8"), ((256,), "int8"), ((elements,), "int8")
            with tir.prim_func(*parameters) as f, tir.loop(elements) as i, tir.block():
                x, table, y = f.arguments
                tir.store(y, table[tir.int32(x[i]) + 128], i)
            return f.func

        return Kernel(("table", elements), build, (("table", self.table),))
