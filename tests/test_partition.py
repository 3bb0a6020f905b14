"""Partition points: where they are, what they are called, how they are found."""

from __future__ import annotations

import re
from pathlib import Path

import onnx_ir as ir
import pytest
from graph_text import parse

from clio_cc import graph
from clio_cc.errors import ClioError
from clio_cc.load import load_model
from clio_cc.partition import PartitionPoint, clean_name, find_point, partition_points
from clio_cc.passes.name_nodes import NameNodes
from clio_cc.passes.runner import run_passes

WEIGHTS = "float[4,4,1,1] w, float[4,3] v"


def points(
    body: str, inputs: str = "float[1,4,2,2] x", output: str = "float[a,b,c,d] y"
) -> list[PartitionPoint]:
    declared = f"m ({inputs}, {WEIGHTS}) => ({output}) <int64[2] flat = {{1,4}}, int64[2] all = {{1,16}}>"
    model = parse(f"{declared} {{ {body} }}")
    NameNodes()(model)
    return partition_points(model)


def names(found: list[PartitionPoint]) -> str:
    return " ".join(point.name for point in found)


def test_a_chain() -> None:
    found = points(
        "a = Conv(x, w) r = Relu(a) b = Conv(r, w) p = MaxPool <kernel_shape=[2,2]> (b) y = Conv(p, w)"
    )
    assert found == [
        PartitionPoint("input", "x", (1, 4, 2, 2), 16, 0, 0, "raw"),
        PartitionPoint("r", "r", (1, 4, 2, 2), 16, 64, 2),
        PartitionPoint("b", "b", (1, 4, 2, 2), 16, 128, 3),
        PartitionPoint("p", "p", (1, 4, 1, 1), 4, 128, 4),
    ]


def test_nothing_inside_blocks() -> None:
    residual = "a = Conv(x, w) b = Conv(a, w) r = Relu(b) s = Add(r, a) t = Relu(s) y = Conv(t, w)"
    assert names(points(residual)) == "input a t"
    branches = "a = Conv(x, w) b = Conv(x, w) s = Add(a, b) y = Conv(s, w)"
    assert names(points(branches)) == "input s"


def test_two_outputs() -> None:
    found = points("a = Conv(x, w) y = Relu(a) z = Conv(a, w)", output="float[a,b,c,d] y, float[e,f,g,h] z")
    assert names(found) == "input a"


def test_an_output_in_the_middle_is_no_cut() -> None:
    found = points(
        "a = Conv(x, w) b = Conv(a, w) z = Conv(b, w)", output="float[a,b,c,d] a, float[e,f,g,h] z"
    )
    assert (
        names(found) == "input"
    )  # at a, the cloud would have to hand it back; behind it, it would have to travel too


def test_two_inputs() -> None:
    inputs = "float[1,4,2,2] x, float[1,4,2,2] x2"
    assert names(points("s = Add(x, x2) y = Conv(s, w)", inputs)) == "s"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("a = Conv(x, w) b = HardSwish(a) c = Tanh(b) y = Conv(c, w)", "input c"),
        ("a = Conv(x, w) t = Transpose <perm=[0,2,3,1]> (a) f = Reshape(t, all) y = Softmax(f)", "input a"),
        ("a = GlobalAveragePool(x) f = Reshape(a, flat) y = MatMul(f, v)", "input f"),
        ("t = Transpose <perm=[0,1,3,2]> (x) r = Relu(t) y = Conv(r, w)", "input"),
        ("s = Softmax(x) y = Conv(s, w)", "input s"),
    ],
)
def test_cheap_steps_belong_to_what_is_before(body: str, expected: str) -> None:
    output = "float[a,b] y" if "MatMul" in body or "Softmax(f)" in body else "float[a,b,c,d] y"
    assert names(points(body, output=output)) == expected


def test_tensors_that_cannot_travel() -> None:
    turn = "Transpose <perm=[1,0,2,3]>"
    found = points(f"a = {turn} (x) b = Softmax(a) t = {turn} (b) y = Conv(t, w)")
    assert names(found) == "input t"  # a and b have their batch elsewhere


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model/act/Relu;model/bn/Fused;x", "model_act_Relu"),
        ("StatefulPartitionedCall/dense:0", "StatefulPartitionedCall_dense"),
        ("/features/features.0/Conv", "features_features.0_Conv"),
        ("relu-1.x_2", "relu-1.x_2"),
        ("größe 1", "gr_e_1"),
        (";", "cut"),
    ],
)
def test_clean_names(text: str, expected: str) -> None:
    assert clean_name(text) == expected


def test_names_are_unique_and_reserved_ones_stay_free() -> None:
    body = """
        ["input"] a = Conv(x, w) ["p/q"] b = Conv(a, w) ["p q"] c = Conv(b, w) ["local"] d = Conv(c, w)
        y = Conv(d, w)
    """
    assert names(points(body)) == "input input_2 p_q p_q_2 local_2"


def test_find() -> None:
    found = points('["conv/a"] a = Conv(x, w) ["conv/b"] b = Conv(a, w) y = Conv(b, w)')
    assert find_point(found, "conv_b") is found[2]
    assert find_point(found, "b") is found[2]
    with pytest.raises(ClioError) as caught:
        find_point(found, "conv_c")
    assert str(caught.value) == "unknown partition point 'conv_c'\n  hint: did you mean 'conv_b'?"
    with pytest.raises(ClioError) as caught:
        find_point(found, "zzz")
    assert caught.value.hint == "'clio-cc inspect MODEL' lists the partition points"


def reachable_around(model: ir.Model, tensor: str) -> bool:
    """Whether a path from an input to an output avoids the tensor."""
    alive = {value.name for value in model.graph.inputs if value.name != tensor}
    for node in model.graph:
        if any(value.name in alive for value in graph.data_inputs(node)):
            alive |= {out.name for out in node.outputs if out.name != tensor}
    return any(value.name in alive for value in model.graph.outputs)


@pytest.mark.parametrize(
    "name", ["resnet8_cifar10", "dscnn_kws_bn_nchw", "mobilenetv2_imagenette96", "ad01_autoencoder"]
)
def test_real_models(name: str, shared: Path) -> None:
    model = load_model(shared / "data" / "models" / f"{name}.onnx")
    run_passes(model)
    found = partition_points(model)
    assert found[0].name == "input"
    assert len({point.name for point in found}) == len(found)
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+", point.name) for point in found)
    assert [point.macs_before for point in found] == sorted(point.macs_before for point in found)
    assert not any(reachable_around(model, point.tensor) for point in found)
    by_hand = [
        out.name
        for node in model.graph
        for out in node.outputs
        if not reachable_around(model, out.name or "") and not out.is_graph_output()
    ]
    assert {point.tensor for point in found[1:]} <= set(by_hand)
    assert found == partition_points(model)


def test_resnet8(shared: Path) -> None:
    model = load_model(shared / "data" / "models" / "resnet8_cifar10_bn_nchw.onnx")
    run_passes(model)
    assert [(point.shape, point.bytes, point.macs_before) for point in partition_points(model)] == [
        ((1, 3, 32, 32), 3072, 0),
        ((1, 16, 32, 32), 16384, 442368),
        ((1, 16, 32, 32), 16384, 5160960),
        ((1, 32, 16, 16), 8192, 8830976),
        ((1, 64, 8, 8), 4096, 12500992),
        ((1, 64), 64, 12500992),
        ((1, 10), 10, 12501632),
    ]
