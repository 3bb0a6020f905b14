"""Which nodes of a canonical float graph the device can run, and why not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from clio_cc import graph
from clio_cc.quantization.functions import FUNCTIONS, clamp_bounds
from clio_cc.quantization.layers import Float

RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
"""Operators that leave the order of values as it is."""


def device_supports(node: ir.Node) -> str:
    """Return '' if the device can run this node of a canonical float graph, else the reason, short enough for a table."""
    if node.domain != "":
        return f"operators of domain {node.domain} do not run on the device"
    check = _CHECKS.get(node.op_type)
    if check is None:
        return "" if node.op_type in FUNCTIONS else "no device operator"
    if any(graph.static_shape(value) is None for value in [*graph.data_inputs(node), node.outputs[0]]):
        return "a shape is not known at compile time"
    return check(node)


def _check_conv(node: ir.Node) -> str:
    weight, bias = graph.constant(graph.input_at(node, 1)), graph.input_at(node, 2)
    if weight is None or (bias is not None and graph.constant(bias) is None):
        return "weights are computed at run time"
    if weight.ndim != 4:
        return f"only two-dimensional convolutions, this one has {weight.ndim - 2}"
    return ""


def _check_gemm(node: ir.Node) -> str:
    if graph.constant(graph.input_at(node, 1)) is None or graph.constant(graph.input_at(node, 2)) is None:
        return "weights are computed at run time"
    return "" if _one_row(node.inputs[0]) else "takes one row at a time"


def _one_row(value: ir.Value | None) -> bool:
    dims = graph.shape(value)
    return len(dims) == 2 and dims[0] == 1


def _check_arithmetic(node: ir.Node) -> str:
    data = graph.data_inputs(node)
    shapes = [graph.shape(value) for value in data]
    out = graph.shape(node.outputs[0])
    if len(data) == 1:
        return _checkconstant_operand(node, shapes[0], out)
    if out not in shapes:
        return "both operands are stretched"
    other = shapes[1 - shapes.index(out)]
    if other in (out, (1, out[1], *[1] * (len(out) - 2))):
        return ""
    return f"cannot combine {out} with {other}, only equal shapes or one value per channel"


def _checkconstant_operand(node: ir.Node, shape: tuple[int, ...], out: tuple[int, ...]) -> str:
    constant = constant_operand(node)
    wide = [axis for axis, dim in enumerate(constant.shape, len(out) - constant.ndim) if dim != 1]
    if shape != out or len(wide) > 1:
        return "a constant operand must be one number or one per channel"
    return ""


def constant_operand(node: ir.Node) -> Float:
    """Return the constant operand of an Add or Mul that has one."""
    found = [graph.constant(value) for value in node.inputs if graph.is_constant(value)]
    assert found[0] is not None
    return found[0].astype(np.float64)


def _check_clip(node: ir.Node) -> str:
    return "" if clamp_bounds(node) is not None else "bounds are computed at run time"


def _check_image(node: ir.Node) -> str:
    if len(graph.shape(node.inputs[0])) != 4:
        return "only images (rank 4)"
    if len(node.outputs) > 1:
        return "indices of the maxima are not available"
    if graph.int_attr(node, "ceil_mode"):
        return "ceil_mode is not resolved"
    window, dilation = graph.ints_attr(node, "kernel_shape"), graph.ints_attr(node, "dilations", (1, 1))
    pads = graph.ints_attr(node, "pads", (0, 0, 0, 0))
    reach = [(k - 1) * d + 1 for k, d in zip(window, dilation, strict=False)]
    return (
        "padding is wider than the window"
        if any(p >= r for p, r in zip(pads, reach * 2, strict=False))
        else ""
    )


def _check_concat(node: ir.Node) -> str:
    out = graph.shape(node.outputs[0])
    if len(graph.data_inputs(node)) != len(node.inputs):
        return "cannot join constants"
    axis = graph.int_attr(node, "axis") % len(out)
    return "" if axis != 0 and out[0] == 1 else "cannot join along the batch"


def _check_pad(node: ir.Node) -> str:
    if graph.str_attr(node, "mode", "constant") != "constant":
        return "only constant padding"
    pads = image_pads(node)
    if pads is None:
        return "padding is computed at run time"
    return "" if min(pads) >= 0 else "cannot crop"


def image_pads(node: ir.Node) -> tuple[int, int, int, int] | None:
    """Return top, left, bottom, right of a Pad of an NCHW image; None if it is anything else."""
    pads, dims = graph.constant(graph.input_at(node, 1)), graph.shape(node.inputs[0])
    value, axes = graph.input_at(node, 2), graph.input_at(node, 3)
    if pads is None or len(dims) != 4 or (value is not None and graph.scalar(value) is None):
        return None
    listed = range(4) if axes is None else [int(a) % 4 for a in np.asarray(graph.constant(axes)).reshape(-1)]
    begin, end = [0] * 4, [0] * 4
    for index, axis in enumerate(listed):
        begin[axis], end[axis] = int(pads[index]), int(pads[index + len(listed)])
    return (begin[2], begin[3], end[2], end[3]) if not any([*begin[:2], *end[:2]]) else None


def _check_reshape(node: ir.Node) -> str:
    before, after = graph.shape(node.inputs[0]), graph.shape(node.outputs[0])
    return "" if before[0] == after[0] == 1 else "the batch does not stay in front"


def _check_transpose(node: ir.Node) -> str:
    return "" if graph.ints_attr(node, "perm")[:1] == (0,) else "the batch does not stay in front"


def _check_softmax(node: ir.Node) -> str:
    dims, value = graph.shape(node.inputs[0]), node.outputs[0]
    if value.uses() or not value.is_graph_output():
        return "only as the last layer"
    axis = graph.int_attr(node, "axis", -1) % len(dims)
    return "" if len(dims) == 2 and axis == 1 and dims[0] == 1 else "only over a vector"


_CHECKS: dict[str, Callable[[ir.Node], str]] = {
    "Conv": _check_conv,
    "Gemm": _check_gemm,
    "Add": _check_arithmetic,
    "Mul": _check_arithmetic,
    "Clip": _check_clip,
    "MaxPool": _check_image,
    "AveragePool": _check_image,
    "GlobalAveragePool": _check_image,
    "Concat": _check_concat,
    "Pad": _check_pad,
    **dict.fromkeys(RESHAPES, _check_reshape),
    "Transpose": _check_transpose,
    "Softmax": _check_softmax,
}

DEVICE_OPERATORS = frozenset((*_CHECKS, *FUNCTIONS))
"""All ONNX operators that the device can run in some form; README lists them."""
