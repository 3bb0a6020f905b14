"""Move layout changes to the edges of the graph and let them cancel: all between runs in one layout.

    Relu(Transpose(x))                      →  Transpose(Relu(x))   also Add, Mul, Concat, Softmax, Pad, means
    Transpose(Transpose(x))                 →  Transpose(x), or x
    Transpose(Relu(input))                  →  Relu(Transpose(input))    an input's own goes up to it
    Reshape(Transpose(x)) that keeps order  →  Reshape(x)

A Transpose of a graph input stays where it is: it says how the caller lays out data.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from clio_cc import graph
from clio_cc.passes.lower_reshapes import moves_only_units

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MoveTransposes(ir.passes.InPlacePass):
    """Transposes to the edges."""

    name: str = "move-transposes"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass on the main graph."""
        return ir.passes.PassResult(model, graph.rewrite(model, move))


def move(node: ir.Node) -> bool:
    """Try every rewrite that ends in this node."""
    if node.domain != "":
        return False
    if node.op_type == "Transpose":
        return _merge(node) or _hoist(node)
    if node.op_type == "Reshape":
        return _absorb(node)
    return _sink(node)


def _perm(node: ir.Node | None) -> tuple[int, ...] | None:
    """Order of a Transpose, None for other nodes."""
    return (
        graph.ints_attr(node, "perm") or None if node is not None and graph.is_op(node, "Transpose") else None
    )


def _inverse(perm: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.argsort(perm))


def _merge(node: ir.Node) -> bool:
    outer, before = _perm(node), graph.producer(node.inputs[0])
    inner = _perm(before)
    if outer is None or inner is None or before is None:
        return False
    joint = [inner[axis] for axis in outer]
    source = graph.required_input(before, 0)
    if joint == sorted(joint) and graph.bypass_node(node, source):
        return True
    graph.replace_node(node, "Transpose", [source], {"perm": joint})
    return True


def _absorb(node: ir.Node) -> bool:
    before = graph.producer(node.inputs[0])
    perm = _perm(before)
    dims = graph.static_shape(before.inputs[0]) if before is not None and perm is not None else None
    if before is None or perm is None or dims is None or not moves_only_units(dims, perm):
        return False
    graph.replace_node(node, "Reshape", [before.inputs[0], node.inputs[1]])
    return True


# --- up to a graph input --------------------------------------------------------------------------


def _is_private_to_input(value: ir.Value | None) -> bool:
    """Whether the value is a graph input, or made from one by what a Transpose may pass, used only here."""
    while value is not None and not value.is_graph_input():
        node = value.producer()
        if node is None or len(value.uses()) != 1 or value.is_graph_output() or not _passable(node):
            return False
        value = graph.data_inputs(node)[0]
    return value is not None


def _passable(node: ir.Node) -> bool:
    """An elementwise operator of one computed input whose constants can be turned along."""
    if node.domain != "" or len(graph.data_inputs(node)) != 1 or len(node.outputs) != 1:
        return False
    data = graph.data_inputs(node)[0]
    same = graph.static_shape(data) is not None and graph.static_shape(data) == graph.static_shape(
        node.outputs[0]
    )
    return same and (node.op_type in graph.UNARY_ELEMENTWISE or node.op_type in graph.BROADCASTING)


def _hoist(node: ir.Node) -> bool:
    perm, before = _perm(node), graph.producer(node.inputs[0])
    if (
        perm is None
        or before is None
        or graph.is_op(before, "Transpose")
        or not _is_private_to_input(node.inputs[0])
    ):
        return False
    source = graph.data_inputs(before)[0]
    dims = [graph.shape(source)[axis] for axis in perm]
    turned = graph.insert_before(
        node, "Transpose", [source], {"perm": perm}, name=f"{node.name}", dims=dims, dtype=source.dtype
    )
    inputs = [turned if value is source else _turn_constant(before, value, perm) for value in before.inputs]
    _replace_like(node, before, inputs)
    graph.graph_of(before).remove(before, safe=True)  # now, or its operand would look shared
    return True


# --- down to where they cancel --------------------------------------------------------------------


def _sink(node: ir.Node) -> bool:
    data = graph.data_inputs(node)
    perms = {_perm(graph.producer(value)) for value in data}
    perm = next(iter(perms)) if len(perms) == 1 else None
    if perm is None or len(node.outputs) != 1 or graph.static_shape(node.outputs[0]) is None:
        return False
    sources = [graph.required_input(_producer(value), 0) for value in data]
    if all(_is_private_to_input(source) for source in sources):
        return False
    if node.op_type in graph.UNARY_ELEMENTWISE and len(data) == 1:
        return _sink_elementwise(node, perm)
    if node.op_type in graph.BROADCASTING:
        return _sink_elementwise(node, perm)
    if node.op_type in ("Concat", "Softmax") and len(data) == len(node.inputs):
        return _sink_axis(node, perm)
    if node.op_type == "ReduceMean":
        return _sink_mean(node, perm)
    return node.op_type == "Pad" and _sink_pad(node, perm)


def _producer(value: ir.Value) -> ir.Node:
    node = value.producer()
    assert node is not None
    return node


def _sink_elementwise(node: ir.Node, perm: tuple[int, ...]) -> bool:
    rank = len(perm)
    if any(len(graph.shape(value)) > rank for value in node.inputs if value is not None):
        return False
    back = _inverse(perm)
    inputs = [
        _turn_constant(node, v, back) if graph.is_constant(v) else _untransposed(v) for v in node.inputs
    ]
    _transpose_after(node, inputs, perm)
    return True


def _sink_axis(node: ir.Node, perm: tuple[int, ...]) -> bool:
    graph.set_attr(node, "axis", perm[graph.int_attr(node, "axis")])
    _transpose_after(node, [_untransposed(v) for v in node.inputs], perm)
    return True


def _sink_mean(node: ir.Node, perm: tuple[int, ...]) -> bool:
    axes = graph.node_axes(node)
    if not axes:
        return False
    mapped = sorted(perm[axis % len(perm)] for axis in axes)
    left = [axis for axis in perm if axis not in mapped]
    keep = graph.int_attr(node, "keepdims", 1)
    if not keep and left != sorted(left):
        logger.debug("%s: its result would change order", graph.where(node))
        return False
    inputs = [
        _untransposed(node.inputs[0]),
        graph.add_constant(graph.graph_of(node), f"{node.name}_axes", np.asarray(mapped, np.int64)),
    ]
    if keep:
        _transpose_after(node, inputs, perm)
    else:
        _replace_like(node, node, inputs)
    return True


def _sink_pad(node: ir.Node, perm: tuple[int, ...]) -> bool:
    pads = graph.constant(graph.input_at(node, 1))
    if pads is None or graph.input_at(node, 3) is not None:
        return False
    turned = pads.reshape(2, -1)[:, list(_inverse(perm))].reshape(-1)
    dims = graph.add_constant(graph.graph_of(node), f"{node.name}_pads", turned)
    _transpose_after(node, [_untransposed(node.inputs[0]), dims, *node.inputs[2:]], perm)
    return True


def _untransposed(value: ir.Value | None) -> ir.Value | None:
    before = graph.producer(value)
    return before.inputs[0] if before is not None else value


def _turn_constant(node: ir.Node, value: ir.Value | None, perm: Sequence[int]) -> ir.Value | None:
    """The constant operand as it must be after its partner was transposed by `perm`."""
    array = graph.constant(value)
    if array is None or array.size == 1:
        return value
    full = array.reshape((1,) * (len(perm) - array.ndim) + array.shape)
    return graph.add_constant(
        graph.graph_of(node), f"{value.name if value is not None else node.name}_turned", full.transpose(perm)
    )


def _attributes(node: ir.Node) -> dict[str, graph.Attribute]:
    return {name: attr.value for name, attr in node.attributes.items()}


def _replace_like(node: ir.Node, like: ir.Node, inputs: Sequence[ir.Value | None]) -> None:
    """Replace `node` by the operator of `like` on other inputs."""
    graph.replace_node(node, like.op_type, inputs, _attributes(like), name=like.name or "")


def _transpose_after(node: ir.Node, inputs: Sequence[ir.Value | None], perm: tuple[int, ...]) -> None:
    """Replace Op(Transpose(x)) by Transpose(Op(x)), which now writes the operator's tensor."""
    out = node.outputs[0]
    dims = [graph.shape(out)[axis] for axis in _inverse(perm)]
    name = node.name or node.op_type
    moved = graph.insert_before(
        node, node.op_type, inputs, _attributes(node), name=name, dims=dims, dtype=out.dtype
    )
    graph.replace_node(node, "Transpose", [moved], {"perm": perm}, name=f"{name}_layout")
    _producer(moved).name = name
