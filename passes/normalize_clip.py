"""Limits in one form: Relu where the limits are 0 and infinity, else Clip with two scalar initializers.

    Max(x, 0)                      →  Relu(x)
    Clip(x, 0), Clip(x, 0, inf)    →  Relu(x)
    Min(Max(x, 0), 6)              →  Clip(x, 0, 6)
    Clip(Relu(x), 0, 6)            →  Clip(x, 0, 6)
    Clip(x) without finite bounds  →  x

Runs before fuse-activations and fold-pad, which look for these.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from clio_cc import graph

# An exporter writes "no bound" as infinity or as the largest float.
_HUGE = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class NormalizeClip(ir.passes.InPlacePass):
    """One form for limits."""

    name: str = "normalize-clip"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass on the main graph."""
        return ir.passes.PassResult(model, graph.rewrite(model, normalize))


def limits(node: ir.Node | None) -> tuple[float, float] | None:
    """(low, high) of a node that only limits its float input, infinite where open; None for other nodes."""
    if (
        node is None
        or node.domain != ""
        or (node.inputs and node.inputs[0] is not None and node.inputs[0].dtype != ir.DataType.FLOAT)
    ):
        return None
    if node.op_type == "Relu":
        return 0.0, math.inf
    if node.op_type == "Clip":
        low, high = (_bound(node, 1, -math.inf), _bound(node, 2, math.inf))
        return (low, high) if low is not None and high is not None and low <= high else None
    if node.op_type in ("Max", "Min") and len(node.inputs) == 2:
        bound = graph.scalar(node.inputs[1])
        if bound is None or graph.static_shape(node.inputs[0]) != graph.static_shape(node.outputs[0]):
            return None
        return (bound, math.inf) if node.op_type == "Max" else (-math.inf, bound)
    return None


def _bound(node: ir.Node, index: int, default: float) -> float | None:
    if graph.input_at(node, index) is None:
        return default
    bound = graph.scalar(node.inputs[index])
    return math.copysign(math.inf, bound) if bound is not None and abs(bound) >= _HUGE else bound


def normalize(node: ir.Node) -> bool:
    """Normalize one node; returns whether it changed."""
    if graph.is_op(node, "Max", "Min") and len(node.inputs) == 2 and graph.is_constant(node.inputs[0]):
        if graph.is_constant(node.inputs[1]):
            return False
        graph.replace_node(node, node.op_type, [node.inputs[1], node.inputs[0]])
        return True
    bounds = limits(node)
    if bounds is None:
        return False
    before = graph.producer(node.inputs[0])
    inner = limits(before)
    source = graph.required_input(node, 0)
    if before is not None and inner is not None and graph.only_consumer(before.outputs[0]) is node:
        if not inner[0] <= bounds[0] <= bounds[1] <= inner[1] and (
            bounds[0] > inner[1] or bounds[1] < inner[0]
        ):
            return False  # disjoint limits make a constant; nobody exports that
        source, bounds = graph.required_input(before, 0), (max(inner[0], bounds[0]), min(inner[1], bounds[1]))
    elif _is_canonical(node, bounds):
        return False
    return _write(node, source, bounds)


def _is_canonical(node: ir.Node, bounds: tuple[float, float]) -> bool:
    if node.op_type == "Relu":
        return True
    scalars = (
        all(graph.is_constant(v) and graph.static_shape(v) == () for v in node.inputs[1:])
        and len(node.inputs) == 3
    )
    return node.op_type == "Clip" and scalars and bounds not in ((0.0, math.inf), (-math.inf, math.inf))


def _write(node: ir.Node, source: ir.Value, bounds: tuple[float, float]) -> bool:
    if bounds == (-math.inf, math.inf):
        return graph.bypass_node(node, source)
    if bounds == (0.0, math.inf):
        graph.replace_node(node, "Relu", [source])
        return True
    owner = graph.graph_of(node)
    ends = [np.float32(np.clip(bound, -_HUGE, _HUGE)) for bound in bounds]
    low, high = (
        graph.add_constant(owner, f"{node.name}_{end}", np.asarray(value))
        for end, value in zip(("min", "max"), ends, strict=True)
    )
    graph.replace_node(node, "Clip", [source, low, high])
    return True
