"""One spelling for sums, products and axes.

    Sub(x, c), c constant       →  Add(x, -c)
    Div(x, c), c constant       →  Mul(x, 1/c)
    Sum(a, b, c)                →  Add(Add(a, b), c)
    Concat, Softmax, … axis=-1  →  the same with an axis from 0 up
    Transpose without perm      →  Transpose with the reversed order spelled out

Runs before all patterns, which then have fewer spellings to match.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from clio_cc import graph

_DEFAULT_AXIS = {
    "Softmax": -1,
    "LogSoftmax": -1,
    "Hardmax": -1,
    "Concat": 0,
    "Flatten": 1,
    "Split": 0,
    "Gather": 0,
    "LayerNormalization": -1,
}


@dataclass(frozen=True)
class NormalizeArithmetic(ir.passes.InPlacePass):
    """One spelling for sums, products and axes."""

    name: str = "normalize-arithmetic"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass on the main graph."""
        return ir.passes.PassResult(model, graph.rewrite(model, normalize))


def normalize(node: ir.Node) -> bool:
    """Normalize one node; returns whether it changed."""
    if node.domain != "":
        return False
    if node.op_type == "Sum" and len(node.inputs) > 1:
        return _split_sum(node)
    if node.op_type in ("Sub", "Div"):
        return _invert_constant(node)
    if node.op_type in _DEFAULT_AXIS:
        return _positive_axis(node)
    if node.op_type == "Transpose" and "perm" not in node.attributes:
        dims = node.inputs[0].shape if node.inputs[0] is not None else None
        return dims is not None and graph.set_attr(node, "perm", list(range(len(dims)))[::-1])
    return False


def _split_sum(node: ir.Node) -> bool:
    *rest, last = [graph.required_input(node, i) for i in range(len(node.inputs))]
    total = rest[0]
    for value in rest[1:]:
        dims = [graph.static_shape(v) for v in (total, value)]
        joint = np.broadcast_shapes(*(d for d in dims if d is not None)) if None not in dims else None
        total = graph.insert_before(
            node, "Add", [total, value], name=f"{node.name}_sum", dims=joint, dtype=value.dtype
        )
    graph.replace_node(node, "Add", [total, last])
    return True


def _invert_constant(node: ir.Node) -> bool:
    array = graph.constant(graph.input_at(node, 1))
    if array is None or not np.issubdtype(array.dtype, np.floating) or graph.is_constant(node.inputs[0]):
        return False
    if node.op_type == "Div" and not np.all(array != 0):
        return False
    wide = array.astype(np.float64)
    new = -wide if node.op_type == "Sub" else 1.0 / wide
    what = "negated" if node.op_type == "Sub" else "inverse"
    value = graph.add_constant(
        graph.graph_of(node), f"{graph.required_input(node, 1).name}_{what}", new.astype(array.dtype)
    )
    graph.replace_node(node, "Add" if node.op_type == "Sub" else "Mul", [node.inputs[0], value])
    return True


def _positive_axis(node: ir.Node) -> bool:
    axis = graph.int_attr(node, "axis", _DEFAULT_AXIS[node.op_type])
    dims = node.inputs[0].shape if node.inputs[0] is not None else None
    if axis < 0 and dims is None:
        return False
    return graph.set_attr(node, "axis", axis + len(dims) if axis < 0 and dims is not None else axis)
