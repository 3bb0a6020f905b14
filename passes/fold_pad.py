"""Pad moves into the window operator behind it, where that is exact: the device then needs no padded copy.

    Conv(Pad(x, 0))              →    Conv(x) with wider pads
    AveragePool(Pad(x, 0))       →    AveragePool(x) with wider pads, count_include_pad=1
    MaxPool(Pad(x, -inf))        →    MaxPool(x) with wider pads; also Pad by 0 where x is never negative

Runs after canonicalize-windows (explicit pads).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from clio_cc import graph
from clio_cc.passes.normalize_clip import limits

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FoldPad(ir.passes.InPlacePass):
    """Pad → pads of Conv, AveragePool and MaxPool."""

    name: str = "fold-pad"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass on the main graph."""
        return ir.passes.PassResult(model, graph.rewrite(model, fold))


def fold(node: ir.Node) -> bool:
    """Fold a Pad into `node`, the window operator that reads it; the Pad stays for its other readers."""
    before = (
        graph.producer(node.inputs[0])
        if graph.is_op(node, "Conv", "MaxPool", "AveragePool") and node.inputs
        else None
    )
    if before is None or not graph.is_op(before, "Pad") or "auto_pad" in node.attributes:
        return False
    extra = spatial_pads(before)
    if extra is None or not _is_exact(node, before, extra):
        logger.debug("%s: %s stays in front of it", graph.where(node), graph.where(before))
        return False
    pads = [int(a + b) for a, b in zip(graph.ints_attr(node, "pads"), extra, strict=True)]
    node.replace_input_with(0, before.inputs[0])
    graph.set_attr(node, "pads", pads)
    if graph.is_op(node, "AveragePool"):
        graph.set_attr(node, "count_include_pad", 1)
    return True


def spatial_pads(pad: ir.Node) -> tuple[int, ...] | None:
    """Begins and ends of a constant-mode Pad that widens only the plane of (N, C, …); None for others."""
    array, axes = graph.constant(graph.input_at(pad, 1)), graph.input_at(pad, 3)
    dims = graph.static_shape(pad.inputs[0])
    if array is None or dims is None or graph.str_attr(pad, "mode", "constant") != "constant":
        return None
    full = np.zeros((2, len(dims)), np.int64)
    chosen = graph.constant(axes) if axes is not None else np.arange(len(dims))
    if chosen is None:
        return None
    full[:, chosen.astype(np.int64)] = array.reshape(2, -1)
    if full[:, :2].any() or (full < 0).any():
        return None
    return tuple(int(p) for p in full[:, 2:].reshape(-1))


def _is_exact(node: ir.Node, pad: ir.Node, extra: tuple[int, ...]) -> bool:
    fill = 0.0 if graph.input_at(pad, 2) is None else graph.scalar(pad.inputs[2])
    if fill is None:
        return False
    if node.op_type == "Conv":
        return fill == 0.0
    pads, kernel = graph.ints_attr(node, "pads"), graph.ints_attr(node, "kernel_shape")
    if graph.int_attr(node, "ceil_mode") or any(
        p + q >= k for p, q, k in zip(pads, extra, kernel * 2, strict=True)
    ):
        return False  # a window might lie wholly in the padding
    if node.op_type == "AveragePool":
        return fill == 0.0 and (not any(pads) or bool(graph.int_attr(node, "count_include_pad")))
    return fill <= float(np.finfo(np.float32).min) or (fill == 0.0 and _is_nonnegative(pad.inputs[0]))


def _is_nonnegative(value: ir.Value | None) -> bool:
    node = graph.producer(value)
    bounds = limits(node)
    return (bounds is not None and bounds[0] >= 0.0) or graph.is_op(
        node, "Sigmoid", "HardSigmoid", "Softmax", "Abs", "Exp"
    )
