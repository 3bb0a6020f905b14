"""A split network in PyTorch: trunk as the device computes it, encoders, heads per slice count, the rest in floats.

    x ── trunk ── [point] ── trunk ── [point] ── trunk ── answer (local)
                     └ encoder ─ first k units ─ head k ─┐         └ encoder ─ …
                                                         └ tail (the same weights, in floats) ── answer

At every point each sample of a batch is sent with one count, drawn by its probability; so the mean loss is an unbiased
estimate of the expected loss (CLIO, section 3.2) for one run of the trunk, and of the rest one per point.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from clio_cc.training.fake_quant import FakeQuant
from clio_cc.training.torch_graph import TorchGraph

MOMENTUM = 0.02  # of running statistics
EPSILON = 1e-6  # smallest standard deviation


@dataclass(frozen=True)
class Way:
    """How some samples of a batch are sent, `samples` of them in a row.

    Attributes:
        point: Number of the partition point; as many as there are points for the whole network on the device.
        count: Units that arrive.
        samples: How many samples.
    """

    point: int
    count: int
    samples: int


class Point(nn.Module):
    """A partition point: encoder and heads.

    Attributes:
        name: Of the point.
        made_of: Tensor that units are made of: that of the point, or what goes into the activation that writes it.
        tensor: Tensor that the heads restore, behind that activation.
        bounds: Of the activation between the two, or None.
        counts: Ascending.
    """

    def __init__(
        self,
        name: str,
        made_of: str,
        tensor: str,
        bounds: tuple[float, float] | None,
        counts: Sequence[int],
        encoder: tuple[np.ndarray, np.ndarray],
        heads: tuple[Sequence[np.ndarray], Sequence[np.ndarray]],
    ) -> None:
        """Start from an encoder (``[units, channels]``, ``[units]``) and heads per count (``[channels, count, window,
        window]`` or ``[channels, count]`` each, ``[channels]`` each)."""
        super().__init__()
        self.name, self.made_of, self.tensor, self.bounds, self.counts = (
            name,
            made_of,
            tensor,
            bounds,
            tuple(counts),
        )
        weight, bias = (torch.tensor(each, dtype=torch.float32) for each in encoder)
        self.image = heads[0][0].ndim == 4
        self.encoder_weight = nn.Parameter(weight[:, :, None, None] if self.image else weight)
        self.encoder_bias = nn.Parameter(bias)
        self.head_weights = nn.ParameterList(torch.tensor(each, dtype=torch.float32) for each in heads[0])
        self.head_biases = nn.ParameterList(torch.tensor(each, dtype=torch.float32) for each in heads[1])
        # Every count has its own statistics: what few units restore is spread less than what many do.
        self.norms = nn.ModuleList(RunningNorm(bias.numel()) for bias in self.head_biases)
        self.gains = nn.ParameterList(torch.ones_like(bias) for bias in self.head_biases)
        self.offsets = nn.ParameterList(torch.zeros_like(bias) for bias in self.head_biases)

    @property
    def units_name(self) -> str:
        """Name of the encoder's output on the device."""
        return f"{self.name}/units"

    def encoder(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the encoder as it is now, ``[units, channels]`` and ``[units]``."""
        weight, bias = self.encoder_weight.detach().cpu().numpy(), self.encoder_bias.detach().cpu().numpy()
        return weight.reshape(len(bias), -1).copy(), bias.copy()

    def encode(self, x: Tensor, rounding: FakeQuant | None) -> Tensor:
        """Return the units, ``[n, units, ...]``, of the tensor they are made of."""
        weight: Tensor = self.encoder_weight
        bias: Tensor | None = self.encoder_bias
        if rounding is not None:
            weight, bias = rounding.weights(self.units_name, weight, bias)
        units = functional.conv2d(x, weight, bias) if self.image else functional.linear(x, weight, bias)
        return units if rounding is None else rounding.values(self.units_name, units)

    def head(self, row: int) -> tuple[Tensor, Tensor]:
        """Return a head with its normalization folded in: ``[channels, count, ...]`` and ``[channels]``, detached."""
        weight, bias, norm = self.head_weights[row].detach(), self.head_biases[row].detach(), self.norms[row]
        gain, offset = self.gains[row].detach() / norm.spread, self.offsets[row].detach()
        return weight * gain.view(-1, *[1] * (weight.ndim - 1)), (bias - norm.mean) * gain + offset

    def raw(self, units: Tensor, count: int) -> Tensor:
        """Return what goes into the point's activation (or its tensor, if there is none), from the first `count` units."""
        row = self.counts.index(count)
        weight, bias = self.head_weights[row], self.head_biases[row]
        seen = units[:, :count]
        if self.image:
            found = functional.conv2d(seen, weight, bias, padding=weight.shape[-1] // 2)
        else:
            found = functional.linear(seen, weight, bias)
        shape = (1, -1, *[1] * (found.ndim - 2))
        return self.norms[row](found) * self.gains[row].view(shape) + self.offsets[row].view(shape)

    def settle(self, units: Tensor) -> None:
        """Start the statistics of every head from those of some samples' units."""
        for row, count in enumerate(self.counts):
            restored = self.raw(units, count).detach()
            variance, mean = torch.var_mean(restored, [0, *range(2, restored.ndim)], correction=0)
            spread = variance.sqrt().clamp_min(EPSILON)
            self.norms[row].mean.copy_(mean)
            self.norms[row].spread.copy_(spread)
            self.gains[row].data.copy_(spread)
            self.offsets[row].data.copy_(mean)

    def restore(self, units: Tensor, count: int) -> Tensor:
        """Return the point's tensor from the first `count` units."""
        found = self.raw(units, count)
        return found if self.bounds is None else functional.hardtanh(found, *self.bounds)


class RunningNorm(nn.Module):
    """Normalization by statistics that follow the batches slowly, in training as later.

    A head sees only the samples of a batch that have its count: too few to normalize them by their own statistics.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, channels: int) -> None:
        """Start from a mean of 0 and a standard deviation of 1."""
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("spread", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[n, channels, ...]`` normalized."""
        if self.training:
            with torch.no_grad():
                axes = [0, *range(2, x.ndim)]
                variance, mean = torch.var_mean(x.detach(), axes, correction=0)
                self.mean.lerp_(mean, MOMENTUM)
                self.spread.copy_(self.spread.square().lerp_(variance, MOMENTUM).sqrt_().clamp_min_(EPSILON))
        shape = (1, -1, *[1] * (x.ndim - 2))
        return (x - self.mean.view(shape)) / self.spread.view(shape)


class SlicedNetwork(nn.Module):
    """The whole network with its points.

    Attributes:
        rounding: How the device rounds; None while training in floats.
    """

    def __init__(self, graph: TorchGraph, points: Sequence[Point], output: str) -> None:
        """Put together a graph, points in order of execution, and the name of the tensor that is the answer."""
        super().__init__()
        self.graph, self.points, self.output = graph, nn.ModuleList(points), output
        self.rounding: FakeQuant | None = None
        (self.input,) = graph.inputs

    def settle(self, x: Tensor) -> None:
        """Set the statistics of all heads to what they are for some inputs, and leave what the heads restore as it is."""
        training = self.training
        self.eval()  # what is measured must not follow what measures it
        with torch.no_grad():
            for number, point in enumerate(self.points):
                point.settle(self.units(x, number))
        self.train(training)

    def forward(self, x: Tensor, ways: Sequence[Way]) -> Tensor:
        """Return the answers by point, then by sample, ``[points * n, ...]``.

        Args:
            x: Inputs, ``[n, ...]``.
            ways: By ascending point; at each point that is among them, their samples add up to n.
        """
        trunk, at = self._quantized(self.input, x), self.input
        tail: Tensor | None = None
        behind = ""
        for number, point in enumerate(self.points):
            trunk, at = self.graph.run({at: trunk}, point.made_of, self.rounding), point.made_of
            if tail is not None:
                tail, behind = self.graph.run({behind: tail}, point.tensor), point.tensor
            taken = [way for way in ways if way.point == number]
            if taken:
                restored = self._restored(point, trunk, taken)
                tail, behind = restored if tail is None else torch.cat([tail, restored]), point.tensor
        answers = [] if tail is None else [self.graph.run({behind: tail}, self.output)]
        if ways[-1].point == len(self.points):
            answers.append(self.graph.run({at: trunk}, self.output, self.rounding))
        return answers[0] if len(answers) == 1 else torch.cat(answers)

    def units(self, x: Tensor, number: int) -> Tensor:
        """Return what the device sends at a point, ``[n, units, ...]``."""
        point = self.points[number]
        trunk = self.graph.run({self.input: self._quantized(self.input, x)}, point.made_of, self.rounding)
        return point.encode(trunk, self.rounding)

    def answer(self, units: Tensor, number: int, count: int) -> Tensor:
        """Return what the cloud answers to the first `count` units of a point."""
        point = self.points[number]
        return self.graph.run({point.tensor: point.restore(units, count)}, self.output)

    def is_finite(self) -> bool:
        """Whether all that is trained is finite, heads as they are written too."""
        heads = (
            each for point in self.points for row in range(len(point.counts)) for each in point.head(row)
        )
        return all(bool(torch.isfinite(each).all()) for each in (*self.state_dict().values(), *heads))

    def _quantized(self, tensor: str, x: Tensor) -> Tensor:
        return x if self.rounding is None else self.rounding.values(tensor, x)

    def _restored(self, point: Point, x: Tensor, ways: Sequence[Way]) -> Tensor:
        units = point.encode(x, self.rounding)
        parts = units.split([way.samples for way in ways])
        return torch.cat([point.restore(part, way.count) for part, way in zip(parts, ways, strict=True)])
