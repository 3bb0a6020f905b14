"""BatchNormalization at inference is one product and one sum per channel.

    BatchNormalization(x, s, b, mean, var)  →  Add(Mul(x, s/√(var+ε)), b - mean·s/√(var+ε))

Later passes fold those into a neighbor.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from clio_cc import graph

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LowerBatchnorm(ir.passes.InPlacePass):
    """BatchNormalization → Mul and Add."""

    name: str = "lower-batchnorm"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass on the main graph."""
        return ir.passes.PassResult(model, graph.rewrite(model, lower))


def lower(node: ir.Node) -> bool:
    """Lower one node; returns whether it changed."""
    dims = graph.static_shape(node.inputs[0]) if graph.is_op(node, "BatchNormalization") else None
    if dims is None or len(dims) < 2 or graph.int_attr(node, "training_mode"):
        return False
    arrays = [graph.constant(value) for value in node.inputs[1:5]]
    statistics = [array.astype(np.float64) for array in arrays if array is not None]
    if len(statistics) != 4:
        logger.debug("%s: its statistics are computed", graph.where(node))
        return False
    scale, bias, mean, variance = statistics
    factor = scale / np.sqrt(
        variance + graph.float_attr(node, "epsilon", 1e-5)
    )  # float64: variances can be tiny
    offset = bias - mean * factor
    broadcast = (1, dims[1], *(1 for _ in dims[2:]))
    owner, name, dtype = graph.graph_of(node), node.name or "batchnorm", node.outputs[0].dtype
    f, o = (
        graph.add_constant(owner, f"{name}_{what}", array.astype(np.float32).reshape(broadcast))
        for what, array in (("scale", factor), ("offset", offset))
    )
    scaled = graph.insert_before(node, "Mul", [node.inputs[0], f], name=f"{name}_mul", dims=dims, dtype=dtype)
    graph.replace_node(node, "Add", [scaled, o], name=name)
    return True
