"""A mean over the whole plane has one name.

    ReduceMean(x[1,C,H,W], axes=[2,3], keepdims=1)  →  GlobalAveragePool(x)
    ReduceMean(x[1,C,H,W], axes=[2,3], keepdims=0)  →  Reshape(GlobalAveragePool(x), [1,C])
    AveragePool(x[1,C,H,W], kernel=[H,W], no pads)  →  GlobalAveragePool(x)

Runs after move-transposes, which turns means over H and W of NHWC data into these.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from clio_cc import graph


@dataclass(frozen=True)
class LowerMeans(ir.passes.InPlacePass):
    """Means over the whole plane → GlobalAveragePool."""

    name: str = "lower-means"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass on the main graph."""
        return ir.passes.PassResult(model, graph.rewrite(model, lower))


def lower(node: ir.Node) -> bool:
    """Lower one node; returns whether it changed."""
    if not graph.is_op(node, "ReduceMean", "AveragePool"):
        return False
    dims = graph.static_shape(node.inputs[0])
    if dims is None or len(dims) != 4:
        return False
    if node.op_type == "AveragePool":
        return _lower_pool(node, dims)
    axes = graph.node_axes(node)
    if axes is None or sorted(axis % 4 for axis in axes) != [2, 3]:
        return False
    if graph.int_attr(node, "keepdims", 1):
        graph.replace_node(node, "GlobalAveragePool", [node.inputs[0]])
        return True
    name, dtype = node.name or "mean", node.outputs[0].dtype
    pooled = graph.insert_before(
        node, "GlobalAveragePool", [node.inputs[0]], name=name, dims=(*dims[:2], 1, 1), dtype=dtype
    )
    target = graph.add_constant(graph.graph_of(node), f"{name}_shape", np.asarray(dims[:2], np.int64))
    graph.replace_node(node, "Reshape", [pooled, target], name=f"{name}_reshape")
    return True


def _lower_pool(node: ir.Node, dims: tuple[int, ...]) -> bool:
    whole = graph.ints_attr(node, "kernel_shape") == dims[2:] and graph.static_shape(node.outputs[0]) == (
        *dims[:2],
        1,
        1,
    )
    padded = any(graph.ints_attr(node, "pads")) or graph.str_attr(node, "auto_pad", "NOTSET") not in (
        "NOTSET",
        "VALID",
    )
    if not whole or padded or set(graph.ints_attr(node, "dilations", (1, 1))) != {1}:
        return False
    graph.replace_node(node, "GlobalAveragePool", [node.inputs[0]])
    return True
