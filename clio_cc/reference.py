"""The numpy reference: interprets a Program operator by operator. What it says is what every board must say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from clio_cc.operators.base import Operator
from clio_cc.program import Program, Tap
from clio_cc.qformat import Int8Array


def run(program: Program, inputs: Sequence[Int8Array]) -> list[Int8Array]:
    """Return the program's outputs for a batch of int8 inputs (``[batch, *shape]`` each)."""
    wanted = dict.fromkeys(program.outputs)
    given = {tensor.name: value for tensor, value in zip(program.inputs, inputs, strict=True)}
    found = {name: given[name] for name in wanted if name in given}
    for op, value in walk(program, inputs):
        if op.output.name in wanted:
            found[op.output.name] = value
    return [found[name] for name in program.outputs]


def units_of(tap: Tap, value: Int8Array) -> Int8Array:
    """Return a tap's tensor (``[batch, *shape]``) unit by unit, ``[batch, units, *rest]``.

    :func:`clio_cc.packing.pack_units` makes of it what travels.
    """
    units = np.moveaxis(value, -1, 1)
    return np.ascontiguousarray(units[:, list(tap.order)] if tap.order else units)


def walk(program: Program, inputs: Sequence[Int8Array]) -> Iterator[tuple[Operator, Int8Array]]:
    """Yield every operator with its output (``[batch, *shape]`` int8), in order; drop tensors after their last use."""
    values: dict[str, Int8Array] = {}
    for tensor, value in zip(program.inputs, inputs, strict=True):
        if value.shape[1:] != tensor.shape or value.dtype != "int8":
            raise ValueError(
                f"input {tensor.name} must be int8 [batch, {tensor.shape}], got {value.dtype} {value.shape}"
            )
        values[tensor.name] = value
    last_use = {t.name: i for i, op in enumerate(program.operators) for t in op.inputs}
    for index, op in enumerate(program.operators):
        result = op.evaluate([values[t.name] for t in op.inputs])
        assert result.dtype == "int8" and result.shape[1:] == op.output.shape, (op.name, result.shape)
        values[op.output.name] = result
        yield op, result
        for name in {t.name for t in op.inputs} | {op.output.name}:
            if last_use.get(name, -1) <= index:
                values.pop(name, None)
