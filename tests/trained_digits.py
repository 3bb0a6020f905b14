"""The example network as if it had been trained for slices: encoders and heads in closed form, formats by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from digits import CALIBRATION, MODEL

from clio_cc import graph
from clio_cc.calibrate import load_samples
from clio_cc.compiler import front_end
from clio_cc.heads import fit_heads
from clio_cc.lower import lower
from clio_cc.ordering import best_units
from clio_cc.partition import partition_points
from clio_cc.qformat import quantize
from clio_cc.quantization.formats import activation_scale, power_at_least
from clio_cc.quantization.layers import ConvLayer, Layer, Network
from clio_cc.trained import Trained, TrainedPoint, embed

COUNTS, BITS = {"block1": (1, 4, 6), "pointwise": (2, 5)}, {"block1": 8, "pointwise": 4}
SAMPLES = 64


def write(path: Path, *, formats: bool = True) -> Trained:
    """Write the model file, and return what is in it."""
    model = front_end(MODEL)
    samples = load_samples(model, CALIBRATION, most=SAMPLES)
    points = [point for point in partition_points(model) if point.name in COUNTS]
    best = [
        best_units(model, p, samples, method="rotation", weighting="readers", formats_differ=True)
        for p in points
    ]
    network = lower(model, [each.point for each in best])
    encoders = [each.encoder.first(COUNTS[each.point.name][-1]) for each in best]
    for each, encoder in zip(best, encoders, strict=True):
        network, _ = network.with_encoder(each.point.name, encoder.weight, encoder.bias, fold=False)
    [name] = network.inputs
    values = network.run({name: network.layouts[name].to_device(samples.inputs[name])})
    scales, weight_scales = by_hand(network, values)
    trained = []
    for each, encoder in zip(best, encoders, strict=True):
        point = each.point
        sent = network.layouts[f"{point.name}/units"].to_graph(values[f"{point.name}/units"])
        scale = scales[f"{point.name}/units"]
        heads = fit_heads(quantize(sent, scale), scale, each.values, COUNTS[point.name], 3)
        bits = BITS[point.name] if formats else 8
        trained.append(
            TrainedPoint(point.name, point.tensor, heads.counts, encoder.weight, encoder.bias, heads, bits)
        )
    found = Trained(
        tuple(trained),
        scales if formats else {},
        weight_scales if formats else {},
        record={"epochs": 3, "seed": 7},
    )
    proto = graph.to_proto(model)
    embed(proto, found)
    path.write_bytes(proto.SerializeToString(deterministic=True))
    return found


def by_hand(network: Network, values: dict[str, Any]) -> tuple[dict[str, float], dict[str, Any]]:
    """Powers of two for every tensor that has a scale of its own, and for all weights."""
    bits = {f"{name}/units": each for name, each in BITS.items()}
    scales: dict[str, float] = {}
    weights: dict[str, Any] = {}
    own = {name: name for name in network.inputs}
    for layer in network.layers:
        own[layer.output] = own[layer.inputs[0]] if layer.keeps_scale else layer.output
    for name in own.values():
        # Coarser than calibration would choose, so that it shows whose scales were taken; 4 bits saturate.
        least = activation_scale(values[name], float(np.abs(values[name]).max()), "shift")
        scales[name] = least * (2 if bits.get(name, 8) == 8 else 8)
    for layer in network.layers:
        if isinstance(layer, ConvLayer):
            most = np.abs(layer.weight).reshape(len(layer.weight), -1).max(axis=1)
            fitting = scales[own[layer.output]] / scales[own[layer.inputs[0]]]
            weights[layer.output] = np.array([min(power_at_least(w / 100), fitting) for w in most])
    return scales, weights


def rounded_run(network: Network, trained: Trained, x: Any) -> dict[str, Any]:
    """What a float network gives that rounds as training does; every tensor, in steps of its scale where it has one."""
    values = {network.inputs[0]: _rounded(x, trained.scales[network.inputs[0]])}
    for layer in network.layers:
        y = _layer(layer, trained, values)
        scale = trained.scales.get(layer.output)
        values[layer.output] = y if scale is None else _rounded(y, scale, _bits(trained, layer.output))
    return {
        name: value / trained.scales[name] if name in trained.scales else value
        for name, value in values.items()
    }


def _layer(layer: Layer, trained: Trained, values: dict[str, Any]) -> Any:
    inputs = [values[name] for name in layer.inputs]
    if not isinstance(layer, ConvLayer):
        return layer.evaluate(inputs)
    scale = trained.weight_scales[layer.output]
    step = trained.scales[layer.inputs[0]] * scale
    flat = layer.weight.reshape(len(layer.weight), -1)
    weight = _rounded(flat, scale[:, None]).reshape(layer.weight.shape)
    bias = np.floor(layer.bias / step + 0.5) * step
    made = ConvLayer(**{**vars(layer), "weight": weight, "bias": bias})
    return made.evaluate(inputs)


def _bits(trained: Trained, tensor: str) -> int:
    return next((point.bits for point in trained.points if point.units == tensor), 8)


def _rounded(values: Any, scale: Any, bits: int = 8) -> Any:
    half = 2 ** (bits - 1)
    return np.clip(np.floor(np.asarray(values, np.float64) / scale + 0.5), -half, half - 1) * scale
