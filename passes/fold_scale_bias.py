"""Products and sums with a constant per channel move into the Conv or Gemm next to them.

    Mul(Conv(x, W, B), s)  →  Conv(x, s·W, s·B)       s scalar or per output channel; so with Gemm
    Add(Conv(x, W, B), c)  →  Conv(x, W, B + c)
    Conv(Mul(x, s), W, B)  →  Conv(x, W·s, B)         s scalar or per input channel; zero padding stays zero
    Conv(Add(x, c), W, B)  →  Conv(x, W, B + Σ W·c)   only without padding

Runs after lower-batchnorm, canonicalize-windows and convert-to-gemm (B is always there).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from clio_cc import graph

logger = logging.getLogger(__name__)
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class FoldScaleBias(ir.passes.InPlacePass):
    """Mul and Add by constants → weights and bias of Conv and Gemm."""

    name: str = "fold-scale-bias"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass on the main graph."""
        # What follows a layer first: it decides what the layer is, and a Mul between two layers belongs to
        # the first.
        behind = graph.rewrite(model, fold_behind)
        return ir.passes.PassResult(model, graph.rewrite(model, fold_before) or behind)


def channel_operand(node: ir.Node) -> tuple[ir.Value, Floats] | None:
    """(x, c) of a Mul or Add of computed x (N, C, …) and a constant c, given as shape (C,) or ()."""
    if not graph.is_op(node, "Mul", "Add") or len(graph.data_inputs(node)) != 1:
        return None
    x = graph.data_inputs(node)[0]
    array = next((found for value in node.inputs if (found := graph.constant(value)) is not None), None)
    dims = graph.static_shape(x)
    if array is None or dims is None or len(dims) < 2 or dims != graph.static_shape(node.outputs[0]):
        return None
    if array.size == 1:
        return x, array.astype(np.float64).reshape(())
    full = array.reshape((1,) * (len(dims) - array.ndim) + array.shape)
    if full.size != dims[1] or full.shape[1] != dims[1]:
        return None
    return x, full.astype(np.float64).reshape(-1)


def _weights(node: ir.Node | None) -> tuple[Floats, Floats] | None:
    """Constant W and B of a Conv or canonical Gemm, in float64, None for anything else."""
    if (
        node is None
        or not graph.is_op(node, "Conv", "Gemm")
        or (node.op_type == "Gemm" and not graph.int_attr(node, "transB"))
    ):
        return None
    w, b = graph.constant(graph.input_at(node, 1)), graph.constant(graph.input_at(node, 2))
    if w is None or b is None or b.shape != w.shape[:1] or graph.float_attr(node, "alpha", 1.0) != 1.0:
        return None
    return w.astype(np.float64), b.astype(np.float64)


def fold_behind(node: ir.Node) -> bool:
    """Fold `node`, a Mul or Add, into the layer that writes its operand."""
    operand = channel_operand(node)
    layer = graph.producer(operand[0]) if operand is not None else None
    parts = _weights(layer)
    if operand is None or layer is None or parts is None:
        return False
    if graph.only_consumer(operand[0]) is not node:
        logger.debug("%s: %s is read elsewhere too", graph.where(node), graph.where(layer))
        return False
    (w, b), c = parts, operand[1]
    if node.op_type == "Mul":
        w, b = w * c.reshape(-1, *(1 for _ in w.shape[1:])), b * c
    else:
        b = b + c
    _replace_layer(node, layer, graph.required_input(layer, 0), w, b)
    return True


def fold_before(layer: ir.Node) -> bool:
    """Fold the Mul or Add that writes `layer`'s input into the layer."""
    parts = _weights(layer)
    node = graph.producer(layer.inputs[0]) if parts is not None else None
    operand = channel_operand(node) if node is not None else None
    if parts is None or node is None or operand is None or graph.only_consumer(node.outputs[0]) is not layer:
        return False
    if graph.is_op(node, "Add") and any(graph.ints_attr(layer, "pads")):
        logger.debug("%s: the padding of %s is 0 only behind it", graph.where(node), graph.where(layer))
        return False
    (w, b), (x, c) = parts, operand
    per_weight = _along_inputs(layer, w, c)
    if node.op_type == "Mul":
        w = w * per_weight
    else:
        b = b + (w * per_weight).reshape(len(w), -1).sum(axis=1)
    _replace_layer(layer, layer, x, w, b)
    return True


def _along_inputs(layer: ir.Node, w: Floats, c: Floats) -> Floats:
    """The constant of each weight's input channel, in a shape that broadcasts with the weights."""
    if c.ndim == 0:
        return c
    group, depth = graph.int_attr(layer, "group", 1), w.shape[1]
    rows = np.repeat(c.reshape(group, depth), len(w) // group, axis=0)
    return rows.reshape(len(w), depth, *(1 for _ in w.shape[2:]))


def _replace_layer(old: ir.Node, layer: ir.Node, x: ir.Value, w: Floats, b: Floats) -> None:
    """Put the layer with new constants in the place of `old`, under the layer's name."""
    owner, name, dtype = graph.graph_of(old), layer.name or "layer", graph.required_input(layer, 1).dtype
    numpy_type = dtype.numpy() if dtype is not None else np.float32
    weights = graph.add_constant(owner, f"{name}_weights", w.astype(numpy_type))
    bias = graph.add_constant(owner, f"{name}_bias", b.astype(numpy_type))
    attributes = {key: attr.value for key, attr in layer.attributes.items()}
    op_type = layer.op_type
    if old is not layer:  # nothing else reads it; free its name first
        old_name, layer.name = name, None
        graph.replace_node(old, op_type, [x, weights, bias], attributes, name=old_name)
        owner.remove(layer, safe=True)
    else:
        graph.replace_node(old, op_type, [x, weights, bias], attributes)
