"""The cloud half: cut anywhere, send everything, and the answer is the original model's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from graph_text import Floats, assert_close, parse, random_feeds, run
from numpy.typing import NDArray
from onnx import TensorProto

from clio_cc import graph
from clio_cc.cloud import RECEIVED, UNITS, cloud_model, tail_model, triton_config, triton_repository
from clio_cc.errors import ClioError
from clio_cc.heads import Heads, exact_heads, restore
from clio_cc.load import load_model
from clio_cc.packing import pack_units, value_range
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


def input_dims(proto: onnx.ModelProto, index: int = 0) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in proto.graph.input[index].type.tensor_type.shape.dim]


def assert_same_everywhere(model: ir.Model, every: int = 1) -> None:
    feeds = random_feeds(model)
    wanted = run(graph.to_bytes(model), feeds)
    for point in partition_points(model, inside_blocks=True)[::every]:
        proto = tail_model(model, point)
        assert_close(run(proto, {UNITS: features(model, point, feeds)}), wanted)


def random_heads(channels: int, counts: tuple[int, ...], units: int | None = None, window: int = 1) -> Heads:
    """Heads with seeded weights."""
    rng, places = np.random.default_rng(1), window**2
    weight = rng.standard_normal((1 + len(counts), channels, places * (units or counts[-1]))).astype(
        np.float32
    )
    for row, count in enumerate((0, *counts)):
        weight[row, :, count * places :] = 0
    return Heads(counts, window, weight, rng.standard_normal((1 + len(counts), channels)).astype(np.float32))


def whole(count: int) -> Heads:
    """The head that takes channels as they are."""
    return exact_heads(range(count), count)


def received(*counts: int) -> NDArray[Any]:
    return np.array(counts, np.int64)


def test_every_cut_gives_the_same_answer() -> None:
    assert_same_everywhere(net()[0])


def test_int8_units_are_dequantized_inside() -> None:
    model, found = net()
    units = np.random.default_rng(0).integers(-128, 128, (5, 4, 2, 2)).astype(np.int8)
    point = find_point(found, "r")
    heads = random_heads(4, (1, 2, 4))
    counts = [4, 2, 1, 0, 3]
    restored = restore(heads, units.astype(np.float32) * np.float32(0.25), counts)
    # What a ReLU writes is not negative, whatever a head makes of it.
    assert restored.min() < 0
    assert_close(
        run(cloud_model(model, point, 0.25, heads), {UNITS: units, RECEIVED: received(*counts)}),
        run(tail_model(model, point), {UNITS: np.maximum(restored, 0)}),
    )


def test_what_a_clip_writes_keeps_to_its_bounds() -> None:
    model, found = net(
        "m (float[1,3,4,4] x, float[4,3,1,1] w, float[2,4,1,1] v) => (float[a,b,c,d] y) <float lo = {0}, float hi = {6}>"
        "{ a = Conv(x, w) r = Clip(a, lo, hi) y = Conv(r, v) }"
    )
    point = find_point(found, "r")
    units = np.random.default_rng(0).integers(-128, 128, (3, 4, 4, 4)).astype(np.int8)
    feeds = {UNITS: units, RECEIVED: received(4, 4, 4)}
    wanted = run(tail_model(model, point), {UNITS: np.clip(units * np.float32(0.1), 0, 6)})
    assert_close(run(cloud_model(model, point, 0.1, whole(4)), feeds), wanted)


def test_a_two_dimensional_cut() -> None:
    model = net()[0]
    proto = cloud_model(model, find_point(partition_points(model, inside_blocks=True), "f"), 1.0, whole(4))
    assert input_dims(proto) == ["N", 4]
    assert proto.graph.input[0].type.tensor_type.elem_type == TensorProto.INT8
    feeds = {UNITS: np.zeros((3, 4), np.int8), RECEIVED: received(4, 4, 4)}
    assert run(proto, feeds)[0].shape == (3, 2)


def test_what_goes_in_and_out() -> None:
    """More units than channels, too: the units' axis is the heads' own."""
    model, found = net()
    proto = cloud_model(model, find_point(found, "r"), 0.5, random_heads(4, (2, 6)))
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*proto.graph.input, *proto.graph.output)
    }
    assert shapes == {"units": ["N", 6, 2, 2], "received": ["N"], "y": ["N", 2]}
    kinds = [value.type.tensor_type.elem_type for value in proto.graph.input]
    assert kinds == [TensorProto.INT8, TensorProto.INT64]


def test_the_restored_tensor_has_the_cuts_name() -> None:
    model, found = net()
    proto = cloud_model(model, find_point(found, "r"), 0.5, whole(4))
    written = [name for node in proto.graph.node for name in node.output]
    assert written.count("r") == 1 and len(set(written)) == len(written)
    proto.graph.output.append(onnx.helper.make_tensor_value_info("r", TensorProto.FLOAT, ["N", 4, 2, 2]))
    units = np.random.default_rng(0).integers(0, 128, (2, 4, 2, 2)).astype(np.int8)
    np.testing.assert_array_equal(
        run(proto, {UNITS: units, RECEIVED: received(4, 4)})[1], units.astype(np.float32) * 0.5
    )


@pytest.mark.parametrize("bits", [4, 6])
@pytest.mark.parametrize("window", [1, 3])
@pytest.mark.parametrize("size", [4, 3, 1])
def test_packed_units_give_what_int8_units_give(bits: int, window: int, size: int) -> None:
    """To the bit: the graph is the same behind the values. A batch of one count, and of several."""
    model, found = net(
        f"m (float[1,3,{size},{size}] x, float[4,3,3,3] w, float[2,4,1,1] v) => (float[a,b,c,d] y)"
        '{ a = Conv<auto_pad="SAME_UPPER">(x, w) r = Relu(a) y = Conv(r, v) }'
    )
    point = find_point(found, "r")
    low, high = value_range(bits)
    units = np.random.default_rng(bits).integers(low, high + 1, (5, 6, size, size)).astype(np.int8)
    units[0], units[1] = low, high
    heads = random_heads(4, (1, 2, 6), window=window)
    plain, packed = (cloud_model(model, point, 0.3, heads, each) for each in (8, bits))
    unit_bytes = -(-size * size * bits // 8)
    assert input_dims(packed) == ["N", 6, unit_bytes]
    assert packed.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
    for counts in ((6, 1, 2, 0, 6), (6,) * 5):
        wanted = run(plain, {UNITS: units, RECEIVED: received(*counts)})
        got = run(packed, {UNITS: pack_units(units, bits), RECEIVED: received(*counts)})
        np.testing.assert_array_equal(got[0], wanted[0])
    config = triton_config("m", packed)
    assert f"data_type: TYPE_UINT8\n    dims: [6, {unit_bytes}]\n  }}" in config


@pytest.mark.parametrize("bits", [4, 6])
def test_packed_units_of_a_vector_and_of_a_fixed_batch(bits: int) -> None:
    model = net()[0]
    units = np.array([[-8, 7, -1, 3], [0, 1, 2, -3]], np.int8)
    vector = find_point(partition_points(model, inside_blocks=True), "f")
    feeds = {RECEIVED: received(4, 4)}
    plain, packed = (cloud_model(model, vector, 0.5, whole(4), each) for each in (8, bits))
    assert input_dims(packed) == ["N", 4, 1]
    np.testing.assert_array_equal(
        run(packed, {UNITS: pack_units(units, bits), **feeds})[0], run(plain, {UNITS: units, **feeds})[0]
    )
    fixed, found = net("m (float[1,2,4] x) => (float[a,b,c] y) { a = Relu(x) y = Softmax <axis=0> (a) }")
    plain, packed = (cloud_model(fixed, found[0], 0.5, None, each) for each in (8, bits))
    assert input_dims(packed) == [1, 2, bits // 2]
    feeds = {RECEIVED: received(2)}
    np.testing.assert_array_equal(
        run(packed, {UNITS: pack_units(units[None], bits), **feeds})[0],
        run(plain, {UNITS: units[None], **feeds})[0],
    )


def test_a_batch_is_its_samples() -> None:
    model, found = net()
    units = np.random.default_rng(0).integers(-128, 128, (3, 3, 4, 4)).astype(np.int8)
    proto = cloud_model(model, found[0], 0.1, random_heads(3, (1, 3)))
    together = run(proto, {UNITS: units, RECEIVED: received(3, 0, 1)})[0]
    for index, count in enumerate((3, 0, 1)):
        alone = run(proto, {UNITS: units[index : index + 1], RECEIVED: received(count)})
        assert_close([together[index : index + 1]], alone)


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
    assert input_dims(tail_model(model, found[0])) == [1, 4, 4]
    assert_same_everywhere(model)
    proto = cloud_model(model, found[0], 0.5, whole(4))
    assert input_dims(proto) == [1, 4, 4] and input_dims(proto, 1) == [1]
    units = np.random.default_rng(0).integers(-128, 128, (1, 4, 4)).astype(np.int8)
    assert_close(
        run(proto, {UNITS: units, RECEIVED: received(4)}),
        run(tail_model(model, found[0]), {UNITS: units.astype(np.float32) * 0.5}),
    )
    assert "max_batch_size: 0\n" in triton_config("m", proto)
    assert "dims: [1, 4, 4]\n" in triton_config("m", proto)
    assert "dims: [1]\n  }" in triton_config("m", proto)
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
    tail = tail_model(model, found[0])
    assert input_dims(tail) == ["N", 4, 4]
    values = np.random.default_rng(0).standard_normal((2, 4, 4)).astype(np.float32)
    together = run(tail, {UNITS: values})
    assert_close([together[0][1:]], run(tail, {UNITS: values[1:]}))
    proto = cloud_model(model, found[0], 0.5, whole(4))
    assert input_dims(proto) == ["N", 4, 4] and input_dims(proto, 1) == ["N"]
    units = np.round(values * 20).astype(np.int8)
    feeds = {UNITS: units, RECEIVED: received(4, 4)}
    assert_close(run(proto, feeds), run(tail, {UNITS: units.astype(np.float32) * 0.5}))


def test_the_model_is_not_changed() -> None:
    model, found = net()
    before = graph.to_bytes(model)
    cloud_model(model, found[1], 0.5, whole(found[1].shape[1]))
    tail_model(model, found[1])
    assert graph.to_bytes(model) == before


@pytest.mark.parametrize("cut", ["units", "received", "heads_units", "heads_weights", "a"])
def test_names_that_the_cloud_graph_uses_itself(cut: str) -> None:
    """A cut, a tensor behind it, a node and a constant may be called like an input or like a part of the heads."""
    body = f"{cut} = Relu(x) units_2 = Softmax({cut}) heads_weight = Mul(units_2, heads_bias) y = Neg(heads_weight)"
    model = net(f"m (float[1,4] x, float[4] heads_bias) => (float[1,4] y) {{ {body} }}")[0]
    model.graph[-1].name = "heads_row"
    assert_same_everywhere(model)
    for point in partition_points(model, inside_blocks=True):
        units = np.array([[-1, 2, 3, 4], [5, 6, -7, 8]], np.int8)
        feeds = {UNITS: units, RECEIVED: received(4, 4)}
        restored = units.astype(np.float32) * 0.5
        wanted = np.maximum(restored, 0) if point.tensor == cut else restored
        assert_close(
            run(cloud_model(model, point, 0.5, whole(4)), feeds),
            run(tail_model(model, point), {UNITS: wanted}),
        )


def test_two_inputs_leave_nothing_to_cut() -> None:
    assert net("m (float[1,4] x, float[1,4] x2) => (float[1,4] y) { y = Add(x, x2) }")[1] == []


def test_outputs_called_like_inputs_are_refused() -> None:
    for name in ("units", "received"):
        model, found = net(f"m (float[1,4] x) => (float[1,4] {name}) {{ a = Softmax(x) {name} = Neg(a) }}")
        with pytest.raises(ClioError) as caught:
            cloud_model(model, found[0], 0.5, whole(4))
        words = f"the model has an output '{name}', which is the name of an input of the cloud graph"
        assert str(caught.value) == words
    tail_model(model, found[0])  # takes no count
    model, found = net("m (float[1,4] x) => (float[1,4] units) { a = Softmax(x) units = Neg(a) }")
    with pytest.raises(ClioError):
        tail_model(model, found[0])


def test_triton_repository() -> None:
    model, found = net()
    heads = random_heads(4, (2, 4))
    files = triton_repository("net", cloud_model(model, find_point(found, "r"), 0.5, heads))
    assert list(files) == ["net/config.pbtxt", "net/1/model.onnx"]
    assert files == triton_repository("net", cloud_model(model, find_point(found, "r"), 0.5, heads))
    feeds = {UNITS: np.zeros((2, 4, 2, 2), np.int8), RECEIVED: received(2, 4)}
    assert run(files["net/1/model.onnx"], feeds)[0].shape == (2, 2)
    assert files["net/config.pbtxt"].decode() == (
        'name: "net"\n'
        'backend: "onnxruntime"\n'
        "max_batch_size: 64\n"
        "input [\n"
        "  {\n"
        '    name: "units"\n'
        "    data_type: TYPE_INT8\n"
        "    dims: [4, 2, 2]\n"
        "  },\n"
        "  {\n"
        '    name: "received"\n'
        "    data_type: TYPE_INT64\n"
        "    dims: [1]\n"
        "    reshape: { shape: [ ] }\n"
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
    assert_same_everywhere(model, every=5 if "mobilenet" in name else 1)
    feeds = random_feeds(model)
    point = partition_points(model)[1]
    tail = tail_model(model, point)
    assert_close(run(tail, {UNITS: features(model, point, feeds)}), run(path.read_bytes(), feeds))
    assert input_dims(tail)[0] == "N"
    count = point.shape[1]
    proto = cloud_model(model, point, 0.02, random_heads(count, (1, count)))
    units = np.random.default_rng(0).integers(-128, 128, (2, *point.shape[1:])).astype(np.int8)
    together = run(proto, {UNITS: units, RECEIVED: received(1, count)})
    alone = run(proto, {UNITS: units[1:], RECEIVED: received(count)})
    assert_close([each[1:] for each in together], alone)
