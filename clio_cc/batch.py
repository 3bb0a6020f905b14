"""Whether a float graph made for one sample works for many at once, and making it so."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

from clio_cc import graph

# Operators that treat each sample of a batch on its own, whatever their attributes (as long as shapes match).
_PER_SAMPLE = graph.UNARY_ELEMENTWISE | frozenset(
    (
        "Conv ConvTranspose Gemm MaxPool AveragePool GlobalAveragePool GlobalMaxPool LRN BatchNormalization "
        "InstanceNormalization GroupNormalization DepthToSpace SpaceToDepth DequantizeLinear QuantizeLinear"
    ).split()
)
_WITH_AXIS = {"Concat": 0, "Softmax": -1, "LogSoftmax": -1, "LayerNormalization": -1, "Split": 0}
_REDUCTIONS = frozenset("ReduceMean ReduceMax ReduceMin ReduceSum ReduceProd ReduceL1 ReduceL2".split())


def any_batch(model: ir.Model) -> onnx.ModelProto:
    """The model as protobuf for N samples at once, or for 1 if some operator does not treat each on its own.

    Args:
        model: Made for a batch of 1; its Reshapes are changed.
    """
    return to_proto(model, free_batch(model.graph))


def to_proto(model: ir.Model, batched: bool) -> onnx.ModelProto:
    """The model as protobuf, the first axis of every input and output called N if `batched`."""
    proto = graph.to_proto(model)
    del proto.graph.value_info[:]  # they say batch 1
    if batched:
        for value in (*proto.graph.input, *proto.graph.output):
            value.type.tensor_type.shape.dim[0].dim_param = "N"
    return proto


def free_batch(owner: ir.Graph) -> bool:
    """Make the graph work for any batch if every operator allows it; returns whether it does."""
    if not all(_keeps_samples_apart(node) for node in owner):
        return False
    for node in owner:
        if graph.is_op(node, "Reshape"):
            dims = np.asarray([0, *graph.shape(node.outputs[0])[1:]], np.int64)  # 0: as many as come in
            node.replace_input_with(1, graph.add_constant(owner, f"{node.name}_shape", dims))
    for name in [name for name, value in owner.initializers.items() if not value.uses()]:
        del owner.initializers[name]
    return True


def _keeps_samples_apart(node: ir.Node) -> bool:
    """Whether the node, given (N, …) for its (1, …), would compute N samples, each on its own."""
    values = [*graph.data_inputs(node), *node.outputs]
    shapes = [graph.static_shape(value) for value in values if value.name]
    if node.domain != "" or any(dims is None or len(dims) < 2 or dims[0] != 1 for dims in shapes):
        return False
    op, rank = node.op_type, len(graph.shape(node.outputs[0]))
    if op in _PER_SAMPLE or (op == "Reshape" and graph.is_constant(graph.input_at(node, 1))):
        return op != "Gemm" or (graph.is_constant(node.inputs[1]) and not graph.int_attr(node, "transA"))
    if op in graph.BROADCASTING:
        return all(_broadcasts_over_batch(value, rank) for value in node.inputs)
    if op in _WITH_AXIS:
        return graph.int_attr(node, "axis", _WITH_AXIS[op]) % rank != 0
    if op in _REDUCTIONS:
        axes = graph.node_axes(node)
        return bool(axes) and all(axis % len(graph.shape(node.inputs[0])) for axis in axes or ())
    if op == "Transpose":
        return graph.ints_attr(node, "perm", (1,))[0] == 0
    if op == "MatMul":
        return _is_batched_matmul(node)
    return op == "Pad" and _pads_no_batch(node)


def _broadcasts_over_batch(value: ir.Value | None, rank: int) -> bool:
    """A computed operand of full rank, or a constant that is the same for each sample."""
    dims = graph.static_shape(value)
    if dims is None:
        return value is None
    return (
        len(dims) == rank and dims[0] == 1
        if not graph.is_constant(value)
        else len(dims) < rank or dims[0] == 1
    )


def _is_batched_matmul(node: ir.Node) -> bool:
    left, right = graph.shape(node.inputs[0]), graph.shape(node.inputs[1])
    if graph.is_constant(node.inputs[0]):
        return False
    if graph.is_constant(node.inputs[1]):
        return len(right) < len(left) or right[0] == 1 or (len(left) == len(right) == 2)
    return len(left) == len(right) > 2


def _pads_no_batch(node: ir.Node) -> bool:
    pads = graph.integers(graph.input_at(node, 1))
    if pads is None or graph.input_at(node, 3) is not None:
        return False
    return pads[0] == pads[len(pads) // 2] == 0
