"""The Program as standard QDQ ONNX, for people and for other tools: opens in Netron, runs in onnxruntime.

Float operators between DequantizeLinear and QuantizeLinear, int8 with zero point 0, weights per output
channel, int32 biases; a table is a Gather. QuantizeLinear rounds halves to even where the device rounds
them up, so results may differ by one step at ties: the device's arithmetic is the Program's, this is a
picture of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from clio_cc import __version__
from clio_cc.load import IR_VERSION, OPSET
from clio_cc.operators.base import Operator, Tensor
from clio_cc.operators.conv import Conv
from clio_cc.operators.elementwise import Add, Elementwise, Mul
from clio_cc.operators.movement import Concat, Pad, Reshape, Transpose
from clio_cc.operators.pool import AveragePool, MaxPool, Pool
from clio_cc.operators.softmax import Softmax
from clio_cc.operators.table import Table
from clio_cc.qformat import INT8_MAX, INT8_MIN
from clio_cc.quantization.layers import Layout
from clio_cc.quantize import Quantized

_TO_HWC, _TO_CHW = (0, 2, 3, 1), (0, 3, 1, 2)


def device_onnx(quantized: Quantized) -> onnx.ModelProto:
    """Return the device's half as an ONNX model: float inputs and outputs in the original model's layout, any batch.

    What leaves at a partition point is its units in their order.
    """
    writer = _Writer()
    program, layouts = quantized.program, quantized.network.layouts
    for tensor in program.inputs:
        writer.input(tensor, layouts[tensor.name])
    for op in program.operators:
        writer.add(op)
    orders = {tap.tensor: tap.order for tap in program.taps}
    for name in program.outputs:
        writer.output(program.tensors[name], layouts[name], orders.get(name, ()))
    graph = helper.make_graph(writer.nodes, "device", writer.inputs, writer.outputs, writer.constants)
    return helper.make_model(
        graph,
        producer_name="clio-cc",
        producer_version=__version__,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )


def _nchw(shape: Sequence[int]) -> list[int]:
    """Return a device shape as the ONNX graph has it, without the batch."""
    return [shape[2], shape[0], shape[1]] if len(shape) == 3 else list(shape)


class _Writer:
    """Collects nodes. A tensor's float value is called as the tensor, its int8 form ``<name>:int8``."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self._constant_names: set[str] = set()

    # pieces

    def node(
        self, op_type: str, inputs: Sequence[str], output: str, name: str = "", **attributes: Any
    ) -> str:
        made = helper.make_node(
            op_type, list(inputs), [output], name=name or f"{output}:{op_type}", **attributes
        )
        self.nodes.append(made)
        return output

    def constant(self, name: str, values: npt.ArrayLike, dtype: type) -> str:
        if name not in self._constant_names:
            self._constant_names.add(name)
            self.constants.append(numpy_helper.from_array(np.array(values, dtype, order="C"), name))
        return name

    def scale(self, tensor: Tensor) -> list[str]:
        return [
            self.constant(f"{tensor.name}:scale", tensor.scale, np.float32),
            self.constant("zero:int8", 0, np.int8),
        ]

    def quantize(self, source: str, tensor: Tensor) -> None:
        """QuantizeLinear and DequantizeLinear of `source` into `tensor`."""
        self.node("QuantizeLinear", [source, *self.scale(tensor)], f"{tensor.name}:int8")
        self.dequantize(tensor)

    def dequantize(self, tensor: Tensor) -> None:
        self.node("DequantizeLinear", [f"{tensor.name}:int8", *self.scale(tensor)], tensor.name)

    def clamp(self, source: str, tensor: Tensor, lo: int, hi: int) -> str:
        """The clamp of a requantization, where it is more than int8's own."""
        if (lo, hi) == (INT8_MIN, INT8_MAX):
            return source
        if (lo, hi) == (0, INT8_MAX):
            return self.node("Relu", [source], f"{source}:relu")
        bounds = [
            self.constant(f"{tensor.name}:{n}", v * tensor.scale, np.float32)
            for n, v in (("min", lo), ("max", hi))
        ]
        return self.node("Clip", [source, *bounds], f"{source}:clip")

    # ends

    def input(self, tensor: Tensor, layout: Layout) -> None:
        name = f"{tensor.name}:float"
        shape: list[str | int | None] = ["batch", *layout.graph_shape[1:]]
        self.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        order = (0, 3, 1, 2) if len(tensor.shape) == 3 else tuple(range(len(layout.graph_shape)))
        permutation = [(0, *layout.order)[axis] for axis in order]
        source = name
        if permutation != sorted(permutation):
            source = self.node("Transpose", [name], f"{tensor.name}:planes", perm=permutation)
        self.quantize(source, tensor)

    def output(self, tensor: Tensor, layout: Layout, units: Sequence[int]) -> None:
        name, source = f"{tensor.name}:output", tensor.name
        order = (0, 3, 1, 2) if len(tensor.shape) == 3 else tuple(range(len(layout.graph_shape)))
        permutation = np.argsort([(0, *layout.order)[axis] for axis in order]).tolist()
        if permutation != sorted(permutation):
            source = self.node("Transpose", [source], f"{name}:moved", perm=permutation)
        shape: list[str | int | None] = ["batch", *layout.graph_shape[1:]]
        if units:
            shape[1] = len(units)
            self.node("Gather", [source, self.constant(f"{name}:units", units, np.int64)], name, axis=1)
        else:
            self.node("Identity", [source], name)
        self.outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))

    # operators

    def add(self, op: Operator) -> None:
        for kind, write in _WRITERS.items():
            if isinstance(op, kind):
                write(self, op)
                return
        raise TypeError(f"no ONNX form of {type(op).__name__}")

    def conv(self, op: Conv) -> None:
        y, vector = op.output.name, len(op.output.shape) == 1
        weight = op.weight.reshape(len(op.weight), -1) if vector else op.weight.transpose(0, 3, 1, 2)
        requantize = op.requantize
        ratio = 2.0 ** -requantize.shift.astype(np.float64)
        if requantize.multiplier is not None:
            ratio = ratio * requantize.multiplier
        step = np.broadcast_to(ratio * op.output.scale, len(weight))
        inputs = [op.inputs[0].name]
        for name, values, dtype, scale in (
            ("weight", weight, np.int8, step / op.inputs[0].scale),
            ("bias", op.bias, np.int32, step),
        ):
            steps = self.constant(f"{y}:{name}:{np.dtype(dtype).name}", values, dtype)
            scales = self.constant(f"{y}:{name}:scale", scale, np.float32)
            inputs.append(self.node("DequantizeLinear", [steps, scales], f"{y}:{name}", axis=0))
        if vector:
            made = self.node("Gemm", inputs, f"{y}:float", op.name, transB=1)
        else:
            made = self.node(
                "Conv", inputs, f"{y}:float", op.name,
                kernel_shape=op.weight.shape[1:3], strides=op.stride, dilations=op.dilation, pads=op.pads, group=op.groups,
            )  # fmt: skip
        self.quantize(self.clamp(made, op.output, requantize.lo, requantize.hi), op.output)

    def elementwise(self, op: Elementwise) -> None:
        made = self.node(type(op).__name__, [t.name for t in op.inputs], f"{op.output.name}:float", op.name)
        self.quantize(self.clamp(made, op.output, op.requantize.lo, op.requantize.hi), op.output)

    def table(self, op: Table) -> None:
        y = op.output.name
        index = self.node("Cast", [f"{op.inputs[0].name}:int8"], f"{y}:index", to=TensorProto.INT32)
        entry = self.node("Add", [index, self.constant("128:int32", 128, np.int32)], f"{y}:entry")
        self.node("Gather", [self.constant(f"{y}:table", op.table, np.int8), entry], f"{y}:int8", op.name)
        self.dequantize(op.output)

    def pool(self, op: Pool) -> None:
        optional: dict[str, Any] = {}  # onnxruntime's fused pools do not know attributes that say nothing
        if op.dilation != (1, 1):
            optional["dilations"] = op.dilation
        if isinstance(op, AveragePool) and op.count_padding:
            optional["count_include_pad"] = 1
        made = self.node(
            type(op).__name__, [op.inputs[0].name], f"{op.output.name}:float", op.name,
            kernel_shape=op.window, strides=op.stride, pads=op.pads, **optional,
        )  # fmt: skip
        self.quantize(made, op.output)

    def pad(self, op: Pad) -> None:
        top, left, bottom, right = op.pads
        pads = self.constant(f"{op.output.name}:pads", [0, 0, top, left, 0, 0, bottom, right], np.int64)
        value = self.constant(f"{op.output.name}:value", op.value * op.output.scale, np.float32)
        made = self.node("Pad", [op.inputs[0].name, pads, value], f"{op.output.name}:float", op.name)
        self.quantize(made, op.output)

    def concat(self, op: Concat) -> None:
        axis = (2, 3, 1)[op.axis] if len(op.output.shape) == 3 else op.axis + 1
        made = self.node("Concat", [t.name for t in op.inputs], f"{op.output.name}:float", op.name, axis=axis)
        self.quantize(made, op.output)

    def reshape(self, op: Reshape) -> None:
        source = self._device_order(op.inputs[0], op.output.name)
        shape = self.constant(f"{op.output.name}:shape", [-1, *op.output.shape], np.int64)
        made = self.node("Reshape", [source, shape], f"{op.output.name}:reshaped", op.name)
        self.quantize(self._graph_order(made, op.output), op.output)

    def transpose(self, op: Transpose) -> None:
        source = self._device_order(op.inputs[0], op.output.name)
        permutation = [0, *(axis + 1 for axis in op.permutation)]
        made = self.node("Transpose", [source], f"{op.output.name}:moved", op.name, perm=permutation)
        self.quantize(self._graph_order(made, op.output), op.output)

    def softmax(self, op: Softmax) -> None:
        made = self.node("Softmax", [op.inputs[0].name], f"{op.output.name}:float", op.name, axis=1)
        self.quantize(made, op.output)

    def _device_order(self, tensor: Tensor, reader: str) -> str:
        """An image as (height, width, channels), for operators that mean the bytes; one of 1×1 pixels lies the same way."""
        if len(tensor.shape) != 3 or tensor.shape[:2] == (1, 1):
            return tensor.name
        return self.node("Transpose", [tensor.name], f"{reader}:hwc", perm=_TO_HWC)

    def _graph_order(self, source: str, tensor: Tensor) -> str:
        return (
            self.node("Transpose", [source], f"{tensor.name}:chw", perm=_TO_CHW)
            if len(tensor.shape) == 3
            else source
        )


_WRITERS: dict[type[Operator], Callable[[_Writer, Operator], None]] = {
    Conv: _Writer.conv,  # type: ignore[dict-item]
    Add: _Writer.elementwise,  # type: ignore[dict-item]
    Mul: _Writer.elementwise,  # type: ignore[dict-item]
    Table: _Writer.table,  # type: ignore[dict-item]
    MaxPool: _Writer.pool,  # type: ignore[dict-item]
    AveragePool: _Writer.pool,  # type: ignore[dict-item]
    Pad: _Writer.pad,  # type: ignore[dict-item]
    Concat: _Writer.concat,  # type: ignore[dict-item]
    Reshape: _Writer.reshape,  # type: ignore[dict-item]
    Transpose: _Writer.transpose,  # type: ignore[dict-item]
    Softmax: _Writer.softmax,  # type: ignore[dict-item]
}
