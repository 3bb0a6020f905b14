"""Functions of one value, in float64, from their ONNX definitions: what tables are computed from."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from clio_cc import graph
from clio_cc.quantization.layers import Float, Function

_SELU = (
    1.67326319217681884765625,
    1.05070102214813232421875,
)  # ONNX operator Selu: defaults of alpha and gamma
_LARGEST = 1e30  # stands for infinity: far beyond every format, and safe to scale


def _erf(x: Float) -> Float:
    return np.vectorize(math.erf, otypes=[np.float64])(x) if x.size else x


def _sigmoid(x: Float) -> Float:
    return np.asarray(0.5 * (np.tanh(0.5 * x) + 1))


def _softplus(x: Float) -> Float:
    return np.logaddexp(0, x)


def _gelu(node: ir.Node) -> Function:
    if graph.str_attr(node, "approximate", "none") == "tanh":
        return lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return lambda x: 0.5 * x * (1 + _erf(x / math.sqrt(2)))


def _negative_part(node: ir.Node, alpha: float, gamma: float = 1.0) -> Function:
    """Elu and Selu: ``gamma * alpha * (exp(x) - 1)`` below zero."""
    a, g = graph.float_attr(node, "alpha", alpha), graph.float_attr(node, "gamma", gamma)
    return lambda x: g * np.where(x > 0, x, a * np.expm1(np.minimum(x, 0)))


def _celu(node: ir.Node) -> Function:
    a = graph.float_attr(node, "alpha", 1.0)
    return lambda x: np.maximum(x, 0) + np.minimum(a * np.expm1(np.minimum(x, 0) / a), 0)


def _leaky(node: ir.Node) -> Function:
    a = graph.float_attr(node, "alpha", 0.01)
    return lambda x: np.where(x < 0, a * x, x)


def _hard_sigmoid(node: ir.Node) -> Function:
    a, b = graph.float_attr(node, "alpha", 0.2), graph.float_attr(node, "beta", 0.5)
    return lambda x: np.clip(a * x + b, 0, 1)


def _thresholded(node: ir.Node) -> Function:
    a = graph.float_attr(node, "alpha", 1.0)
    return lambda x: np.where(x > a, x, 0.0)


def _swish(node: ir.Node) -> Function:
    a = graph.float_attr(node, "alpha", 1.0)
    return lambda x: x * _sigmoid(a * x)


def clamp_bounds(node: ir.Node) -> tuple[float, float] | None:
    """Return the bounds of a Relu or a Clip with constant bounds (infinite where absent), else None."""
    if graph.is_op(node, "Relu"):
        return 0.0, math.inf
    if not graph.is_op(node, "Clip"):
        return None
    bounds = []
    for index, default in ((1, -math.inf), (2, math.inf)):
        value = graph.input_at(node, index)
        bound = default if value is None else graph.scalar(value)
        if bound is None:
            return None
        bounds.append(bound)
    return bounds[0], bounds[1]


def _clamp(node: ir.Node) -> Function:
    lo, hi = clamp_bounds(node) or (-math.inf, math.inf)
    return lambda x: np.clip(x, lo, hi)


def _plain(function: Function) -> Callable[[ir.Node], Function]:
    return lambda _: function


FUNCTIONS: dict[str, Callable[[ir.Node], Function]] = {
    "Abs": _plain(np.abs),
    "Atan": _plain(np.arctan),
    "Ceil": _plain(np.ceil),
    "Celu": _celu,
    "Clip": _clamp,
    "Cos": _plain(np.cos),
    "Elu": lambda node: _negative_part(node, 1.0),
    "Erf": _plain(_erf),
    "Exp": _plain(np.exp),
    "Floor": _plain(np.floor),
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _plain(lambda x: x * np.clip(x / 6 + 0.5, 0, 1)),
    "LeakyRelu": _leaky,
    "Log": _plain(np.log),
    "Mish": _plain(lambda x: x * np.tanh(_softplus(x))),
    "Neg": _plain(np.negative),
    "Reciprocal": _plain(np.reciprocal),
    "Relu": _clamp,
    "Round": _plain(np.round),  # halves to even, as ONNX has it
    "Selu": lambda node: _negative_part(node, *_SELU),
    "Sigmoid": _plain(_sigmoid),
    "Sign": _plain(np.sign),
    "Sin": _plain(np.sin),
    "Softplus": _plain(_softplus),
    "Softsign": _plain(lambda x: x / (1 + np.abs(x))),
    "Sqrt": _plain(np.sqrt),
    "Swish": _swish,
    "Tanh": _plain(np.tanh),
    "ThresholdedRelu": _thresholded,
}
"""For each ONNX operator of one value: node → its function."""


def function_of(node: ir.Node) -> Function:
    """Return the function of a node that :data:`FUNCTIONS` lists: float64 in and out, finite everywhere."""
    inner = FUNCTIONS[node.op_type](node)

    def finite(x: Float) -> Float:
        with np.errstate(all="ignore"):
            return np.nan_to_num(inner(x), nan=0.0, posinf=_LARGEST, neginf=-_LARGEST)

    return finite
