"""Fake quantization to Q-format with trained power-of-two thresholds.

S. R. Jain, A. Gural, M. Wu, C. H. Dick, "Trained Quantization Thresholds for Accurate and Efficient Fixed-Point Inference
of Deep Neural Networks" (MLSys 2020): a scale is 2 to the power of a rounded-up, trained logarithm of the threshold beyond
which values saturate; rounding passes gradients through, to the threshold too. Here rounding is half up, as the device
rounds. All scales are powers of two, so floats compute what the device's integers compute, as long as sums stay below
2**24 steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from clio_cc.quantization.layers import ConvLayer, Float, Network

MOST_SHIFT = 24  # of the device's requantization; see quantize._bounded
_INT8 = (-128.0, 127.0)
_MIDDLE = 0.5  # a threshold starts in the middle of the octave that rounds up to its scale


@dataclass(frozen=True)
class Layer:
    """A Conv or Gemm on the device: tensors that have scales of their own."""

    source: str
    output: str


class FakeQuant(nn.Module):
    """How the device rounds, with one threshold per tensor and one per output channel of a layer."""

    def __init__(
        self,
        network: Network,
        nodes: Mapping[str, str],
        scales: Mapping[str, float],
        weights: Mapping[str, Float],
    ) -> None:
        """Start from scales that calibration found.

        Args:
            network: The device's half, encoders not folded.
            nodes: Names of the graph's Conv and Gemm nodes, by the name of the tensor that their layer writes.
            scales: Power of two per tensor of `network` that has a scale of its own.
            weights: Powers of two, ``[cout]``, by the name of the tensor that a layer writes.
        """
        super().__init__()
        origin: dict[str, str] = {name: name for name in network.inputs}
        for layer in network.layers:
            origin[layer.output] = origin[layer.inputs[0]] if layer.keeps_scale else layer.output
        self._layers = {
            nodes.get(layer.output, layer.output): Layer(origin[layer.inputs[0]], layer.output)
            for layer in network.layers
            if isinstance(layer, ConvLayer) and layer.output in weights
        }
        self._fixed = frozenset(network.inputs)
        self._tensors = {name: place for place, name in enumerate(scales)}
        self._weights = {name: place for place, name in enumerate(weights)}
        thresholds = [math.log2(scale) + 7 - _MIDDLE for scale in scales.values()]
        self.thresholds = nn.ParameterList(nn.Parameter(torch.tensor(value)) for value in thresholds)
        self.weight_thresholds = nn.ParameterList(
            nn.Parameter(torch.log2(torch.tensor(scale, dtype=torch.float32)) + 7 - _MIDDLE)
            for scale in weights.values()
        )
        for name in self._fixed & set(scales):
            self.thresholds[self._tensors[name]].requires_grad_(False)
        self.bounds: dict[str, tuple[float, float]] = {}

    def values(self, tensor: str, x: Tensor) -> Tensor:
        """Return a tensor on its grid, float32; one without a scale of its own as it is."""
        place = self._tensors.get(tensor)
        if place is None:
            return x
        threshold = self.thresholds[place]
        return _round(x, self._exponent(tensor), threshold, *self.bounds.get(tensor, _INT8)).float()

    def weights(self, node: str, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the weights of a Conv or Gemm (``[cout, ...]``) on their grids, the bias on that of the accumulator."""
        layer = self._layers.get(node)
        if layer is None:
            return weight, bias
        exponent = self._weight_exponent(layer)
        shape = (-1, *[1] * (weight.ndim - 1))
        threshold = self.weight_thresholds[self._weights[layer.output]].view(shape)
        rounded = _round(weight, exponent.view(shape), threshold, *_INT8)
        if bias is None:
            return rounded, None
        step = torch.exp2(exponent + self._exponent(layer.source))
        return rounded, bias + (torch.floor(bias / step + 0.5) * step - bias).detach()

    def scales(self) -> dict[str, float]:
        """Return the scale of each tensor."""
        return {name: 2.0 ** float(self._exponent(name)) for name in self._tensors}

    def weight_scales(self) -> dict[str, Any]:
        """Return the scales of each layer's weights, ``[cout]``, by the tensor it writes."""
        return {
            layer.output: 2.0 ** self._weight_exponent(layer).cpu().double().numpy()
            for layer in self._layers.values()
        }

    def _exponent(self, tensor: str) -> Tensor:
        return torch.ceil(self.thresholds[self._tensors[tensor]].detach()) - 7

    def _weight_exponent(self, layer: Layer) -> Tensor:
        """Within what the device can shift by: right, and not too far."""
        own = torch.ceil(self.weight_thresholds[self._weights[layer.output]].detach()) - 7
        most = self._exponent(layer.output) - self._exponent(layer.source)
        return torch.clamp(own, most - MOST_SHIFT, most)


class _Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, exponent: Tensor, threshold: Tensor, low: float, high: float) -> Tensor:
        scale = torch.exp2(exponent)
        steps = x / scale
        rounded = (steps + 0.5).floor_().clamp_(low, high).mul_(scale)
        ctx.save_for_backward(steps, rounded, scale, threshold)
        ctx.low, ctx.high = low, high
        return rounded

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, Tensor, None, None]:
        (grad,) = grads
        steps, rounded, scale, threshold = ctx.saved_tensors
        # Nothing passes where values saturate: beyond half a step behind the last one.
        passed = torch.ops.aten.hardtanh_backward(grad, steps, ctx.low - 0.5, ctx.high + 0.5)
        # The threshold feels rounding errors inside, and beyond it how far it is from zero (TQT, equation 7).
        shape = threshold.shape
        felt = (grad * rounded).sum_to_size(shape) - (passed * steps).sum_to_size(shape) * scale.view(shape)
        return passed, None, felt * math.log(2), None, None


def _round(x: Tensor, exponent: Tensor, threshold: Tensor, low: float, high: float) -> Tensor:
    result: Tensor = _Round.apply(x, exponent, threshold, low, high)
    return result
