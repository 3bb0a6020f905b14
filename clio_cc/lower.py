"""Float graph → :class:`~clio_cc.quantization.layers.Network`: fuse activations, turn everything to the
device's layout.

On the device an image is (height, width, channels) and a vector (features,), both without a batch. In the
graph an image is NCHW. The difference costs nothing at run time: weights are stored the other way round, a
Transpose between the two layouts vanishes, and where an image becomes a vector the columns of the following
Gemm are permuted. Only what is left becomes a Transpose operator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir

from clio_cc import graph
from clio_cc.errors import ClioError
from clio_cc.program import MOST_TAPS
from clio_cc.quantization.functions import FUNCTIONS, clamp_bounds, function_of
from clio_cc.quantization.layers import (
    AddLayer,
    ConcatLayer,
    ConvLayer,
    Cut,
    Float,
    Layer,
    Layout,
    MulLayer,
    Network,
    PadLayer,
    PoolLayer,
    ReshapeLayer,
    SoftmaxLayer,
    TableLayer,
    TransposeLayer,
)
from clio_cc.quantization.support import RESHAPES, constant_operand, device_supports, image_pads

__all__ = ["device_supports", "lower"]

IMAGE = (2, 3, 1)  # device axes height, width, channels of an NCHW tensor


class Point(Protocol):
    """A place to cut, as :class:`clio_cc.partition.PartitionPoint`."""

    @property
    def name(self) -> str: ...
    @property
    def tensor(self) -> str: ...


def lower(
    model: ir.Model, points: Sequence[Point] = (), *, local: bool = False, nearest: str = ""
) -> Network:
    """Return the device's half of a canonical float graph as layers.

    Args:
        model: As ``FLOAT_PIPELINE`` leaves it; not changed.
        points: Where data leaves for the cloud, all on one chain, in any order; without any the whole network is lowered.
        local: Lower the whole network although there are points.
        nearest: Name of the last partition point that the device reaches, for the message.

    Raises:
        ClioError: a node before a cut does not run on the device; says which, why, and where to cut instead. Or there are
            more points than a Program has room for.
    """
    if len(points) > MOST_TAPS:
        raise ClioError(f"{len(points)} partition points at once, at most {MOST_TAPS} are possible")
    inputs = [str(value.name) for value in model.graph.inputs]
    behind = [str(value.name) for value in model.graph.outputs] if local or not points else []
    made = {value.name: index for index, node in enumerate(model.graph) for value in node.outputs}
    points = sorted(points, key=lambda point: made.get(point.tensor, -1))
    # Points become outputs, so that nothing is fused across them.
    part = graph.extract(model, inputs, [*(point.tensor for point in points), *behind]) if points else model
    for node in part.graph:
        reason = device_supports(node)
        if reason:
            hint = (
                f"cut at '{nearest}' or earlier"
                if nearest
                else "no cut lies before it: the device cannot take part"
            )
            message = f"does not run on the device: {reason}{_first_cut(model, inputs, points, node)}"
            raise ClioError(message, graph.where(node), hint)
    lowering = _Lowering()
    for value in part.graph.inputs:
        if value.uses() or value.is_graph_output():
            lowering.add_input(value)
    crossing, last = part.graph.outputs[: len(points)], part.graph.outputs[len(points) :]
    taps: list[Cut] = []
    for node in part.graph:
        lowering.add(node)
        while len(taps) < len(points) and crossing[len(taps)].name in lowering.places:
            taps.append(Cut(points[len(taps)].name, lowering.units_last(crossing[len(taps)])))
    outputs = (*(cut.tensor for cut in taps), *[lowering.named(value) for value in last])
    used = {lowering.place(value)[0] for value in part.graph.inputs if value.name in lowering.places}
    return Network(
        tuple(sorted(used, key=list(lowering.layouts).index)),
        tuple(lowering.layers),
        outputs,
        lowering.layouts,
        tuple(taps),
    )


def _first_cut(model: ir.Model, inputs: Sequence[str], points: Sequence[Point], node: ir.Node) -> str:
    """Say before which point a node comes, if it does."""
    for point in points:
        part = graph.extract(model, inputs, [point.tensor])
        if any(each.name == node.name for each in part.graph):
            return f"; it comes before the cut '{point.name}'"
    return ""


def _input_layout(value: ir.Value) -> Layout:
    """Images come as cameras give them, (height, width, channels), whatever the graph's own order is."""
    dims = graph.shape(value)
    own = tuple(range(1, len(dims)))
    moved = any(graph.is_op(use.node, "Transpose", *RESHAPES) for use in value.uses())
    return Layout(dims, IMAGE if len(dims) == 4 and not moved else own)


@dataclass
class _Lowering:
    """The walk over the graph: `places` says where each graph tensor lies (device tensor, layout)."""

    layers: list[Layer] = field(default_factory=list)
    places: dict[str, tuple[str, Layout]] = field(default_factory=dict)
    layouts: dict[str, Layout] = field(default_factory=dict)
    absorbed: set[int] = field(default_factory=set)

    # bookkeeping

    def place(self, value: ir.Value | None) -> tuple[str, Layout]:
        assert value is not None
        return self.places[str(value.name)]

    def put(self, value: ir.Value, tensor: str, layout: Layout) -> None:
        self.places[str(value.name)] = (tensor, layout)
        self.layouts.setdefault(tensor, layout)

    def add_input(self, value: ir.Value) -> None:
        self.put(value, str(value.name), _input_layout(value))

    def emit(self, value: ir.Value, layer: Layer, layout: Layout) -> None:
        self.layers.append(layer)
        self.put(value, layer.output, layout)

    def named(self, value: ir.Value) -> str:
        """Return the tensor of an output; it gets the output's own name where it is only another view of a tensor."""
        tensor, layout = self.place(value)
        if tensor != value.name:
            name = str(value.name)
            self.layers.append(
                ReshapeLayer(name=name, kind="Reshape", inputs=(tensor,), output=name, shape=layout.shape)
            )
            self.put(value, name, layout)
        return str(value.name)

    def units_last(self, value: ir.Value) -> str:
        """Return the tensor of an output that travels: its units, the graph's axis 1, are the device's last axis."""
        _, layout = self.place(value)
        order = (*range(2, len(layout.graph_shape)), 1)
        return self.named(value) if layout.order == order else self.arranged(value, order)

    def arranged(self, value: ir.Value | None, order: tuple[int, ...]) -> str:
        """Return the tensor of `value` with its axes in `order`, through a Transpose operator if there is no other way."""
        assert value is not None
        tensor, layout = self.place(value)
        if layout.order == order and layout.columns is None:
            return tensor
        wanted = replace(layout, order=order)
        name = f"{value.name}_as_{''.join(map(str, order))}"
        if name in self.layouts:
            return name
        permutation = tuple(layout.order.index(axis) for axis in order)
        base: dict[str, Any] = {
            "name": name,
            "kind": "Transpose",
            "inputs": (tensor,),
            "output": name,
            "shape": wanted.shape,
        }
        wide = [axis for axis in permutation if layout.shape[axis] != 1]
        free = wide == sorted(wide)
        self.layers.append(ReshapeLayer(**base) if free else TransposeLayer(**base, permutation=permutation))
        self.layouts[name] = wanted
        return name

    def image(self, value: ir.Value | None) -> str:
        return self.arranged(value, IMAGE)

    def tail(self, node: ir.Node) -> tuple[ir.Value, dict[str, Any]]:
        """Absorb the clamps behind a node; return the value they end in and the fields name, kind, lo, hi."""
        lo, hi, kind, value = -math.inf, math.inf, node.op_type, node.outputs[0]
        while (follower := graph.only_consumer(value)) is not None and (
            bounds := clamp_bounds(follower)
        ) is not None:
            if follower.inputs[0] is not value:
                break
            lo, hi = float(np.clip(lo, *bounds)), float(np.clip(hi, *bounds))
            self.absorbed.add(id(follower))
            kind, value, node = f"{kind}+{follower.op_type}", follower.outputs[0], follower
        return value, {"name": str(node.name), "kind": kind, "output": str(value.name), "lo": lo, "hi": hi}

    def head(self, node: ir.Node) -> dict[str, Any]:
        value = node.outputs[0]
        return {"name": str(node.name), "kind": node.op_type, "output": str(value.name)}

    # operators

    def add(self, node: ir.Node) -> None:
        if id(node) not in self.absorbed:
            _EMITTERS.get(node.op_type, _Lowering.table)(self, node)

    def conv(self, node: ir.Node) -> None:
        weight, source = graph.constant(node.inputs[1]), self.image(node.inputs[0])
        bias = graph.constant(graph.input_at(node, 2))
        assert weight is not None
        value, fields = self.tail(node)
        layout = Layout(graph.shape(value), IMAGE)
        height, width, channels = self.layouts[source].shape
        layer = ConvLayer(
            **fields,
            inputs=(source,),
            shape=layout.shape,
            weight=weight.astype(np.float64).transpose(0, 2, 3, 1),
            bias=np.zeros(len(weight)) if bias is None else bias.astype(np.float64),
            image=(height, width, channels),
            stride=_pair(node, "strides"),
            dilation=_pair(node, "dilations"),
            pads=_four(node, "pads"),
            groups=graph.int_attr(node, "group", 1),
        )
        self.emit(value, layer, layout)

    def gemm(self, node: ir.Node) -> None:
        weight, bias = graph.constant(node.inputs[1]), graph.constant(node.inputs[2])
        assert weight is not None and bias is not None
        weight = weight.astype(np.float64) if graph.int_attr(node, "transB") else weight.astype(np.float64).T
        weight = weight * graph.float_attr(node, "alpha", 1.0)
        tensor, source = self.place(node.inputs[0])
        if source.columns is not None:
            weight = weight[:, source.columns]
        value, fields = self.tail(node)
        layout = Layout(graph.shape(value), (1,))
        layer = ConvLayer(
            **fields,
            inputs=(tensor,),
            shape=layout.shape,
            weight=weight[:, None, None, :],
            bias=np.broadcast_to(
                bias.astype(np.float64).reshape(-1) * graph.float_attr(node, "beta", 1.0), len(weight)
            ),
            image=(1, 1, weight.shape[1]),
        )
        self.emit(value, layer, layout)

    def arithmetic(self, node: ir.Node) -> None:
        data = graph.data_inputs(node)
        if len(data) == 1:
            self.with_constant(node, data[0])
            return
        value, fields = self.tail(node)
        dims = graph.shape(value)
        first, second = data if graph.shape(data[0]) == dims else data[::-1]
        order = self.place(first)[1].order
        if order != self.place(second)[1].order or graph.shape(second) != dims:
            order = IMAGE if len(dims) == 4 else tuple(range(1, len(dims)))
        inputs = (self.arranged(first, order), self.arranged(second, order))
        layout = Layout(dims, order)
        make = AddLayer if node.op_type == "Add" else MulLayer
        self.emit(value, make(**fields, inputs=inputs, shape=layout.shape), layout)

    def with_constant(self, node: ir.Node, operand: ir.Value) -> None:
        """One number: a table. One per channel: a depthwise 1×1 convolution."""
        constant, add = constant_operand(node), node.op_type == "Add"
        rank = len(graph.shape(operand))
        if constant.size == 1:
            number = float(constant.reshape(()))
            self.tabulate(node, operand, (lambda x: x + number) if add else (lambda x: x * number))
            return
        axis = next(i for i, dim in enumerate(constant.shape, rank - constant.ndim) if dim != 1)
        order = (*[i for i in range(1, rank) if i != axis], axis)
        tensor = self.arranged(
            operand, self.place(operand)[1].order if self.place(operand)[1].order[-1] == axis else order
        )
        layout = self.layouts[tensor]
        channels = constant.reshape(-1)
        value, fields = self.tail(node)
        image = (math.prod(layout.shape[:-1]), 1, len(channels)) if len(layout.shape) != 3 else layout.shape
        ones = np.ones(len(channels))
        layer = ConvLayer(
            **fields,
            inputs=(tensor,),
            shape=layout.shape,
            weight=(ones if add else channels)[:, None, None, None],
            bias=channels if add else ones * 0,
            image=image,
            groups=len(channels),
        )
        self.emit(value, layer, replace(layout, graph_shape=graph.shape(value)))

    def table(self, node: ir.Node) -> None:
        self.tabulate(node, graph.data_inputs(node)[0], function_of(node))

    def tabulate(self, node: ir.Node, operand: ir.Value, function: Callable[[Float], Float]) -> None:
        """A table of `function` and of every function of one value behind it."""
        kind = node.op_type
        while (
            follower := graph.only_consumer(node.outputs[0])
        ) is not None and follower.op_type in FUNCTIONS:
            if follower.domain != "" or len(graph.data_inputs(follower)) != 1:
                break
            function = _compose(function_of(follower), function)
            self.absorbed.add(id(follower))
            kind, node = f"{kind}+{follower.op_type}", follower
        tensor, layout = self.place(operand)
        fields = self.head(node) | {"kind": kind}
        layer = TableLayer(**fields, inputs=(tensor,), shape=layout.shape, function=function)
        self.emit(node.outputs[0], layer, layout)

    def pool(self, node: ir.Node) -> None:
        source, value = self.image(node.inputs[0]), node.outputs[0]
        height, width, _ = self.layouts[source].shape
        whole = node.op_type == "GlobalAveragePool"
        layout = Layout(graph.shape(value), IMAGE)
        layer = PoolLayer(
            **self.head(node),
            inputs=(source,),
            shape=layout.shape,
            average=node.op_type != "MaxPool",
            window=(height, width) if whole else _pair(node, "kernel_shape"),
            stride=(1, 1) if whole else _pair(node, "strides"),
            pads=(0, 0, 0, 0) if whole else _four(node, "pads"),
            dilation=(1, 1) if whole else _pair(node, "dilations"),
            count_padding=bool(graph.int_attr(node, "count_include_pad")),
        )
        self.emit(value, layer, layout)

    def concat(self, node: ir.Node) -> None:
        value, dims = node.outputs[0], graph.shape(node.outputs[0])
        orders = {self.place(operand)[1].order for operand in node.inputs}
        order = orders.pop() if len(orders) == 1 else IMAGE if len(dims) == 4 else tuple(range(1, len(dims)))
        layout = Layout(dims, order)
        axis = order.index(graph.int_attr(node, "axis") % len(dims))
        inputs = tuple(self.arranged(operand, order) for operand in node.inputs)
        self.emit(value, ConcatLayer(**self.head(node), inputs=inputs, shape=layout.shape, axis=axis), layout)

    def pad(self, node: ir.Node) -> None:
        source, pads, fill = self.image(node.inputs[0]), image_pads(node), graph.input_at(node, 2)
        assert pads is not None
        layout = Layout(graph.shape(node.outputs[0]), IMAGE)
        number = (graph.scalar(fill) or 0.0) if fill is not None else 0.0
        layer = PadLayer(**self.head(node), inputs=(source,), shape=layout.shape, pads=pads, value=number)
        self.emit(node.outputs[0], layer, layout)

    def reshape(self, node: ir.Node) -> None:
        value = node.outputs[0]
        dims = graph.shape(value)
        tensor, layout = self.place(node.inputs[0])
        columns = None
        if not layout.row_major:
            if (
                len(dims) == 2
                and not value.is_graph_output()
                and all(graph.is_op(use.node, "Gemm") for use in value.uses())
            ):
                counted = np.arange(math.prod(dims)).reshape(layout.graph_shape)
                columns = np.asarray(layout.to_device(counted)).reshape(-1)
            else:
                tensor = self.arranged(node.inputs[0], tuple(range(1, len(layout.graph_shape))))
        image = Layout(dims, IMAGE) if len(dims) == 4 else None
        after = (
            image
            if image is not None and image.row_major
            else Layout(dims, tuple(range(1, len(dims))), columns)
        )
        layer = ReshapeLayer(**self.head(node), inputs=(tensor,), shape=after.shape)
        self.emit(value, layer, after)

    def transpose(self, node: ir.Node) -> None:
        """No operator: the same bytes, seen differently by the graph."""
        tensor, layout = self.place(node.inputs[0])
        perm = graph.ints_attr(node, "perm")
        order = tuple(perm.index(axis) for axis in layout.order)
        self.put(node.outputs[0], tensor, Layout(graph.shape(node.outputs[0]), order))

    def softmax(self, node: ir.Node) -> None:
        tensor, layout = self.place(node.inputs[0])
        self.emit(
            node.outputs[0], SoftmaxLayer(**self.head(node), inputs=(tensor,), shape=layout.shape), layout
        )


def _compose(outer: Callable[[Float], Float], inner: Callable[[Float], Float]) -> Callable[[Float], Float]:
    return lambda x: outer(inner(x))


def _pair(node: ir.Node, name: str) -> tuple[int, int]:
    first, second = graph.ints_attr(node, name, (1, 1))
    return first, second


def _four(node: ir.Node, name: str) -> tuple[int, int, int, int]:
    a, b, c, d = graph.ints_attr(node, name, (0, 0, 0, 0))
    return a, b, c, d


_EMITTERS: dict[str, Callable[[_Lowering, ir.Node], None]] = {
    "Conv": _Lowering.conv,
    "Gemm": _Lowering.gemm,
    "Add": _Lowering.arithmetic,
    "Mul": _Lowering.arithmetic,
    "MaxPool": _Lowering.pool,
    "AveragePool": _Lowering.pool,
    "GlobalAveragePool": _Lowering.pool,
    "Concat": _Lowering.concat,
    "Pad": _Lowering.pad,
    **dict.fromkeys(RESHAPES, _Lowering.reshape),
    "Transpose": _Lowering.transpose,
    "Softmax": _Lowering.softmax,
}
