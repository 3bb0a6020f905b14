"""Helpers over the graph: shapes, constants, costs, extraction."""

from __future__ import annotations

import numpy as np
import pytest
from graph_text import assert_close, ops, parse, random_feeds, run

from clio_cc import graph
from clio_cc.errors import ClioError


@pytest.mark.parametrize(
    ("text", "macs", "weight_bytes"),
    [
        (
            "m (float[1,2,6,6] x, float[4,2,3,3] w, float[4] b) => (float[1,4,4,4] y) { y = Conv(x, w, b) }",
            1152,
            88,
        ),
        (
            "m (float[1,4,6,6] x, float[4,1,3,3] w) => (float[1,4,4,4] y) { y = Conv <group=4> (x, w) }",
            576,
            36,
        ),
        ("m (float[1,2,3,3] x, float[2,5,2,2] w) => (float[1,5,4,4] y) { y = ConvTranspose(x, w) }", 360, 40),
        ("m (float[1,5] x, float[5,3] w, float[3] b) => (float[1,3] y) { y = Gemm(x, w, b) }", 15, 27),
        ("m (float[5,1] x, float[5,3] w) => (float[1,3] y) { y = Gemm <transA=1> (x, w) }", 15, 15),
        ("m (float[1,7,5] x, float[5,3] w) => (float[1,7,3] y) { y = MatMul(x, w) }", 105, 15),
        ("m (float[1,4] x, float[4] b) => (float[1,4] y) { y = Add(x, b) }", 0, 4),
        ("m (float[1,4] x) => (float[1,4] y) <float a = {0}, float b = {1}> { y = Clip(x, a, b) }", 0, 0),
        ("m (float[1,4] x) => (float[4,1] y) <int64[2] s = {4,1}> { y = Reshape(x, s) }", 0, 0),
        (
            "m (float[9,1,5] x, float[1,12,5] w, float[1,12,3] r) => (float[9,1,1,3] y)"
            "{ y, h = LSTM <hidden_size=3> (x, w, r) }",
            864,
            96,
        ),
    ],
)
def test_costs(text: str, macs: int, weight_bytes: int) -> None:
    node = parse(text).graph[0]
    assert graph.macs(node) == macs
    assert graph.weight_bytes(node) == weight_bytes


def test_unknown_shapes_name_the_tensor() -> None:
    model = parse("m (float[1,4] x) => (int64[2,K] y) { ['n'] y = NonZero(x) }".replace("'", '"'))
    assert graph.static_shape(model.graph.outputs[0]) is None
    with pytest.raises(ClioError) as caught:
        graph.shape(model.graph.outputs[0])
    assert str(caught.value) == "node 'n' (NonZero): the shape of tensor 'y' is not known at compile time"
    with pytest.raises(ClioError) as caught:
        graph.shape(None)
    assert str(caught.value) == "the shape of tensor '(missing)' is not known at compile time"


def test_constants_and_attributes() -> None:
    text = "m (float[1,4] x) => (float[1,4] y) <float low = {-1}> { z = Add(x, low) y = Elu <alpha=0.5> (z) }"
    model = parse(text)
    add, elu = model.graph
    assert graph.scalar(add.inputs[1]) == -1.0
    assert graph.constant(add.inputs[0]) is None
    assert graph.data_inputs(add) == [model.graph.inputs[0]]
    assert graph.input_at(add, 2) is None
    assert graph.float_attr(elu, "alpha", 1.0) == 0.5
    assert graph.int_attr(elu, "nothing", 3) == 3
    assert graph.str_attr(elu, "nothing", "a") == "a"
    assert graph.ints_attr(elu, "nothing", [1, 2]) == (1, 2)
    assert not graph.set_attr(elu, "alpha", 0.5)
    assert graph.set_attr(elu, "alpha", 0.25)
    assert graph.drop_attr(elu, "alpha")
    assert not graph.drop_attr(elu, "alpha")


def test_constants_keep_their_rank() -> None:
    model = parse("m (float[1,4] x) => (float[1,4] y) { y = Relu(x) }")
    assert graph.static_shape(graph.add_constant(model.graph, "k", np.asarray(np.float32(1)))) == ()
    assert graph.add_constant(model.graph, "k", np.zeros((2, 1), np.float32)).name == "k_2"


def test_extract_halves() -> None:
    model = parse(
        "m (float[1,4] x, float[4] w) => (float[1,4] y) { a = Add(x, w) b = Relu(a) y = Mul(b, w) }"
    )
    feeds = random_feeds(model)
    whole = run(graph.to_bytes(model), feeds)
    head, tail = graph.extract(model, ["x"], ["b"]), graph.extract(model, ["b"], ["y"])
    assert (ops(head), ops(tail), ops(model)) == ("Add Relu", "Mul", "Add Relu Mul")
    middle = run(graph.to_bytes(head), feeds)[0]
    assert_close(run(graph.to_bytes(tail), {"b": middle}), whole)


def test_extract_refuses() -> None:
    model = parse("m (float[1,4] x, float[1,4] x2) => (float[1,4] y) { a = Relu(x) y = Add(a, x2) }")
    with pytest.raises(ClioError, match="there is no tensor 'q' in the model"):
        graph.extract(model, ["q"], ["y"])
    with pytest.raises(ClioError, match="tensor 'x2' is needed too"):
        graph.extract(model, ["a"], ["y"])


def test_text() -> None:
    text = 'm (float[1,4] x) => (float[1,2] y) { ["s"] y, z = Split <axis=1, num_outputs=2> (x) }'
    assert graph.to_text(parse(text)) == (
        "m(x[1,4]) -> (y[1,2])\n  s: y[1,2], z[1,2] = Split(x[1,4]) {axis=1, num_outputs=2}\n"
    )
