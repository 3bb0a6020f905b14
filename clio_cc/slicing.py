"""Ordered units at a partition point, in closed form: no labels, no training.

CLIO (MobiCom'20, section 3.2) trains a network so that a prefix of what crosses the cut already gives an answer.
Here the order comes from calibration alone: units are chosen one after the other so that each takes away most
of the error that is left, where an error counts by what the rest of the network makes of it.

*Selection* keeps channels as they are and only orders them: nothing runs on the device. *Rotation* makes units
of all channels (principal components in the metric of the sensitivity): a 1×1 convolution, or nothing where it
folds into the layer before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from clio_cc import graph
from clio_cc.quantization.formats import activation_scale
from clio_cc.quantization.functions import clamp_bounds
from clio_cc.quantization.layers import Float

Method = Literal["rotation", "selection"]
Weighting = Literal["sensitivity", "readers", "none"]
Answer = Literal["probabilities", "scores", "values"]
"""What a network answers: a probability per class, a score per class (as a softmax takes them), or anything else."""
Tail = Callable[[Float], Float]
"""The rest of a float network: ``[n, channels, *rest]`` → its first output, ``[n, ...]``."""

METHODS: tuple[Method, ...] = ("rotation", "selection")
WEIGHTINGS: tuple[Weighting, ...] = ("sensitivity", "readers", "none")
PROBED_MACS = 4e10  # of the tail, in all probes of one point: a second or two
PROBED_SAMPLES = (8, 256)
PROBED_VALUES = 2**25  # of all answers to probes: 256 MB
STEP = 0.05  # of a probe, in standard deviations of the tensor
READERS_SHARE = (
    0.3  # of the Gram matrix beside the probes: steadies what few samples say (benchmarks/slices.py)
)
FAINTEST = 1e-3  # of the largest unit: fainter ones are not scaled up further
POSITIONS_OF_A_SAMPLE = 16  # at most, that say something new
UNSEEN_SHARE = 1.0  # of the mean variance, for every channel per position seen, that any unit may have
UNSEEN_RANGE = 8.0  # of the standard deviation
MOST_CHANNELS = 1536  # beyond, a tensor is sent whole: statistics and heads grow with the square
MOST_COUNTS = 24
MOST_FINE = 0.5  # of the units: beyond, counts are twice as far apart


@dataclass(frozen=True, eq=False)
class Encoder:
    """What makes ordered units of the channels at a cut.

    Attributes:
        method: How; ``trained`` is not known in closed form.
        weight: ``[units, channels]``: units are ``weight @ channels + bias``, each within -1 … 1 but for rare values.
        bias: ``[units]``.
        order: Of a selection: unit k is channel ``order[k]`` as it is, and `weight` is not used; else ().
        decoder: ``[channels, units]``: channels are ``decoder @ units`` but for a constant, where all units are there;
            none for trained units, whose heads are trained with them.
        residual: Share of the weighted error that is left after the first 0, 1, 2 … units, from 1 down; none for trained
            units, which aim at the answer.
    """

    method: Method | Literal["trained"]
    weight: Float
    bias: Float
    order: tuple[int, ...]
    decoder: Float
    residual: Float

    def first(self, units: int) -> Encoder:
        """Return the encoder of the first units only."""
        return replace(
            self,
            weight=self.weight[:units],
            bias=self.bias[:units],
            order=self.order[:units],
            decoder=self.decoder[:, :units],
        )


# --- what an error costs -----------------------------------------------------------------------------


def sensitivity(tail: Tail, x: Float, kind: Answer, *, seed: int = 0) -> Float:
    """Return how the rest of the network reacts to errors: the Gram matrix of its Jacobian over channels.

    Entry (c, d) is the expected product of what small errors in channels c and d do to the answer, summed over
    positions. Errors with random signs over positions, equal for all channels, give it without bias
    (Hutchinson's estimator), so the tail need only run forward, once per channel.

    Args:
        tail: The rest of the float network.
        x: Values at the cut, ``[n, channels, *rest]``.
        kind: What the tail answers; see :func:`scores`.
        seed: Of the signs.

    Returns:
        ``[channels, channels]``, with a trace of as many as there are channels; zeros if nothing reacts.
    """
    rng = np.random.default_rng(seed)
    count, channels = x.shape[:2]
    signs = rng.choice(np.array([-1, 1], np.float32), (count, 1, *x.shape[2:]))
    step = np.float32(STEP * float(x.std()) or 1.0) * signs
    answer = scores(tail(x), kind)
    changes: list[Float] = []
    for channel in range(channels):
        moved = x.copy()
        moved[:, channel : channel + 1] += step
        changes.append(scores(tail(moved), kind) - answer)
    jacobian = np.stack(changes)
    return normalized(np.tensordot(jacobian, jacobian, axes=((1, 2), (1, 2))))


def scores(answer: Float, kind: Answer) -> Float:
    """Return answers in the form in which their errors are counted: ``[n, values]``.

    Classes by log-probability, up to what is common to all of them, which is nothing. Fisher's metric, which weighs
    classes by their probability, was tried: it hears only samples that the network is unsure of, and needs many more of
    them for the same accuracy (MobileNetV2 cut after block 10, 4 units: 60 against 67 %).
    """
    flat = answer.reshape(len(answer), -1).astype(np.float64)
    if kind == "values":
        return flat
    if kind == "probabilities":
        flat = np.log(np.maximum(flat, 1e-12))
    return np.asarray(flat - flat.mean(axis=1, keepdims=True))


def divergence(wanted: Float, got: Float, kind: Answer) -> float:
    """Return the squared error of answers (``[n, ...]`` each), in :func:`scores`, relative to the right ones' spread."""
    right, found = scores(wanted, kind), scores(got, kind)
    spread = float(np.sum((right - right.mean(axis=0)) ** 2)) or float(np.sum(right**2)) or 1.0
    return float(np.sum((right - found) ** 2)) / spread


def readers_gram(value: ir.Value) -> Float:
    """Return the Gram matrix of the weights of the Conv and Gemm nodes that read a tensor, over its channels.

    Zeros where a reader is of another kind: then nothing is known. An activation is looked through.
    """
    channels = graph.shape(value)[1]
    activation = graph.only_consumer(value)
    if activation is not None and clamp_bounds(activation) is not None:
        value = activation.outputs[0]
    gram = np.zeros((channels, channels))
    for use in value.uses():
        weight = _reading_weight(use.node, channels)
        if weight is None:
            return np.zeros((channels, channels))
        gram += weight @ weight.T
    return normalized(gram)


def _reading_weight(node: ir.Node, channels: int) -> Float | None:
    """A reader's weights as ``[channels, …]``, or None."""
    weight = graph.constant(graph.input_at(node, 1))
    if weight is None or not graph.is_op(node, "Conv", "Gemm"):
        return None
    if graph.is_op(node, "Gemm"):
        oriented = weight.T if graph.int_attr(node, "transB") else weight
    elif graph.int_attr(node, "group", 1) == 1:
        oriented = weight.swapaxes(0, 1).reshape(weight.shape[1], -1)
    else:
        return None
    return oriented.astype(np.float64) if len(oriented) == channels else None


def normalized(gram: Float) -> Float:
    """Return a Gram matrix with a trace of as many as it has rows; zeros stay."""
    trace = float(np.trace(gram))
    return np.asarray(gram * (len(gram) / trace)) if trace > 0 and np.isfinite(trace) else np.zeros_like(gram)


def metric(probed: Float | None, gram: Float) -> Float:
    """Return the metric of errors from what is known of it: probes, weights of the next layers, or nothing."""
    if probed is not None and probed.any():
        known: Float = probed + READERS_SHARE * gram
    else:
        known = gram if gram.any() else np.eye(len(gram))
    return known + 1e-6 * np.eye(len(known))


def probed_samples(channels: int, tail_macs: int, answer_values: int) -> int:
    """Return how many samples to probe with: fewer where the tail or its answer is large."""
    most = int(np.clip(PROBED_MACS / max(1, channels * tail_macs), *PROBED_SAMPLES))
    return max(1, min(most, PROBED_VALUES // (channels * answer_values)))


# --- units ---------------------------------------------------------------------------------------------


def fit_encoder(x: Float, metric: Float, method: Method, *, formats_differ: bool = True) -> Encoder:
    """Return ordered units for the channels of a tensor.

    Args:
        x: Values at the cut over calibration, ``[n, channels, *rest]``.
        metric: ``[channels, channels]``, positive definite: the cost of an error e is ``e @ metric @ e``.
        method: ``rotation``, or ``selection``.
        formats_differ: Scale every unit of a rotation to the whole of int8; else all alike, by the largest.
    """
    rows = _rows(x)
    mean = rows.mean(axis=0)
    covariance = np.atleast_2d(np.cov(rows.T, bias=True))  # of a single row, too
    if method == "selection":
        order, residual = _select(covariance, metric)
        chosen = np.eye(len(mean))[list(order)]
        return Encoder(method, chosen, np.zeros(len(mean)), order, chosen.T, residual)
    root = _root(metric)
    values, vectors = np.linalg.eigh(root @ covariance @ root)
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
    weight = vectors.T @ root
    weight *= np.where(weight.sum(axis=1) < 0, -1.0, 1.0)[:, None]  # a sign of its own, whatever LAPACK says
    units = (rows - mean) @ weight.T
    largest = np.abs(units).max(axis=0)
    # What holds nothing is noise: at full scale it would only ask for weights beyond all bounds.
    largest = np.maximum(largest, FAINTEST * float(largest.max()) or 1.0)
    # Nor do a few samples show how far a unit really goes.
    seen = len(x) * min(len(rows) // len(x), POSITIONS_OF_A_SAMPLE)
    largest = np.maximum(largest, UNSEEN_RANGE * np.sqrt(UNSEEN_SHARE * len(values) / seen * values.mean()))
    scales = np.array(
        [activation_scale(units[:, [k]], float(high), "mulshift") for k, high in enumerate(largest)]
    )
    gain = 1 / (128 * (scales if formats_differ else np.full(len(scales), scales.max())))
    weight = weight * gain[:, None]
    left = np.concatenate([[1.0], 1 - np.cumsum(values) / max(values.sum(), 1e-30)])
    decoder = np.linalg.inv(weight)
    return Encoder(method, weight, -weight @ mean, (), decoder, np.clip(left, 0, 1))


def unsliced(channels: int) -> Encoder:
    """Return what sends all channels as they are, or nothing."""
    residual = np.ones(channels + 1)
    residual[channels] = 0
    nothing = np.zeros((channels, 0))
    return Encoder("selection", nothing, np.zeros(channels), tuple(range(channels)), nothing.T, residual)


def _rows(x: Float) -> npt.NDArray[np.float64]:
    return np.moveaxis(x, 1, -1).reshape(-1, x.shape[1]).astype(np.float64)


def _root(matrix: Float) -> Float:
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T)


def _select(covariance: Float, metric: Float) -> tuple[tuple[int, ...], Float]:
    """Greedy: the channel that, sent next, takes away most of the weighted error of a linear prediction of all."""
    left, felt = covariance.copy(), metric @ covariance
    whole = max(float(np.trace(felt)), 1e-30)
    order: list[int] = []
    residual = [1.0]
    for _ in range(len(left)):
        variance = np.diag(left).copy()
        known = variance <= 1e-12 * max(float(np.diag(covariance).max()), 1e-30)
        gain = np.sum(left * felt, axis=0) / np.where(known, 1.0, variance)
        gain[known] = 0
        gain[order] = -1
        best = int(np.argmax(gain))
        order.append(best)
        if not known[best]:
            column = left[:, best] / variance[best]
            felt -= np.outer(felt[:, best], column)
            left -= np.outer(left[:, best], column)
        residual.append(float(np.clip(np.trace(felt) / whole, 0, residual[-1])))
    return tuple(order), np.array(residual)


def trained_encoder(weight: Float, bias: Float) -> Encoder:
    """Return what makes trained units, ``weight @ channels + bias``."""
    return Encoder("trained", weight, bias, (), np.zeros((weight.shape[1], 0)), np.zeros(0))


# --- how many --------------------------------------------------------------------------------------------


def auto_counts(units: int, early: bool) -> tuple[int, ...]:
    """Return the unit counts that may be sent: the paper's powers of two, and every second or fourth.

    CLIO (section 4.1) takes every second channel at early partition points and every fourth at later ones. Beyond half
    of the units, where little is gained, steps are twice as wide; where counts would be too many, all steps are wider.

    Args:
        units: How many there are.
        early: The cut lies in the first half of the network's multiply-accumulates.
    """
    step = 2 if early else 4
    powers = [2**k for k in range(units.bit_length()) if 2**k < units]
    while True:
        fine = range(step, int(units * MOST_FINE) + 1, step)
        coarse = range(int(units * MOST_FINE) // (2 * step) * 2 * step + 2 * step, units, 2 * step)
        counts = sorted({*powers, *fine, *coarse, units})
        if len(counts) <= MOST_COUNTS:
            return tuple(counts)
        step *= 2
