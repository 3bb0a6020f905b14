"""What training is worth: accuracy by bytes sent of trained splits, and of what else could be done.

    python benchmarks/trained_slices.py [--net NET …] [--part PART …] [--work DIR] [--no-training] [--json] [--readme]

MobileNetV2 on Imagenette (1,339 photos of 96x96 to test on) cut after blocks 6, 10 and 13, and ResNet-8 on CIFAR-10's JPEG
images (5,000) cut after stack 2. Every split is compiled for the STM32F746: its figures
are those of the int8 device half in the reference interpreter, bit for bit what boards compute, and of the cloud's graph in
onnxruntime. No epoch is chosen by the test images: the last one counts. Parts:

  trained       all cuts on one trunk, trained together
  separate      a network trained for each cut alone
  4-bit         the trained network, trained on with units of 4 bits
  closed-form   the same cuts and counts without training, as compile makes them
  jpeg          the image as a JPEG without its header (4:2:0): the network in float as it is, and fine-tuned on its quality
  fewer-bits    all channels at the cut with fewer bits (JALAD, ICPADS'18), device's half in float
  width         a network with fewer channels everywhere, trained alike, all of it on the device in int8: as wide as the
                multiply-accumulates of the device's half allow (the board's memory is not asked)

What is not in --work yet is trained by ``clio_cc.training.loop.train``, which takes hours on two cores, and kept; a training
that was interrupted goes on. Needs ../shared and PyTorch. Exits with 1 if a mark is missed. ``--readme`` writes the tables
into README.md and that of the example, and the JSON into trained_slices.json.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy: as clio-cc does

import argparse
import io
import json
import math
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import documents
import numpy as np
import onnx_ir as ir
from PIL import Image

from clio_cc import graph as graphs
from clio_cc import reference, results
from clio_cc.accuracy import FEWER_BITS
from clio_cc.baselines import QUALITIES, Original, fewer_bits, scan_bytes
from clio_cc.batch import any_batch
from clio_cc.calibrate import load_samples
from clio_cc.compiler import Options, compile_model, front_end
from clio_cc.evaluate import evaluate
from clio_cc.float_run import Runner
from clio_cc.judge import accuracy as judge_of
from clio_cc.load import model_sha256
from clio_cc.lower import lower
from clio_cc.partition import find_point, partition_points
from clio_cc.plan import LOCAL
from clio_cc.profile import encode_name
from clio_cc.quantize import quantize_model
from clio_cc.trained import read_trained
from clio_cc.training.channels import remove_channels
from clio_cc.training.pruning import thin

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).with_suffix(".json")
SHOWN = (ROOT / "README.md", ROOT / "examples" / "imagenette" / "README.md")
SHARED = ROOT.parent / "shared"
BOARD = "stm32f7"  # holds all cuts
CALIBRATION = 512
BATCH = 32
TRAINED, SEPARATE, FOUR_BITS, CLOSED, JPEG, BITS, WIDTH = (
    "trained",
    "separate",
    "4-bit",
    "closed-form",
    "jpeg",
    "fewer-bits",
    "width",
)
PARTS = (TRAINED, SEPARATE, FOUR_BITS, CLOSED, JPEG, BITS, WIDTH)
TUNED, AS_IS = "fine-tuned", "as it is"
ONE_TRUNK, AS_TRAINED = 1.0, 0.3
"""Points of accuracy: what one trunk may lose against one for each cut, over cuts and counts as often as they are trained;
and how far PyTorch and the program may be apart."""
ALONE = 20.0
"""Percent of one unit alone: twice what guessing one of ten classes gives."""
WIDTHS = 64  # steps of a width


@dataclass(frozen=True)
class Case:
    """A network with its data.

    Attributes:
        train: Packed photos, as `test`.
        scale: Pixels are divided by this.
        points: Where to cut.
        slices: Counts at each.
        qualities: Of JPEGs.
        tuned: Those that the network is fine-tuned on.
        options: Of every training.
        joint: Of the training of all cuts on one trunk, which takes no longer than those of a network for each.
        tune: Of a training of the whole network in float, which everything but the trained splits begins with; None for
            the network as it is.
        jpeg: Of the fine-tuning on JPEGs.
        narrow: Of the training of a narrower network, by the cut whose device's half it may take as long as.
        over_jpeg: The split is to be ahead of fine-tuned JPEG at every size of it.
        below: Most points of accuracy that a cut may lose against the float network, by point and count.
        trial: Accuracy to beat, and by how much, by point and count.
    """

    model: str
    train: str
    test: str
    scale: float
    points: tuple[str, ...]
    slices: tuple[int, ...]
    qualities: tuple[int, ...]
    tuned: tuple[int, ...]
    options: Mapping[str, Any]
    jpeg: Mapping[str, Any]
    joint: Mapping[str, Any] = field(default_factory=dict)
    narrow: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    tune: Mapping[str, Any] | None = None
    over_jpeg: bool = False
    below: Mapping[tuple[str, int], float] = field(default_factory=dict)
    trial: Mapping[tuple[str, int], tuple[float, float]] = field(default_factory=dict)


_FLOAT = {"partition": LOCAL, "rounded_epochs": 0}
_ROUNDED = {"epochs": 2, "rounded_epochs": 2}
CASES: Mapping[str, Case] = {
    "mobilenetv2": Case(
        "models/mobilenetv2_imagenette96.onnx",
        "imagenette96/imagenette96_train.npz",
        "imagenette96/imagenette96_test_public.npz",
        255.0,
        ("features.6", "features.10", "features.13"),
        (1, 2, 4, 8, 12, 16),
        QUALITIES,
        (5, 10, 20),
        {
            "epochs": 10,
            "rounded_epochs": 2,
            "batch": 32,
            "learning_rate": 4e-4,
            "augment": ("flip", "shift"),
            "shares": (1, 2, 6, 4, 2, 1),
        },
        _FLOAT | {"epochs": 3},
        joint={"epochs": 15},
        narrow={"features.10": {"epochs": 3, "rounded_epochs": 1}},
        over_jpeg=True,
        below={
            ("features.10", 12): 0.5,
            ("features.10", 8): 1.5,
            ("features.10", 4): 5,
            ("features.6", 8): 1,
            ("features.6", 4): 3,
        },
    ),
    "resnet8": Case(
        "models/resnet8_cifar10.onnx",
        "cifar10/cifar10_train.npz",
        "cifar10/cifar10_test_public.npz",
        1.0,
        ("Relu__19",),
        (1, 2, 4, 8, 16, 32),
        (1, 2, 5, 10, 20, 50, 75),
        (),
        # No distillation: the network was trained on lossless images and is right on three in four of these.
        {
            "epochs": 12,
            "rounded_epochs": 3,
            "augment": ("flip", "shift"),
            "distill": 0.0,
            "learning_rate": 1e-3,
        },
        {},
        tune=_FLOAT | {"epochs": 4},
        trial={
            ("Relu__19", 4): (48.1, 6),
            ("Relu__19", 8): (61.4, 6),
            ("Relu__19", 16): (71.3, 4),
        },
    ),
}


@dataclass(frozen=True)
class Row:
    """Accuracy of one way, in percent.

    Attributes:
        partition: Where it is cut; `local` for all on the device, empty where a JPEG is sent.
        way: Number of units, bits, or quality; what a JPEG's network was trained on.
        bytes: Sent, a mean rounded up.
        device_macs: On the device.
        in_pytorch: What training found on the same images, if it was trained in integers.
    """

    net: str
    part: str
    partition: str
    way: str
    bytes: int
    accuracy: float
    device_macs: int = 0
    in_pytorch: float | None = None


@dataclass(frozen=True)
class Mark:
    """Something that must hold: `found` at least `wanted`."""

    net: str
    what: str
    wanted: float
    found: float

    @property
    def reached(self) -> bool:
        """Whether it does."""
        return self.found >= self.wanted - 1e-9


# --- data -----------------------------------------------------------------------------------------


def unpack(packed: Path, folder: Path) -> Path:
    """Write the JPEG files of a packed data set by class, as they are; return the folder."""
    if not folder.is_dir():
        with np.load(packed) as arrays:
            images, offsets, labels = arrays["images"], arrays["offsets"], arrays["labels"]
        files = {
            f"{label:02}/{index:05}.jpg": images[offsets[index] : offsets[index + 1]].tobytes()
            for index, label in enumerate(labels)
        }
        _write(files, folder)
    return folder


def recode(source: Path, quality: int, folder: Path) -> Path:
    """Write all images of a folder as JPEGs of a quality, 4:2:0; return the folder."""
    if not folder.is_dir():
        files = {}
        for path in sorted(source.rglob("*.jpg")):
            file = io.BytesIO()
            Image.open(path).convert("RGB").save(file, "JPEG", quality=quality, subsampling="4:2:0")
            files[path.relative_to(source).as_posix()] = file.getvalue()
        _write(files, folder)
    return folder


def _write(files: Mapping[str, bytes], folder: Path) -> None:
    """Write files into a folder that is there when all of them are."""
    unfinished = folder.with_name(f"{folder.name}.part")
    for name, content in files.items():
        path = unfinished / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    unfinished.rename(folder)


def mean_bytes(folder: Path) -> int:
    """Mean size of the scans of a folder's JPEGs, rounded up."""
    sizes = [scan_bytes(path.read_bytes()) for path in sorted(folder.rglob("*.jpg"))]
    return -int(-statistics.fmean(sizes) // 1)


# --- one network ----------------------------------------------------------------------------------


class Bench:
    """A case in its folder below --work."""

    def __init__(self, name: str, case: Case, work: Path, training: bool = True) -> None:
        self.name, self.case, self.work, self.training = name, case, work / name, training
        data = self.work / "data"
        self.train = unpack(SHARED / "data" / case.train, data / "train")
        self.test = unpack(SHARED / "data" / case.test, data / "test")
        self.given = self.model = SHARED / "data" / case.model
        if case.tune is not None:
            self.model = self.trained("tuned", case.tune)

    def trained(self, run: str, options: Mapping[str, Any], data: tuple[Path, Path] | None = None) -> Path:
        """Return the model of a training, which happens if it has not yet.

        Args:
            run: Name of its folder.
            options: What differs from the case's.
            data: To train on, and to watch; None for the photos as they are.
        """
        out = self.work / run
        if (out / "model.onnx").is_file():
            return out / "model.onnx"
        if not self.training:
            raise SystemExit(f"{out} holds no trained model, and --no-training was given")
        from clio_cc.training.loop import train  # PyTorch, which nothing else here needs
        from clio_cc.training.settings import TrainOptions

        train_data, test_data = data or (self.train, self.test)
        wanted = TrainOptions(
            **{
                "model": self.given,
                "data": train_data,
                "validation": test_data,
                "out": out,
                "image_scale": self.case.scale,
                "slices": ",".join(map(str, self.case.slices)),
                **self.case.options,
                **options,
                "resume": (out / "checkpoint.pt").is_file(),
            }
        )
        train(wanted, told(f"{self.name}, {run}"))
        return out / "model.onnx"

    def split(self, part: str, run: str, model: Path, partition: str) -> list[Row]:
        """Compile a model with its cuts, evaluate it, and return the rows."""
        out = self.work / run / "clio-out"
        slices = ",".join(map(str, self.case.slices))
        options = Options(
            model, BOARD, self.train, self.case.scale, CALIBRATION, partition=partition, slices=slices
        )
        say = told(f"{self.name}, {run}")
        if not _is_compiled(out, options):
            compile_model(options, say).files.write(out)
        found = results.read_accuracy(out)
        if not found or found[0].metric != "accuracy":
            evaluate(out, self.test, image_scale=self.case.scale, baselines=False, progress=say)
            found = results.read_accuracy(out)
        macs, in_pytorch = device_macs(out), last_epoch(self.work / run / "training.jsonl", found[0].samples)
        return [
            Row(
                self.name,
                part,
                row.partition,
                str(row.slices),
                row.bytes,
                percent(row.value),
                macs[row.partition],
                in_pytorch.get((row.partition, row.slices)),
            )
            for row in found
            if row.partition in macs
        ]

    # --- parts

    def rows(self, part: str) -> Iterator[Row]:
        """All rows of a part."""
        case, every = self.case, ",".join(self.case.points)
        if part == TRAINED:
            yield from self.split(part, "together", self.together(), every)
        elif part == FOUR_BITS:
            options = {"model": self.together(), "partition": every, "unit_bits": 4, **_ROUNDED}
            model = self.trained("together-4-bit", options)
            yield from self.split(part, "together-4-bit", model, every)
        elif part == CLOSED:
            yield from self.split(part, "closed-form", self.model, every)
        elif part == SEPARATE and len(case.points) > 1:
            for point in case.points:
                run = f"only-{point}"
                yield from self.split(part, run, self.trained(run, {"partition": point}), point)
        elif part in (JPEG, BITS, WIDTH):
            yield from {JPEG: self.jpeg, BITS: self.fewer_bits, WIDTH: self.width}[part]()

    def together(self) -> Path:
        """The network that is trained for all cuts on one trunk."""
        return self.trained("together", {"partition": ",".join(self.case.points), **self.case.joint})

    def jpeg(self) -> Iterator[Row]:
        """A JPEG of each quality, answered by the network as it is and by one that was fine-tuned on that quality."""
        for quality in self.case.qualities:
            data = self.work / "data" / f"jpeg-{quality}"
            test = recode(self.test, quality, data / self.test.name)
            models = {AS_IS: self.model}
            if quality in self.case.tuned:
                train = recode(self.train, quality, data / self.train.name)
                models[TUNED] = self.trained(f"jpeg-{quality}", self.case.jpeg, (train, test))
            size = mean_bytes(test)
            for words, model in models.items():
                value = self.float_accuracy(model, test)
                yield Row(self.name, JPEG, "", f"quality {quality}, {words}", size, value)

    def fewer_bits(self) -> Iterator[Row]:
        """All channels at each cut with fewer bits."""
        model = front_end(self.model)
        given = load_samples(model, self.test, scale=self.case.scale)
        original = Original(model, given.inputs, Runner(any_batch(model.clone())))
        judge = judge_of(_labels(given.labels), graphs.size(model.graph.outputs[0]), self.test.name)
        for name in self.case.points:
            point = find_point(partition_points(model), name)
            for row in fewer_bits(original, judge, name, point.tensor, told(self.name)):
                match = FEWER_BITS.fullmatch(row.partition)
                assert match is not None
                way = f"{match[2]} bits"
                yield Row(self.name, BITS, name, way, row.bytes, percent(row.value), point.macs_before)

    def width(self) -> Iterator[Row]:
        """Narrower networks that take the device as long as its half of each cut does."""
        closed = {row.partition: row.device_macs for row in self.rows(CLOSED)}
        model = front_end(self.model)
        for name, narrow in self.case.narrow.items():
            most = closed[name]
            width = width_within(model, most)
            options = {"partition": LOCAL, "width": width, "shares": None, **narrow}
            trained = self.trained(f"width-{width:.3f}", options)
            value, macs = self.integer_accuracy(trained), macs_of(front_end(trained))
            if macs > most:
                raise SystemExit(
                    f"{trained} has {macs} multiply-accumulates, more than the {most} of '{name}'"
                )
            way = f"width {width:.3f}, for {name}"
            yield Row(self.name, WIDTH, LOCAL, way, 0, value, macs)

    # --- accuracy of whole networks

    def float_accuracy(self, path: Path, data: Path) -> float:
        """Of a network in floating point."""
        model = front_end(path)
        run = Runner(any_batch(model.clone()))
        return self._accuracy(model, data, lambda batch: run(batch)[0])

    def integer_accuracy(self, path: Path) -> float:
        """Of a network in int8, with the formats that training found if there are any."""
        model, trained = front_end(path), read_trained(path)
        samples = load_samples(model, self.train, scale=self.case.scale, most=CALIBRATION)
        formats = None if trained is None else trained.formats({})
        quantized = quantize_model(model, lower(model), samples, formats=formats)

        def run(batch: Mapping[str, Any]) -> Any:
            outputs = reference.run(quantized.program, quantized.quantize_inputs(batch))
            return quantized.dequantize_outputs(outputs)[0]

        return self._accuracy(model, self.test, run)

    def _accuracy(self, model: ir.Model, data: Path, run: Callable[[Mapping[str, Any]], Any]) -> float:
        given = load_samples(model, data, scale=self.case.scale)
        right = 0
        for start in range(0, given.count, BATCH):
            batch = {name: x[start : start + BATCH] for name, x in given.inputs.items()}
            scores = np.asarray(run(batch)).reshape(min(BATCH, given.count - start), -1)
            right += int(np.sum(scores.argmax(axis=1) == _labels(given.labels)[start : start + BATCH]))
        return percent(right / given.count)


def _labels(labels: Any) -> Any:
    assert labels is not None
    return labels


def _is_compiled(out: Path, options: Options) -> bool:
    if not (out / "manifest.json").is_file():
        return False
    manifest = results.read_manifest(out)
    same_model = manifest["model"]["sha256"] == model_sha256(options.model)
    return (
        same_model and manifest["options"] == options.recorded() and not results.changed_files(out, manifest)
    )


def device_macs(out: Path) -> dict[str, int]:
    """Multiply-accumulates on the device by partition point, encoder included."""
    manifest = results.read_manifest(out)
    macs, found, total = {row.layer: row.macs for row in results.read_profile(out, manifest)}, {}, 0
    last = {str(each["layer"]): str(each["name"]) for each in manifest["partitions"]}
    encoders = {encode_name(name) for name in last.values()}
    for layer, count in macs.items():
        total += 0 if layer in encoders else count
        if layer in last:
            found[last[layer]] = total + macs.get(encode_name(last[layer]), 0)
    return found


def last_epoch(log: Path, samples: int) -> dict[tuple[str, int], float]:
    """What PyTorch had on the images that were watched, in percent; nothing where these were others, or without a log."""
    lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
    rows = [row for row in map(json.loads, lines) if row["set"] == "validation"]
    rows = [row for row in rows if row.get("samples") == samples]
    return {
        (row["partition"], row["slices"]): percent(row["value"])
        for row in rows
        if row["epoch"] == rows[-1]["epoch"]
    }


def width_within(model: ir.Model, most: int) -> float:
    """The largest width whose network has at most so many multiply-accumulates."""
    for step in range(WIDTHS - 1, 0, -1):
        if macs_of(remove_channels(model, thin(model, step / WIDTHS))) <= most:
            return step / WIDTHS
    raise SystemExit(f"no width has at most {most} multiply-accumulates")


def macs_of(model: ir.Model) -> int:
    """Multiply-accumulates of a whole network."""
    return sum(graphs.known_macs(node) for node in model.graph)


def percent(share: float) -> float:
    """With two digits."""
    return round(100 * share, 2)


def told(what: str) -> Callable[[str, int, int], None]:
    """Progress on standard error, a line per stage."""
    stages: set[str] = set()

    def say(stage: str, _done: int, _of: int) -> None:
        if stage not in stages:
            stages.add(stage)
            print(f"{what}: {stage}", file=sys.stderr, flush=True)

    return say


# --- marks ----------------------------------------------------------------------------------------


def marks(net: str, case: Case, rows: Sequence[Row], original: float) -> list[Mark]:
    """What must hold of the rows that there are.

    Args:
        net: Name of the case.
        case: With the marks.
        rows: Of this network.
        original: Accuracy of the float network.
    """
    by_part = {part: [row for row in rows if row.part == part] for part in PARTS}
    trained = {(row.partition, int(row.way)): row for row in by_part[TRAINED]}
    found = []
    for (point, count), row in trained.items():
        what = f"{point}, {count} units, {row.bytes} B"
        if (point, count) in case.below:
            found.append(Mark(net, what, round(original - case.below[point, count], 2), row.accuracy))
        if (point, count) in case.trial:
            found.append(Mark(net, what, round(sum(case.trial[point, count]), 2), row.accuracy))
        if count == 1:
            found.append(Mark(net, f"{what}, alone", ALONE, row.accuracy))
        if row.in_pytorch is not None:
            apart = round(abs(row.in_pytorch - row.accuracy), 2)
            found.append(Mark(net, f"{what}: apart from PyTorch, as a loss", -AS_TRAINED, -apart))
    alone = {(row.partition, int(row.way)): row for row in by_part[SEPARATE]}
    if alone and trained:
        wanted = round(expected(case, alone) - ONE_TRUNK, 2)
        what = "one trunk against one for each cut, expected over cuts and counts"
        found.append(Mark(net, what, wanted, expected(case, {key: trained[key] for key in alone})))
    return found + (over_jpeg(net, by_part[TRAINED], by_part[JPEG]) if case.over_jpeg else [])


def expected(case: Case, rows: Mapping[tuple[str, int], Row]) -> float:
    """Mean accuracy of rows by cut and count, each count as often as training takes it: what training maximizes."""
    shares = dict(zip(case.slices, case.options.get("shares") or [1] * len(case.slices), strict=True))
    total = math.fsum(shares[count] for _, count in rows)
    return round(math.fsum(shares[count] * row.accuracy for (_, count), row in rows.items()) / total, 2)


def over_jpeg(net: str, trained: Sequence[Row], jpeg: Sequence[Row]) -> list[Mark]:
    """For each quality, the best split that sends no more than the fine-tuned JPEG has."""
    found = []
    for row in jpeg if trained else ():
        fewer = [each.accuracy for each in trained if each.bytes <= row.bytes]
        if TUNED in row.way:
            found.append(
                Mark(
                    net,
                    f"split within the {row.bytes} B of JPEG {row.way}",
                    row.accuracy,
                    max(fewer, default=0.0),
                )
            )
    return found


# --- text -----------------------------------------------------------------------------------------


WORDS = {
    TRAINED: "trained",
    SEPARATE: "trained for this cut alone",
    FOUR_BITS: "trained, 4 bits a value: half the bytes",
    CLOSED: "closed form",
}


def tables(net: str, rows: Sequence[Row]) -> Iterator[str]:
    """Everything about one network as Markdown."""
    of_net = [row for row in rows if row.net == net]
    for table in (_cuts, _jpegs, _fewer_bits, _narrow):
        lines = list(table(of_net))
        yield from [*lines, ""] if lines else ()


def with_tables(text: str, rows: Sequence[Row]) -> str:
    """Return a text with the tables of `rows` between the marks that it has."""
    return documents.with_tables(text, Path(__file__).name, {net: list(tables(net, rows)) for net in CASES})


def _cuts(rows: Sequence[Row]) -> Iterator[str]:
    rows = [row for row in rows if row.part in WORDS]
    counts = sorted({int(row.way) for row in rows})
    if rows:
        yield _line("cut", "accuracy in %, by units", *counts)
        yield _line(*["---"] * (2 + len(counts)))
    for point in dict.fromkeys(row.partition for row in rows):
        here = [row for row in rows if row.partition == point]
        unit = min(row.bytes // int(row.way) for row in here if row.part != FOUR_BITS)
        for part in [part for part in WORDS if any(row.part == part for row in here)]:
            found = {int(row.way): f"{row.accuracy:.1f}" for row in here if row.part == part}
            what = f"`{point}`, {unit} B a unit" if part == here[0].part else ""
            yield _line(what, WORDS[part], *(found.get(count, "") for count in counts))


def _jpegs(rows: Sequence[Row]) -> Iterator[str]:
    rows = [row for row in rows if row.part == JPEG]
    sizes = {row.way.split(",")[0]: row.bytes for row in rows}
    if rows:
        yield _line("JPEG of the image", *sizes)
        yield _line(*["---"] * (1 + len(sizes)))
        yield _line("bytes", *(f"{size:,}" for size in sizes.values()))
    for words in (AS_IS, TUNED):
        found = {row.way.split(",")[0]: f"{row.accuracy:.1f}" for row in rows if row.way.endswith(words)}
        if found:
            yield _line(f"the network {words}", *(found.get(way, "") for way in sizes))


def _fewer_bits(rows: Sequence[Row]) -> Iterator[str]:
    rows = [row for row in rows if row.part == BITS]
    ways = list(dict.fromkeys(row.way for row in rows))
    if rows:
        yield _line("all channels at the cut, with", *ways)
        yield _line(*["---"] * (1 + len(ways)))
    for point in dict.fromkeys(row.partition for row in rows):
        found = {row.way: f"{row.accuracy:.1f} ({row.bytes:,} B)" for row in rows if row.partition == point}
        yield _line(f"`{point}`", *(found.get(way, "") for way in ways))


def _narrow(rows: Sequence[Row]) -> Iterator[str]:
    rows = [row for row in rows if row.part == WIDTH]
    if rows:
        yield _line(
            "a narrower network, all of it on the device", "million multiply-accumulates", "accuracy in %"
        )
        yield _line(*["---"] * 3)
    for row in rows:
        yield _line(row.way, f"{row.device_macs / 1e6:.1f}", f"{row.accuracy:.1f}")


def _line(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def report(found: Sequence[Mark]) -> Iterator[str]:
    """How many marks are reached, and those that are not."""
    missed = [mark for mark in found if not mark.reached]
    yield f"{len(found) - len(missed)} of {len(found)} marks reached"
    for mark in missed:
        yield f"MISSED: {mark.net}, {mark.what}: {mark.found:.2f}, wanted {mark.wanted:.2f}"


def to_json(originals: Mapping[str, float], rows: Sequence[Row], found: Sequence[Mark]) -> str:
    """Return everything as JSON, a row a line."""
    lines = ",\n".join(f"  {json.dumps(asdict(row))}" for row in rows)
    reached = ",\n".join(f"  {json.dumps(asdict(mark) | {'reached': mark.reached})}" for mark in found)
    return f'{{"original": {json.dumps(originals)},\n "rows": [\n{lines}\n ],\n "marks": [\n{reached}\n ]}}\n'


def from_json(text: str) -> tuple[dict[str, float], list[Row]]:
    """Return the accuracy of the float networks and the rows of :func:`to_json`."""
    found = json.loads(text)
    return found["original"], [Row(**row) for row in found["rows"]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--net", action="append", choices=[*CASES], help="only these networks")
    parser.add_argument("--part", action="append", choices=PARTS, help="only these parts")
    parser.add_argument(
        "--work", type=Path, default=Path("build/trained-slices"), help="folder to keep things in"
    )
    parser.add_argument("--no-training", action="store_true", help="take what is there, refuse what is not")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument(
        "--readme",
        action="store_true",
        help="write the tables of both READMEs and the JSON beside this script",
    )
    options = parser.parse_args(arguments)
    if not SHARED.is_dir():
        parser.error(f"needs models and data in {SHARED}")
    rows: list[Row] = []
    found: list[Mark] = []
    originals = {}
    for net in options.net or CASES:
        bench = Bench(net, CASES[net], options.work, not options.no_training)
        originals[net] = bench.float_accuracy(bench.model, bench.test)
        of_net = [row for part in options.part or PARTS for row in bench.rows(part)]
        found += marks(net, CASES[net], of_net, originals[net])
        rows += of_net
    if options.readme:
        RESULTS.write_text(to_json(originals, rows, found))
        for path in SHOWN:
            path.write_text(with_tables(path.read_text(), rows))
    if options.json:
        print(to_json(originals, rows, found), end="")
    else:
        for net, original in originals.items():
            print(f"{net}, float {original:.2f} %:\n", *tables(net, rows), sep="\n")
        print(*report(found), sep="\n")
    return 0 if all(mark.reached for mark in found) else 1


if __name__ == "__main__":
    sys.exit(main())
