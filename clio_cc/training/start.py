"""Where training starts: the split in closed form, and the device's formats from calibration.

Encoders and heads as `compile` makes them without training (:mod:`clio_cc.ordering`, :mod:`clio_cc.heads`) already give an
answer to few units; training begins there and not at random numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from clio_cc import graph
from clio_cc.calibrate import Progress, Samples, Statistics, calibrate
from clio_cc.cloud import activation_bounds
from clio_cc.heads import Heads, choose_window, fit_heads
from clio_cc.lower import lower
from clio_cc.ordering import best_units, form_at
from clio_cc.packing import value_range
from clio_cc.partition import PartitionPoint
from clio_cc.qformat import quantize
from clio_cc.quantization.equalize import equalize
from clio_cc.quantization.formats import activation_scale, power_at_least, weight_scales
from clio_cc.quantization.functions import clamp_bounds
from clio_cc.quantization.layers import ConvLayer, Float, Network, SoftmaxLayer
from clio_cc.slicing import Encoder, trained_encoder
from clio_cc.trained import Trained, TrainedPoint
from clio_cc.training.fake_quant import FakeQuant
from clio_cc.training.network import Point
from clio_cc.training.torch_graph import with_weights

UNIT = 2.0**-7  # scale of units within -1 … 1
HEADS_WORK = 2e10  # multiply-accumulates for the normal equations of a point's heads


@dataclass(frozen=True, eq=False)
class Cut:
    """A partition point before training.

    Attributes:
        point: At the tensor that the heads restore.
        made_of: At the tensor that units are made of.
        counts: Ascending.
        encoder: Of as many units as the last of them.
        heads_weight: Per count, ``[channels, count, window, window]`` of an image, ``[channels, count]`` of a vector.
        heads_bias: Per count, ``[channels]``.
        bounds: Of the activation between the two tensors, or None.
    """

    point: PartitionPoint
    made_of: PartitionPoint
    counts: tuple[int, ...]
    encoder: Encoder
    heads_weight: tuple[Float, ...]
    heads_bias: tuple[Float, ...]
    bounds: tuple[float, float] | None

    def module(self) -> Point:
        """Return the trainable form."""
        return Point(
            self.point.name,
            self.made_of.tensor,
            self.point.tensor,
            self.bounds,
            self.counts,
            (self.encoder.weight, self.encoder.bias),
            (self.heads_weight, self.heads_bias),
        )


def closed_form(
    model: ir.Model,
    points: Sequence[PartitionPoint],
    counts: Mapping[str, Sequence[int]],
    samples: Samples,
    progress: Progress,
    before: Trained | None = None,
) -> list[Cut]:
    """Return encoders and heads without training; at points that were trained before, as they were left.

    Args:
        model: The canonical float graph.
        points: In order of execution.
        counts: Unit counts by name of a point, ascending.
        samples: To fit on.
        progress: Told (points done, points).
        before: What an earlier training found, for the same counts.
    """
    cuts = []
    for number, point in enumerate(points):
        progress(number, len(points))
        trained = None if before is None else before.point(point.name)
        if trained is not None:
            cuts.append(_as_trained(model, point, trained))
            continue
        chosen = tuple(counts[point.name])
        found = best_units(model, point, samples, method="auto", weighting="sensitivity", formats_differ=True)
        encoder = _as_rotation(found.encoder.first(chosen[-1]), found.values)
        made = np.moveaxis(np.tensordot(found.values, encoder.weight, (1, 1)) + encoder.bias, -1, 1)
        window = choose_window(made.shape[1], found.point.shape[1], len(chosen), found.point.shape[2:])
        heads = fit_heads(
            quantize(made, UNIT), UNIT, found.values, chosen, window, prior=encoder.decoder, work=HEADS_WORK
        )
        cuts.append(_cut(model, point, found.point, encoder, heads))
    progress(len(points), len(points))
    return cuts


def _as_trained(model: ir.Model, point: PartitionPoint, trained: TrainedPoint) -> Cut:
    made_of = form_at(model, point, trained.tensor)
    assert made_of is not None, "checked when it was read"
    return _cut(model, point, made_of, trained_encoder(trained.weight, trained.bias), trained.heads)


def _cut(
    model: ir.Model, point: PartitionPoint, made_of: PartitionPoint, encoder: Encoder, heads: Heads
) -> Cut:
    """Heads of a table as one array per count."""
    rows, channels, _ = heads.weight.shape
    window = [heads.window] * 2 if len(point.shape) == 4 else []
    shaped = heads.weight.reshape(rows, channels, -1, *window)
    return Cut(
        point,
        made_of,
        heads.counts,
        encoder,
        tuple(shaped[row][:, :count] for row, count in enumerate(heads.counts, 1)),
        tuple(heads.bias[1:]),
        activation_bounds(model, point.tensor),
    )


def _as_rotation(encoder: Encoder, values: Float) -> Encoder:
    """A selection as a matrix, scaled so that units lie within -1 … 1: training may then mix channels."""
    if not encoder.order:
        return encoder
    largest = float(np.abs(values[:, list(encoder.order)]).max()) or 1.0
    gain = 1 / largest
    return replace(encoder, weight=encoder.weight * gain, order=(), decoder=encoder.decoder * largest)


# --- the device's formats -------------------------------------------------------------------------------


def equalized(
    model: ir.Model, points: Sequence[PartitionPoint], samples: Samples, *, local: bool
) -> ir.Model:
    """Return an equal graph whose channels on the device have more even ranges (see :mod:`..quantization.equalize`).

    The graph as it is where a layer takes part whose weights are no Conv's: factors could not be written back.
    """
    network = lower(model, points, local=local)
    better, _, scalings = equalize(network, calibrate(model, network, samples), "mulshift")
    nodes = conv_nodes(model, network)
    weights: dict[str, np.ndarray] = {}
    for old, new in zip(network.layers, better.layers, strict=True):
        if not isinstance(old, ConvLayer) or not {old.output, *old.inputs} & scalings.keys():
            continue
        assert isinstance(new, ConvLayer)
        node = nodes.get(old.output)
        if node is None or not graph.is_op(node, "Conv"):
            return model
        weights[str(node.inputs[1].name)] = new.weight.transpose(0, 3, 1, 2).astype(np.float32)  # type: ignore[union-attr]
        weights[str(node.inputs[2].name)] = new.bias.astype(np.float32)  # type: ignore[union-attr]
    return with_weights(model, weights)


def conv_nodes(model: ir.Model, network: Network) -> dict[str, ir.Node]:
    """Return the graph's Conv or Gemm behind each layer of the device, by the name of the tensor the layer writes."""
    writers = {str(value.name): node for node in model.graph for value in node.outputs}
    found = {}
    for layer in network.layers:
        node = writers.get(layer.output)
        while node is not None and clamp_bounds(node) is not None:
            node = node.inputs[0].producer() if node.inputs[0] is not None else None
        if isinstance(layer, ConvLayer) and node is not None and graph.is_op(node, "Conv", "Gemm"):
            found[layer.output] = node
    return found


def fake_quant(
    model: ir.Model,
    points: Sequence[PartitionPoint],
    encoders: Mapping[str, tuple[Float, Float]],
    samples: Samples,
    *,
    local: bool,
    bits: int = 8,
) -> FakeQuant:
    """Return how the device rounds, with scales of the least error over calibration.

    Args:
        model: The canonical float graph with the weights so far.
        points: At the tensors that units are made of.
        encoders: ``[units, channels]`` and ``[units]`` by name of a point.
        samples: To calibrate with.
        local: The whole network runs on the device.
        bits: Of a value of a unit.
    """
    network = lower(model, points, local=local)
    for name, (weight, bias) in encoders.items():
        network, _ = network.with_encoder(name, weight, bias, fold=False)
    statistics = calibrate(model, network, samples)
    keeping = {
        layer.output for layer in network.layers if layer.keeps_scale or isinstance(layer, SoftmaxLayer)
    }
    scales = {
        name: power_at_least(_scale(seen))
        for name, seen in statistics.items()
        if name not in keeping and name in network.shapes
    }
    low, high = value_range(bits)
    bounds = {f"{name}/units": (float(low), float(high)) for name in encoders}
    for name in bounds:
        scales[name] *= 2.0 ** (8 - bits)
    nodes = conv_nodes(model, network)
    weights = {
        layer.output: weight_scales(
            layer.weight.reshape(len(layer.weight), -1), np.ones(layer.weight[0].size), "shift"
        )
        for layer in network.layers
        if isinstance(layer, ConvLayer) and (layer.output in nodes or layer.output in bounds)
    }
    made = FakeQuant(network, {output: str(node.name) for output, node in nodes.items()}, scales, weights)
    made.bounds = bounds
    return made


def _scale(seen: Statistics) -> float:
    """A tensor that was always zero is given the range ±1: with steps of next to nothing no bias would be an int32."""
    return activation_scale(seen.rows, float(seen.largest.max()) or 1.0, "shift")
