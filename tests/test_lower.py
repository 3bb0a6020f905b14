"""Float graph → layers in device layout: the function stays the same, and what cannot run is refused with a reason."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnx_ir as ir
import pytest
from graph_text import parse, random_feeds, run

from clio_cc import graph
from clio_cc.errors import ClioError
from clio_cc.lower import device_supports, lower
from clio_cc.passes.runner import run_passes
from clio_cc.quantization.layers import Cut, Layout, Network

# name → (graph, kinds of the layers)
GRAPHS = {
    "conv relu": (
        """m (float[1,3,6,5] x, float[4,3,3,3] w, float[4] b) => (float[1,4,a,c] y)
        { c = Conv<pads=[1,1,0,1], strides=[2,1]>(x, w, b) y = Relu(c) }""",
        ["Conv+Relu"],
    ),
    "nhwc": (
        """m (float[1,6,5,3] x, float[4,3,3,3] w) => (float[1,a,c,4] y)
        { t = Transpose<perm=[0,3,1,2]>(x) c = Conv<pads=[1,1,1,1]>(t, w) y = Transpose<perm=[0,2,3,1]>(c) }""",
        ["Conv", "Reshape"],
    ),
    "relu6 of depthwise": (
        """m (float[1,4,5,5] x, float[4,1,3,3] w) => (float[1,4,a,c] y)
        { c = Conv<group=4, pads=[1,1,1,1]>(x, w) y = Clip(c, lo, hi) }""",
        ["Conv+Clip"],
    ),
    "grouped and dilated": (
        """m (float[1,4,9,8] x, float[6,2,3,2] w) => (float[1,6,a,c] y)
        { y = Conv<group=2, dilations=[2,1]>(x, w) }""",
        ["Conv"],
    ),
    "image to vector": (
        """m (float[1,2,3,4] x, float[2,2,1,1] w, float[24,5] v) => (float[1,5] y)
        { c = Conv(x, w) f = Flatten(c) y = MatMul(f, v) }""",
        ["Conv", "Reshape", "Gemm"],
    ),
    "image to vector as output": (
        """m (float[1,2,3,4] x, float[2,2,1,1] w) => (float[1,24] y) { c = Conv(x, w) y = Flatten(c) }""",
        ["Conv", "Transpose", "Reshape"],
    ),
    "residual": (
        """m (float[1,3,4,4] x, float[3,3,1,1] w) => (float[1,3,a,c] y)
        { c = Conv(x, w) s = Add(c, x) y = Relu(s) }""",
        ["Conv", "Add+Relu"],
    ),
    "squeeze and excitation": (
        """m (float[1,3,4,4] x, float[3,3,1,1] w) => (float[1,3,a,c] y)
        { p = GlobalAveragePool(x) c = Conv(p, w) g = HardSigmoid(c) y = Mul(g, x) }""",
        ["GlobalAveragePool", "Conv", "HardSigmoid", "Mul"],
    ),
    "tables": (
        """m (float[1,6] x) => (float[1,6] y) { a = Sigmoid(x) b = Tanh(a) y = Elu(b) }""",
        ["Sigmoid+Tanh+Elu"],
    ),
    "concat": (
        """m (float[1,3,4,4] x, float[2,3,1,1] w) => (float[1,5,a,c] y)
        { c = Conv(x, w) j = Concat<axis=1>(c, x) y = Relu(j) }""",
        ["Conv", "Concat", "Relu"],
    ),
    "concat of rows": (
        """m (float[1,3,4,4] x, float[3,3,1,1] w) => (float[1,3,a,c] y)
        { c = Conv(x, w) y = Concat<axis=-2>(c, x) }""",
        ["Conv", "Concat"],
    ),
    "pools": (
        """m (float[1,3,7,7] x) => (float[1,3,a,c] y)
        { p = MaxPool<kernel_shape=[3,2], strides=[2,2], pads=[1,0,1,1]>(x)
          y = AveragePool<kernel_shape=[2,2], pads=[1,1,0,0]>(p) }""",
        ["MaxPool", "AveragePool"],
    ),
    "average that counts padding": (
        """m (float[1,3,7,7] x) => (float[1,3,a,c] y)
        { y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(x) }""",
        ["AveragePool"],
    ),
    "constants": (
        """m (float[1,3,4,4] x, float[1,3,1,1] k) => (float[1,3,a,c] y)
        { r = Sigmoid(x) s = Add(r, k) y = Relu(s) }""",
        ["Sigmoid", "Add+Relu"],
    ),
    "softmax": (
        "m (float[1,5] x, float[5,3] w) => (float[1,3] y) { g = MatMul(x, w) y = Softmax(g) }",
        ["Gemm", "Softmax"],
    ),
    "two outputs": (
        """m (float[1,3,4,4] x, float[2,3,1,1] w) => (float[1,2,a,c] y, float[1,2,d,e] z)
        { y = Conv(x, w) z = Relu(y) }""",
        ["Conv", "Relu"],
    ),
    "two inputs": (
        "m (float[1,4] x, float[1,4] xx) => (float[1,4] y) { s = Add(x, xx) y = Relu(s) }",
        ["Add+Relu"],
    ),
}


class At(NamedTuple):
    """A cut at any tensor."""

    name: str
    tensor: str


BOUNDS = {"lo": 0.0, "hi": 6.0}


def canonical(text: str) -> ir.Model:
    for name, value in BOUNDS.items():
        text = text.replace(f", {name}", f", b_{name}")
        if f"b_{name}" in text:
            text = text.replace("{", f"{{ b_{name} = Constant<value_float={value}>() ", 1)
    model = parse(text)
    run_passes(model)
    return model


def run_network(network: Network, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    values = network.run({name: network.layouts[name].to_device(feeds[name]) for name in network.inputs})
    return [network.layouts[name].to_graph(values[name]) for name in network.outputs]


@pytest.mark.parametrize("name", GRAPHS)
def test_same_function(name: str) -> None:
    text, kinds = GRAPHS[name]
    model = canonical(text)
    network = lower(model)
    assert [layer.kind for layer in network.layers] == kinds
    feeds = random_feeds(model)
    for got, wanted in zip(run_network(network, feeds), run(graph.to_bytes(model), feeds), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-4)


def test_images_are_height_width_channels_whatever_the_graph_says() -> None:
    for name in ("conv relu", "nhwc"):
        network = lower(canonical(GRAPHS[name][0]))
        assert network.layouts["x"].shape == (6, 5, 3)
        assert network.layers[0].shape[-1] == 4


def test_cut_keeps_the_tensor_before_a_relu() -> None:
    model = canonical(GRAPHS["residual"][0])
    conv = next(node for node in model.graph if node.op_type == "Conv")
    tensor = str(conv.outputs[0].name)
    network = lower(model, [At("first", tensor)])
    assert (network.outputs, network.taps) == ((tensor,), (Cut("first", tensor),))
    assert [layer.kind for layer in network.layers] == ["Conv"]


def test_layout_round_trip() -> None:
    x = np.arange(2 * 24).reshape(2, 2, 3, 4)
    layout = Layout((1, 2, 3, 4), (2, 3, 1))
    assert layout.shape == (3, 4, 2)
    np.testing.assert_array_equal(layout.to_graph(layout.to_device(x)), x)
    vector = Layout((1, 24), (1,), np.random.default_rng(0).permutation(24))
    flat = x.reshape(2, 24)
    np.testing.assert_array_equal(vector.to_graph(vector.to_device(flat)), flat)


REFUSED = {
    "no device operator": "m (float[1,4,5] x) => (float[1,4,5] y) { y = CumSum(x, one) }",
    "only two-dimensional convolutions, this one has 1": """m (float[1,3,8] x, float[4,3,3] w) => (float[1,4,a] y)
        { y = Conv(x, w) }""",
    "only as the last layer": "m (float[1,4] x) => (float[1,4] y) { s = Softmax(x) y = Tanh(s) }",
    "only over a vector": "m (float[1,4,2,2] x) => (float[1,4,2,2] y) { y = Softmax<axis=1>(x) }",
    "takes one row at a time": """m (float[3,4] x, float[4,2] w, float[2] b) => (float[3,2] y)
        { y = Gemm(x, w, b) }""",
    "weights are computed at run time": """m (float[1,3,4,4] x, float[2,3,1,1] xw) => (float[1,2,a,c] y)
        { y = Conv(x, xw) }""",
    "a constant operand must be one number or one per channel": """m (float[1,3,4,4] x, float[1,3,4,4] k)
        => (float[1,3,4,4] y) { y = Add(x, k) }""",
    "only constant padding": """m (float[1,3,4,4] x) => (float[1,3,a,c] y)
        { p = Constant<value_ints=[0,0,1,1,0,0,1,1]>() y = Pad<mode="reflect">(x, p) }""",
    "the batch does not stay in front": """m (float[1,3,4] x) => (float[3,1,4] y)
        { y = Transpose<perm=[1,0,2]>(x) }""",
}


@pytest.mark.parametrize("reason", REFUSED)
def test_reasons(reason: str) -> None:
    text = REFUSED[reason].replace("one)", "axis)")
    text = text.replace("{", "{ axis = Constant<value_int=1>() ", 1) if "axis)" in text else text
    model = parse(text)
    assert reason in [device_supports(node) for node in model.graph]


def test_message_names_node_reason_and_nearest_cut() -> None:
    text = """m (float[1,3,4,4] x, float[2,3,1,1] w) => (float[1,2,4,4] y)
        { c = Conv(x, w) l = LpNormalization<axis=1>(c) y = Relu(l) }"""
    model = canonical(text)
    node = next(node for node in model.graph if node.op_type == "LpNormalization")
    with pytest.raises(ClioError) as caught:
        lower(model, [At("late", "y"), At("early", "c")], nearest="early")
    assert str(caught.value) == (
        f"node '{node.name}' (LpNormalization): does not run on the device: no device operator; "
        "it comes before the cut 'late'\n  hint: cut at 'early' or earlier"
    )
    with pytest.raises(ClioError, match="no device operator\n  hint: no cut lies before it"):
        lower(model, nearest="")


# --- several taps ---------------------------------------------------------------------------------

TRUNK = """m (float[1,3,8,8] x, float[4,3,3,3] w1, float[4,4,3,3] w2, float[6,4,1,1] w3, float[96,10] v, float[10,5] u)
    => (float[1,5] y) {
    c1 = Conv<pads=[1,1,1,1]>(x, w1) r1 = Relu(c1)
    c2 = Conv<pads=[1,1,1,1]>(r1, w2) s = Add(c2, r1) t1 = Sigmoid(s) t2 = Tanh(t1)
    p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(t2) c3 = Conv(p, w3)
    f = Flatten(c3) g = MatMul(f, v) r = Relu(g) y = MatMul(r, u) }"""
DEEP = [At("after_relu", "r"), At("first", "r1"), At("linear", "c3")]


def values_of(model: ir.Model, names: list[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    part = graph.extract(model, ["x"], names)
    return list(run(graph.to_bytes(part), feeds))


@pytest.mark.parametrize("local", [False, True])
def test_several_taps_share_the_trunk(local: bool) -> None:
    model = canonical(TRUNK)
    network = lower(model, DEEP, local=local)
    cuts = (Cut("first", "r1"), Cut("linear", "c3"), Cut("after_relu", "r"))
    assert network.taps == cuts
    assert network.outputs == ("r1", "c3", "r") + (("y",) if local else ())
    feeds = random_feeds(model)
    wanted = values_of(model, list(network.outputs), feeds)
    for got, right in zip(run_network(network, feeds), wanted, strict=True):
        np.testing.assert_allclose(got, right, atol=1e-4)
    same = lower(model, [At("linear", "c3")])
    assert [layer.kind for layer in same.layers] == [layer.kind for layer in network.layers][
        : len(same.layers)
    ]


def test_nothing_is_fused_across_a_tap() -> None:
    model = canonical(TRUNK)
    whole = [layer.kind for layer in lower(model).layers]
    assert whole[:3] == ["Conv+Relu", "Conv", "Add"]
    inside = lower(model, [At("before", "c1"), At("chain", "t1"), At("vector", "g")], local=True)
    kinds = [layer.kind for layer in inside.layers]
    assert kinds[:2] == ["Conv", "Relu"] and "Sigmoid" in kinds and "Tanh" in kinds
    assert [layer.kind for layer in inside.layers if layer.output in ("g", "r")] == ["Gemm", "Relu"]
    feeds = random_feeds(model)
    wanted = values_of(model, ["c1", "t1", "g", "y"], feeds)
    for got, right in zip(run_network(inside, feeds), wanted, strict=True):
        np.testing.assert_allclose(got, right, atol=1e-4)


def test_a_tap_in_another_order_is_arranged_right_behind_its_tensor() -> None:
    text = """m (float[1,16] x, float[16,32] w, float[3,8,3,3] c) => (float[1,3,2,2] y)
        { s = Constant<value_ints=[-1,8,2,2]>() a = MatMul(x, w) q = Reshape(a, s) r = Relu(q)
          y = Conv<pads=[1,1,1,1]>(r, c) }"""
    model = canonical(text)
    tensor = next(str(v.name) for node in model.graph for v in node.outputs if graph.shape(v) == (1, 8, 2, 2))
    network = lower(model, [At("image", tensor)], local=True)
    (cut,) = network.taps
    assert network.shapes[cut.tensor] == (2, 2, 8)
    at = [layer.output for layer in network.layers].index(cut.tensor)
    assert at < len(network.layers) - 1


def test_message_names_the_first_cut_behind_the_node() -> None:
    text = """m (float[1,3,4,4] x, float[2,3,1,1] w) => (float[1,2,4,4] y)
        { c = Conv(x, w) l = LpNormalization<axis=1>(c) r = Relu(l) e = Elu(r) y = Conv(e, e) }"""
    model = canonical(text.replace(" y = Conv(e, e)", " y = Sigmoid(e)"))
    points = [At("later", "e"), At("late", "r"), At("early", "c")]
    with pytest.raises(ClioError, match=r"no device operator; it comes before the cut 'late'\n"):
        lower(model, points, nearest="early")
    with pytest.raises(ClioError, match=r"no device operator\n"):
        lower(model, points[2:], local=True)


# --- encoders -------------------------------------------------------------------------------------


def matrix(units: int, channels: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(units)
    return rng.standard_normal((units, channels)), rng.standard_normal(units)


def test_an_encoder_is_a_layer_right_behind_the_tensor() -> None:
    model = canonical(TRUNK)
    network = lower(model, DEEP)
    weight, bias = matrix(2, 4)
    encoded, layer = network.with_encoder("first", weight, bias)
    assert layer is not None and layer.macs == 8 * 8 * 2 * 4
    assert (layer.name, layer.kind, layer.inputs, layer.output) == (
        "first/units",
        "Encode",
        ("r1",),
        "first/units",
    )
    assert [each.output for each in encoded.layers][:2] == ["r1", "first/units"]
    assert encoded.taps[0] == Cut("first", "first/units") and encoded.outputs == ("first/units", "c3", "r")
    assert encoded.encoded == {"first/units"}
    feeds = random_feeds(model)
    (r1,) = values_of(model, ["r1"], feeds)
    got = run_network(encoded, feeds)
    wanted = np.einsum("uc,nchw->nuhw", weight, r1) + bias[:, None, None]
    np.testing.assert_allclose(got[0], wanted, atol=1e-4)
    np.testing.assert_allclose(got[1], run_network(network, feeds)[1], atol=1e-4)


def test_an_encoder_of_a_vector() -> None:
    model = canonical(TRUNK)
    weight, bias = matrix(3, 10)
    network, layer = lower(model, DEEP).with_encoder("after_relu", weight, bias)
    assert layer is not None and network.shapes["after_relu/units"] == (3,)
    feeds = random_feeds(model)
    (r,) = values_of(model, ["r"], feeds)
    np.testing.assert_allclose(run_network(network, feeds)[2], r @ weight.T + bias, atol=1e-4)


@pytest.mark.parametrize(("local", "folds"), [(False, True), (True, False)])
def test_an_encoder_folds_into_a_linear_layer_that_nothing_else_reads(local: bool, folds: bool) -> None:
    model = canonical(TRUNK)
    network = lower(model, DEEP[1:], local=local)
    weight, bias = matrix(5, 6)
    encoded, layer = network.with_encoder("linear", weight, bias)
    assert (layer is None) == folds
    assert len(encoded.layers) == len(network.layers) + (not folds)
    assert encoded.taps[1] == Cut("linear", "linear/units") and encoded.shapes["linear/units"] == (4, 4, 5)
    assert encoded.encoded == {"linear/units"} and ("c3" in encoded.layouts) != folds
    feeds = random_feeds(model)
    (c3,) = values_of(model, ["c3"], feeds)
    wanted = np.einsum("uc,nchw->nuhw", weight, c3) + bias[:, None, None]
    np.testing.assert_allclose(run_network(encoded, feeds)[1], wanted, atol=1e-4)
    if folds:
        assert encoded.layers[-1].kind == "Conv+Encode" and encoded.macs < network.macs


def test_encoders_do_not_fold_into_clamps_and_groups_nor_take_a_name() -> None:
    text = """m (float[1,4,4,4] x, float[4,1,3,3] w, float[4,4,1,1] u) => (float[1,4,a,c] y)
        { c = Conv<group=4>(x, w) d = Conv(c, u) r = Relu(d) y = Sigmoid(r) }"""
    model = canonical(text)
    for tensor in ("c", "r"):
        _, layer = lower(model, [At("p", tensor)]).with_encoder("p", np.eye(4), np.zeros(4))
        assert layer is not None
    network = lower(model, [At("p", "d")])
    network.layouts["p/units"] = network.layouts["d"]  # type: ignore[index]
    assert network.with_encoder("p", np.eye(4), np.zeros(4))[0].outputs == ("p/units_",)


def test_a_selection_is_an_order() -> None:
    network = lower(canonical(TRUNK), DEEP).with_order("linear", [3, 0])
    assert network.taps[1] == Cut("linear", "c3", (3, 0))
    assert network.outputs == ("r1", "c3", "r") and not network.encoded
