"""The canonical float graph in PyTorch: any part of it, with weights that can be trained and go back under their names.

The libraries that turn ONNX into PyTorch modules (onnx2torch 1.5.15, onnx2torch2 2.2, onnx2pytorch 0.6) all need
torchvision, of which there is no CPU build beside PyTorch's, and none can stop at a tensor and go on from another, which is
what a split is. After the passes a CNN consists of few operators, so a table of functions does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.nn import functional

from clio_cc import graph
from clio_cc.batch import free_batch
from clio_cc.errors import ClioError, raise_collected
from clio_cc.passes.runner import run_passes
from clio_cc.quantization.functions import FUNCTIONS

Inputs = Sequence[Tensor | None]
Function = Callable[[Inputs], Tensor]
TRANSFORMERS = frozenset(
    "Attention Einsum EmbedLayerNormalization Gather GroupQueryAttention LayerNormalization MultiHeadAttention "
    "RMSNormalization RotaryEmbedding SkipLayerNormalization Where".split()
)
"""What only transformers are made of."""
_WITH_NUMBER = frozenset("Add Div Mul Sub".split())
_CLAMPS = frozenset("Clip Relu".split())
_OF_IMAGES = frozenset("AveragePool Conv GlobalAveragePool GlobalMaxPool MaxPool".split())


class Rounding(Protocol):
    """What the device makes of numbers; see :class:`clio_cc.training.fake_quant.FakeQuant`."""

    def weights(self, node: str, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return a Conv's or Gemm's weights as the device has them."""

    def values(self, tensor: str, x: Tensor) -> Tensor:
        """Return a tensor as the device has it."""


class TorchGraph(nn.Module):
    """A float graph whose initializers are parameters.

    Attributes:
        outputs: Names of the graph's outputs.
    """

    def __init__(self, model: ir.Model) -> None:
        """Take over a canonical float graph of batch 1, which is not changed.

        Raises:
            ClioError: an operator has no counterpart here, or mixes the samples of a batch.
        """
        super().__init__()
        owner = model.clone().graph
        check_trainable(owner)
        self.inputs = [str(value.name) for value in owner.inputs]
        self.outputs = [str(value.name) for value in owner.outputs]
        self._names = _trainable(owner)
        self._parameters_by_place = nn.ParameterList(
            nn.Parameter(torch.tensor(_numpy(owner.initializers[name]))) for name in self._names
        )
        self._place = {name: place for place, name in enumerate(self._names)}
        self._nodes = [_Node(node, self._place) for node in owner]
        self._writers = {name: index for index, node in enumerate(self._nodes) for name in node.outputs}
        self._parts: dict[tuple[str, ...], tuple[tuple[int, tuple[str, ...]], ...]] = {}

    def weight(self, name: str) -> nn.Parameter:
        """Return the parameter of an initializer."""
        return self._parameters_by_place[self._place[name]]

    def trained(self) -> dict[str, np.ndarray]:
        """Return the values of all parameters, float32, by the initializer's name."""
        return {name: self.weight(name).detach().cpu().numpy().copy() for name in self._names}

    def run(self, values: Mapping[str, Tensor], wanted: str, rounding: Rounding | None = None) -> Tensor:
        """Return a tensor of the graph for a batch.

        Args:
            values: Tensors that are known, ``[n, ...]`` by name; what lies before them is not computed.
            wanted: Name of the tensor to compute.
            rounding: How the device rounds; None for floats.
        """
        known = dict(values)
        for index, done in self._part(tuple(values), wanted):
            node = self._nodes[index]
            node.run(known, self._parameters_by_place, rounding)
            for name in done:
                del known[name]
        return known[wanted]

    def _part(self, given: tuple[str, ...], wanted: str) -> tuple[tuple[int, tuple[str, ...]], ...]:
        """The nodes to run, each with the names that nothing needs any more after it."""
        key = (*given, wanted)
        if key not in self._parts:
            self._parts[key] = self._find_part(set(given), wanted)
        return self._parts[key]

    def _find_part(self, given: set[str], wanted: str) -> tuple[tuple[int, tuple[str, ...]], ...]:
        needed, todo = set[int](), [wanted]
        while todo:
            name = todo.pop()
            if name in given or self._writers[name] in needed:
                continue
            needed.add(self._writers[name])
            todo.extend(self._nodes[self._writers[name]].reads)
        steps = sorted(needed)
        done: dict[int, list[str]] = {index: [] for index in steps}
        last_reader = {name: index for index in steps for name in self._nodes[index].reads}
        for name, reader in last_reader.items():
            if name != wanted:
                done[reader].append(name)
        return tuple((index, tuple(names)) for index, names in done.items())


class _Node:
    """A node with its function; constants are kept, parameters looked up."""

    def __init__(self, node: ir.Node, place: Mapping[str, int]) -> None:
        self.name = str(node.name)
        self.outputs = [str(value.name) for value in node.outputs]
        self.reads = [str(value.name) for value in graph.data_inputs(node)]
        self._function = _FUNCTIONS[node.op_type](node)
        self._rounded = graph.is_op(node, "Conv", "Gemm")
        self._tabulated = _is_tabulated(node)
        self._any_precision = self._tabulated or graph.is_op(node, *_CLAMPS)
        self._arguments: list[str | int | Tensor | None] = []
        for value in node.inputs:
            if value is None or not graph.is_constant(value):
                self._arguments.append(None if value is None else str(value.name))
            elif str(value.name) in place:
                self._arguments.append(place[str(value.name)])
            else:
                constant = torch.tensor(
                    _numpy(value)
                )  # on the CPU; one without axes may meet tensors of a GPU
                self._arguments.append(constant.reshape(()) if constant.numel() == 1 else constant)

    def run(self, known: dict[str, Tensor], parameters: Sequence[Tensor], rounding: Rounding | None) -> None:
        inputs = [self._value(argument, known, parameters) for argument in self._arguments]
        if rounding is not None:
            inputs = [self._precise(value) for value in inputs]
        if self._rounded and rounding is not None and inputs[1] is not None:
            inputs[1:3] = rounding.weights(self.name, inputs[1], inputs[2] if len(inputs) > 2 else None)
        result = self._function(inputs)
        known[self.outputs[0]] = result if rounding is None else rounding.values(self.outputs[0], result)

    def _precise(self, value: Tensor | None) -> Tensor | None:
        if value is None or not value.is_floating_point():
            return value
        if self._tabulated:
            return value.double()
        return value if self._any_precision else value.float()

    @staticmethod
    def _value(
        argument: str | int | Tensor | None, known: Mapping[str, Tensor], parameters: Sequence[Tensor]
    ) -> Tensor | None:
        if isinstance(argument, str):
            return known[argument]
        return parameters[argument] if isinstance(argument, int) else argument


def _is_tabulated(node: ir.Node) -> bool:
    """Whether the device has a table for it, whose entries are computed in float64: float32 rounds some ties otherwise."""
    if graph.is_op(node, *FUNCTIONS):
        return not graph.is_op(node, *_CLAMPS)  # which are exact in any precision
    constants = [value for value in node.inputs if graph.is_constant(value)]
    return graph.is_op(node, *_WITH_NUMBER) and len(constants) == 1 and graph.size(constants[0]) == 1


def with_weights(model: ir.Model, weights: Mapping[str, np.ndarray]) -> ir.Model:
    """Return the graph with other values of some initializers, their names kept."""
    changed = model.clone()
    for name, value in weights.items():
        changed.graph.initializers[name].const_value = ir.tensor(value, name=name)
    run_passes(changed)
    return changed


def check_trainable(owner: ir.Graph) -> None:
    """Make the graph work for any batch; raise ClioError for what cannot be trained."""
    errors = []
    for node in owner:
        reason = _why_not(node)
        if reason:
            errors.append(f"{graph.where(node)}: {reason}")
    raise_collected(errors, "", "compile this network without training, or replace what cannot be trained")
    if not free_batch(owner):
        raise ClioError(
            "an operator does not treat each sample of a batch on its own: this network cannot be trained"
        )


def _why_not(node: ir.Node) -> str:
    operator = node.op_type if node.domain == "" else f"{node.domain}.{node.op_type}"
    if node.op_type in TRANSFORMERS or (graph.is_op(node, "MatMul") and len(graph.data_inputs(node)) > 1):
        return f"{operator} is an operator of transformers, which cannot be trained here"
    if node.domain or node.op_type not in _FUNCTIONS:
        return f"{operator} cannot be trained: it has no counterpart in PyTorch here"
    if len(node.outputs) > 1:
        return f"{operator} with several outputs cannot be trained"
    rank = len(graph.shape(node.inputs[0]))
    if node.op_type in _OF_IMAGES and rank != 4:
        return f"{operator} over a tensor of {rank - 1} axes cannot be trained, only over images"
    return _refused_attribute(node)


def _refused_attribute(node: ir.Node) -> str:
    if graph.int_attr(node, "ceil_mode"):
        return f"{node.op_type} that rounds sizes up cannot be trained"
    if node.op_type == "AveragePool" and max(graph.ints_attr(node, "dilations", (1,))) > 1:
        return "AveragePool with gaps in its window cannot be trained"
    if node.op_type == "Pad" and graph.str_attr(node, "mode", "constant") != "constant":
        return "Pad with anything but a constant cannot be trained"
    return ""


def _trainable(owner: ir.Graph) -> list[str]:
    """Names of the initializers that are weights: floats; elsewhere than in a layer, more than a number that scales."""
    found: list[str] = []
    for node in owner:
        values = node.inputs if graph.is_op(node, "Add", "Div", "Mul", "Sub") else node.inputs[1:]
        least = 1 if graph.is_op(node, "Conv", "Gemm", "MatMul") else 2
        for value in values:
            weight = graph.constant(value)
            if value is not None and weight is not None and weight.dtype.kind == "f" and weight.size >= least:
                found.append(str(value.name))
    return list(dict.fromkeys(found))


def _numpy(value: ir.Value) -> np.ndarray:
    array = graph.constant(value)
    assert array is not None
    return np.array(array)


# --- operators -----------------------------------------------------------------------------------------


def _first(inputs: Inputs) -> Tensor:
    assert inputs[0] is not None
    return inputs[0]


def _unary(function: Callable[[Tensor], Tensor]) -> Callable[[ir.Node], Function]:
    return lambda _: lambda inputs: function(_first(inputs))


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[ir.Node], Function]:
    def run(inputs: Inputs) -> Tensor:
        left, right = inputs
        assert left is not None and right is not None
        return function(left, right)

    return lambda _: run


def _with_float(function: Callable[..., Tensor], **names: tuple[str, float]) -> Callable[[ir.Node], Function]:
    """A function of one tensor with floats that are attributes of the node."""

    def make(node: ir.Node) -> Function:
        options = {name: graph.float_attr(node, *of) for name, of in names.items()}
        return lambda inputs: function(_first(inputs), **options)

    return make


def _padded(x: Tensor, pads: Sequence[int], fill: float = 0.0) -> Tensor:
    """Pads of top, left, bottom, right; PyTorch's own cannot differ between sides."""
    top, left, bottom, right = pads
    return functional.pad(x, (left, right, top, bottom), value=fill) if any(pads) else x


def _conv(node: ir.Node) -> Function:
    pads = graph.ints_attr(node, "pads", (0, 0, 0, 0))
    even = pads[:2] == pads[2:]
    stride, dilation = graph.ints_attr(node, "strides", (1, 1)), graph.ints_attr(node, "dilations", (1, 1))
    groups = graph.int_attr(node, "group", 1)

    def run(inputs: Inputs) -> Tensor:
        x, weight, bias = (*inputs, None)[:3]
        assert x is not None and weight is not None
        if even:
            return functional.conv2d(x, weight, bias, stride, pads[:2], dilation, groups)
        return functional.conv2d(_padded(x, pads), weight, bias, stride, 0, dilation, groups)

    return run


def _gemm(node: ir.Node) -> Function:
    alpha, beta = graph.float_attr(node, "alpha", 1.0), graph.float_attr(node, "beta", 1.0)
    turned = bool(graph.int_attr(node, "transB"))

    def run(inputs: Inputs) -> Tensor:
        x, weight, bias = (*inputs, None)[:3]
        assert x is not None and weight is not None
        product = functional.linear(x, weight if turned else weight.T) * alpha
        return product if bias is None else product + beta * bias

    return run


def _max_pool(node: ir.Node) -> Function:
    window, stride, pads, dilation = _window(node)
    return lambda inputs: functional.max_pool2d(
        _padded(_first(inputs), pads, -math.inf), window, stride, 0, dilation
    )


def _average_pool(node: ir.Node) -> Function:
    window, stride, pads, _ = _window(node)
    whole = bool(graph.int_attr(node, "count_include_pad"))

    def run(inputs: Inputs) -> Tensor:
        x = _first(inputs)
        # As the device: a sum, which is exact, then one division.
        total = functional.avg_pool2d(_padded(x, pads), window, stride, divisor_override=1)
        if whole or not any(pads):
            return total / math.prod(window)
        inside = _padded(torch.ones_like(x[:1, :1]), pads)
        return total / functional.avg_pool2d(inside, window, stride, divisor_override=1)

    return run


def _window(node: ir.Node) -> tuple[tuple[int, ...], ...]:
    window = graph.ints_attr(node, "kernel_shape")
    ones = (1,) * len(window)
    return (
        window,
        graph.ints_attr(node, "strides", ones),
        graph.ints_attr(node, "pads", (0,) * 2 * len(window)),
        graph.ints_attr(node, "dilations", ones),
    )


def _reduction(function: Callable[..., Tensor]) -> Callable[[ir.Node], Function]:
    def make(node: ir.Node) -> Function:
        rank = len(graph.shape(node.inputs[0]))
        axes = [axis % rank for axis in graph.node_axes(node) or ()]
        keep = bool(graph.int_attr(node, "keepdims", 1))
        return lambda inputs: function(_first(inputs), dim=axes, keepdim=keep)

    return make


def _reshape(node: ir.Node) -> Function:
    dims = graph.shape(node.outputs[0])[1:]
    return lambda inputs: _first(inputs).reshape(-1, *dims)


def _transpose(node: ir.Node) -> Function:
    order = graph.ints_attr(node, "perm")
    return lambda inputs: _first(inputs).permute(order)


def _concat(node: ir.Node) -> Function:
    axis = graph.int_attr(node, "axis")
    return lambda inputs: torch.cat([x for x in inputs if x is not None], axis)


def _softmax(function: Callable[..., Tensor]) -> Callable[[ir.Node], Function]:
    def make(node: ir.Node) -> Function:
        axis = graph.int_attr(node, "axis", -1)
        return lambda inputs: function(_first(inputs), dim=axis)

    return make


def _clip(node: ir.Node) -> Function:
    low, high = (graph.scalar(graph.input_at(node, place)) for place in (1, 2))
    bounds = (-math.inf if low is None else low, math.inf if high is None else high)
    # The gradient of hardtanh is one step, that of clamp four: 40 % of MobileNetV2's time.
    return lambda inputs: functional.hardtanh(_first(inputs), *bounds)


def _pad(node: ir.Node) -> Function:
    pads = graph.integers(graph.input_at(node, 1)) or []
    rank = len(pads) // 2
    order = [side for axis in reversed(range(rank)) for side in (pads[axis], pads[axis + rank])]
    fill = graph.scalar(graph.input_at(node, 2)) or 0.0
    return lambda inputs: functional.pad(_first(inputs), order, value=fill)


def _prelu(x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, x * slope, x)


_FUNCTIONS: dict[str, Callable[[ir.Node], Function]] = {
    "Add": _binary(torch.add),
    "AveragePool": _average_pool,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _conv,
    "Div": _binary(torch.div),
    "Elu": _with_float(functional.elu, alpha=("alpha", 1.0)),
    "Gemm": _gemm,
    "GlobalAveragePool": _unary(lambda x: x.mean((2, 3), keepdim=True)),
    "GlobalMaxPool": _unary(lambda x: x.amax((2, 3), keepdim=True)),
    "HardSigmoid": _with_float(
        lambda x, alpha, beta: torch.clamp(alpha * x + beta, 0, 1), alpha=("alpha", 0.2), beta=("beta", 0.5)
    ),
    "HardSwish": _unary(lambda x: x * torch.clamp(x / 6 + 0.5, 0, 1)),
    "Identity": _unary(lambda x: x),
    "LeakyRelu": _with_float(functional.leaky_relu, negative_slope=("alpha", 0.01)),
    "LogSoftmax": _softmax(functional.log_softmax),
    "MatMul": _binary(torch.matmul),
    "MaxPool": _max_pool,
    "Mul": _binary(torch.mul),
    "PRelu": _binary(_prelu),
    "Pad": _pad,
    "ReduceMax": _reduction(torch.amax),
    "ReduceMean": _reduction(torch.mean),
    "ReduceSum": _reduction(torch.sum),
    "Relu": _unary(functional.relu),
    "Reshape": _reshape,
    "Selu": _with_float(
        lambda x, alpha, gamma: gamma * functional.elu(x, alpha),
        alpha=("alpha", 1.67326319217681884765625),
        gamma=("gamma", 1.05070102214813232421875),
    ),
    "Sigmoid": _unary(torch.sigmoid),
    "Softmax": _softmax(functional.softmax),
    "Softplus": _unary(functional.softplus),
    "Sub": _binary(torch.sub),
    "Tanh": _unary(torch.tanh),
    "Transpose": _transpose,
}


def trainable_operators() -> Iterable[str]:
    """Return the operators that can be trained, sorted."""
    return sorted(_FUNCTIONS)
