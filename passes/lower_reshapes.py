"""What only renames dimensions becomes Reshape to a constant shape, or Transpose where that says more.

    Flatten, Squeeze, Unsqueeze, Reshape(x, [0, -1])  →  Reshape(x, [1, 64])
    Reshape(Reshape(x))                               →  Reshape(x)
    Reshape x[1,49,10,1] to [1,1,49,10]               →  Transpose(x, perm=[0,3,1,2])

The last: exporters write a layout change as Reshape when one dimension is 1; the device must know it is one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import onnx_ir as ir

from clio_cc import graph


@dataclass(frozen=True)
class LowerReshapes(ir.passes.InPlacePass):
    """Flatten, Squeeze, Unsqueeze → Reshape with a constant shape."""

    name: str = "lower-reshapes"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass on the main graph."""
        return ir.passes.PassResult(model, graph.rewrite(model, lower))


def lower(node: ir.Node) -> bool:
    """Lower one node; returns whether it changed."""
    if not graph.is_op(node, "Flatten", "Squeeze", "Unsqueeze", "Reshape"):
        return False
    source, target = graph.static_shape(node.inputs[0]), graph.static_shape(node.outputs[0])
    if source is None or target is None or graph.is_constant(node.inputs[0]) or 0 in source:
        return False
    if graph.is_op(node, "Reshape"):
        before = graph.producer(node.inputs[0])
        if before is not None and graph.is_op(before, "Reshape") and not graph.is_constant(before.inputs[0]):
            return _write(node, graph.required_input(before, 0), target)
        perm = unit_permutation(source, target)
        if perm is not None:
            graph.replace_node(node, "Transpose", [node.inputs[0]], {"perm": perm})
            return True
        wanted = graph.constant(graph.input_at(node, 1))
        if wanted is not None and wanted.tolist() == list(target) and not graph.int_attr(node, "allowzero"):
            return False
    return _write(node, graph.required_input(node, 0), target)


def _write(node: ir.Node, source: ir.Value, target: tuple[int, ...]) -> bool:
    dims = graph.add_constant(graph.graph_of(node), f"{node.name}_shape", np.asarray(target, np.int64))
    graph.replace_node(node, "Reshape", [source, dims])
    return True


def unit_permutation(source: tuple[int, ...], target: tuple[int, ...]) -> list[int] | None:
    """The permutation that equals a reshape between 4-D shapes by moving only dimensions of 1, or None.

    Where several do, NHWC→NCHW and NCHW→NHWC win: layout changes are what such reshapes are.
    """
    if len(source) != 4 or len(target) != 4 or source == target or sorted(source) != sorted(target):
        return None
    return next(
        (
            list(perm)
            for perm in _candidates()
            if moves_only_units(source, perm) and _permuted(source, perm) == target
        ),
        None,
    )


def _candidates() -> Iterator[tuple[int, ...]]:
    yield (0, 3, 1, 2)
    yield (0, 2, 3, 1)
    yield from permutations(range(4))


def _permuted(dims: tuple[int, ...], perm: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(dims[axis] for axis in perm)


def moves_only_units(dims: tuple[int, ...], perm: tuple[int, ...]) -> bool:
    """Whether transposing keeps the order of elements, because all axes that change places have size 1."""
    kept = [axis for axis in perm if dims[axis] != 1]
    return kept == sorted(kept)
