"""The networks that device code is measured on, as Programs. A module for the scripts beside it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from clio_cc.calibrate import load_samples
from clio_cc.compiler import front_end
from clio_cc.lower import lower
from clio_cc.partition import partition_points
from clio_cc.program import Program
from clio_cc.quantize import quantize_model

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"


@dataclass(frozen=True)
class Net:
    """A network to measure: `shape` of the tensor to stop at ('' for the whole without its softmax)."""

    name: str
    path: Path
    shape: tuple[int, ...] = ()
    fill: bool = False


MODELS, STRUCTURES = SHARED / "data/models", SHARED / "data/models_structure"
NETS = (
    Net("digits", ROOT / "examples/digits/digits.onnx"),
    Net("resnet8", MODELS / "resnet8_cifar10.onnx"),
    Net("dscnn", MODELS / "dscnn_kws.onnx"),
    Net("vww", MODELS / "mobilenetv1_025_vww96.onnx"),
    Net("mbv2_32", STRUCTURES / "mobilenetv2_cifar_bn_op13.onnx", (8, 8, 64), True),
    Net("mbv2_96", MODELS / "mobilenetv2_imagenette96.onnx", (6, 6, 64)),
)


def available(names: list[str] | None) -> list[Net]:
    """Return those of `names` (all for None) whose files are there."""
    return [net for net in NETS if net.path.exists() and net.name in (names or [net.name])]


def program_of(net: Net, folder: Path) -> Program:
    """Quantize a network on seeded inputs: the numbers do not change what is executed.

    Args:
        folder: For a copy of the network with weights, where it has none.
    """
    path = net.path
    if net.fill:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{net.name}.onnx"
        subprocess.run([sys.executable, SHARED / "tools/fill_weights.py", net.path, path], check=True)
    graph = front_end(path)
    network = lower(graph, _cut(graph, net))
    return quantize_model(graph, network, load_samples(graph, None).take(8)).program


class Stop(NamedTuple):
    """A tensor to stop at."""

    name: str
    tensor: str


def _cut(graph: Any, net: Net) -> list[Stop]:
    """Where to stop: the last tensor of the wanted shape that is a partition point, or what the softmax reads."""
    if not net.shape:
        last = graph.graph.outputs[0].producer()
        return [Stop("logits", str(last.inputs[0].name))] if last.op_type == "Softmax" else []
    height, width, channels = net.shape
    points = [p for p in partition_points(graph) if p.shape == (1, channels, height, width)]
    return [Stop(points[0].name, points[0].tensor)]
