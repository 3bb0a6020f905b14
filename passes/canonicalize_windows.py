"""Spell out every attribute of Conv, MaxPool and AveragePool: nobody after this needs ONNX's defaults.

    Conv(x, w) auto_pad=SAME_UPPER  →  Conv(x, w, zeros) kernel_shape, strides, pads, dilations, group
    MaxPool ceil_mode=1             →  MaxPool ceil_mode=0 with wider pads, where that is exact

Runs after lower-means, which takes pools of the whole plane.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from clio_cc import graph

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CanonicalizeWindows(ir.passes.InPlacePass):
    """Explicit attributes and bias on Conv, MaxPool and AveragePool."""

    name: str = "canonicalize-windows"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass on the main graph."""
        return ir.passes.PassResult(model, graph.rewrite(model, canonicalize))


def canonicalize(node: ir.Node) -> bool:
    """Canonicalize one node; returns whether it changed."""
    if not graph.is_op(node, "Conv", "MaxPool", "AveragePool"):
        return False
    source, target = graph.static_shape(node.inputs[0]), graph.static_shape(node.outputs[0])
    if (
        source is None
        or target is None
        or (node.op_type == "Conv" and graph.static_shape(node.inputs[1]) is None)
    ):
        return False
    rank = len(source) - 2
    kernel = (
        graph.shape(node.inputs[1])[2:] if node.op_type == "Conv" else graph.ints_attr(node, "kernel_shape")
    )
    ones = (1,) * rank
    strides, dilations = graph.ints_attr(node, "strides", ones), graph.ints_attr(node, "dilations", ones)
    pads = _resolved_pads(node, source[2:], target[2:], kernel)
    changed = [
        graph.set_attr(node, "kernel_shape", kernel),
        graph.set_attr(node, "strides", strides),
        graph.set_attr(node, "dilations", dilations),
        graph.set_attr(node, "pads", pads),
        graph.drop_attr(node, "auto_pad"),
    ]
    extra = (
        _canonicalize_conv(node)
        if node.op_type == "Conv"
        else _canonicalize_pool(node, source[2:], target[2:])
    )
    return any(changed) or extra


def _resolved_pads(
    node: ir.Node, source: Sequence[int], target: Sequence[int], kernel: Sequence[int]
) -> tuple[int, ...]:
    """Explicit pads: begins, then ends."""
    auto, rank = graph.str_attr(node, "auto_pad", "NOTSET"), len(kernel)
    if auto not in ("SAME_UPPER", "SAME_LOWER"):
        return graph.ints_attr(node, "pads", (0,) * (2 * rank))
    strides, dilations = (
        graph.ints_attr(node, "strides", (1,) * rank),
        graph.ints_attr(node, "dilations", (1,) * rank),
    )
    totals = [
        max(0, extent(k, s, d, t) - i)
        for k, s, d, i, t in zip(kernel, strides, dilations, source, target, strict=True)
    ]
    small = [total // 2 for total in totals]
    large = [total - half for total, half in zip(totals, small, strict=True)]
    return (*small, *large) if auto == "SAME_UPPER" else (*large, *small)


def extent(kernel: int, stride: int, dilation: int, target: int) -> int:
    """Padded input size that `target` windows cover exactly."""
    return (target - 1) * stride + (kernel - 1) * dilation + 1


def _canonicalize_conv(node: ir.Node) -> bool:
    changed = graph.set_attr(node, "group", graph.int_attr(node, "group", 1))
    weights = graph.required_input(node, 1)
    if graph.input_at(node, 2) is None and weights.dtype is not None:
        zeros = np.zeros(graph.shape(weights)[0], weights.dtype.numpy())
        bias = graph.add_constant(graph.graph_of(node), f"{node.name}_bias", zeros)
        graph.replace_node(
            node, "Conv", [node.inputs[0], weights, bias], {k: a.value for k, a in node.attributes.items()}
        )
        changed = True
    return changed


def _canonicalize_pool(node: ir.Node, source: Sequence[int], target: Sequence[int]) -> bool:
    changed = False
    if node.op_type == "AveragePool":
        counted = graph.int_attr(node, "count_include_pad")
        changed |= graph.set_attr(
            node, "count_include_pad", counted if any(graph.ints_attr(node, "pads")) else 0
        )
    if not graph.int_attr(node, "ceil_mode"):
        return graph.set_attr(node, "ceil_mode", 0) or changed
    rank, pads = len(source), list(graph.ints_attr(node, "pads"))
    windows = zip(
        graph.ints_attr(node, "kernel_shape"),
        graph.ints_attr(node, "strides"),
        graph.ints_attr(node, "dilations"),
        target,
        strict=True,
    )
    for axis, (k, s, d, t) in enumerate(windows):
        missing = extent(k, s, d, t) - source[axis] - pads[axis] - pads[rank + axis]
        # ONNX does not count what ceil_mode adds, even with count_include_pad; and a pad must stay smaller
        # than the kernel.
        if missing > 0 and (graph.int_attr(node, "count_include_pad") or pads[rank + axis] + missing >= k):
            logger.debug("%s: ceil_mode cannot be written as pads", graph.where(node))
            return changed
        pads[rank + axis] += max(0, missing)
    graph.set_attr(node, "pads", pads)
    graph.set_attr(node, "ceil_mode", 0)
    return True
