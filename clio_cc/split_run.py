"""A split network: the device's half in the reference interpreter, so what every board computes, bit for bit; the cloud's
half, the graph that will be served, in onnxruntime."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from clio_cc import reference
from clio_cc.accuracy import AccuracyRow
from clio_cc.baselines import batch_size
from clio_cc.cloud import RECEIVED, UNITS
from clio_cc.float_run import Runner
from clio_cc.judge import Judge
from clio_cc.packing import pack_units
from clio_cc.plan import LOCAL
from clio_cc.program import Program
from clio_cc.qformat import Int8Array, quantize

if TYPE_CHECKING:
    import onnx

Array = npt.NDArray[Any]
Progress = Callable[[str, int, int], None]


def evaluate_points(
    program: Program,
    slices: Mapping[str, Sequence[int]],
    clouds: Mapping[str, onnx.ModelProto],
    inputs: Sequence[Int8Array],
    judge: Judge,
    *,
    local: Sequence[Mapping[str, Any]] = (),
    progress: Progress,
) -> tuple[AccuracyRow, ...]:
    """Judge what arrives at the cloud through the program's taps.

    Args:
        program: The device's half.
        slices: Numbers of units to try, by partition point; taps that are not among them are left out.
        clouds: The graph behind each of these points.
        inputs: The samples as the program takes them, ``[n, *shape]`` each.
        judge: For these samples.
        local: Where the whole network runs on the device, its outputs as the manifest describes them (``name``, ``scale``,
            ``graph_shape``, ``order``).
        progress: Told (partition point, samples done, samples in all).

    Returns:
        A row for every point and number of units in order of execution, then ``local``.
    """
    taps = [tap for tap in program.taps if tap.partition in slices]
    runs = {tap.partition: Runner(clouds[tap.partition]) for tap in taps}
    wanted = {tap.tensor for tap in taps} | {entry["name"] for entry in local}
    bytes_of = {
        (tap.partition, count): count * tap.unit_bytes for tap in taps for count in slices[tap.partition]
    }
    if local:
        bytes_of[LOCAL, 0] = 0
    lost = dict.fromkeys(bytes_of, 0.0)
    step = batch_size(max(tensor.bytes for tensor in program.tensors.values()))
    for first in range(0, judge.samples if wanted else 0, step):
        tensors = _device_half(program, [x[first : first + step] for x in inputs], wanted)
        done = min(first + step, judge.samples)
        for tap in taps:
            units = pack_units(reference.units_of(tap, tensors[tap.tensor]), tap.bits)
            for count in slices[tap.partition]:
                lost[tap.partition, count] += judge.lost(first, _answer(runs[tap.partition], units, count))
            progress(tap.partition, done, judge.samples)
        if local:
            answers = [
                to_graph(tensors[entry["name"]], entry) * np.float32(entry["scale"]) for entry in local
            ]
            lost[LOCAL, 0] += judge.lost(first, answers)
            progress(LOCAL, done, judge.samples)
    return tuple(
        AccuracyRow(*choice, size, judge.metric, judge.value(lost[choice]), judge.samples)
        for choice, size in bytes_of.items()
    )


def _device_half(program: Program, inputs: Sequence[Int8Array], wanted: set[str]) -> dict[str, Int8Array]:
    """Return some tensors for a batch; runs no further than to the last of them."""
    found: dict[str, Int8Array] = {}
    for op, value in reference.walk(program, inputs):
        if op.output.name in wanted:
            found[op.output.name] = value
            if len(found) == len(wanted):
                break
    return found


def _answer(cloud: Runner, units: Array, count: int) -> list[Array]:
    """What the cloud says to the first `count` units, as they travel."""
    received = np.full(len(units), count, np.int64)
    arrived = units.copy()
    arrived[:, count:] = 0
    return cloud({UNITS: arrived, RECEIVED: received})


def device_inputs(entries: Sequence[Mapping[str, Any]], floats: Mapping[str, Array]) -> list[Int8Array]:
    """Return inputs of the graph (``[n, ...]`` by name) as the device takes them.

    Args:
        entries: Of the manifest's ``inputs``.
    """
    batches = []
    for entry in entries:
        graph_layout = floats[entry["name"]].reshape(-1, *entry["graph_shape"][1:])
        batches.append(quantize(graph_layout.transpose(0, *entry["order"]), entry["scale"]))
    return batches


def to_graph(value: Int8Array, entry: Mapping[str, Any]) -> Int8Array:
    """Return a batch in device layout as the graph has it; `entry` is of the manifest's ``outputs``."""
    back = np.argsort((0, *entry["order"]))
    return value.transpose(*back).reshape(-1, *entry["graph_shape"][1:])
