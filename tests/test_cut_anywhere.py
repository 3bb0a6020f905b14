"""Cut at any listed point, send everything, unquantized: the answer is the original model's."""

from __future__ import annotations

from pathlib import Path

import light_models
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from graph_text import Floats, run, save

from clio_cc import graph
from clio_cc.compiler import front_end
from clio_cc.float_run import TOLERANCE, difference
from clio_cc.multicut import multi_tensor_cuts
from clio_cc.partition import partition_points

SHARED = (
    *("ad01_autoencoder ad01_autoencoder_bn dscnn_kws dscnn_kws_bn_nchw dscnn_kws_nchw".split()),
    *("dscnn_kws_w8tflite mobilenetv1_025_vww96 mobilenetv1_025_vww96_bn_nchw".split()),
    *("mobilenetv1_025_vww96_nchw mobilenetv2_imagenette96 resnet8_cifar10 resnet8_cifar10_bn_nchw".split()),
    *("resnet8_cifar10_nchw resnet8large_cifar10".split()),
)
STRUCTURES = (
    *("lstm_kws mobilenetv2_224 mobilenetv2_cifar_bn_op13".split()),
    *("mobilenetv3_small_224_op14legacy transformer_kws".split()),
)
LONG = 25  # of more cuts inside blocks some are tried


def names(values: list[ir.Value]) -> list[str]:
    return [value.name or "" for value in values]


def assert_same_answer(path: Path) -> None:
    """Cut everywhere; the device's halves are one run that keeps all tensors."""
    model = front_end(path)
    rng = np.random.default_rng(0)
    feeds = {str(v.name): rng.standard_normal(graph.shape(v)).astype(np.float32) for v in model.graph.inputs}
    wanted = run(path.read_bytes(), feeds)
    points = partition_points(model, inside_blocks=True)
    inside = [point for point in points if point.inside]
    chosen = [point for point in points if not point.inside]
    chosen += [inside[i] for i in rng.permutation(len(inside))[:LONG]]
    cuts: list[tuple[str, tuple[str, ...]]] = [(point.name, (point.tensor,)) for point in chosen]
    cuts += [(cut.name, cut.tensors) for cut in multi_tensor_cuts(model)]
    kept = sorted({name for _, tensors in cuts for name in tensors} - set(feeds))
    head = graph.extract(model, list(feeds), kept)
    sent = {**feeds, **dict(zip(kept, run(graph.to_bytes(head), feeds), strict=True))}
    for name, tensors in cuts:
        tail = graph.extract(model, tensors, names(list(model.graph.outputs)))
        got: list[Floats] = run(graph.to_bytes(tail), {tensor: sent[tensor] for tensor in tensors})
        apart = difference([[value] for value in wanted], [[value] for value in got])
        assert apart <= TOLERANCE, f"cut at {name}: {apart:.2g} of the range away"


@pytest.mark.parametrize("name", light_models.NAMES)
def test_light_models(name: str, tmp_path: Path) -> None:
    assert len(light_models.NAMES) == 9
    assert_same_answer(save(light_models.filled(name), tmp_path / f"{name}.onnx"))


@pytest.mark.parametrize("name", SHARED)
def test_trained_models(name: str, shared: Path) -> None:
    assert_same_answer(shared / "data/models" / f"{name}.onnx")


@pytest.mark.parametrize("name", STRUCTURES)
def test_structures(name: str, shared: Path, tmp_path: Path) -> None:
    proto = light_models.fill(onnx.load(shared / "data/models_structure" / f"{name}.onnx"))
    assert_same_answer(save(proto, tmp_path / f"{name}.onnx"))


def test_no_model_is_left_out(shared: Path) -> None:
    assert sorted(path.stem for path in (shared / "data/models").glob("*.onnx")) == sorted(SHARED)
    assert sorted(path.stem for path in (shared / "data/models_structure").glob("*.onnx")) == sorted(
        STRUCTURES
    )
