"""Remove nodes that change nothing.

    Identity(x), Dropout(x), Reshape(x) to its own shape, Transpose in order, Cast to its own type,
    Expand to its own shape, Pad by 0, Slice of everything, Concat/Sum/Max of one, 1x1 pooling,
    Add of 0, Mul by 1, Relu of Relu                        →  x

An output keeps its name: the node before it is renamed, and where that cannot be, the node stays.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from clio_cc import graph

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RemoveNoops(ir.passes.InPlacePass):
    """Remove what copies its input."""

    name: str = "remove-noops"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass on the main graph."""
        return ir.passes.PassResult(model, graph.rewrite(model, remove_noop))


def remove_noop(node: ir.Node) -> bool:
    """Remove one node if its output equals one of its inputs."""
    test = _TESTS.get(node.op_type) if node.domain == "" else None
    source = test(node) if test is not None else None
    if source is None or any(out.uses() or out.is_graph_output() for out in node.outputs[1:]):
        return False
    if not graph.bypass_node(node, source):
        logger.debug("%s: does nothing, but its output has to keep its name", graph.where(node))
        return False
    return True


def _first(node: ir.Node) -> ir.Value | None:
    return graph.required_input(node, 0)


def _dropout(node: ir.Node) -> ir.Value | None:
    training = graph.input_at(node, 2)
    return node.inputs[0] if training is None or graph.scalar(training) == 0 else None


def _same_shape(node: ir.Node) -> ir.Value | None:
    dims = graph.static_shape(node.inputs[0])
    return node.inputs[0] if dims is not None and dims == graph.static_shape(node.outputs[0]) else None


def _transpose(node: ir.Node) -> ir.Value | None:
    perm = graph.ints_attr(node, "perm")
    return node.inputs[0] if perm and perm == tuple(range(len(perm))) else None


def _cast(node: ir.Node) -> ir.Value | None:
    source = graph.required_input(node, 0)
    return source if source.dtype is not None and source.dtype == graph.int_attr(node, "to") else None


def _all_zero(node: ir.Node) -> ir.Value | None:
    pads = graph.constant(graph.input_at(node, 1))
    return node.inputs[0] if pads is not None and not pads.any() else None


def _slice(node: ir.Node) -> ir.Value | None:
    steps = graph.integers(graph.input_at(node, 4))
    forward = graph.input_at(node, 4) is None or (steps is not None and min(steps) > 0)
    return _same_shape(node) if forward else None


def _single(node: ir.Node) -> ir.Value | None:
    return node.inputs[0] if len(node.inputs) == 1 else None


def _pool(node: ir.Node) -> ir.Value | None:
    sizes = (*graph.ints_attr(node, "kernel_shape"), *graph.ints_attr(node, "strides"))
    plain = set(sizes) == {1} and not any(graph.ints_attr(node, "pads"))
    return _same_shape(node) if plain else None


def _neutral(element: float) -> Callable[[ir.Node], ir.Value | None]:
    def test(node: ir.Node) -> ir.Value | None:
        for value, other in ((node.inputs[0], node.inputs[1]), (node.inputs[1], node.inputs[0])):
            array = graph.constant(other)
            if array is None or not np.all(array == element) or graph.is_constant(value):
                continue
            dims = graph.static_shape(value)
            return value if dims is not None and dims == graph.static_shape(node.outputs[0]) else None
        return None

    return test


def _relu(node: ir.Node) -> ir.Value | None:
    before = graph.producer(node.inputs[0])
    return node.inputs[0] if graph.is_op(before, "Relu", "Sigmoid", "HardSigmoid", "Softmax") else None


_TESTS: dict[str, Callable[[ir.Node], ir.Value | None]] = {
    "Identity": _first,
    "Dropout": _dropout,
    "Reshape": _same_shape,
    "Expand": _same_shape,
    "Transpose": _transpose,
    "Cast": _cast,
    "Pad": _all_zero,
    "Slice": _slice,
    "Concat": _single,
    "Sum": _single,
    "Max": _single,
    "Min": _single,
    "AveragePool": _pool,
    "MaxPool": _pool,
    "Add": _neutral(0.0),
    "Mul": _neutral(1.0),
    "Relu": _relu,
}
