"""Splits a network at its partition points: ordered units on the device's side, heads on the cloud's.

float network + calibration → encoder per point → Network with encoders → (quantize) → Program
Program + calibration → units as the device sends them → heads per point → cloud graphs

Encoders and heads of a point that was trained are as training left them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from clio_cc import graph, reference
from clio_cc.calibrate import Samples
from clio_cc.cloud import cloud_model
from clio_cc.errors import ClioError, raise_collected
from clio_cc.heads import Heads, choose_window, exact_heads, fit_heads, thinned
from clio_cc.lower import lower
from clio_cc.ordering import best_units, form_at
from clio_cc.partition import PartitionPoint, partition_points
from clio_cc.program import Program
from clio_cc.qformat import Int8Array
from clio_cc.quantization.layers import Float, Network
from clio_cc.slicing import MOST_CHANNELS, Encoder, Weighting, auto_counts, trained_encoder

if TYPE_CHECKING:
    import onnx

    from clio_cc.trained import Trained, TrainedPoint

AUTO = "auto"
FITTED_MACS = 2.5e10  # of the device's half in the reference interpreter: some ten seconds
FITTED_BYTES = 2**28  # of all tensors at the cuts
FITTED_SAMPLES = 16  # at least
_BATCH = 16

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Slicing:
    """How units are made.

    Attributes:
        slices: ``auto``, or unit counts that may be sent, ascending; counts beyond a point's units mean all of them.
        method: ``auto``, ``rotation`` or ``selection``.
        weighting: What an error at the cut counts by: probes of the tail, weights of the layers behind the cut, or equally.
        formats_differ: Scale every unit to the whole of int8.
        window: Positions that a head sees in height and width; None for as many as keeps the graph small.
        stretch: See :func:`clio_cc.heads.fit_heads`.
        trained: What training found; at its points all but `slices` is as it says.
    """

    slices: tuple[int, ...] | None = None
    method: str = AUTO
    weighting: Weighting = "sensitivity"
    formats_differ: bool = True
    window: int | None = None
    stretch: float = 1.0
    trained: Trained | None = None

    def trained_at(self, point: PartitionPoint) -> TrainedPoint | None:
        """Return what training found for a point; None where it found nothing."""
        return None if self.trained is None else self.trained.point(point.name)


@dataclass(frozen=True, eq=False)
class SlicedPoint:
    """A partition point with its units.

    Attributes:
        counts: Numbers of units that may be sent.
        layer: Name of the device's layer that makes the units; '' where nothing runs for them.
        macs: Multiply-accumulates of that layer.
        values: What the float network has at the cut over calibration, ``[n, channels, *rest]``; None where nothing is
            fitted to them.
        heads: Trained ones; None if they are still to be fitted.
    """

    point: PartitionPoint
    counts: tuple[int, ...]
    encoder: Encoder
    layer: str = ""
    macs: int = 0
    values: Float | None = None
    heads: Heads | None = None

    @property
    def units(self) -> int:
        """Number of units."""
        return len(self.encoder.weight)


@dataclass(frozen=True, eq=False)
class CloudHalf:
    """The cloud's side of a point; no heads where all channels are sent as they are, or nothing."""

    heads: Heads | None
    model: onnx.ModelProto


def parse_slices(text: str) -> tuple[int, ...] | None:
    """Return the counts of ``1,2,4,8``, or None for ``auto``.

    Raises:
        ClioError: it is neither.
    """
    if text == AUTO:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and int(part) for part in parts):
        raise ClioError(f"'{text}' is not a list of unit counts", "--slices", "give auto, or e.g. 1,2,4,8")
    return tuple(sorted({int(part) for part in parts}))


# --- what was trained ----------------------------------------------------------------------------------


def refuse_other_graph(model: ir.Model, trained: Trained, where: str) -> None:
    """Raise ClioError if units and heads were trained for another graph than the one that came with them."""
    known = {point.name: point for point in partition_points(model, inside_blocks=True)}
    names = graph.value_names(model.graph)
    errors = []
    for each in trained.points:
        point = known.get(each.name)
        if point is None or point.kind != "features":
            errors.append(
                f"was trained for slices at '{each.name}', which is no partition point of its graph"
            )
            continue
        channels, seen = each.weight.shape[1], each.heads.window
        if form_at(model, point, each.tensor) is None:
            errors.append(
                f"was trained for units of tensor '{each.tensor}', which is not the one at '{each.name}'"
            )
        elif channels != point.shape[1]:
            errors.append(f"was trained for {channels} channels at '{each.name}', which has {point.shape[1]}")
        elif seen > 1 and len(point.shape) != 4:
            errors.append(
                f"was trained for heads that see {seen}x{seen} positions at '{each.name}', which is no image"
            )
        if each.units in names:
            errors.append(f"was trained for units called '{each.units}', as another tensor of its graph is")
    raise_collected(errors, where, "another tool has changed it: compile the file that `clio-cc train` wrote")


def refuse_untrained(points: Sequence[PartitionPoint], slicing: Slicing) -> None:
    """Raise ClioError if trained points are asked for what they were not trained for."""
    for point in points:
        trained = slicing.trained_at(point)
        if trained is None:
            continue
        if slicing.method != AUTO:
            message = (
                f"units of partition point '{point.name}' were trained: there is no {slicing.method} of them"
            )
            raise ClioError(message, "--units", "give auto")
        missing = ", ".join(str(count) for count in slicing.slices or () if count not in trained.counts)
        if missing:
            counts = ", ".join(map(str, trained.counts))
            message = f"partition point '{point.name}' was not trained for {missing} units, only for {counts}"
            raise ClioError(message, "--slices", "give auto, or some of these")


# --- the device's side ---------------------------------------------------------------------------------


def order_units(
    model: ir.Model,
    points: Sequence[PartitionPoint],
    samples: Samples,
    slicing: Slicing,
    progress: Progress,
    *,
    local: bool = False,
) -> tuple[Network, tuple[SlicedPoint, ...]]:
    """Give every partition point ordered units.

    Args:
        model: The canonical float graph.
        points: The points, in order of execution.
        samples: Calibration inputs, as :func:`fitting_samples` gives them.
        slicing: How.
        progress: Told (points done, points).
        local: The whole network runs on the device too.

    Returns:
        The device's half with encoders, and the points, each at the tensor that its units are made of.
    """
    macs = sum(graph.known_macs(node) for node in model.graph)
    found = []
    for number, point in enumerate(points):
        progress(number, len(points))
        found.append(_with_units(model, point, unit_counts(point, macs, slicing), samples, slicing))
    progress(len(points), len(points))
    network = lower(model, [each.point for each in found], local=local)
    sliced = []
    for each in found:
        name, encoder, trained = each.point.name, each.encoder, slicing.trained_at(each.point)
        if encoder.method == "selection":
            network, added = network.with_order(name, encoder.order), None
        elif trained is not None:  # as it was trained: rounded on its own
            network, added = network.with_encoder(
                name, encoder.weight, encoder.bias, fold=False, bits=trained.bits
            )
        else:
            network, added = network.with_encoder(name, encoder.weight, encoder.bias)
        sliced.append(each if added is None else replace(each, layer=added.name, macs=added.macs))
    return network, tuple(sliced)


def _with_units(
    model: ir.Model, point: PartitionPoint, counts: tuple[int, ...], samples: Samples, slicing: Slicing
) -> SlicedPoint:
    """A point with so many units, which no layer makes yet."""
    trained = slicing.trained_at(point)
    if trained is None:
        best = best_units(
            model,
            point,
            samples,
            method=slicing.method,
            weighting=slicing.weighting,
            formats_differ=slicing.formats_differ,
        )
        return SlicedPoint(best.point, counts, best.encoder.first(counts[-1]), values=best.values)
    form = form_at(model, point, trained.tensor)
    assert form is not None, "see refuse_other_graph"
    encoder = trained_encoder(trained.weight, trained.bias).first(counts[-1])
    return SlicedPoint(form, counts, encoder, heads=trained.heads.only(counts))


def fitting_samples(network: Network, points: Sequence[PartitionPoint], samples: Samples) -> Samples:
    """Return as many samples as encoders and heads are fitted on: fewer where the network or its tensors are large."""
    by_macs = FITTED_MACS / max(1, network.macs)
    by_bytes = FITTED_BYTES / max(1, 4 * sum(point.bytes for point in points))
    return samples.take(max(FITTED_SAMPLES, int(min(by_macs, by_bytes, samples.count))))


def unit_counts(point: PartitionPoint, macs: int, slicing: Slicing) -> tuple[int, ...]:
    """Return the numbers of units that may be sent from a point of a network of so many multiply-accumulates."""
    units, trained = point.shape[1], slicing.trained_at(point)
    if trained is not None:
        return slicing.slices or trained.counts
    if units > MOST_CHANNELS:
        return (units,)
    if slicing.slices is not None:
        return tuple(sorted({min(count, units) for count in slicing.slices}))
    counts = auto_counts(units, early=2 * point.macs_before < macs)
    return thinned(counts, units, units)


# --- the cloud's side ----------------------------------------------------------------------------------


def units_sent(
    program: Program, inputs: Sequence[Int8Array], progress: Progress | None = None
) -> dict[str, Int8Array]:
    """Return what the device sends for some inputs, ``[n, units, *rest]`` int8 by partition point.

    Args:
        program: The device's half.
        inputs: As the program takes them, ``[n, *shape]`` each.
        progress: Told (inputs done, inputs).
    """
    count = len(inputs[0])
    parts: dict[str, list[Int8Array]] = {tap.partition: [] for tap in program.taps}
    for start in range(0, count, _BATCH):
        outputs = reference.run(program, [x[start : start + _BATCH] for x in inputs])
        for tap, value in zip(program.taps, outputs, strict=False):
            parts[tap.partition].append(reference.units_of(tap, value))
        if progress is not None:
            progress(min(start + _BATCH, count), count)
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}


def cloud_half(
    model: ir.Model,
    sliced: SlicedPoint,
    units: Int8Array | None,
    scale: float,
    slicing: Slicing,
    bits: int = 8,
) -> CloudHalf:
    """Fit the heads of a point, unless they were trained, and return the cloud's graph.

    Args:
        model: The canonical float graph.
        sliced: The point.
        units: What the device sends for the samples of `sliced.values`, ``[n, units, *rest]``; None where heads are trained.
        scale: Of the units.
        slicing: How.
        bits: Of a value of a unit, as it travels.
    """
    channels, rest = sliced.point.shape[1], sliced.point.shape[2:]
    heads = sliced.heads
    if heads is not None or channels > MOST_CHANNELS:
        pass
    elif sliced.encoder.order and sliced.counts == (channels,):
        heads = exact_heads(sliced.encoder.order, channels)
    else:
        assert units is not None and sliced.values is not None
        window = slicing.window or choose_window(sliced.units, channels, len(sliced.counts), rest)
        prior = sliced.encoder.decoder
        heads = fit_heads(
            units, scale, sliced.values, sliced.counts, window, prior=prior, stretch=slicing.stretch
        )
    return CloudHalf(heads, cloud_model(model, sliced.point, scale, heads, bits))
