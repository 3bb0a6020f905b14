"""Chooses how the units at a partition point are made: of which tensor, and by rotation or selection of its channels.

Units may be made of what an activation gives or of what goes into it, where the cloud can apply it as well. Which is
better depends on what follows (ResNet-8: what goes in after stack 2, what comes out after stack 3, where only an
average and a matrix follow; benchmarks/slices.py), so every way is tried in floating point on calibration: encoder,
rounding to int8, heads, and the rest of the network.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from clio_cc import graph
from clio_cc.calibrate import Samples, batched, open_session, run_session
from clio_cc.cloud import UNITS, activation_bounds, tail_model
from clio_cc.float_run import Runner
from clio_cc.heads import choose_window, fit_heads, restore
from clio_cc.judge import class_scores
from clio_cc.partition import PartitionPoint
from clio_cc.qformat import Int8Array, quantize
from clio_cc.quantization.layers import Float
from clio_cc.slicing import (
    MOST_CHANNELS,
    Answer,
    Encoder,
    Method,
    Weighting,
    divergence,
    fit_encoder,
    metric,
    probed_samples,
    readers_gram,
    sensitivity,
    unsliced,
)

TRIED_SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2)  # of the units, at which ways are compared
TRIED_SAMPLES = 256
JUDGED_SHARE = 4  # one of so many samples is not fitted on but judged on
TRIED_MACS = 2e10  # of the tail, in all trials of a point
WORTHWHILE = (
    0.9  # an encoder must leave less than this share of a selection's divergence to be worth its work
)
_UNIT = 2.0**-7  # scale of units within -1 … 1
_BATCH = 16


@dataclass(frozen=True, eq=False)
class Candidate:
    """A way to make units: of which tensor, and how.

    Attributes:
        point: The partition point, at the tensor that the units are made of.
        values: What the float network has there over calibration, ``[n, channels, *rest]``.
    """

    point: PartitionPoint
    encoder: Encoder
    values: Float


def best_units(
    model: ir.Model,
    point: PartitionPoint,
    samples: Samples,
    *,
    method: str,
    weighting: Weighting,
    formats_differ: bool,
) -> Candidate:
    """Return the way that leaves the answers nearest to the float network's when few units are sent.

    Args:
        model: The canonical float graph.
        point: Where to cut.
        samples: Calibration inputs.
        method: ``rotation``, ``selection``, or ``auto`` for the better.
        weighting: What an error at the cut counts by.
        formats_differ: See :func:`clio_cc.slicing.fit_encoder`.
    """
    if point.shape[1] > MOST_CHANNELS:
        return Candidate(point, unsliced(point.shape[1]), values_at(model, [point], samples)[point.tensor])
    forms = [point]
    before = before_activation(model, point)
    if before is not None and method != "selection":
        forms.append(before)
    values = values_at(model, forms, samples)
    found = []
    for form in forms:
        x, tail = values[form.tensor], Runner(tail_model(model, form))
        if x.ndim not in (2, 4) or method == "selection":  # the device encodes images and vectors only
            methods: tuple[Method, ...] = ("selection",)
        elif method == "rotation" or form is not point:
            methods = ("rotation",)
        else:
            methods = ("rotation", "selection")
        weights = _metric(model, form, samples, x, tail, weighting)
        found += [
            Candidate(form, fit_encoder(x, weights, each, formats_differ=formats_differ), x)
            for each in methods
        ]
    if len(found) == 1:
        return found[0]
    return _tried(model, found, samples)


def before_activation(model: ir.Model, point: PartitionPoint) -> PartitionPoint | None:
    """Return the point moved in front of the Relu or Clip that writes its tensor, if nothing else reads what goes in."""
    if activation_bounds(model, point.tensor) is None:
        return None
    node = _value(model, point.tensor).producer()
    source = None if node is None else node.inputs[0]
    if source is None or source.producer() is None or len(source.uses()) != 1 or source.is_graph_output():
        return None
    return replace(point, tensor=str(source.name), node_index=point.node_index - 1)


def form_at(model: ir.Model, point: PartitionPoint, tensor: str) -> PartitionPoint | None:
    """Return the point at the tensor that its units are made of: its own, or the one before its activation; else None."""
    forms = (point, before_activation(model, point))
    return next((form for form in forms if form is not None and form.tensor == tensor), None)


def values_at(model: ir.Model, points: Sequence[PartitionPoint], samples: Samples) -> dict[str, Float]:
    """Return what the float network has at each cut, ``[n, channels, *rest]`` by the tensor's name."""
    names, inputs = [point.tensor for point in points], list(samples.inputs)
    session = open_session(batched(model, inputs, names))
    parts: dict[str, list[Float]] = {name: [] for name in names}
    for start in range(0, samples.count, _BATCH):
        feed = {name: samples.inputs[name][start : start + _BATCH] for name in inputs}
        found = run_session(session, feed, names)
        for point in points:
            parts[point.tensor].append(found[point.tensor].reshape(-1, *point.shape[1:]))
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}


# --- what an error costs -------------------------------------------------------------------------------


def _metric(
    model: ir.Model,
    point: PartitionPoint,
    samples: Samples,
    x: Float,
    tail: Runner,
    weighting: Weighting,
) -> Float:
    if weighting == "none":
        return np.eye(x.shape[1])
    gram = readers_gram(_value(model, point.tensor))
    if weighting == "readers":
        return metric(None, gram)
    answer = tail({UNITS: np.ascontiguousarray(x[:2], np.float32)})
    kind = _kind(model, samples, answer)
    if kind is None:
        return metric(None, gram)
    count = probed_samples(x.shape[1], _macs_behind(model, point), answer[0][0].size)
    probes = np.ascontiguousarray(x[_spread(len(x), count)], np.float32)
    return metric(sensitivity(lambda values: tail({UNITS: values})[0], probes, kind), gram)


def _kind(model: ir.Model, samples: Samples, answer: Sequence[Float]) -> Answer | None:
    """What the answer is; None where it cannot be differentiated."""
    if len(answer) != 1 or answer[0].dtype.kind != "f":
        return None
    if graph.is_op(model.graph.outputs[0].producer(), "Softmax"):
        return "probabilities"
    return "scores" if class_scores(list(samples.inputs.values()), answer) else "values"


def _macs_behind(model: ir.Model, point: PartitionPoint) -> int:
    return max(1, sum(graph.known_macs(node) for node in model.graph) - point.macs_before)


def _value(model: ir.Model, tensor: str) -> ir.Value:
    return next(value for node in model.graph for value in node.outputs if value.name == tensor)


def _spread(of: int, count: int) -> npt.NDArray[np.int64]:
    return np.linspace(0, of - 1, min(count, of)).astype(np.int64)


# --- trials --------------------------------------------------------------------------------------------


def _tried(model: ir.Model, candidates: Sequence[Candidate], samples: Samples) -> Candidate:
    """The candidate with the least divergence; of a selection and an encoder the former, unless the latter pays."""
    first = candidates[0]
    units = first.values.shape[1]
    counts = sorted({max(1, round(units * share)) for share in TRIED_SHARES})
    work = len(candidates) * len(counts) * _macs_behind(model, first.point)
    most = int(np.clip(TRIED_MACS * JUDGED_SHARE / work, 4 * JUDGED_SHARE, TRIED_SAMPLES))
    chosen = _spread(len(first.values), most)
    losses = []
    for candidate in candidates:
        tail = Runner(tail_model(model, candidate.point))
        x = candidate.values[chosen]
        kind = _kind(model, samples, tail({UNITS: np.ascontiguousarray(x[:2], np.float32)}))
        if kind is None:  # nothing to compare by but the error at the cut
            losses.append(float(np.mean(candidate.encoder.residual[counts])))
            continue
        bounds = activation_bounds(model, candidate.point.tensor) or (-np.inf, np.inf)
        apart = np.array(list(_divergences(tail, candidate.encoder, x, counts, bounds, kind)))
        # Their geometric mean: where few units say nearly nothing whatever the way, it would outweigh all else.
        loss = float(np.exp(np.mean(np.log(apart + 1e-6))))
        losses.append(loss * (WORTHWHILE if candidate.encoder.method == "selection" else 1))
    return candidates[int(np.argmin(losses))]


def _divergences(
    tail: Runner, encoder: Encoder, x: Float, counts: Sequence[int], bounds: tuple[float, float], kind: Answer
) -> Iterator[float]:
    """How far answers to the first units are from the float network's, by count, on samples not fitted on.

    Fewer than two for that are too few to hold back.
    """
    judged = np.arange(len(x)) % JUDGED_SHARE == JUDGED_SHARE - 1
    fitted = ~judged if judged.sum() > 1 else np.ones(len(x), bool)
    judged = ~fitted if judged.sum() > 1 else fitted
    units, prior = _units(encoder, x)
    window = choose_window(units.shape[1], x.shape[1], len(counts), x.shape[2:], thorough=False)
    heads = fit_heads(units[fitted], _UNIT, x[fitted], counts, window, prior=prior, work=1e10)
    wanted = tail({UNITS: np.ascontiguousarray(x[judged], np.float32)})[0]
    sent = units[judged].astype(np.float32) * np.float32(_UNIT)
    for count in counts:
        restored = np.clip(restore(heads, sent, [count] * len(sent)), *bounds)
        yield divergence(wanted, tail({UNITS: restored})[0], kind)


def _units(encoder: Encoder, x: Float) -> tuple[Int8Array, Float]:
    """Units in floating point, rounded to int8 as a device would, and the decoder for them."""
    if encoder.order:
        ordered = x[:, list(encoder.order)]
        largest = float(np.abs(ordered).max()) or 1.0
        return quantize(ordered / largest, _UNIT), encoder.decoder * largest
    made = np.tensordot(x, encoder.weight, axes=(1, 1)) + encoder.bias
    return quantize(np.moveaxis(made, -1, 1), _UNIT), encoder.decoder
