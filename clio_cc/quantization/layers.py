"""The device's half in floating point: layers in device layout, what :mod:`clio_cc.lower` makes and
quantization reads.

A layer is an integer operator before its numbers are chosen: fused, NHWC without the batch, weights as
float64. Every layer computes itself in numpy, so that quantization can walk the float and the integer
network side by side.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from clio_cc.errors import ClioError

Float = npt.NDArray[np.floating]
Function = Callable[[Float], Float]


@dataclass(frozen=True)
class Layout:
    """How a tensor of the ONNX graph (batch first) lies on the device (no batch).

    Attributes:
        graph_shape: Shape in the graph, batch of 1 included.
        order: Device axis d is graph axis ``order[d]``; axis 0, the batch, is not among them.
        columns: For a vector made from an image: device feature j is graph feature ``columns[j]``.
    """

    graph_shape: tuple[int, ...]
    order: tuple[int, ...]
    columns: npt.NDArray[np.int64] | None = field(default=None, compare=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape on the device."""
        return tuple(self.graph_shape[axis] for axis in self.order)

    @property
    def row_major(self) -> bool:
        """Whether the device's bytes are in the graph's own order."""
        wide = [axis for axis in self.order if self.graph_shape[axis] != 1]
        return wide == sorted(wide) and self.columns is None

    def to_device(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return a batch in graph layout (``[batch, ...]``) as the device has it (``[batch, *shape]``)."""
        moved = array.reshape(-1, *self.graph_shape[1:]).transpose(0, *self.order)
        return moved if self.columns is None else moved[:, self.columns]

    def to_graph(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return a batch as the device has it in graph layout."""
        if self.columns is not None:
            array = array[:, np.argsort(self.columns)]
        back = np.argsort((0, *self.order))
        return array.transpose(*back).reshape(-1, *self.graph_shape[1:])


@dataclass(frozen=True, eq=False, kw_only=True)
class Layer(ABC):
    """One future operator.

    Attributes:
        name: Name of the (last fused) ONNX node.
        kind: ONNX operator types, fused ones joined by ``+``.
        inputs: Names of the tensors it reads.
        output: Name of the tensor it writes.
        shape: Device shape of the output.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    output: str
    shape: tuple[int, ...]

    @abstractmethod
    def evaluate(self, inputs: Sequence[Float]) -> Float:
        """Return the output for a batch (``[batch, *shape]`` each)."""

    @property
    def keeps_scale(self) -> bool:
        """Whether the output must have the input's scale."""
        return False


@dataclass(frozen=True, eq=False, kw_only=True)
class Clamped(Layer):
    """A layer that can end in a clamp.

    Attributes:
        lo: Lower bound, -inf for none.
        hi: Upper bound, inf for none.
    """

    lo: float = -np.inf
    hi: float = np.inf

    @abstractmethod
    def linear(self, inputs: Sequence[Float]) -> Float:
        """Return the output before the clamp."""

    def clamp(self, value: Float) -> Float:
        """Return `value` within the bounds."""
        return value if np.isinf(self.lo) and np.isinf(self.hi) else np.clip(value, self.lo, self.hi)

    def evaluate(self, inputs: Sequence[Float]) -> Float:
        return self.clamp(self.linear(inputs))


@dataclass(frozen=True, eq=False, kw_only=True)
class ConvLayer(Clamped):
    """Conv or Gemm; fields as in :class:`clio_cc.operators.conv.Conv`, weight and bias float64."""

    weight: Float
    bias: Float
    image: tuple[int, int, int]
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    groups: int = 1

    @property
    def depthwise(self) -> bool:
        """One filter per channel."""
        return bool(self.groups == self.weight.shape[0] and self.weight.shape[3] == 1)

    @property
    def pixels(self) -> tuple[int, int]:
        """Rows and columns of the output."""
        return (self.shape[0], self.shape[1]) if len(self.shape) == 3 else (1, 1)

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        return self.pixels[0] * self.pixels[1] * int(self.weight.size)

    def windows(self, x: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        """Return what each filter tap sees: ``kh * kw`` views ``[batch, out_h, out_w, cin]``."""
        image = x.reshape(len(x), *self.image)
        top, left, bottom, right = self.pads
        if any(self.pads):
            image = np.pad(image, ((0, 0), (top, bottom), (left, right), (0, 0)))
        (out_h, out_w), (sh, sw), (dh, dw) = self.pixels, self.stride, self.dilation
        _, kh, kw, _ = self.weight.shape
        return [
            image[:, r * dh : r * dh + (out_h - 1) * sh + 1 : sh, c * dw : c * dw + (out_w - 1) * sw + 1 : sw]
            for r in range(kh)
            for c in range(kw)
        ]

    def columns(self, x: Float, group: int) -> Float:
        """Return the receptive fields of a group, ``[batch, out_h, out_w, kh * kw * cin / groups]``."""
        per_in = self.weight.shape[3]
        taps = [window[..., group * per_in : (group + 1) * per_in] for window in self.windows(x)]
        return taps[0] if len(taps) == 1 else np.concatenate(taps, axis=-1)

    def linear(self, inputs: Sequence[Float]) -> Float:
        x = inputs[0]
        weight, bias = self.weight.astype(x.dtype), self.bias.astype(x.dtype)
        if self.depthwise:
            taps = weight.reshape(len(weight), -1).T
            windows = self.windows(x)
            total = windows[0] * taps[0] + bias
            product = np.empty_like(total)
            for window, tap in zip(windows[1:], taps[1:], strict=True):
                total += np.multiply(window, tap, out=product)
        else:
            parts = []
            for g, filters in enumerate(np.split(weight, self.groups)):
                flat = filters.reshape(len(filters), -1).T
                parts.append(self.columns(x, g).reshape(-1, len(flat)) @ flat)
            total = (parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)) + bias
        return np.asarray(total.reshape(len(x), *self.shape))


@dataclass(frozen=True, eq=False, kw_only=True)
class AddLayer(Clamped):
    """Sum of two tensors; the second may be one value per channel."""

    def linear(self, inputs: Sequence[Float]) -> Float:
        return inputs[0] + inputs[1]


@dataclass(frozen=True, eq=False, kw_only=True)
class MulLayer(Clamped):
    """Product of two tensors; the second may be one value per channel."""

    def linear(self, inputs: Sequence[Float]) -> Float:
        return inputs[0] * inputs[1]


@dataclass(frozen=True, eq=False, kw_only=True)
class TableLayer(Layer):
    """A function of each value; `function` takes and gives float64."""

    function: Function

    def evaluate(self, inputs: Sequence[Float]) -> Float:
        return self.function(inputs[0].astype(np.float64)).astype(inputs[0].dtype)


@dataclass(frozen=True, eq=False, kw_only=True)
class PoolLayer(Layer):
    """MaxPool (`average` false) or AveragePool; fields as in :mod:`clio_cc.operators.pool`."""

    average: bool
    window: tuple[int, int]
    stride: tuple[int, int]
    pads: tuple[int, int, int, int]
    dilation: tuple[int, int]
    count_padding: bool = False

    @property
    def keeps_scale(self) -> bool:
        return not self.average

    def evaluate(self, inputs: Sequence[Float]) -> Float:
        taps = self._taps(inputs[0], 0.0 if self.average else -np.inf)
        if not self.average:
            return np.asarray(np.maximum.reduce(taps))
        total = np.add.reduce(taps)
        if self.count_padding:
            return np.asarray(total / np.asarray(len(taps), total.dtype))
        inside = self._taps(np.ones_like(inputs[0][:1, :, :, :1]), 0.0)
        return np.asarray(total / np.add.reduce(inside))

    def _taps(self, x: Float, fill: float) -> list[Float]:
        top, left, bottom, right = self.pads
        if any(self.pads):
            x = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=fill)
        (out_h, out_w, _), (sh, sw), (dh, dw) = self.shape, self.stride, self.dilation
        return [
            x[:, r * dh : r * dh + (out_h - 1) * sh + 1 : sh, c * dw : c * dw + (out_w - 1) * sw + 1 : sw]
            for r in range(self.window[0])
            for c in range(self.window[1])
        ]


@dataclass(frozen=True, eq=False, kw_only=True)
class ConcatLayer(Layer):
    """Tensors side by side along device axis `axis`."""

    axis: int

    def evaluate(self, inputs: Sequence[Float]) -> Float:
        return np.concatenate(inputs, axis=self.axis + 1)


@dataclass(frozen=True, eq=False, kw_only=True)
class PadLayer(Layer):
    """A border of `value`; pads are top, left, bottom, right."""

    pads: tuple[int, int, int, int]
    value: float

    @property
    def keeps_scale(self) -> bool:
        return True

    def evaluate(self, inputs: Sequence[Float]) -> Float:
        top, left, bottom, right = self.pads
        borders = ((0, 0), (top, bottom), (left, right), (0, 0))
        return np.pad(inputs[0], borders, constant_values=self.value)


@dataclass(frozen=True, eq=False, kw_only=True)
class ReshapeLayer(Layer):
    """The same bytes under another shape."""

    @property
    def keeps_scale(self) -> bool:
        return True

    def evaluate(self, inputs: Sequence[Float]) -> Float:
        return inputs[0].reshape(len(inputs[0]), *self.shape)


@dataclass(frozen=True, eq=False, kw_only=True)
class TransposeLayer(Layer):
    """Axes in another order; output axis i is input axis ``permutation[i]``, the batch not counted."""

    permutation: tuple[int, ...]

    @property
    def keeps_scale(self) -> bool:
        return True

    def evaluate(self, inputs: Sequence[Float]) -> Float:
        return np.ascontiguousarray(inputs[0].transpose(0, *(axis + 1 for axis in self.permutation)))


@dataclass(frozen=True, eq=False, kw_only=True)
class SoftmaxLayer(Layer):
    """Softmax over a vector."""

    def evaluate(self, inputs: Sequence[Float]) -> Float:
        e = np.exp(inputs[0] - inputs[0].max(axis=-1, keepdims=True))
        return np.asarray(e / e.sum(axis=-1, keepdims=True))


@dataclass(frozen=True)
class Cut:
    """A partition point of a Network, a future :class:`~clio_cc.program.Tap`.

    Attributes:
        partition: Its name.
        tensor: The tensor that travels, channels last.
        order: Unit k is channel ``order[k]``; () for all as they lie.
        bits: Of a value on the wire.
    """

    partition: str
    tensor: str
    order: tuple[int, ...] = ()
    bits: int = 8


ENCODE = "Encode"
"""Kind of a layer that makes units of a tensor's channels; behind a ``+`` where it is folded into the layer before."""


@dataclass(frozen=True, eq=False)
class Network:
    """The device's half in floating point.

    Attributes:
        inputs: Names of the inputs.
        layers: In execution order.
        outputs: Names of the tensors of `taps`, then of the model's outputs where the whole network is here.
        layouts: Of every input, every output, and every tensor that is also a tensor of the ONNX graph, by name.
        taps: Where data leaves for the cloud, in order of execution.
    """

    inputs: tuple[str, ...]
    layers: tuple[Layer, ...]
    outputs: tuple[str, ...]
    layouts: Mapping[str, Layout]
    taps: tuple[Cut, ...] = ()

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one run."""
        return sum(layer.macs for layer in self.layers if isinstance(layer, ConvLayer))

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Device shape of every tensor, by name."""
        return {name: self.layouts[name].shape for name in self.inputs} | {
            each.output: each.shape for each in self.layers
        }

    def run(self, inputs: Mapping[str, Float]) -> dict[str, Float]:
        """Return every tensor for a batch of inputs in device layout."""
        values = dict(inputs)
        for layer in self.layers:
            values[layer.output] = layer.evaluate([values[name] for name in layer.inputs])
        return values

    @property
    def encoded(self) -> frozenset[str]:
        """Names of the tensors that encoders write: tensors of no graph."""
        return frozenset(layer.output for layer in self.layers if layer.kind.split("+")[-1] == ENCODE)

    def cut(self, partition: str) -> Cut:
        """Return the tap of that name."""
        return next(cut for cut in self.taps if cut.partition == partition)

    def within_bits(self, layer: ConvLayer, scale: float) -> ConvLayer:
        """Return the layer with its clamp as narrow as the bits that its output has on the wire, in steps of `scale`."""
        bits = next((cut.bits for cut in self.taps if cut.tensor == layer.output), 8)
        if bits == 8:
            return layer
        half = 2.0 ** (bits - 1) * scale
        return replace(layer, lo=max(layer.lo, -half), hi=min(layer.hi, half - scale))

    def with_order(self, partition: str, order: Sequence[int]) -> Network:
        """Return the network whose units at a tap are some of its channels, the most important first."""
        return self._with_cut(replace(self.cut(partition), order=tuple(int(channel) for channel in order)))

    def with_encoder(
        self, partition: str, weight: Float, bias: Float, *, fold: bool = True, bits: int = 8
    ) -> tuple[Network, ConvLayer | None]:
        """Return the network that sends ``weight @ channels + bias`` at a tap, and the layer added for it.

        No layer is added (None) where one without a clamp writes the tap's tensor and nothing else reads it: that layer
        takes the encoder in.

        Args:
            partition: Name of the tap.
            weight: ``[units, channels]``, channels of the tap's tensor as the device has it: of a graph tensor's axis 1.
            bias: ``[units]``.
            fold: Whether a layer may take it in.
            bits: Of a value on the wire.

        Raises:
            ClioError: the tensor is neither an image nor a vector.
        """
        cut = self.cut(partition)
        old = self.layouts[cut.tensor]
        if len(old.shape) not in (1, 3):
            raise ClioError(
                f"units of a tensor of {len(old.shape)} axes cannot be encoded, only selected",
                f"partition point '{partition}'",
            )
        name = f"{partition}/units"
        while name in self.layouts or name in self.shapes:
            name += "_"
        at = next(i for i, layer in enumerate(self.layers) if layer.output == cut.tensor)
        before, layouts, added = self.layers[at], dict(self.layouts), None
        if fold and isinstance(before, ConvLayer) and self._takes_in(before):
            changed: tuple[Layer, ...] = (_folded(before, name, weight, bias),)
            del layouts[cut.tensor]
        else:
            added = _encoder(old.shape, cut.tensor, name, weight, bias)
            changed = (before, added)
        layouts[name] = replace(old, graph_shape=(old.graph_shape[0], len(weight), *old.graph_shape[2:]))
        layers = (*self.layers[:at], *changed, *self.layers[at + 1 :])
        network = self._with_cut(replace(cut, tensor=name, bits=bits))
        return replace(network, layers=layers, layouts=layouts), added

    def _takes_in(self, layer: ConvLayer) -> bool:
        """Whether a layer is linear and nothing but its tap takes what it writes."""
        takers = [*self.outputs, *(name for each in self.layers for name in each.inputs)]
        linear = np.isinf(layer.lo) and np.isinf(layer.hi) and layer.groups == 1
        return bool(linear and takers.count(layer.output) == 1)

    def _with_cut(self, changed: Cut) -> Network:
        at = next(i for i, cut in enumerate(self.taps) if cut.partition == changed.partition)
        outputs = (*self.outputs[:at], changed.tensor, *self.outputs[at + 1 :])
        return replace(self, outputs=outputs, taps=(*self.taps[:at], changed, *self.taps[at + 1 :]))


def _folded(layer: ConvLayer, name: str, weight: Float, bias: Float) -> ConvLayer:
    """Return a layer that computes what an encoder makes of its output."""
    return replace(
        layer,
        kind=f"{layer.kind}+{ENCODE}",
        output=name,
        shape=(*layer.shape[:-1], len(weight)),
        weight=np.tensordot(weight, layer.weight, 1),
        bias=weight @ layer.bias + bias,
    )


def _encoder(shape: tuple[int, ...], source: str, name: str, weight: Float, bias: Float) -> ConvLayer:
    """Return a 1×1 convolution of an image or vector."""
    height, width, channels = shape if len(shape) == 3 else (1, 1, *shape)
    return ConvLayer(
        name=name,
        kind=ENCODE,
        inputs=(source,),
        output=name,
        shape=(*shape[:-1], len(weight)),
        weight=np.asarray(weight, np.float64)[:, None, None, :],
        bias=np.asarray(bias, np.float64),
        image=(height, width, channels),
    )
