"""Float graph → layers in device layout: the function stays the same, and what cannot run is refused with a reason."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from graph_text import parse, random_feeds, run

from clio_cc import graph
from clio_cc.errors import ClioError
from clio_cc.lower import device_supports, lower
from clio_cc.passes.runner import run_passes
from clio_cc.quantization.layers import Layout, Network

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
    network = lower(model, tensor, "first")
    assert (network.outputs, network.partition) == ((tensor,), "first")
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
        lower(model, "y", "late", nearest="early")
    assert str(caught.value) == (
        f"node '{node.name}' (LpNormalization): does not run on the device: no device operator; "
        "it comes before the cut 'late'\n  hint: cut at 'early' or earlier"
    )
    with pytest.raises(ClioError, match="no device operator\n  hint: no cut lies before it"):
        lower(model, nearest="")
