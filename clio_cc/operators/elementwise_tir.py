"""TIR of Add and Mul. Imports TVM."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clio_cc.codegen import tir

if TYPE_CHECKING:
    from clio_cc.operators.elementwise import Elementwise


def elementwise(op: Elementwise) -> Any:
    """Return the PrimFunc: a, b, y."""
    elements, period = op.inputs[0].bytes, op.inputs[1].bytes
    with (
        tir.prim_func(((elements,), "int8"), ((period,), "int8"), ((elements,), "int8")) as f,
        tir.loop(elements // period) as outer,
    ):
        a, b, y = f.arguments
        found = op.micro_kernel()
        if found is None:
            _plain(op, a, b, y, outer * period, period)
        else:
            name, order, last = found
            inputs = [tir.at(a, outer * period), tir.at(b, 0)]
            with tir.block():
                tir.call(name, tir.at(y, outer * period), *(inputs[i] for i in order), period, *last)
    return f.func


def _plain(op: Elementwise, a: Any, b: Any, y: Any, first: Any, count: int) -> None:
    requantize = op.requantize
    multiplier = None if requantize.multiplier is None else int(requantize.multiplier[0])
    with tir.loop(count) as i, tir.block():
        acc = op.combine(tir.int32(a[first + i]), tir.int32(b[i])) + int(requantize.rounding[0])
        value = tir.requantize(acc, int(requantize.shift[0]), multiplier, requantize.lo, requantize.hi)
        tir.store(y, value, first + i)
