"""Put activation functions together that an exporter took apart: one table on the device, not four operators.

    Mul(Clip(Add(x, 3), 0, 6), 1/6)                  →  HardSigmoid(x, alpha=1/6, beta=1/2)
    Mul(x, HardSigmoid(x, 1/6, 1/2))                 →  HardSwish(x)
    Mul(Mul(x, Clip(Add(x, 3), 0, 6)), 1/6)          →  HardSwish(x)
    Mul(Mul(x, Add(Erf(Mul(x, 1/sqrt 2)), 1)), 1/2)  →  Gelu(x), in any order of the three factors

Runs after normalize-arithmetic and normalize-clip, so Div, Sub and Min/Max need no patterns of their own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx_ir as ir

from clio_cc import graph


@dataclass(frozen=True)
class FuseActivations(ir.passes.InPlacePass):
    """HardSigmoid, HardSwish and Gelu from their parts."""

    name: str = "fuse-activations"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass on the main graph."""
        return ir.passes.PassResult(model, graph.rewrite(model, fuse))


def fuse(node: ir.Node) -> bool:
    """Fuse the pattern that ends in `node`, a Mul; returns whether there was one."""
    if not graph.is_op(node, "Mul"):
        return False
    factor, values = _factors(node)
    if len(values) == 1 and _near(factor, 1 / 6):
        source = _relu6_of_x_plus_3(values[0])
        if source is not None:
            graph.replace_node(node, "HardSigmoid", [source], {"alpha": 1 / 6, "beta": 0.5})
            return True
    return len(values) == 2 and any(_fuse_product(node, factor, x, y) for x, y in (values, values[::-1]))


def _fuse_product(node: ir.Node, factor: float, x: ir.Value, gate: ir.Value) -> bool:
    if (_near(factor, 1 / 6) and _relu6_of_x_plus_3(gate) is x) or (
        _near(factor, 1.0) and _hard_sigmoid_source(gate) is x
    ):
        graph.replace_node(node, "HardSwish", [x])
        return True
    if _near(factor, 0.5) and _erf_source(gate) is x:
        graph.replace_node(node, "Gelu", [x])
        return True
    return False


def _near(value: float | None, wanted: float) -> bool:
    return value is not None and math.isclose(value, wanted, rel_tol=1e-5)


def _factors(node: ir.Node) -> tuple[float, list[ir.Value]]:
    """A product's scalar factor and its other factors, looking through products that nothing else uses."""
    factor = 1.0
    values: list[ir.Value] = []
    for value in node.inputs:
        number, before = graph.scalar(value), graph.producer(value)
        if number is not None:
            factor *= number
        elif (
            value is not None
            and before is not None
            and graph.is_op(before, "Mul")
            and graph.only_consumer(value) is node
        ):
            inner, more = _factors(before)
            factor, values = factor * inner, [*values, *more]
        elif value is not None:
            values.append(value)
    return factor, values


def _plus(value: ir.Value | None, wanted: float) -> ir.Value | None:
    """x if the value is Add(x, wanted)."""
    node = graph.producer(value)
    if node is None or not graph.is_op(node, "Add"):
        return None
    for x, other in (tuple(node.inputs), tuple(node.inputs)[::-1]):
        if _near(graph.scalar(other), wanted):
            return x
    return None


def _relu6_of_x_plus_3(value: ir.Value) -> ir.Value | None:
    node = graph.producer(value)
    if node is None or not graph.is_op(node, "Clip") or len(node.inputs) != 3:
        return None
    return (
        _plus(node.inputs[0], 3.0)
        if (graph.scalar(node.inputs[1]), graph.scalar(node.inputs[2])) == (0.0, 6.0)
        else None
    )


def _hard_sigmoid_source(value: ir.Value) -> ir.Value | None:
    node = graph.producer(value)
    if node is None or not graph.is_op(node, "HardSigmoid"):
        return None
    standard = _near(graph.float_attr(node, "alpha", 0.2), 1 / 6) and _near(
        graph.float_attr(node, "beta", 0.5), 0.5
    )
    return node.inputs[0] if standard else None


def _erf_source(value: ir.Value) -> ir.Value | None:
    """x if the value is 1 + erf(x / sqrt 2)."""
    erf = graph.producer(_plus(value, 1.0))
    inner = graph.producer(erf.inputs[0]) if erf is not None and graph.is_op(erf, "Erf") else None
    if inner is None or not graph.is_op(inner, "Mul"):
        return None
    factor, values = _factors(inner)
    return values[0] if len(values) == 1 and math.isclose(factor, math.sqrt(0.5), rel_tol=1e-4) else None
