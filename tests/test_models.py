"""The real networks of ../shared, whole on the device (MobileNetV2 and V3 to their middle), bit for bit on every board."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest
from boards import assert_bit_exact

from clio_cc.calibrate import Samples
from clio_cc.compiler import front_end
from clio_cc.cut import OPTIMIZATIONS
from clio_cc.graph import shape
from clio_cc.lower import lower
from clio_cc.operators.conv import Conv
from clio_cc.partition import PartitionPoint, partition_points
from clio_cc.program import Program
from clio_cc.qformat import Int8Array
from clio_cc.quantize import quantize_model
from clio_cc.scheduling import planned
from clio_cc.targets import TARGETS, find_target

INPUTS = 8
DATA_OF = {
    "resnet8": ("cifar10_test_public", 1.0),
    "dscnn": ("kws01_public", 1.0),
    "mobilenetv1": ("cifar10_test_public", 255.0),
    "ad01": ("ad01_normal_windows", 1.0),
    "mobilenetv2_imagenette96": ("imagenette96_test_public", 255.0),
}
TRAINED = [
    "ad01_autoencoder",
    "ad01_autoencoder_bn",
    "dscnn_kws",
    "dscnn_kws_bn_nchw",
    "dscnn_kws_nchw",
    "dscnn_kws_w8tflite",
    "mobilenetv1_025_vww96",
    "mobilenetv1_025_vww96_bn_nchw",
    "mobilenetv1_025_vww96_nchw",
    "mobilenetv2_imagenette96",
    "resnet8_cifar10",
    "resnet8_cifar10_bn_nchw",
    "resnet8_cifar10_nchw",
    "resnet8large_cifar10",
]
SCHEDULED = ["dscnn_kws", "mobilenetv1_025_vww96", "mobilenetv2_imagenette96", "resnet8_cifar10"]
STRUCTURES = ["mobilenetv2_224", "mobilenetv2_cifar_bn_op13", "mobilenetv3_small_224_op14legacy"]


def unpacked(shared: Path, path: Path, count: int) -> npt.NDArray[np.float32]:
    """Return the first samples of a packed data set, images as NHWC 0..255."""
    packed = np.load(path)
    if "x" in packed.files:
        return np.asarray(packed["x"][:count], np.float32)
    spec = importlib.util.spec_from_file_location("make_npz", shared / "tools/make_npz.py")
    assert spec is not None and spec.loader is not None
    tools = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tools)
    return np.asarray(tools.load(path, count)[0], np.float32)


def real_inputs(shared: Path, name: str, dims: tuple[int, ...], count: int) -> npt.NDArray[np.float32]:
    """Return `count` real samples for a model, in its own layout; photos are enlarged where it wants them larger."""
    data, scale = next(value for prefix, value in DATA_OF.items() if name.startswith(prefix))
    x = unpacked(shared, next(shared.glob(f"data/*/{data}.npz")), count) / np.float32(scale)
    if x.ndim == 4:
        channels_first = dims[1] in (1, 3)
        size = dims[2] if channels_first else dims[1]
        if size % x.shape[1] == 0:
            x = x.repeat(size // x.shape[1], axis=1).repeat(size // x.shape[1], axis=2)
        if channels_first:
            x = x.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(x)


def compile_tools(tool: Callable[[str], str]) -> None:
    """Skip, or fail in CI, without the cross compilers and emulators."""
    for target in TARGETS:
        tool(target.emulated.compiler.command)
        tool(target.emulated.qemu[0])


def quantized_network(shared: Path, name: str) -> tuple[Program, list[Int8Array]]:
    """Return a trained network and real inputs for it."""
    graph = front_end(shared / f"data/models/{name}.onnx")
    network = lower(graph)
    entry = graph.graph.inputs[0]
    dims = shape(entry)
    samples = Samples({str(entry.name): real_inputs(shared, name, dims, 2 * INPUTS)})
    quantized = quantize_model(graph, network, samples)
    inputs = quantized.quantize_inputs(samples.take(INPUTS).inputs)
    assert len(inputs[0]) == INPUTS
    return quantized.program, inputs


@pytest.mark.parametrize("name", TRAINED)
def test_trained_network_is_bit_exact_on_every_board(
    name: str, shared: Path, tmp_path: Path, tool: Callable[[str], str]
) -> None:
    compile_tools(tool)
    assert_bit_exact(*quantized_network(shared, name), tmp_path)


@pytest.mark.parametrize("name", SCHEDULED)
@pytest.mark.parametrize("optimize", OPTIMIZATIONS)
def test_trained_network_is_bit_exact_as_it_is_compiled(
    name: str, optimize: str, shared: Path, tmp_path: Path, tool: Callable[[str], str]
) -> None:
    """In bands, with the schedules that are fastest on a Cortex-M7: all boards run them."""
    compile_tools(tool)
    program, inputs = quantized_network(shared, name)
    scheduled = planned(program, find_target("stm32f7"), optimize)
    kernels = {op.scheduled.kernel for op in scheduled.operators if isinstance(op, Conv)}
    assert kernels & {"wide", "planar"}
    assert_bit_exact(scheduled, [batch[:2] for batch in inputs], tmp_path)


def middle_of(graph: ir.Model) -> PartitionPoint:
    """Return the partition point nearest to half of the network's multiply-accumulates."""
    points = [point for point in partition_points(graph) if point.kind == "features"]
    half = max(point.macs_before for point in points) / 2
    return min(points, key=lambda point: abs(point.macs_before - half))


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("mode", ["shift", "mulshift"])
def test_filled_structure_is_bit_exact_to_its_middle(
    name: str, mode: str, shared: Path, tmp_path: Path, tool: Callable[[str], str]
) -> None:
    compile_tools(tool)
    filled = tmp_path / "filled.onnx"
    script = shared / "tools/fill_weights.py"
    source = shared / f"data/models_structure/{name}.onnx"
    subprocess.run([sys.executable, script, source, filled, "--seed", "0"], check=True)
    graph = front_end(filled)
    network = lower(graph, [middle_of(graph)])
    entry = graph.graph.inputs[0]
    dims = shape(entry)
    rng = np.random.default_rng(0)
    samples = Samples({str(entry.name): rng.standard_normal((INPUTS, *dims[1:])).astype(np.float32)})
    quantized = quantize_model(graph, network, samples, mode)  # type: ignore[arg-type]
    assert_bit_exact(quantized.program, quantized.quantize_inputs(samples.inputs), tmp_path / "projects")
