"""Accuracy for bytes sent, without training: ways to make ordered units, compared.

    python benchmarks/slices.py [--json] [--only NET …] [--points NAME …] [--variants NAME …]

ResNet-8 on CIFAR-10 JPEG images (all 5,000 of test_public, and its first 2,000) cut after stacks 1, 2 and 3, and
MobileNetV2 on Imagenette (1,339 photos) cut after blocks 6, 10 and 13. Every figure is the whole chain's: the int8
device half in the reference interpreter (bit for bit what boards compute), the cloud graph as it is served in
onnxruntime. Beside them what two quick float trials gave that are to be beaten. Needs ../shared. Exits with 1 if the
default misses a mark.

Variants, all with 8-bit units, calibrated on at most 512 training inputs, heads fitted on more:
  default      rotation weighted by the sensitivity of the network behind the cut, heads that see a window of positions
  readers      rotation weighted by the weights of the layers behind the cut alone
  unweighted   rotation by variance alone (plain PCA)
  selection    channels as they are, ordered by sensitivity; nothing runs on the device
  pointwise    default with heads that see one position only
  unstretched  default with plain least squares: no channel gets its spread back
  one-format   default with all units in one Q-format
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "2")  # before numpy

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from accuracy import SHARED, Array, unpacked

from clio_cc.batch import any_batch
from clio_cc.calibrate import Samples
from clio_cc.cloud import RECEIVED, UNITS, tail_model
from clio_cc.compiler import front_end
from clio_cc.float_run import Runner
from clio_cc.lower import lower
from clio_cc.partition import PartitionPoint, partition_points
from clio_cc.quantize import quantize_model
from clio_cc.split import Slicing, cloud_half, fitting_samples, order_units, units_sent

CALIBRATION = 512
VARIANTS: Mapping[str, Mapping[str, object]] = {
    "default": {"method": "rotation"},
    "readers": {"method": "rotation", "weighting": "readers"},
    "unweighted": {"method": "rotation", "weighting": "none"},
    "selection": {"method": "selection"},
    "pointwise": {"method": "rotation", "window": 1},
    "unstretched": {"method": "rotation", "stretch": 0.0},
    "one-format": {"method": "rotation", "formats_differ": False},
}
BATCH = 64


@dataclass(frozen=True)
class Net:
    """A model of ../shared with its data.

    Attributes:
        train: Data set to calibrate with; `fitted` of it.
        test: Data set to evaluate on; inputs are divided by `scale`.
        cuts: Name for people to the multiply-accumulates before the cut.
        counts: Unit counts per cut.
        trial: Accuracy in percent of the quick trial to beat, by cut and count.
        slack: Points that the default may be below the trial.
        first: How many test inputs the trial used; 0 for all.
    """

    model: str
    train: str
    test: str
    scale: float
    fitted: int
    cuts: Mapping[str, int]
    counts: Mapping[str, tuple[int, ...]]
    trial: Mapping[str, Mapping[int, float]]
    slack: float
    first: int


NETS: Mapping[str, Net] = {
    "resnet8": Net(
        "resnet8_cifar10_nchw",
        "cifar10_train",
        "cifar10_test_public",
        1.0,
        2000,
        {"stack 1": 5160960, "stack 2": 8830976, "stack 3": 12500992},
        {
            "stack 1": (1, 2, 4, 6, 8, 12, 16),
            "stack 2": (1, 2, 4, 8, 12, 16, 24, 32),
            "stack 3": (1, 2, 4, 8, 12, 16, 24, 32, 48, 64),
        },
        {"stack 2": {8: 45.8, 12: 58.6, 16: 66.4, 24: 72.5}},
        0.0,
        2000,
    ),
    "mobilenetv2": Net(
        "mobilenetv2_imagenette96",
        "imagenette96_train",
        "imagenette96_test_public",
        255.0,
        1024,
        {"features.6": 20802816, "features.10": 27873792, "features.13": 38545920},
        {
            "features.6": (1, 2, 4, 8, 12, 16, 32),
            "features.10": (1, 2, 4, 8, 12, 16, 32, 64),
            "features.13": (1, 2, 4, 8, 12, 16, 32, 96),
        },
        {
            "features.6": {4: 55.3, 8: 83.3, 12: 86.3},
            "features.10": {4: 46.6, 8: 75.7, 12: 84.5, 16: 86.8},
            "features.13": {4: 59.8, 8: 84.9, 12: 86.3},
        },
        1.0,
        0,
    ),
}


@dataclass(frozen=True)
class Row:
    """Accuracy in percent of one variant at one cut.

    Attributes:
        accuracy: By unit count, all test inputs.
        first: The same for the inputs that the trial used.
        encoder_share: Multiply-accumulates of the encoder over those of the device's half without it.
        quantized: All channels as the device has them, no units: what quantization of the device's half alone gives.
        head_bytes: Of the heads in the cloud graph of `graph_bytes`.
        missed: Counts at which a mark is missed.
    """

    net: str
    cut: str
    point: str
    variant: str
    unit_bytes: int
    accuracy: dict[int, float]
    first: dict[int, float]
    float_accuracy: float
    quantized: float
    encoder_share: float
    window: int
    head_bytes: int
    graph_bytes: int
    seconds: float
    missed: list[int]


class Bench:
    """One model with its data, loaded once."""

    def __init__(self, name: str) -> None:
        self.name, self.net = name, NETS[name]
        net = self.net
        self.graph = front_end(SHARED / f"data/models/{net.model}.onnx")
        self.train = unpacked(net.train, net.fitted, net.scale)[0]
        self.x, self.y = unpacked(net.test, None, net.scale)
        self.input = str(self.graph.graph.inputs[0].name)
        self.known: dict[str, float] = {}

    def point(self, cut: str) -> PartitionPoint:
        """The partition point after that many multiply-accumulates."""
        wanted = self.net.cuts[cut]
        points = [p for p in partition_points(self.graph) if len(p.shape) == 4]
        return next(point for point in points if point.macs_before == wanted)

    def run(self, cut: str, variant: str) -> Row:
        """Compile one variant and evaluate it."""
        started = time.perf_counter()
        net, point = self.net, self.point(cut)
        slicing = Slicing(slices=net.counts[cut], **VARIANTS[variant])  # type: ignore[arg-type]
        samples = Samples({self.input: self.train})
        network = lower(self.graph, [point])
        fitting = fitting_samples(network, [point], samples)
        encoded, [sliced] = order_units(self.graph, [point], fitting, slicing, lambda *_: None)
        quantized = quantize_model(self.graph, encoded, samples.take(CALIBRATION))
        program = quantized.program
        scale = program.tensors[program.taps[0].tensor].scale
        fitted = units_sent(program, quantized.quantize_inputs(fitting.inputs))[point.name]
        half = cloud_half(self.graph, sliced, fitted, scale, slicing)
        sent = units_sent(program, quantized.quantize_inputs({self.input: self.x}))[point.name]
        assert half.heads is not None
        cloud = Runner(half.model)
        right = {count: self.right(cloud, sent, count) for count in sliced.counts}
        accuracy = {count: round(100 * float(hits.mean()), 2) for count, hits in right.items()}
        first = {
            count: round(100 * float(hits[: net.first or None].mean()), 2) for count, hits in right.items()
        }
        marks = net.trial.get(cut, {})
        missed = [count for count, mark in marks.items() if first[count] < mark - net.slack]
        return Row(
            self.name,
            cut,
            point.name,
            variant,
            point.bytes // point.shape[1],
            accuracy,
            first,
            self.float_accuracy(),
            self.plain(point),
            sliced.macs / point.macs_before,
            half.heads.window,
            half.heads.bytes,
            half.model.ByteSize(),
            round(time.perf_counter() - started, 1),
            missed,
        )

    def right(self, cloud: Runner, units: Array, count: int) -> Array:
        """Which test inputs are answered rightly by the first `count` units."""
        arrived = units.copy()
        arrived[:, count:] = 0
        hits = []
        for start in range(0, len(units), BATCH):
            part = arrived[start : start + BATCH]
            [scores] = cloud({UNITS: part, RECEIVED: np.full(len(part), count, np.int64)})
            hits.append(scores.argmax(axis=1) == self.y[start : start + BATCH])
        return np.concatenate(hits)

    def float_accuracy(self) -> float:
        """Of the original network."""
        if "float" not in self.known:
            self.known["float"] = self._accuracy(Runner(any_batch(self.graph.clone())), self.input, self.x)
        return self.known["float"]

    def plain(self, point: PartitionPoint) -> float:
        """Of the int8 device half and the float rest, all channels sent as they are."""
        if point.name not in self.known:
            samples = Samples({self.input: self.train[:CALIBRATION]})
            quantized = quantize_model(self.graph, lower(self.graph, [point]), samples)
            program = quantized.program
            sent = units_sent(program, quantized.quantize_inputs({self.input: self.x}))[point.name]
            values = sent.astype(np.float32) * np.float32(program.tensors[program.taps[0].tensor].scale)
            self.known[point.name] = self._accuracy(Runner(tail_model(self.graph, point)), UNITS, values)
        return self.known[point.name]

    def _accuracy(self, run: Runner, name: str, x: Array) -> float:
        hits = [
            run({name: x[start : start + BATCH]})[0].argmax(axis=1) == self.y[start : start + BATCH]
            for start in range(0, len(x), BATCH)
        ]
        return round(100 * float(np.concatenate(hits).mean()), 2)


def as_text(row: Row) -> str:
    """Two lines of the table: bytes and accuracy."""
    net = NETS[row.net]
    shown = row.first if net.first else row.accuracy
    cells = "  ".join(f"{count}: {value:.1f}" for count, value in shown.items())
    return (
        f"{row.net:<12} {row.cut:<12} {row.variant:<12} {cells}"
        f"   (device +{100 * row.encoder_share:.2f} % MACs, window {row.window}, "
        f"heads {row.head_bytes / 1e6:.1f} of {row.graph_bytes / 1e6:.1f} MB, {row.seconds:.0f} s)"
        + (f" MISSED at {row.missed}" if row.missed and row.variant == "default" else "")
    )


def heading(row: Row) -> str:
    """What is common to all variants at a cut."""
    net = NETS[row.net]
    trial = "  ".join(f"{count}: {value:.1f}" for count, value in net.trial.get(row.cut, {}).items())
    inputs = f"first {net.first} test inputs" if net.first else "all test inputs"
    return (
        f"\n{row.net}, {row.cut} ('{row.point}', {row.unit_bytes} B per unit): accuracy in % by units sent, {inputs}; "
        f"float {row.float_accuracy:.2f}, device quantized {row.quantized:.2f} (all inputs)"
        + (f"\n{'':<12} {'':<12} {'trial':<12} {trial}" if trial else "")
    )


def rows(nets: Sequence[str], cuts: Sequence[str], variants: Sequence[str]) -> Iterator[Row]:
    """All rows asked for."""
    for name in nets:
        bench = Bench(name)
        for cut in NETS[name].cuts:
            if not cuts or cut in cuts:
                yield from (bench.run(cut, variant) for variant in variants)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--only", action="append", choices=[*NETS], help="only these networks")
    parser.add_argument("--points", action="append", help="only these cuts")
    parser.add_argument("--variants", action="append", choices=[*VARIANTS], help="only these variants")
    options = parser.parse_args(arguments)
    if not SHARED.is_dir():
        parser.error(f"needs models and data in {SHARED}")
    found: list[Row] = []
    for row in rows(options.only or [*NETS], options.points or [], options.variants or [*VARIANTS]):
        if not options.json:
            if not found or (found[-1].net, found[-1].cut) != (row.net, row.cut):
                print(heading(row))
            print(as_text(row), flush=True)
            if row.variant == "default" and NETS[row.net].first:
                cells = "  ".join(f"{count * row.unit_bytes} B: {v:.1f}" for count, v in row.accuracy.items())
                print(f"{'':<12} {'':<12} {'all inputs':<12} {cells}")
        found.append(row)
    if options.json:
        print(json.dumps([asdict(row) for row in found], indent=1))
    return 1 if any(row.missed and row.variant == "default" for row in found) else 0


if __name__ == "__main__":
    sys.exit(main())
