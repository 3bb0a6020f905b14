"""Small helpers over ``onnx_ir``: what a value is, what a node costs, and how a pass replaces nodes.

The float graph *is* an ``onnx_ir.Model``; nothing here wraps it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from clio_cc.errors import ClioError

Array = NDArray[np.generic]
Attribute = int | float | str | Sequence[int] | Sequence[float]

# One input, one output, same shape, each element on its own: what a pass may move a layout change across.
UNARY_ELEMENTWISE = frozenset(
    (
        "Abs Acos Asin Atan Cast Ceil Celu Clip Cos Dropout Elu Erf Exp Floor Gelu HardSigmoid HardSwish "
        "Identity LeakyRelu Log Mish Neg Reciprocal Relu Round Selu Sigmoid Sign Sin Softplus Softsign Sqrt "
        "Swish Tanh ThresholdedRelu"
    ).split()
)
BROADCASTING = frozenset("Add Sub Mul Div Min Max Sum Mean Pow PRelu".split())


# --- values ---------------------------------------------------------------------------------------


def static_shape(value: ir.Value | None) -> tuple[int, ...] | None:
    """Shape of a value, or None while any dimension is unknown."""
    if value is None or value.shape is None:
        return None
    dims = tuple(value.shape)
    return (
        tuple(int(d) for d in dims if isinstance(d, int)) if all(isinstance(d, int) for d in dims) else None
    )


def shape(value: ir.Value | None) -> tuple[int, ...]:
    """Shape of a value.

    Raises:
        ClioError: A dimension is not known at compile time; names the tensor.
    """
    found = static_shape(value)
    if found is None:
        name = value.name if value is not None else "(missing)"
        raise ClioError(f"the shape of tensor '{name}' is not known at compile time", where(producer(value)))
    return found


def size(value: ir.Value | None) -> int:
    """Number of elements of a value; ClioError as :func:`shape`."""
    return math.prod(shape(value))


def constant(value: ir.Value | None) -> Array | None:
    """The value's contents if it is an initializer, else None."""
    if value is None or not value.is_initializer() or value.is_graph_input() or value.const_value is None:
        return None
    return np.asarray(value.const_value.numpy())


def is_constant(value: ir.Value | None) -> bool:
    """Whether the value is an initializer (its contents are not read)."""
    return value is not None and value.is_initializer() and not value.is_graph_input()


def scalar(value: ir.Value | None) -> float | None:
    """The single number that a constant holds (of any shape with one element), else None."""
    array = constant(value)
    return float(array.reshape(())) if array is not None and array.size == 1 else None


def integers(value: ir.Value | None) -> list[int] | None:
    """The contents of an integer constant, flat, else None."""
    array = constant(value)
    return [int(n) for n in array.reshape(-1)] if array is not None else None


def producer(value: ir.Value | None) -> ir.Node | None:
    """The node that writes the value; None for graph inputs and initializers."""
    return value.producer() if value is not None else None


def only_consumer(value: ir.Value) -> ir.Node | None:
    """The one node that reads the value (once), or None if it is a graph output or read elsewhere too."""
    uses = list(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None


# --- nodes ----------------------------------------------------------------------------------------


def where(node: ir.Node | None) -> str:
    """How messages name a node: ``node 'conv1' (Conv)``; empty for None."""
    return f"node '{node.name}' ({node.op_type})" if node is not None else ""


def is_op(node: ir.Node | None, *op_types: str) -> bool:
    """Whether the node is one of these operators of the default ONNX domain."""
    return node is not None and node.domain == "" and node.op_type in op_types


def input_at(node: ir.Node, index: int) -> ir.Value | None:
    """Input `index`, None where an optional input is absent."""
    return node.inputs[index] if index < len(node.inputs) else None


def required_input(node: ir.Node, index: int) -> ir.Value:
    """Input `index` of a checked graph, where the operator does not allow it to be absent."""
    value = input_at(node, index)
    assert value is not None, f"{where(node)} has no input {index}"
    return value


def data_inputs(node: ir.Node) -> list[ir.Value]:
    """Inputs that are computed at run time, in order (no initializers, no absent ones)."""
    return [value for value in node.inputs if value is not None and not is_constant(value)]


def int_attr(node: ir.Node, name: str, default: int = 0) -> int:
    """An integer attribute or its default."""
    found = node.attributes.get(name)
    return found.as_int() if found is not None else default


def float_attr(node: ir.Node, name: str, default: float = 0.0) -> float:
    """A float attribute or its default."""
    found = node.attributes.get(name)
    return found.as_float() if found is not None else default


def str_attr(node: ir.Node, name: str, default: str = "") -> str:
    """A string attribute or its default."""
    found = node.attributes.get(name)
    return found.as_string() if found is not None else default


def ints_attr(node: ir.Node, name: str, default: Sequence[int] = ()) -> tuple[int, ...]:
    """A list-of-integers attribute or its default."""
    found = node.attributes.get(name)
    return tuple(found.as_ints()) if found is not None else tuple(default)


def set_attr(node: ir.Node, name: str, value: Attribute) -> bool:
    """Set an attribute; returns whether that changed anything."""
    new = ir.convenience.convert_attribute(name, value)
    old = node.attributes.get(name)
    if old is not None and old.type == new.type and old.value == new.value:
        return False
    node.attributes.add(new)
    return True


def drop_attr(node: ir.Node, name: str) -> bool:
    """Remove an attribute; returns whether it was there."""
    return node.attributes.pop(name, None) is not None


def node_axes(node: ir.Node) -> tuple[int, ...] | None:
    """The axes of a ReduceX, Squeeze or Unsqueeze (attribute or constant); None if absent or computed."""
    if "axes" in node.attributes:
        return ints_attr(node, "axes")
    axes = integers(input_at(node, 1))
    return tuple(axes) if axes is not None else None


# --- costs ----------------------------------------------------------------------------------------


def macs(node: ir.Node) -> int:
    """Multiply-accumulates of one inference: convolutions, Gemm, MatMul, LSTM, GRU, RNN; 0 for others."""
    if is_op(node, "Conv"):
        return size(node.outputs[0]) * math.prod(shape(node.inputs[1])[1:])
    if is_op(node, "ConvTranspose"):
        return size(node.inputs[0]) * math.prod(shape(node.inputs[1])[1:])
    if is_op(node, "Gemm", "MatMul"):
        depth = shape(node.inputs[0])[0 if int_attr(node, "transA") else -1]
        return size(node.outputs[0]) * depth
    if is_op(node, "LSTM", "GRU", "RNN"):
        steps, batch = shape(node.inputs[0])[:2]
        return steps * batch * (size(node.inputs[1]) + size(node.inputs[2]))
    return 0


def known_macs(node: ir.Node) -> int:
    """As :func:`macs`; 0 where a shape is not known at compile time."""
    values = [value for value in (*node.inputs, *node.outputs) if value is not None]
    return macs(node) if all(static_shape(value) is not None for value in values) else 0


def weight_bytes(node: ir.Node) -> int:
    """Bytes of flash for a node's constants on an int8 device: 1 per element, 4 per bias element.

    Only float constants count (shapes, axes and Clip's bounds become code).
    """
    total = 0
    for index, value in enumerate(node.inputs):
        if (
            value is None
            or not is_constant(value)
            or value.dtype != ir.DataType.FLOAT
            or is_op(node, "Clip", "Pad")
        ):
            continue
        is_bias = index == 2 and is_op(node, "Conv", "Gemm", "ConvTranspose")
        total += size(value) * (4 if is_bias else 1)
    return total


# --- rewriting ------------------------------------------------------------------------------------


def value_names(graph: ir.Graph) -> set[str]:
    """All names of tensors in the graph."""
    values = [*graph.inputs, *graph.initializers.values(), *(out for node in graph for out in node.outputs)]
    return {value.name for value in values if value.name}


def fresh_name(base: str, taken: set[str]) -> str:
    """`base`, or `base_2`, `base_3`, … where that is taken."""
    name, number = base, 2
    while name in taken:
        name, number = f"{base}_{number}", number + 1
    return name


def add_constant(graph: ir.Graph, base: str, array: Array) -> ir.Value:
    """Register an initializer under a new name that starts with `base`."""
    name = fresh_name(base, value_names(graph))
    tensor = ir.tensor(np.array(array, order="C"), name=name)
    value = ir.Value(
        name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.register_initializer(value)
    return value


def insert_before(
    anchor: ir.Node,
    op_type: str,
    inputs: Sequence[ir.Value | None],
    attributes: Mapping[str, Attribute] | None = None,
    *,
    name: str,
    dims: Sequence[int] | None,
    dtype: ir.DataType | None,
) -> ir.Value:
    """Insert a one-output node before `anchor`; its and its tensor's names start with `name`. Returns that."""
    graph = graph_of(anchor)
    node_name = fresh_name(name, {node.name for node in graph if node.name})
    out = ir.Value(
        name=fresh_name(node_name, value_names(graph)),
        shape=ir.Shape(dims) if dims is not None else None,
        type=ir.TensorType(dtype) if dtype is not None else None,
    )
    node = ir.node(op_type, inputs, attributes=dict(attributes or {}), outputs=[out], name=node_name)
    graph.insert_before(anchor, node)
    return out


def replace_node(
    old: ir.Node,
    op_type: str,
    inputs: Sequence[ir.Value | None],
    attributes: Mapping[str, Attribute] | None = None,
    name: str = "",
) -> ir.Node:
    """Replace a node by another operator with the same first output; it keeps its name unless given."""
    graph, value = graph_of(old), old.outputs[0]
    out = ir.Value(name=value.name, shape=value.shape, type=value.type)
    node = ir.node(
        op_type,
        inputs,
        attributes=dict(attributes or {}),
        outputs=[out],
        name=name or old.name,
        metadata_props=dict(old.metadata_props),
    )
    graph.insert_before(old, node)
    value.replace_all_uses_with(out, replace_graph_outputs=True)
    graph.remove(old, safe=True)
    return node


def bypass_node(node: ir.Node, source: ir.Value | None = None) -> bool:
    """Remove a node whose output equals `source` (default: input 0); False where output names forbid it.

    A graph output keeps its name: the source is renamed to it, which is impossible for a graph input, an
    initializer or another output.
    """
    graph, value = graph_of(node), node.outputs[0]
    source = source if source is not None else required_input(node, 0)
    source.shape, source.type = source.shape or value.shape, source.type or value.type
    if value.is_graph_output():
        if source.producer() is None or source.is_graph_output():
            return False
        name, value.name = value.name, None
        value.replace_all_uses_with(source, replace_graph_outputs=True)
        source.name = name
    else:
        value.replace_all_uses_with(source)
    graph.remove(node, safe=True)
    return True


def graph_of(node: ir.Node) -> ir.Graph:
    """The graph that a node belongs to."""
    assert isinstance(node.graph, ir.Graph), f"{where(node)} is in no graph"
    return node.graph


def rewrite(model: ir.Model, rule: Callable[[ir.Node], bool]) -> bool:
    """Apply `rule` to every node of the main graph until nothing changes, then drop what nothing uses.

    Args:
        rule: Looks at one node, may rewrite around it, returns whether it did.

    Returns:
        Whether the model changed.
    """
    changed = False
    again = True
    while again:
        again = False
        for node in list(model.graph):
            if node.graph is model.graph and rule(node):
                again = changed = True
        # After each sweep: what is dead must not look like a second reader in the next.
        changed |= remove_unused(model)
    return changed


def remove_unused(model: ir.Model) -> bool:
    """Drop nodes and initializers that no output depends on; returns whether there were any."""
    graph, changed = model.graph, False
    for node in reversed(graph):
        if not any(out.uses() or out.is_graph_output() for out in node.outputs):
            graph.remove(node, safe=True)
            changed = True
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]
            changed = True
    return changed


# --- whole models ---------------------------------------------------------------------------------


def to_proto(model: ir.Model) -> onnx.ModelProto:
    """The model as protobuf."""
    proto = ir.to_proto(model)
    assert isinstance(proto, onnx.ModelProto)
    return proto


def to_bytes(model: ir.Model) -> bytes:
    """The model as a file's bytes; equal models give equal bytes."""
    data: bytes = to_proto(model).SerializeToString(deterministic=True)
    return data


def to_text(model: ir.Model) -> str:
    """One line per node, for people: ``relu1: r[1,8,4,4] = Relu(c)``; weights are not shown."""

    def show(value: ir.Value | None) -> str:
        if value is None:
            return "-"
        dims = ",".join(str(d) for d in value.shape) if value.shape is not None else "?"
        return f"{value.name}[{dims}]"

    def line(node: ir.Node) -> str:
        attributes = ", ".join(
            f"{attr.name}={attr.value}" for attr in sorted(node.attributes.values(), key=lambda a: a.name)
        )
        outputs = ", ".join(show(value) for value in node.outputs)
        inputs = ", ".join(show(value) for value in node.inputs)
        return f"  {node.name}: {outputs} = {node.op_type}({inputs})" + (
            f" {{{attributes}}}" if attributes else ""
        )

    graph = model.graph
    head = f"{graph.name}({', '.join(map(show, graph.inputs))}) -> ({', '.join(map(show, graph.outputs))})"
    return "\n".join([head, *map(line, graph)]) + "\n"


def extract(model: ir.Model, inputs: Sequence[str], outputs: Sequence[str]) -> ir.Model:
    """The part of the model between named tensors, as a new model that shares nothing with the old one.

    Args:
        inputs: Tensors (or graph inputs) that become the inputs; whatever computes them is dropped.
        outputs: Tensors that become the outputs.

    Raises:
        ClioError: A name is not in the graph, or an output still needs an input that is not listed.
    """
    part = model.clone()
    graph = part.graph
    values = {value.name: value for value in _values(graph)}
    for name in [*inputs, *outputs]:
        if name not in values:
            raise ClioError(f"there is no tensor '{name}' in the model")
    graph.outputs[:] = [values[name] for name in outputs]
    graph.inputs[:] = [_as_input(graph, values[name]) for name in inputs]
    remove_unused(part)
    known = {id(value) for value in [*graph.inputs, *graph.initializers.values()]}
    for node in graph:
        for value in node.inputs:
            if value is not None and value.producer() is None and id(value) not in known:
                raise ClioError(f"tensor '{value.name}' is needed too", where(node))
    return part


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs


def _as_input(graph: ir.Graph, value: ir.Value) -> ir.Value:
    """A graph input in place of a computed value, under the same name."""
    if value.producer() is None:
        return value
    new = ir.Value(name=value.name, shape=value.shape, type=value.type)
    value.replace_all_uses_with(new, replace_graph_outputs=True)
    if value.name is not None:
        value.name = fresh_name(f"{value.name}_old", value_names(graph))
    return new
