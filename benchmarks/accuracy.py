"""Accuracy of the integer networks on real data, against the float networks, with the marks that they must reach.

    python benchmarks/accuracy.py [--json] [--only PART …]

Every figure is the numpy reference's, which every board reproduces bit for bit. Needs ../shared (models and
data). Exits with 1 if a mark is missed.

Calibration uses at most 512 training inputs. Where there is no training file the table says so: keyword frames
for calibration are a seeded draw from the one file that there is, with one figure over the whole file and one
over the rest; the autoencoders' windows are split in two halves.
"""

from __future__ import annotations

import os

os.environ.setdefault(
    "OPENBLAS_NUM_THREADS", "1"
)  # before numpy: its threads slow each other down on a busy machine

import argparse
import functools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clio_cc import reference
from clio_cc.calibrate import Samples, batched, open_session, run_session
from clio_cc.compiler import front_end
from clio_cc.lower import lower
from clio_cc.quantization.formats import Mode
from clio_cc.quantize import Quantized, quantize_model

SHARED = Path(__file__).resolve().parent.parent.parent / "shared"
CALIBRATION = 512
KEYWORD_FRAMES, WINDOWS = 100, 98  # drawn for calibration where there is no training file
BATCH = 16  # larger ones leave the caches

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        net: File name of the model without its ending.
        requant: Mode of requantization.
        data: What it was measured on, and how it was calibrated.
        metric: What was measured.
        original: The float network's value, None where the metric compares with it.
        value: The integer network's.
        mark: What `value` must reach, '' if nothing is asked.
        reached: Whether it does.
        seconds: Calibration and quantization together.
    """

    net: str
    requant: str
    data: str
    metric: str
    original: float | None
    value: float
    mark: str
    reached: bool
    seconds: float


@dataclass(frozen=True, eq=False)
class Net:
    """A model with its float session and its integer form."""

    name: str
    mode: Mode
    quantized: Quantized
    float_run: Callable[[Array], Array]
    seconds: float

    def integer_run(self, x: Array) -> Array:
        """Return the program's output as floats, for inputs in the graph's layout."""
        name = self.quantized.network.inputs[0]
        parts = []
        for start in range(0, len(x), BATCH):
            steps = self.quantized.quantize_inputs({name: x[start : start + BATCH]})
            outputs = reference.run(self.quantized.program, steps)
            parts.append(self.quantized.dequantize_outputs(outputs)[0])
        return np.concatenate(parts)

    def row(
        self, data: str, metric: str, original: float | None, value: float, mark: str, reached: bool
    ) -> Row:
        """Return a row of this net."""
        return Row(
            self.name, self.mode, data, metric, original, value, mark, bool(reached), round(self.seconds, 1)
        )


def quantized_net(name: str, calibration: Array, mode: Mode) -> Net:
    """Quantize a model of ../shared; `calibration` in the graph's layout."""
    graph = front_end(SHARED / f"data/models/{name}.onnx")
    network = lower(graph)
    started = time.perf_counter()
    quantized = quantize_model(graph, network, Samples({network.inputs[0]: calibration}), mode)
    seconds = time.perf_counter() - started
    session = open_session(batched(graph, network.inputs, network.outputs))

    def float_run(x: Array) -> Array:
        parts = [x[start : start + 64] for start in range(0, len(x), 64)]
        outputs = [
            run_session(session, {network.inputs[0]: part}, network.outputs)[network.outputs[0]]
            for part in parts
        ]
        return np.concatenate(outputs)

    return Net(name, mode, quantized, float_run, seconds)


# --- data -----------------------------------------------------------------------------------------------------------


@functools.cache
def unpacked(name: str, count: int | None = None, scale: float = 1.0) -> tuple[Array, Array]:
    """Return (x, y) of a packed data set, images NCHW divided by `scale`."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "data.npz"
        command = [sys.executable, str(SHARED / "tools/make_npz.py"), name, str(file), "--scale", str(scale)]
        limit = [] if count is None else ["--count", str(count)]
        subprocess.run([*command, *limit], check=True, stdout=subprocess.DEVNULL)
        with np.load(file) as loaded:
            return loaded["x"], loaded["y"]


def enlarged(images: Array) -> Array:
    """Return raw NCHW images as 96×96 RGB/255, bilinear."""
    from PIL import Image

    def enlarge(image: Array) -> Array:
        picture = Image.fromarray(image.transpose(1, 2, 0).astype(np.uint8))
        return (
            np.asarray(picture.resize((96, 96), Image.Resampling.BILINEAR), np.float32).transpose(2, 0, 1)
            / 255
        )

    return np.stack([enlarge(image) for image in images])


def drawn(count: int, of: int) -> Array:
    """Return a seeded choice of indices."""
    return np.sort(np.random.default_rng(0).permutation(of)[:count])


# --- figures --------------------------------------------------------------------------------------------------------


def accuracy_row(net: Net, data: str, x: Array, y: Array, most: float | None) -> Row:
    """Top-1 accuracy in percent; it may be at most `most` points below the float network's."""
    original = 100 * float(np.mean(net.float_run(x).argmax(axis=1) == y))
    value = 100 * float(np.mean(net.integer_run(x).argmax(axis=1) == y))
    mark = "" if most is None else f"at least {original - most:.2f}"
    return net.row(data, "accuracy %", original, value, mark, most is None or value >= original - most)


def sqnr_row(net: Net, data: str) -> Row:
    """The layer with the lowest signal-to-quantization-noise ratio."""
    lowest = min(layer.sqnr_db for layer in net.quantized.layers)
    return net.row(data, "lowest SQNR dB of a layer", None, lowest, "at least 15", lowest >= 15)


def resnet8(mode: Mode) -> Iterator[Row]:
    """ResNet-8: lossless CIFAR-10 images, and JPEG ones."""
    for train, test in (
        ("cifar10_lossless_train4660_webp", "cifar10_lossless_test_public"),
        ("cifar10_train", "cifar10_test_public"),
    ):
        net = quantized_net("resnet8_cifar10_bn_nchw", unpacked(train, CALIBRATION)[0], mode)
        x, y = unpacked(test)
        yield accuracy_row(net, f"{test}, calibrated on {CALIBRATION} of {train}", x, y, 1.0)


def dscnn(mode: Mode) -> Iterator[Row]:
    """DS-CNN: keyword frames; there is no training file."""
    x, y = unpacked("kws01_public")
    chosen = drawn(KEYWORD_FRAMES, len(x))
    net = quantized_net("dscnn_kws_bn_nchw", x[chosen], mode)
    yield accuracy_row(net, f"kws01_public, calibrated on {len(chosen)} of its frames", x, y, 1.0)
    rest = np.setdiff1d(np.arange(len(x)), chosen)
    yield accuracy_row(net, "kws01_public without the calibration frames", x[rest], y[rest], None)


def mobilenetv2(mode: Mode) -> Iterator[Row]:
    """MobileNetV2 with ReLU6 on Imagenette."""
    train = "imagenette96_train"
    net = quantized_net("mobilenetv2_imagenette96", unpacked(train, CALIBRATION, 255.0)[0], mode)
    x, y = unpacked("imagenette96_test_public", None, 255.0)
    data = f"imagenette96_test_public, calibrated on {CALIBRATION} of {train}"
    yield accuracy_row(net, data, x, y, 2.0 if mode == "shift" else 0.7)
    yield sqnr_row(net, f"{net.quantized.samples} of {train}")


def mobilenetv1(mode: Mode, count: int = 2000) -> Iterator[Row]:
    """MobileNetV1 VWW: no labelled images, so agreement with the float network."""
    train = enlarged(unpacked("cifar10_train", CALIBRATION)[0])
    net = quantized_net("mobilenetv1_025_vww96_nchw", train, mode)
    x = enlarged(unpacked("cifar10_test_public")[0][:count])
    wanted, got = net.float_run(x), net.integer_run(x)
    agreement = 100 * float(np.mean(wanted.argmax(axis=1) == got.argmax(axis=1)))
    data = f"{count} of cifar10_test_public at 96x96, calibrated on {CALIBRATION} of cifar10_train"
    yield net.row(data, "agreement %", None, agreement, "at least 97", agreement >= 97)
    persons = wanted.argmax(axis=1) == 1  # few: agreement on them says more than the figure above
    kept = 100 * float(np.mean(got.argmax(axis=1)[persons] == 1))
    yield net.row(
        f"the {int(persons.sum())} of them that float calls a person", "agreement %", None, kept, "", True
    )
    yield sqnr_row(net, f"{net.quantized.samples} of cifar10_train at 96x96")


def autoencoder(mode: Mode) -> Iterator[Row]:
    """The anomaly detectors: mean reconstruction error, which may change by 3 %."""
    with np.load(SHARED / "data/ad01/ad01_normal_windows.npz") as packed:
        x = packed["x"].astype(np.float32)
    chosen = drawn(WINDOWS, len(x))
    rest = np.setdiff1d(np.arange(len(x)), chosen)
    for name in ("ad01_autoencoder", "ad01_autoencoder_bn"):
        net = quantized_net(name, x[chosen], mode)
        errors = [float(np.mean((run(x[rest]) - x[rest]) ** 2)) for run in (net.float_run, net.integer_run)]
        data = f"{len(rest)} windows of ad01, calibrated on the other {len(chosen)}"
        low, high = errors[0] * 0.97, errors[0] * 1.03
        mark = f"{low:.3f} to {high:.3f}"
        yield net.row(data, "reconstruction error", errors[0], errors[1], mark, low <= errors[1] <= high)


PARTS: dict[str, Callable[[Mode], Iterator[Row]]] = {
    "resnet8": resnet8,
    "dscnn": dscnn,
    "mobilenetv1": mobilenetv1,
    "autoencoder": autoencoder,
    "mobilenetv2": mobilenetv2,
}
MODES: tuple[Mode, ...] = ("shift", "mulshift")


def as_text(row: Row) -> str:
    """One line of the table."""
    original = "" if row.original is None else f"float {row.original:.2f}"
    state = "" if not row.mark else f"{row.mark}: {'reached' if row.reached else 'MISSED'}"
    return (
        f"{row.net:<28} {row.requant:<8} {row.metric:<26} {original:<12} {row.value:>7.2f}  {state:<28} "
        f"{row.seconds:>5.1f} s  {row.data}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--only", action="append", choices=[*PARTS], help="only these networks")
    parser.add_argument("--requant", action="append", choices=MODES, help="only these modes")
    options = parser.parse_args(arguments)
    if not SHARED.is_dir():
        parser.error(f"needs models and data in {SHARED}")
    rows = []
    for part in options.only or PARTS:
        for mode in options.requant or MODES:
            for row in PARTS[part](mode):
                rows.append(row)
                if not options.json:
                    print(as_text(row), flush=True)
    if options.json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
    return 0 if all(row.reached for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
