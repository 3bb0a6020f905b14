"""The whole float pipeline: order, canonical form, and real models that stay what they are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from graph_text import assert_close, check_passes, ops, parse, random_feeds, run

from clio_cc import graph
from clio_cc.load import load_model
from clio_cc.passes import FLOAT_PIPELINE
from clio_cc.passes.runner import run_passes

TRAINED = (
    "ad01_autoencoder ad01_autoencoder_bn dscnn_kws dscnn_kws_bn_nchw dscnn_kws_nchw dscnn_kws_w8tflite "
    "mobilenetv1_025_vww96 mobilenetv1_025_vww96_bn_nchw mobilenetv1_025_vww96_nchw mobilenetv2_imagenette96 "
    "resnet8_cifar10 resnet8_cifar10_bn_nchw resnet8_cifar10_nchw resnet8large_cifar10"
).split()
STRUCTURES = (
    "lstm_kws mobilenetv2_cifar_bn_op13 mobilenetv3_small_224_op14legacy transformer_kws mobilenetv2_224"
).split()
LIGHT = "light_squeezenet light_shufflenet light_inception_v1 light_densenet121".split()
DEVICE = frozenset(
    ("Conv Relu Clip Add Gemm GlobalAveragePool Reshape Softmax Transpose Mul HardSwish HardSigmoid").split()
)
GONE = frozenset("BatchNormalization Identity Dropout Constant Flatten Sum Squeeze Unsqueeze".split())


def assert_canonical(model: ir.Model) -> None:
    """What lowering relies on."""
    names = [node.name for node in model.graph]
    assert all(names)
    assert len(set(names)) == len(names)
    for node in model.graph:
        if node.op_type == "Conv":
            assert set(node.attributes) == {"kernel_shape", "strides", "pads", "dilations", "group"}
            assert len(node.inputs) == 3
            assert all(graph.is_constant(value) for value in node.inputs[1:])
        elif node.op_type == "Gemm":
            assert all(graph.is_constant(value) for value in node.inputs[1:])
            assert graph.int_attr(node, "transB") == 1
        elif node.op_type == "Clip":
            assert [graph.static_shape(value) for value in node.inputs[1:]] == [(), ()]
        elif node.op_type == "Reshape":
            dims = graph.integers(node.inputs[1])
            assert dims == list(graph.shape(node.outputs[0]))
        elif node.op_type in ("Concat", "Softmax"):
            assert graph.int_attr(node, "axis", -1) >= 0
        assert node.op_type not in GONE


def check_file(path: Path, *, check: bool = True) -> ir.Model:
    """Load, run all passes, compare with the original file in onnxruntime; returns the graph."""
    model = load_model(path)
    run_passes(model, check=check)
    assert_canonical(model)
    feeds = random_feeds(model)
    original = onnx.load(path)
    original.ir_version = max(original.ir_version, 4)
    assert_close(run(graph.to_bytes(model), feeds), run(original, feeds))
    return model


def filled(source: Path, tmp_path: Path, shared: Path) -> Path:
    """A structure-only model with seeded weights."""
    target = tmp_path / source.name
    subprocess.run([sys.executable, shared / "tools" / "fill_weights.py", source, target], check=True)
    return target


@pytest.mark.parametrize("name", TRAINED)
def test_trained_models(name: str, shared: Path) -> None:
    model = check_file(shared / "data" / "models" / f"{name}.onnx")
    found = [node.op_type for node in model.graph]
    assert set(found) <= DEVICE
    assert "Transpose" not in found[1:]  # only the one at the input of the NHWC models


@pytest.mark.parametrize("name", STRUCTURES)
def test_structures(name: str, shared: Path, tmp_path: Path) -> None:
    source = filled(shared / "data" / "models_structure" / f"{name}.onnx", tmp_path, shared)
    model = check_file(source)
    if name.startswith("mobilenet"):
        assert {node.op_type for node in model.graph} <= DEVICE


@pytest.mark.parametrize("name", LIGHT)
def test_light_models(name: str, shared: Path, tmp_path: Path) -> None:
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    check_file(filled(folder / f"{name}.onnx", tmp_path, shared), check=False)


def test_two_runs_are_equal(shared: Path) -> None:
    path = shared / "data" / "models" / "mobilenetv2_imagenette96.onnx"
    models = [load_model(path) for _ in range(2)]
    for model in models:
        run_passes(model)
    assert graph.to_bytes(models[0]) == graph.to_bytes(models[1])


def test_the_whole_pipeline_on_a_keras_like_block() -> None:
    model = check_passes(
        """
        m (float[1,8,8,3] x, float[4,3,3,3] w, float[4] b, float[4] s, float[4] o, float[4] mu, float[4] var,
           float[4,1,3,3] dw, float[4,2] v, float[2] c) => (float[1,2] y) <
             int64[2] plane = {1,2}, float zero = {0}, float six = {6}, int64[8] pads = {0,0,0,0,0,0,1,1}>
        {
            t = Transpose <perm=[0,3,1,2]> (x)
            p = Pad(t, pads)
            a = Conv <strides=[2,2]> (p, w, b)
            n = Transpose <perm=[0,2,3,1]> (a)
            scaled = Mul(n, s)
            shifted = Add(scaled, o)
            r = Min(shifted, six)
            q = Max(r, zero)
            back = Transpose <perm=[0,3,1,2]> (q)
            d = Conv <group=4, auto_pad="SAME_UPPER"> (back, dw)
            e = BatchNormalization(d, s, o, mu, var)
            sum = Add(e, back)
            last = Transpose <perm=[0,2,3,1]> (sum)
            pooled = ReduceMean <keepdims=0> (last, plane)
            logits = MatMul(pooled, v)
            biased = Add(logits, c)
            y = Softmax(biased)
        }
        """,
        *FLOAT_PIPELINE,
    )
    assert_canonical(model)
    assert ops(model) == "Transpose Conv Clip Conv Add GlobalAveragePool Reshape Gemm Softmax"
    assert graph.ints_attr(list(model.graph)[1], "pads") == (0, 0, 1, 1)


def test_the_pipeline_twice_changes_nothing_more() -> None:
    text = (
        "m (float[1,2,4,4] x, float[2,2,3,3] w) => (float[1,8] y) { a = Conv(x, w) b = "
        "Relu(a) c = Flatten(b) y = Identity(c) }"
    )
    model = parse(text)
    run_passes(model, check=True)
    assert not any(record.modified for record in run_passes(model, check=True))
    assert ops(model) == "Conv Relu Reshape"


def test_unknown_operators_stay() -> None:
    kept = parse("m (float[1,4] x) => (float[1,4] y) <int64 k = {1}> { a = CumSum(x, k) y = Relu(a) }")
    run_passes(kept, check=True)
    assert ops(kept) == "CumSum Relu"
    assert np.allclose(run(graph.to_bytes(kept), {"x": np.ones((1, 4), np.float32)})[0], [[1, 2, 3, 4]])
