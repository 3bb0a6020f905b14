"""Cross-layer equalization: give small channels more of a tensor's range, and take it back in the weights
that read them.

A channel may be multiplied by any s > 0 where it is written if every reader divides by s; through Relu,
pools and Adds the factor passes unchanged. Tensors that such operators join form one group with one factor
per channel, a whole residual stream for instance. Weights of the writers do not care (their scales are per
output channel), depthwise readers neither; what is at stake is the rounding noise of the tensor against
that of the other readers' weights. The factors are ``(largest / own largest) ** strength``; the strength is
chosen per group by that noise.

In mode shift a group is also multiplied by one common factor, which moves its ranges to where powers of two
fit: so power-of-two scales cost activations hardly more than free ones.

Below a Clip to [0, 6] a channel that never reaches 6 may grow until it does: the common clamp then cuts
nothing that was seen. After Nagel et al., "Data-Free Quantization", arXiv 1906.04721; there for pairs of
layers and per-tensor weights.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np

from clio_cc.calibrate import Statistics
from clio_cc.quantization.formats import Mode, candidates, error_of
from clio_cc.quantization.layers import (
    AddLayer,
    Clamped,
    ConvLayer,
    Float,
    Layer,
    MulLayer,
    Network,
    PadLayer,
    PoolLayer,
    ReshapeLayer,
)
from clio_cc.ties import Ties

logger = logging.getLogger(__name__)

_COMMON = tuple(float(2.0 ** (k / 8)) for k in range(8))
_SEARCHED = 2**14  # values per tensor that choose the common factor
_STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
_MOST = 32.0  # no channel grows by more: one that calibration hardly saw may be large later


@dataclass(frozen=True, eq=False)
class Scaling:
    """What the tensors of a group are multiplied by.

    Attributes:
        channels: Factor per channel, `common` included.
        common: The part that all channels share; a clamp at six becomes one at ``6 * common``.
    """

    channels: Float
    common: float


def equalize(
    network: Network, statistics: Mapping[str, Statistics], mode: Mode, fixed: Collection[str] = ()
) -> tuple[Network, dict[str, Statistics], dict[str, Scaling]]:
    """Return an equal network that quantizes better, its statistics, and what each scaled tensor was multiplied by.

    Args:
        network: What the device computes.
        statistics: By tensor.
        mode: Which scales there will be.
        fixed: Tensors to leave as they are.
    """
    scalings: dict[str, Scaling] = {}
    groups = _groups(network, statistics)
    groups.fixed |= set(fixed)
    for names in groups.free():
        channels = _factors(network, statistics, names)
        scaled = [_scaled_statistics(statistics[name], channels) for name in names]
        common = 1.0 if mode == "mulshift" else _common_factor(scaled)
        scalings |= dict.fromkeys(names, Scaling(channels * common, common))
    seen = {
        name: _scaled_statistics(each, scalings[name].channels) if name in scalings else each
        for name, each in statistics.items()
    }
    layers = tuple(_scaled(layer, scalings) for layer in network.layers)
    return replace(network, layers=layers), seen, scalings


def _scaled_statistics(seen: Statistics, channels: Float) -> Statistics:
    rows = seen.rows * channels.astype(np.float32)
    return Statistics(seen.low * channels, seen.high * channels, rows)


def _common_factor(group: list[Statistics]) -> float:
    """Return the factor in [1, 2) that brings the ranges of a group's tensors closest to powers of two, by loss."""
    losses = dict.fromkeys(_COMMON, 0.0)
    for seen in group:
        thin = seen.rows[:: max(1, seen.rows.size // _SEARCHED)].astype(np.float64)
        power, largest = float(np.mean(thin**2)), float(seen.largest.max())
        for factor in losses if power > 0 else ():
            scales = candidates(largest * factor, "shift")
            losses[factor] += min(error_of(thin * factor, scale) for scale in scales) / (factor**2 * power)
    return min(losses, key=lambda factor: losses[factor])


def _groups(network: Network, statistics: Mapping[str, Statistics]) -> Ties:
    """Return tensors whose channels must have the same factors, and tensors whose factors must be 1."""
    groups = Ties()
    groups.fixed |= {*network.inputs, *network.outputs}
    shapes = network.shapes
    for name in shapes:
        groups.root(name)
    groups.fixed |= {name for name in shapes if name not in statistics}
    for layer in network.layers:
        channels = {shapes[name][-1] for name in (*layer.inputs, layer.output)}
        if isinstance(layer, ConvLayer):
            pass  # its weights take any factors
        elif isinstance(layer, MulLayer) and len(channels) == 1:
            groups.join(layer.output, layer.inputs[0])
            groups.fixed.add(layer.inputs[1])
        elif _passes_factors(layer) and len(channels) == 1:
            groups.join(layer.output, *layer.inputs)
        else:
            groups.fixed |= {layer.output, *layer.inputs}
        if isinstance(layer, Clamped) and layer.lo not in (0.0, -np.inf):
            groups.fixed.add(layer.output)
    return groups


def _passes_factors(layer: Layer) -> bool:
    """Return whether scaling a channel of all inputs scales that channel of the output."""
    return isinstance(layer, (AddLayer, PoolLayer, ReshapeLayer)) or (
        isinstance(layer, PadLayer) and not layer.value
    )


def _factors(network: Network, statistics: Mapping[str, Statistics], names: list[str]) -> Float:
    """Return the factor per channel of a group."""
    shares = []
    for name in names:
        largest = statistics[name].largest
        shares.append(largest / max(float(largest.max()), 1e-30))
    share = np.maximum.reduce(shares)
    share = np.maximum(share, 1 / _MOST)
    losses = {strength: _noise(network, statistics, names, share**-strength) for strength in _STRENGTHS}
    best = min(losses, key=lambda strength: losses[strength])
    logger.debug("equalize %s: strength %s of %s", names[0], best, losses)
    return np.asarray(share**-best)


def _noise(network: Network, statistics: Mapping[str, Statistics], names: list[str], factors: Float) -> float:
    """Return the expected rounding noise that the readers of a group see, each relative to its signal."""
    total = 0.0
    for layer in network.layers:
        for name in set(layer.inputs) & set(names):
            seen = statistics[name]
            step = float((factors * seen.largest).max()) / 127
            signal = float(np.mean(np.square(statistics[layer.output].rows, dtype=np.float64)))
            power = np.mean(np.square(seen.rows, dtype=np.float64), axis=0)
            noise = _reader_noise(layer, step, factors, power)
            total += noise / max(signal, 1e-30)
    return total


def _reader_noise(layer: Layer, step: float, factors: Float, power: Float) -> float:
    """Return the mean noise at a reader's output: from the tensor's steps, and from the steps of the reader's weights."""
    if not isinstance(layer, ConvLayer):
        return float(np.mean(step**2 / 12 / factors**2))
    weight = layer.weight.reshape(len(layer.weight), -1, layer.weight.shape[3])
    per_input = _per_input(layer, factors)[:, None, :]
    from_tensor = step**2 / 12 * (weight**2 / per_input**2).sum(axis=(1, 2))
    if layer.depthwise:
        return float(from_tensor.mean())
    weight_step = np.abs(weight / per_input).max(axis=(1, 2)) / 127
    energy = (_per_input(layer, power)[:, None, :] * per_input**2).sum(axis=(1, 2)) * weight.shape[1]
    return float((from_tensor + weight_step**2 / 12 * energy).mean())


def _per_input(layer: ConvLayer, values: Float) -> Float:
    """Return, for each output channel, the values of the input channels that it reads: ``[cout, cin / groups]``."""
    by_group = values.reshape(layer.groups, -1)
    return np.repeat(by_group, len(layer.weight) // layer.groups, axis=0)


def _scaled(layer: Layer, scalings: Mapping[str, Scaling]) -> Layer:
    if isinstance(layer, ConvLayer):
        weight, bias = layer.weight, layer.bias
        if layer.inputs[0] in scalings:
            weight = weight / _per_input(layer, scalings[layer.inputs[0]].channels)[:, None, None, :]
        if layer.output in scalings:
            out = scalings[layer.output].channels
            weight, bias = weight * out[:, None, None, None], bias * out
        layer = replace(layer, weight=weight, bias=bias)
    if isinstance(layer, Clamped) and layer.output in scalings:
        layer = replace(layer, hi=layer.hi * scalings[layer.output].common)
    return layer
