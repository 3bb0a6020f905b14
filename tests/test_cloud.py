"""The cloud half: cut anywhere, send everything, and the answer is the original model's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from graph_text import Floats, assert_close, parse, random_feeds, run
from onnx import TensorProto

from clio_cc import graph
from clio_cc.cloud import cloud_model, triton_config, triton_repository
from clio_cc.errors import ClioError
from clio_cc.load import load_model
from clio_cc.partition import PartitionPoint, find_point, partition_points
from clio_cc.passes.runner import run_passes

NET = """
    m (float[1,3,4,4] x, float[4,3,3,3] w, float[4] b, float[4,2] v) => (float[1,2] y) <int64[2] s = {1,4}>
    {
        a = Conv(x, w, b) r = Relu(a) p = GlobalAveragePool(r) f = Reshape(p, s)
        g = MatMul(f, v) y = Softmax(g)
    }
"""


def net(text: str = NET) -> tuple[ir.Model, list[PartitionPoint]]:
    model = parse(text)
    run_passes(model)
    return model, partition_points(model)


def features(model: ir.Model, point: PartitionPoint, feeds: dict[str, Floats]) -> Floats:
    """What the device sends, unquantized."""
    if point.node_index == 0:
        return feeds[point.tensor]
    head = graph.extract(model, [value.name or "" for value in model.graph.inputs], [point.tensor])
    return run(graph.to_bytes(head), feeds)[0]


def input_dims(proto: onnx.ModelProto) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim]


def assert_same_everywhere(model: ir.Model, every: int = 1) -> None:
    feeds = random_feeds(model)
    wanted = run(graph.to_bytes(model), feeds)
    for point in partition_points(model)[::every]:
        proto = cloud_model(model, point, dtype=np.float32)
        assert_close(run(proto, {"units": features(model, point, feeds)}), wanted)


def test_every_cut_gives_the_same_answer() -> None:
    assert_same_everywhere(net()[0])


def test_int8_units_are_dequantized_inside() -> None:
    model, found = net()
    units = np.random.default_rng(0).integers(-128, 128, (5, 4, 2, 2)).astype(np.int8)
    point = find_point(found, "r")
    plain = cloud_model(model, point, dtype=np.float32)
    assert_close(
        run(cloud_model(model, point, 0.25), {"units": units}),
        run(plain, {"units": units.astype(np.float32) * 0.25}),
    )
    scales = np.asarray([0.5, 0.25, 1, 2], np.float32)
    assert_close(
        run(cloud_model(model, point, scales), {"units": units}),
        run(plain, {"units": units.astype(np.float32) * scales.reshape(1, 4, 1, 1)}),
    )


def test_a_two_dimensional_cut() -> None:
    model, found = net()
    proto = cloud_model(model, find_point(found, "f"), np.ones(4))
    assert input_dims(proto) == ["N", 4]
    assert proto.graph.input[0].type.tensor_type.elem_type == TensorProto.INT8
    assert run(proto, {"units": np.zeros((3, 4), np.int8)})[0].shape == (3, 2)


def test_a_batch_is_its_samples() -> None:
    model, found = net()
    units = np.random.default_rng(0).integers(-128, 128, (3, 3, 4, 4)).astype(np.int8)
    proto = cloud_model(model, found[0], 0.1)
    together = run(proto, {"units": units})[0]
    for index in range(3):
        assert_close([together[index : index + 1]], run(proto, {"units": units[index : index + 1]}))


@pytest.mark.parametrize(
    "body",
    [
        "a = Reshape(x, merged) b = Softmax(a) y = Reshape(b, back)",  # (4, 4) has no batch
        "a = Relu(x) y = Transpose <perm=[1,0,2]> (a)",
        "a = Relu(x) y = Softmax <axis=0> (a)",
        "a = Relu(x) y = CumSum(a, zero)",  # not known to keep samples apart
        "a = Relu(x) y = ReduceSum(a, first)",
        "a = Relu(x) y = Pad(a, pads)",
    ],
)
def test_graphs_with_a_fixed_batch(body: str) -> None:
    constants = (
        "<int64[2] merged = {4,4}, int64[3] back = {1,4,4}, int32 zero = {0}, int64[1] first = {0}, "
        "int64[6] pads = {1,0,0,0,0,0}>"
    )
    model, found = net(f"m (float[1,4,4] x) => (float[a,b,c] y) {constants} {{ {body} }}")
    proto = cloud_model(model, found[0], dtype=np.float32)
    assert input_dims(proto) == [1, 4, 4]
    assert_same_everywhere(model)
    assert "max_batch_size: 0\n" in triton_config("m", proto)
    assert "dims: [1, 4, 4]" in triton_config("m", proto)
    assert "dynamic_batching" not in triton_config("m", proto)


@pytest.mark.parametrize(
    "body",
    [
        "a = Add(x, w) y = Reshape(a, flat)",
        "a = MatMul(x, w) y = Transpose <perm=[0,2,1]> (a)",
        "a = MatMul(x, x) y = Softmax <axis=2> (a)",
        "a = Concat <axis=1> (x, x) y = Relu(a)",
        "a = ReduceMax(x, last) y = Relu(a)",
        "a = Pad(x, pads) y = Relu(a)",
        "a = LayerNormalization(x, k) y = Relu(a)",
    ],
)
def test_graphs_with_a_free_batch(body: str) -> None:
    constants = "<int64[3] flat = {1,2,8}, int64[1] last = {-1}, int64[6] pads = {0,1,0,0,0,1}>"
    model, found = net(
        f"m (float[1,4,4] x, float[4,4] w, float[4] k) => (float[a,b,c] y) {constants} {{ {body} }}"
    )
    proto = cloud_model(model, found[0], dtype=np.float32)
    assert input_dims(proto) == ["N", 4, 4]
    units = np.random.default_rng(0).standard_normal((2, 4, 4)).astype(np.float32)
    together = run(proto, {"units": units})
    assert_close([together[0][1:]], run(proto, {"units": units[1:]}))


def test_the_model_is_not_changed() -> None:
    model, found = net()
    before = graph.to_bytes(model)
    cloud_model(model, found[1], 0.5)
    assert graph.to_bytes(model) == before


def test_tensors_called_units() -> None:
    model, found = net("m (float[1,4] x, float[4] x2) => (float[1,4] y) { y = Add(x, x2) }")
    assert found == []  # two inputs: nothing to cut
    body = "units = Relu(x) units_2 = Softmax(units) y = Neg(units_2)"
    model, found = net(f"m (float[1,4] x) => (float[1,4] y) {{ {body} }}")
    assert_same_everywhere(model)
    for point in found:
        assert run(cloud_model(model, point, 0.5), {"units": np.ones((2, 4), np.int8)})[0].shape == (2, 4)


def test_what_is_refused() -> None:
    model, found = net()
    with pytest.raises(ClioError) as caught:
        cloud_model(model, found[1], np.ones(3))
    assert str(caught.value) == "partition point 'r': (3,) scales do not fit 4 units"
    model, found = net("m (float[1,4] x) => (float[1,4] units) { a = Softmax(x) units = Neg(a) }")
    with pytest.raises(ClioError) as caught:
        cloud_model(model, found[0])
    assert (
        str(caught.value) == "the model has an output 'units', which is the name of the cloud graph's input"
    )


def test_triton_repository() -> None:
    model, found = net()
    files = triton_repository("net", cloud_model(model, find_point(found, "r"), 0.5))
    assert list(files) == ["net/config.pbtxt", "net/1/model.onnx"]
    assert files == triton_repository("net", cloud_model(model, find_point(found, "r"), 0.5))
    assert run(files["net/1/model.onnx"], {"units": np.zeros((2, 4, 2, 2), np.int8)})[0].shape == (2, 2)
    assert files["net/config.pbtxt"].decode() == (
        'name: "net"\n'
        'backend: "onnxruntime"\n'
        "max_batch_size: 64\n"
        "input [\n"
        "  {\n"
        '    name: "units"\n'
        "    data_type: TYPE_INT8\n"
        "    dims: [4, 2, 2]\n"
        "  }\n"
        "]\n"
        "output [\n"
        "  {\n"
        '    name: "y"\n'
        "    data_type: TYPE_FP32\n"
        "    dims: [2]\n"
        "  }\n"
        "]\n"
        "dynamic_batching { }\n"
    )


@pytest.mark.parametrize(
    "name",
    [
        "ad01_autoencoder",
        "dscnn_kws",
        "mobilenetv1_025_vww96_bn_nchw",
        "mobilenetv2_imagenette96",
        "resnet8_cifar10",
        "resnet8_cifar10_bn_nchw",
        "resnet8large_cifar10",
    ],
)
def test_real_models(name: str, shared: Path) -> None:
    path = shared / "data" / "models" / f"{name}.onnx"
    model = load_model(path)
    run_passes(model)
    assert_same_everywhere(model, every=3 if "mobilenet" in name else 1)
    feeds = random_feeds(model)
    point = partition_points(model)[1]
    proto = cloud_model(model, point, dtype=np.float32)
    assert_close(run(proto, {"units": features(model, point, feeds)}), run(path.read_bytes(), feeds))
    assert input_dims(proto)[0] == "N"
