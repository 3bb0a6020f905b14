"""The cloud half: what comes after a cut as one ONNX graph, in a Triton model repository.

The graph takes int8 units as the device sends them, unit-major (channels first), and dequantizes them itself,
so onnxruntime and Triton run it as it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import ArrayLike, DTypeLike

from clio_cc import graph
from clio_cc.errors import ClioError
from clio_cc.partition import PartitionPoint

UNITS = "units"
"""Name of the cloud graph's input."""
MAX_BATCH = 64
"""Largest batch that Triton may put together."""

# Operators that treat each sample of a batch on its own, whatever their attributes (as long as shapes match).
_PER_SAMPLE = graph.UNARY_ELEMENTWISE | frozenset(
    (
        "Conv ConvTranspose Gemm MaxPool AveragePool GlobalAveragePool GlobalMaxPool LRN BatchNormalization "
        "InstanceNormalization GroupNormalization DepthToSpace SpaceToDepth DequantizeLinear QuantizeLinear"
    ).split()
)
_WITH_AXIS = {"Concat": 0, "Softmax": -1, "LogSoftmax": -1, "LayerNormalization": -1, "Split": 0}
_REDUCTIONS = frozenset("ReduceMean ReduceMax ReduceMin ReduceSum ReduceProd ReduceL1 ReduceL2".split())
_TRITON_TYPES: dict[int, str] = {
    onnx.TensorProto.FLOAT: "TYPE_FP32",
    onnx.TensorProto.FLOAT16: "TYPE_FP16",
    onnx.TensorProto.DOUBLE: "TYPE_FP64",
    onnx.TensorProto.INT8: "TYPE_INT8",
    onnx.TensorProto.UINT8: "TYPE_UINT8",
    onnx.TensorProto.INT32: "TYPE_INT32",
    onnx.TensorProto.INT64: "TYPE_INT64",
    onnx.TensorProto.BOOL: "TYPE_BOOL",
}


def cloud_model(
    model: ir.Model, point: PartitionPoint, scale: ArrayLike = 1.0, dtype: DTypeLike = np.int8
) -> onnx.ModelProto:
    """The rest of the network after a cut.

    Args:
        model: The whole float graph after the passes; it is not changed.
        point: The cut.
        scale: What one step of int8 is worth: a number, or one per unit (shape ``(units,)``); zero point 0.
        dtype: int8, or float32 for units that come unquantized (`scale` is then not used).

    Returns:
        A graph with the input ``units`` of shape ``(N, *point.shape[1:])`` (unit-major: NCHW, or NC) and the
        outputs of `model` under their names. N is free where every operator treats each sample on its own,
        else 1.

    Raises:
        ClioError: An output is called ``units``, or the scale does not fit the units.
    """
    tail = graph.extract(model, [point.tensor], [output.name or "" for output in model.graph.outputs])
    _rename_input(tail.graph, np.dtype(dtype) == np.int8)
    if np.dtype(dtype) == np.int8:
        _dequantize(tail.graph, point, np.asarray(scale, np.float32))
    proto = any_batch(tail)
    proto.graph.name = "cloud"
    proto.producer_name = "clio-cc"
    onnx.checker.check_model(proto, full_check=True)
    return proto


def any_batch(model: ir.Model) -> onnx.ModelProto:
    """The model as protobuf for N samples at once, or for 1 if some operator does not treat each on its own.

    Args:
        model: Made for a batch of 1; its Reshapes are changed.
    """
    batched = _free_batch(model.graph)
    proto = graph.to_proto(model)
    del proto.graph.value_info[:]  # they say batch 1
    if batched:
        for value in (*proto.graph.input, *proto.graph.output):
            value.type.tensor_type.shape.dim[0].dim_param = "N"
    return proto


def triton_repository(name: str, model: onnx.ModelProto) -> dict[str, bytes]:
    """The files of a Triton model repository with one model, by their path below the repository's folder."""
    return {
        f"{name}/config.pbtxt": triton_config(name, model).encode(),
        f"{name}/1/model.onnx": model.SerializeToString(deterministic=True),
    }


def triton_config(name: str, model: onnx.ModelProto) -> str:
    """``config.pbtxt`` for a cloud graph: onnxruntime backend, batching if its batch is free."""
    batched = all(value.type.tensor_type.shape.dim[0].dim_param for value in model.graph.input)

    def tensor(value: onnx.ValueInfoProto) -> str:
        dims = [dim.dim_value for dim in value.type.tensor_type.shape.dim][1 if batched else 0 :]
        kind = _TRITON_TYPES[value.type.tensor_type.elem_type]
        return f'  {{\n    name: "{value.name}"\n    data_type: {kind}\n    dims: {dims}\n  }}'

    def tensors(field: str, values: Sequence[onnx.ValueInfoProto]) -> str:
        return f"{field} [\n" + ",\n".join(map(tensor, values)) + "\n]\n"

    head = f'name: "{name}"\nbackend: "onnxruntime"\nmax_batch_size: {MAX_BATCH if batched else 0}\n'
    body = tensors("input", list(model.graph.input)) + tensors("output", list(model.graph.output))
    return head + body + ("dynamic_batching { }\n" if batched else "")


# --- the input ------------------------------------------------------------------------------------


def _rename_input(owner: ir.Graph, keeps_source: bool) -> None:
    """Call the input ``units``; where it will be dequantized, its float form keeps the old name."""
    value = owner.inputs[0]
    if any(output.name == UNITS for output in owner.outputs):
        raise ClioError(f"the model has an output '{UNITS}', which is the name of the cloud graph's input")
    taken = graph.value_names(owner)
    for other in [*owner.initializers.values(), *(out for node in owner for out in node.outputs)]:
        if other.name == UNITS:
            other.name = graph.fresh_name(f"{UNITS}_2", taken)
    if not keeps_source:
        value.name = UNITS


def _dequantize(
    owner: ir.Graph, point: PartitionPoint, scale: np.ndarray[tuple[int, ...], np.dtype[np.float32]]
) -> None:
    if scale.ndim > 1 or (scale.ndim == 1 and scale.shape[0] != point.shape[1]):
        raise ClioError(
            f"{scale.shape} scales do not fit {point.shape[1]} units", f"partition point '{point.name}'"
        )
    floats = owner.inputs[0]
    name = floats.name if floats.name != UNITS else f"{UNITS}_float"
    floats.name = None
    units = ir.Value(name=UNITS, shape=floats.shape, type=ir.TensorType(ir.DataType.INT8))
    owner.inputs[0] = units
    step = graph.add_constant(owner, f"{UNITS}_scale", scale)
    out = ir.Value(name=name, shape=floats.shape, type=floats.type)
    attributes = {"axis": 1} if scale.ndim == 1 else {}
    node = ir.node(
        "DequantizeLinear", [units, step], attributes=attributes, outputs=[out], name="dequantize_units"
    )
    first = owner[0]
    floats.replace_all_uses_with(out)
    owner.insert_before(first, node)


# --- the batch ------------------------------------------------------------------------------------


def _free_batch(owner: ir.Graph) -> bool:
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
