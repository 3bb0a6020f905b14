"""The trained network as ONNX: weights under their names; encoders, heads, formats beside them (:mod:`clio_cc.trained`)."""

from __future__ import annotations

import numpy as np
import torch

from clio_cc import __version__, graph
from clio_cc.calibrate import Samples
from clio_cc.heads import Heads
from clio_cc.trained import Trained, TrainedPoint, embed
from clio_cc.training.network import Point, SlicedNetwork
from clio_cc.training.prepare import Start
from clio_cc.training.settings import TrainOptions
from clio_cc.training.torch_graph import with_weights

_SAMPLES = 256  # for the mean that is taken where nothing arrives


def trained_model(network: SlicedNetwork, start: Start, options: TrainOptions) -> bytes:
    """Return the ONNX file."""
    model = with_weights(start.model, network.graph.trained())
    rounding = network.rounding
    points = tuple(
        _trained_point(point, _mean(network, number, start.calibration), options.unit_bits)
        for number, point in enumerate(network.points)
    )
    record = {"version": __version__, "options": options.recorded(), "samples": len(start.training.x)}
    trained = Trained(
        points,
        {} if rounding is None else rounding.scales(),
        {} if rounding is None else rounding.weight_scales(),
        local=start.local,
        record=record,
    )
    proto = graph.to_proto(model)
    embed(proto, trained)
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


def _trained_point(point: Point, mean: np.ndarray, bits: int) -> TrainedPoint:
    weight, bias = point.encoder()
    return TrainedPoint(point.name, point.made_of, point.counts, weight, bias, _heads(point, mean), bits)


def _heads(point: Point, mean: np.ndarray) -> Heads:
    """Heads of all counts in one table, zeros for units that do not count; with nothing received, the mean."""
    folded = [point.head(row) for row in range(len(point.counts))]
    window = folded[0][0].shape[-1] if point.image else 1
    channels, units = len(mean), point.counts[-1]
    weight = np.zeros((1 + len(folded), channels, units, window**2), np.float32)
    bias = np.stack([mean, *(each[1].cpu().numpy() for each in folded)]).astype(np.float32)
    for row, (each, _) in enumerate(folded, 1):
        weight[row, :, : point.counts[row - 1]] = each.cpu().numpy().reshape(channels, -1, window**2)
    return Heads(point.counts, window, weight.reshape(1 + len(folded), channels, -1), bias)


def _mean(network: SlicedNetwork, number: int, samples: Samples) -> np.ndarray:
    """The mean of what the heads restore from all units, per channel."""
    point = network.points[number]
    (x,) = samples.take(_SAMPLES).inputs.values()
    device = next(network.parameters()).device
    with torch.no_grad():
        units = network.units(torch.from_numpy(x).to(device), number)
        restored = point.raw(units, point.counts[-1])
    mean: np.ndarray = restored.mean([0, *range(2, restored.ndim)]).cpu().numpy()
    return mean
