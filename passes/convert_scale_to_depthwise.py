"""A product and a sum per channel that no layer could take become a 1x1 depthwise Conv.

    Add(Mul(x[1,C,H,W], s), c)  →  Conv(x, s, c) with group=C        (BatchNormalization behind a Relu, say)

Only 4-D: in other ranks Mul and Add stay. Runs after fold-scale-bias.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from clio_cc import graph
from clio_cc.passes.fold_scale_bias import channel_operand


@dataclass(frozen=True)
class ConvertScaleToDepthwise(ir.passes.InPlacePass):
    """Mul + Add per channel → depthwise Conv."""

    name: str = "convert-scale-to-depthwise"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass on the main graph."""
        return ir.passes.PassResult(model, graph.rewrite(model, convert))


def convert(node: ir.Node) -> bool:
    """Convert the pair that ends in `node`, an Add; returns whether there was one."""
    added = channel_operand(node) if graph.is_op(node, "Add") else None
    before = graph.producer(added[0]) if added is not None else None
    scaled = channel_operand(before) if before is not None and graph.is_op(before, "Mul") else None
    if added is None or before is None or scaled is None or graph.only_consumer(added[0]) is not node:
        return False
    dims, dtype = graph.shape(node.outputs[0]), node.outputs[0].dtype
    if len(dims) != 4 or dtype is None or (added[1].ndim == scaled[1].ndim == 0 and dims[1] > 1):
        return False  # two scalars are cheaper as they are
    owner, name, channels = graph.graph_of(node), node.name or "scale", dims[1]
    w = np.broadcast_to(scaled[1].reshape(-1, 1, 1, 1), (channels, 1, 1, 1)).astype(dtype.numpy())
    b = np.broadcast_to(added[1].reshape(-1), (channels,)).astype(dtype.numpy())
    weights, bias = (
        graph.add_constant(owner, f"{name}_weights", w),
        graph.add_constant(owner, f"{name}_bias", b),
    )
    attributes: dict[str, graph.Attribute] = {
        "kernel_shape": (1, 1),
        "strides": (1, 1),
        "dilations": (1, 1),
        "pads": (0, 0, 0, 0),
        "group": channels,
    }
    graph.replace_node(node, "Conv", [scaled[0], weights, bias], attributes)
    return True
