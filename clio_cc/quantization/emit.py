"""Layer + scales + integer weights → operator: the last step, where nothing is chosen any more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from clio_cc.operators import softmax
from clio_cc.operators.base import Operator, Tensor
from clio_cc.operators.conv import Conv
from clio_cc.operators.elementwise import Add, Mul, rescale_terms
from clio_cc.operators.movement import Concat, Pad, Reshape, Transpose
from clio_cc.operators.pool import AveragePool, MaxPool, rescale_ratio
from clio_cc.operators.softmax import Softmax
from clio_cc.operators.table import Table, tabulate
from clio_cc.qformat import (
    INT8_MAX,
    INT8_MIN,
    Int8Array,
    IntArray,
    Requantize,
    quantize,
    requantize_by_multiplier,
    requantize_by_shift,
)
from clio_cc.quantization.formats import Mode
from clio_cc.quantization.layers import (
    AddLayer,
    Clamped,
    ConcatLayer,
    ConvLayer,
    Float,
    Layer,
    MulLayer,
    PadLayer,
    PoolLayer,
    ReshapeLayer,
    SoftmaxLayer,
    TableLayer,
    TransposeLayer,
)


def clamp_steps(layer: Clamped, scale: float) -> tuple[int, int]:
    """Return a layer's bounds in steps of its output, within int8."""
    lo, hi = (
        float(np.clip(np.floor(bound / scale + 0.5), INT8_MIN, INT8_MAX)) for bound in (layer.lo, layer.hi)
    )
    return int(lo), int(hi)


def requantization(ratio: Float, layer: Clamped, scale: float, mode: Mode) -> Requantize:
    """Return the requantization by `ratio` (accumulator scale over output scale) with the layer's clamp."""
    make = requantize_by_shift if mode == "shift" else requantize_by_multiplier
    return make(ratio, *clamp_steps(layer, scale))


def emit_conv(
    layer: ConvLayer, x: Tensor, y: Tensor, weight: Int8Array, weight_scale: Float, bias: IntArray, mode: Mode
) -> Conv:
    """Return the operator of a Conv or Gemm; `bias` in steps of ``x.scale * weight_scale``."""
    return Conv(
        name=layer.name,
        kind=layer.kind,
        inputs=(x,),
        output=y,
        weight=weight,
        bias=bias.astype(np.int32),
        requantize=requantization(x.scale * weight_scale / y.scale, layer, y.scale, mode),
        stride=layer.stride,
        dilation=layer.dilation,
        pads=layer.pads,
        groups=layer.groups,
    )


def smallest_scale(layer: Layer, inputs: Sequence[Tensor], mode: Mode) -> float:
    """Return the finest output scale that the layer's requantization can give, 0 where any will do."""
    if isinstance(layer, MulLayer):
        return inputs[0].scale * inputs[1].scale * (1 if mode == "shift" else 4.01)
    return 0.0


def emit(layer: Layer, inputs: Sequence[Tensor], y: Tensor, mode: Mode) -> Operator:
    """Return the operator of any layer but Conv and Gemm."""
    base: dict[str, Any] = {"name": layer.name, "kind": layer.kind, "inputs": tuple(inputs), "output": y}
    scales = [tensor.scale for tensor in inputs]
    match layer:
        case AddLayer():
            (m0, m1), shift = rescale_terms(scales, y.scale)
            requantize = Requantize(np.array([shift], np.int32), None, *clamp_steps(layer, y.scale))
            return Add(**base, multipliers=(m0, m1), requantize=requantize)
        case MulLayer():
            ratio = np.array([scales[0] * scales[1] / y.scale])
            return Mul(**base, requantize=requantization(ratio, layer, y.scale, mode))
        case TableLayer():
            return Table(**base, table=tabulate(layer.function, scales[0], y.scale))
        case PoolLayer():
            return _emit_pool(layer, inputs[0], y)
        case ConcatLayer():
            multipliers, shift = rescale_terms(scales, y.scale)
            requantize = Requantize(np.array([shift], np.int32))
            return Concat(**base, axis=layer.axis, multipliers=multipliers, requantize=requantize)
        case PadLayer():
            value = int(quantize(np.array(layer.value), y.scale))
            return Pad(**base, pads=layer.pads, value=value)
        case ReshapeLayer():
            return Reshape(**base)
        case TransposeLayer():
            return Transpose(**base, permutation=layer.permutation)
        case SoftmaxLayer():
            return Softmax(**base, table=softmax.exponentials(scales[0]))
    raise TypeError(f"no operator for {type(layer).__name__}")


def _emit_pool(layer: PoolLayer, x: Tensor, y: Tensor) -> Operator:
    base: dict[str, Any] = {
        "name": layer.name, "kind": layer.kind, "inputs": (x,), "output": y,
        "window": layer.window, "stride": layer.stride, "pads": layer.pads, "dilation": layer.dilation,
    }  # fmt: skip
    if not layer.average:
        return MaxPool(**base)
    numerator, denominator = rescale_ratio(x.scale, y.scale, layer.window[0] * layer.window[1])
    return AveragePool(
        **base,
        numerator=numerator,
        denominator=denominator,
        count_padding=layer.count_padding,
    )
