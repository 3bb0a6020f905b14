"""Fully connected layers have one form: Gemm(x[M,K], W[N,K], B[N]), transB=1, alpha=beta=1, constant W, B.

    Add(MatMul(x[1,K], W), b)    →  Gemm(x, Wᵀ, b)              the Add by fold-scale-bias
    MatMul(x[1,K], W)            →  Gemm(x, Wᵀ, 0)
    Gemm(alpha, beta, transB=0)  →  Gemm with alpha in W, beta in B

A MatMul of higher rank, or of two computed tensors, stays MatMul.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from clio_cc import graph

logger = logging.getLogger(__name__)
_CANONICAL = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 1}


@dataclass(frozen=True)
class ConvertToGemm(ir.passes.InPlacePass):
    """MatMul (+ Add) and any Gemm → canonical Gemm."""

    name: str = "convert-to-gemm"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass on the main graph."""
        return ir.passes.PassResult(model, graph.rewrite(model, convert))


def convert(node: ir.Node) -> bool:
    """Convert one node; returns whether it changed."""
    if graph.is_op(node, "MatMul"):
        return _convert_matmul(node)
    return graph.is_op(node, "Gemm") and _canonicalize_gemm(node)


def _convert_matmul(node: ir.Node) -> bool:
    source, weights = graph.static_shape(node.inputs[0]), graph.constant(graph.input_at(node, 1))
    if (
        source is None
        or len(source) != 2
        or weights is None
        or weights.ndim != 2
        or graph.is_constant(node.inputs[0])
    ):
        return False
    _write(node, weights.T, np.zeros(weights.shape[1], weights.dtype))
    return True  # the Add behind it is fold-scale-bias's work


def _canonicalize_gemm(node: ir.Node) -> bool:
    weights, bias = graph.constant(graph.input_at(node, 1)), _constant_bias(node)
    if weights is None or bias is None or graph.int_attr(node, "transA") or graph.is_constant(node.inputs[0]):
        logger.debug("%s: not a layer with constant weights", graph.where(node))
        return False
    transposed = graph.int_attr(node, "transB")
    turned = weights if transposed else weights.T
    if bias.size not in (1, len(turned)) or (bias.ndim == 2 and bias.shape[0] != 1):
        return False  # a bias per row of x
    alpha, beta = graph.float_attr(node, "alpha", 1.0), graph.float_attr(node, "beta", 1.0)
    if transposed and alpha == beta == 1.0 and bias.shape == (len(turned),) and len(node.inputs) == 3:
        changed = [graph.set_attr(node, name, value) for name, value in _CANONICAL.items()]
        return any(changed)
    full = np.broadcast_to(bias.reshape(-1), (len(turned),))
    _write(node, _scaled(turned, alpha), _scaled(full, beta))
    return True


def _constant_bias(node: ir.Node) -> graph.Array | None:
    """A Gemm's C, a zero where it is absent, None where it is computed."""
    c = graph.input_at(node, 2)
    return graph.constant(c) if c is not None else np.zeros(1, np.float32)


def _scaled(array: graph.Array, factor: float) -> graph.Array:
    return (factor * array.astype(np.float64)).astype(array.dtype)


def _write(old: ir.Node, weights: graph.Array, bias: graph.Array) -> None:
    owner = graph.graph_of(old)
    w = graph.add_constant(owner, f"{old.name}_weights", weights)
    b = graph.add_constant(owner, f"{old.name}_bias", bias.astype(weights.dtype))
    graph.replace_node(old, "Gemm", [old.inputs[0], w, b], _CANONICAL)
