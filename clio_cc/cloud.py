"""The cloud half: what comes after a cut as one ONNX graph with a head per slice count, in a Triton model repository.

The graph takes units as the device sends them, unit-major (channels first), and how many of them arrived:

    units, received ── dequantize ── convolution with the weights of the count ── the float network from the cut on

Units of 8 bits come as int8; of fewer bits as the bytes that :mod:`clio_cc.packing` makes of them, unpacked in front.

Weights are looked up per sample, so one batch may hold answers to different counts, as dynamic batching makes them; a
batch of one count takes a faster way. All that follows the head is there once. onnxruntime and Triton run it as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from clio_cc import batch, graph
from clio_cc.errors import ClioError
from clio_cc.heads import Heads
from clio_cc.packing import packed_bytes, place_values
from clio_cc.partition import PartitionPoint
from clio_cc.quantization.functions import clamp_bounds

UNITS, RECEIVED = "units", "received"
"""Names of the cloud graph's inputs."""
MAX_BATCH = 64
"""Largest batch that Triton may put together."""

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


def tail_model(model: ir.Model, point: PartitionPoint) -> onnx.ModelProto:
    """The rest of the float network after a cut, nothing quantized.

    Args:
        model: The whole float graph after the passes; it is not changed.
        point: The cut.

    Returns:
        A graph with the input ``units``, float32 of shape ``(N, *point.shape[1:])``, and the outputs of `model` under
        their names. N is free where every operator treats each sample on its own, else 1.

    Raises:
        ClioError: An output is called ``units``.
    """
    tail = _tail(model, point)
    _make_room(tail.graph, [UNITS])
    tail.graph.inputs[0].name = UNITS
    return _finished(batch.any_batch(tail))


def cloud_model(
    model: ir.Model, point: PartitionPoint, scale: float, heads: Heads | None, bits: int = 8
) -> onnx.ModelProto:
    """The cloud's half: heads that restore the cut's tensor from the units received, and the network after it.

    Args:
        model: The whole float graph after the passes; it is not changed.
        point: The cut.
        scale: What one step of a unit is worth; zero point 0.
        heads: Weights per count of units; None where the channels come as they are, all of them.
        bits: Of a value of a unit.

    Returns:
        A graph with the inputs ``units``, int8 of shape ``(N, units, *point.shape[2:])`` or, of fewer than 8 bits, uint8
        of shape ``(N, units, bytes of a unit)``, and ``received``, int64 of shape ``(N,)``, and the outputs of `model`
        under their names. A count between two that have heads counts as the lower; units beyond it do not matter. N is
        free where every operator treats each sample on its own, else 1.

    Raises:
        ClioError: An output is called like one of the inputs.
    """
    tail = _tail(model, point)
    owner = tail.graph
    _make_room(owner, [UNITS, RECEIVED])
    batched = batch.free_batch(owner)
    restored = owner.inputs[0]
    count = point.shape[1] if heads is None else heads.weight.shape[2] // heads.window**2
    first = None if batched else 1
    rest = point.shape[2:]
    if bits == 8:
        units = _input(UNITS, [first, count, *rest], ir.DataType.INT8)
    else:
        units = _input(UNITS, [first, count, packed_bytes(math.prod(rest), bits)], ir.DataType.UINT8)
    received = _input(RECEIVED, [first], ir.DataType.INT64)
    maker = _Maker(owner)  # knows the cut's tensor, whose name stays
    owner.inputs[:] = [units, received]
    steps = units if bits == 8 else maker.unpacked(units, bits, count, rest)
    value = maker.heads(steps, received, scale, heads, point.shape)
    bounds = activation_bounds(model, point.tensor)
    if bounds is not None:
        value = maker.clip(value, bounds)
    owner.insert_before(owner[0], maker.nodes)
    restored.replace_all_uses_with(value)
    value.name, restored.name = restored.name, None
    return _finished(batch.to_proto(tail, batched))


def activation_bounds(model: ir.Model, tensor: str) -> tuple[float, float] | None:
    """Return the range of the Relu or Clip that writes a tensor; None if another operator does."""
    node = next((node for node in model.graph for out in node.outputs if out.name == tensor), None)
    return None if node is None else clamp_bounds(node)


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
        # Triton knows no sample without a dimension: a count comes as [1] and loses that on the way in.
        scalar = "" if dims else "\n    reshape: { shape: [ ] }"
        return f'  {{\n    name: "{value.name}"\n    data_type: {kind}\n    dims: {dims or [1]}{scalar}\n  }}'

    def tensors(field: str, values: Sequence[onnx.ValueInfoProto]) -> str:
        return f"{field} [\n" + ",\n".join(map(tensor, values)) + "\n]\n"

    head = f'name: "{name}"\nbackend: "onnxruntime"\nmax_batch_size: {MAX_BATCH if batched else 0}\n'
    body = tensors("input", list(model.graph.input)) + tensors("output", list(model.graph.output))
    return head + body + ("dynamic_batching { }\n" if batched else "")


# --- the graph ------------------------------------------------------------------------------------


def _tail(model: ir.Model, point: PartitionPoint) -> ir.Model:
    return graph.extract(model, [point.tensor], [output.name or "" for output in model.graph.outputs])


def _finished(proto: onnx.ModelProto) -> onnx.ModelProto:
    proto.graph.name = "cloud"
    proto.producer_name = "clio-cc"
    onnx.checker.check_model(proto, full_check=True)
    return proto


def _make_room(owner: ir.Graph, names: Sequence[str]) -> None:
    """Rename tensors that are called like an input of the cloud graph."""
    for output in owner.outputs:
        if output.name in names:
            raise ClioError(
                f"the model has an output '{output.name}', which is the name of an input of the cloud graph"
            )
    taken = graph.value_names(owner)
    computed = [out for node in owner for out in node.outputs]
    for value in [*owner.inputs, *owner.initializers.values(), *computed]:
        if value.name in names:
            value.name = graph.fresh_name(f"{value.name}_2", taken)


def _input(name: str, dims: Sequence[int | None], kind: ir.DataType) -> ir.Value:
    return ir.Value(name=name, shape=ir.Shape(dims), type=ir.TensorType(kind))


class _Maker:
    """Puts nodes in front of a graph, or into a branch."""

    def __init__(self, owner: ir.Graph) -> None:
        self.owner = owner
        self.taken = graph.value_names(owner) | {str(node.name) for node in owner}
        self.nodes: list[ir.Node] = []

    def fresh(self, name: str) -> str:
        found = graph.fresh_name(f"heads_{name}", self.taken)
        self.taken.add(found)
        return found

    def constant(self, name: str, array: npt.NDArray[Any]) -> ir.Value:
        return graph.add_constant(self.owner, self.fresh(name), array)

    def add(self, op: str, name: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        out = ir.Value(name=self.fresh(name))
        self.nodes.append(ir.node(op, list(inputs), attributes=attributes, outputs=[out], name=out.name))
        return out

    def reshape(self, name: str, value: ir.Value, *dims: int) -> ir.Value:
        shape = self.constant(f"{name}_shape", np.array(dims, np.int64))
        return self.add("Reshape", name, value, shape)

    def branch(self, name: str, make: Callable[[], ir.Value]) -> ir.Attr:
        """What `make` adds, as a branch of an If."""
        outer, self.nodes = self.nodes, []
        value = make()
        inner = ir.Graph([], [value], nodes=self.nodes, name=f"heads_{name}")
        self.nodes = outer
        return ir.AttrGraph(name, inner)

    def unpacked(self, packed: ir.Value, bits: int, count: int, rest: Sequence[int]) -> ir.Value:
        """The int8 values, ``(N, count, *rest)``, of units as they travel.

        Bits are looked up per byte and summed by what each is worth: no shifts, which not every runtime has, and exact.
        """
        values = math.prod(rest)
        table = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
        byte = self.add("Cast", "byte", packed, to=int(ir.DataType.INT32))
        single = self.add("Gather", "single", self.constant("bits", table.astype(np.float32)), byte, axis=0)
        flat = self.reshape("stream", single, 0, count, 8 * packed_bytes(values, bits))
        ends = (
            self.constant(name, np.array([at]))
            for name, at in (("start", 0), ("end", values * bits), ("last", 2))
        )
        each = self.reshape("each", self.add("Slice", "used", flat, *ends), 0, count, values, bits)
        worth = self.constant("worth", place_values(bits)[:, None].astype(np.float32))
        sums = self.reshape("steps", self.add("MatMul", "sums", each, worth), 0, count, *rest)
        return self.add("Cast", "int8", sums, to=int(ir.DataType.INT8))

    def heads(
        self, units: ir.Value, received: ir.Value, scale: float, heads: Heads | None, shape: tuple[int, ...]
    ) -> ir.Value:
        """What the head of each sample's count makes of its units: the tensor of `shape` at the cut."""
        step = self.constant("scale", np.asarray(scale, np.float32))
        values = self.add("DequantizeLinear", "units", units, step)
        if heads is None:
            return values
        row = self.row(received, heads.counts)
        weights, biases = self.constant("weights", heads.weight), self.constant("biases", heads.bias)
        if heads.window == 1:
            return self.apart(values, row, weights, biases, heads, shape)
        lowest = self.add("ReduceMin", "lowest", row, keepdims=0)
        same = self.add("Equal", "same", lowest, self.add("ReduceMax", "highest", row, keepdims=0))
        branches = {
            "then_branch": lambda: self.together(values, lowest, weights, biases, heads),
            "else_branch": lambda: self.apart(values, row, weights, biases, heads, shape),
        }
        return self.add(
            "If", "tensor", same, **{name: self.branch(name, make) for name, make in branches.items()}
        )

    def row(self, received: ir.Value, counts: Sequence[int]) -> ir.Value:
        """How many of the counts each sample has reached."""
        axis = self.constant("axis", np.array([1], np.int64))
        column = self.add("Unsqueeze", "column", received, axis)
        reached = self.add("GreaterOrEqual", "reached", column, self.constant("counts", np.array([counts])))
        number = self.add("Cast", "number", reached, to=int(ir.DataType.INT64))
        return self.add("ReduceSum", "row", number, axis, keepdims=0)

    def together(
        self, values: ir.Value, row: ir.Value, weights: ir.Value, biases: ir.Value, heads: Heads
    ) -> ir.Value:
        """One head for the whole batch: a convolution with weights looked up."""
        window = heads.window
        flat = self.add("Gather", "one_weight", weights, row, axis=0)
        kernel = self.reshape("kernel", flat, heads.weight.shape[1], -1, window, window)
        bias = self.add("Gather", "one_bias", biases, row, axis=0)
        pads = [window // 2] * 4
        return self.add("Conv", "together", values, kernel, bias, pads=pads, kernel_shape=[window] * 2)

    def apart(
        self,
        values: ir.Value,
        row: ir.Value,
        weights: ir.Value,
        biases: ir.Value,
        heads: Heads,
        shape: tuple[int, ...],
    ) -> ir.Value:
        """A head for each sample: a batch of matrix products."""
        weight = self.add("Gather", "weight", weights, row, axis=0)
        bias = self.reshape("column_bias", self.add("Gather", "bias", biases, row, axis=0), 0, -1, 1)
        seen = self.reshape("positions", self.windows(values, heads), 0, heads.weight.shape[2], -1)
        restored = self.add("Add", "channels", self.add("MatMul", "product", weight, seen), bias)
        return self.reshape("apart", restored, 0, *shape[1:])

    def windows(self, values: ir.Value, heads: Heads) -> ir.Value:
        """All of a unit's window as channels, unit by unit: a depthwise convolution whose kernels have a single one."""
        window = heads.window
        if window == 1:
            return values
        units = heads.weight.shape[2] // window**2
        kernels = np.tile(np.eye(window**2, dtype=np.float32), (units, 1)).reshape(-1, 1, window, window)
        pads = [window // 2] * 4
        kernel = self.constant("window", kernels)
        return self.add("Conv", "windows", values, kernel, group=units, pads=pads, kernel_shape=[window] * 2)

    def clip(self, value: ir.Value, bounds: tuple[float, float]) -> ir.Value:
        """The value within the range of the activation that writes the cut's tensor."""
        low, high = (
            self.constant(name, np.asarray(bound, np.float32))
            for name, bound in zip(("low", "high"), bounds, strict=True)
        )
        return self.add("Clip", "bounded", value, low, high)
