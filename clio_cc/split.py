"""Splits a network at its partition points: ordered units on the device's side, heads on the cloud's.

float network + calibration → encoder per point → Network with encoders → (quantize) → Program
Program + calibration → units as the device sends them → heads per point → cloud graphs
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from clio_cc import graph, reference
from clio_cc.calibrate import Samples
from clio_cc.cloud import cloud_model
from clio_cc.errors import ClioError
from clio_cc.heads import Heads, choose_window, exact_heads, fit_heads, thinned
from clio_cc.lower import lower
from clio_cc.ordering import best_units
from clio_cc.partition import PartitionPoint
from clio_cc.program import Program
from clio_cc.qformat import Int8Array
from clio_cc.quantization.layers import Float, Network
from clio_cc.slicing import MOST_CHANNELS, Encoder, Weighting, auto_counts

if TYPE_CHECKING:
    import onnx

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
    """

    slices: tuple[int, ...] | None = None
    method: str = AUTO
    weighting: Weighting = "sensitivity"
    formats_differ: bool = True
    window: int | None = None
    stretch: float = 1.0


@dataclass(frozen=True, eq=False)
class SlicedPoint:
    """A partition point with its units.

    Attributes:
        counts: Numbers of units that may be sent.
        layer: Name of the device's layer that makes the units; '' where nothing runs for them.
        macs: Multiply-accumulates of that layer.
        values: What the float network has at the cut over calibration, ``[n, channels, *rest]``.
    """

    point: PartitionPoint
    counts: tuple[int, ...]
    encoder: Encoder
    layer: str
    macs: int
    values: Float

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
    found = []
    for number, point in enumerate(points):
        progress(number, len(points))
        found.append(
            best_units(
                model,
                point,
                samples,
                method=slicing.method,
                weighting=slicing.weighting,
                formats_differ=slicing.formats_differ,
            )
        )
    progress(len(points), len(points))
    network = lower(model, [each.point for each in found], local=local)
    macs = sum(graph.known_macs(node) for node in model.graph)
    sliced = []
    for candidate in found:
        point, counts = candidate.point, unit_counts(candidate.point, macs, slicing)
        encoder = candidate.encoder if point.shape[1] > MOST_CHANNELS else candidate.encoder.first(counts[-1])
        layer, added_macs = "", 0
        if encoder.method == "selection":
            network = network.with_order(point.name, encoder.order)
        else:
            network, added = network.with_encoder(point.name, encoder.weight, encoder.bias)
            if added is not None:
                layer, added_macs = added.name, added.macs
        sliced.append(SlicedPoint(point, counts, encoder, layer, added_macs, candidate.values))
    return network, tuple(sliced)


def fitting_samples(network: Network, points: Sequence[PartitionPoint], samples: Samples) -> Samples:
    """Return as many samples as encoders and heads are fitted on: fewer where the network or its tensors are large."""
    by_macs = FITTED_MACS / max(1, network.macs)
    by_bytes = FITTED_BYTES / max(1, 4 * sum(point.bytes for point in points))
    return samples.take(max(FITTED_SAMPLES, int(min(by_macs, by_bytes, samples.count))))


def unit_counts(point: PartitionPoint, macs: int, slicing: Slicing) -> tuple[int, ...]:
    """Return the numbers of units that may be sent from a point of a network of so many multiply-accumulates."""
    units = point.shape[1]
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
    model: ir.Model, sliced: SlicedPoint, units: Int8Array, scale: float, slicing: Slicing, bits: int = 8
) -> CloudHalf:
    """Fit the heads of a point and return the cloud's graph.

    Args:
        model: The canonical float graph.
        sliced: The point.
        units: What the device sends for the samples of `sliced.values`, ``[n, units, *rest]``.
        scale: Of the units.
        slicing: How.
        bits: Of a value of a unit, as it travels.
    """
    channels, rest = sliced.point.shape[1], sliced.point.shape[2:]
    heads = None
    if channels > MOST_CHANNELS:
        pass
    elif sliced.encoder.order and sliced.counts == (channels,):
        heads = exact_heads(sliced.encoder.order, channels)
    else:
        window = slicing.window or choose_window(sliced.units, channels, len(sliced.counts), rest)
        prior = sliced.encoder.decoder
        heads = fit_heads(
            units, scale, sliced.values, sliced.counts, window, prior=prior, stretch=slicing.stretch
        )
    return CloudHalf(heads, cloud_model(model, sliced.point, scale, heads, bits))
