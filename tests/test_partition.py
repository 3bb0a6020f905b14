"""Partition points: where they are, what they are called, how they are found."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from graph_text import assert_close, parse, random_feeds, run
from hypothesis import given, settings
from onnx import TensorProto, helper, numpy_helper

from clio_cc import graph
from clio_cc.blocks import Block, blocks
from clio_cc.errors import ClioError
from clio_cc.load import load_model
from clio_cc.multicut import multi_tensor_cuts
from clio_cc.partition import PartitionPoint, can_travel, clean_name, find_point, partition_points
from clio_cc.passes.name_nodes import NameNodes
from clio_cc.passes.runner import run_passes

WEIGHTS = "float[4,4,1,1] w, float[4,3] v"


def network(
    body: str, inputs: str = "float[1,4,2,2] x", output: str = "float[a,b,c,d] y", weights: str = WEIGHTS
) -> ir.Model:
    declared = f"m ({inputs}, {weights}) => ({output}) <int64[2] flat = {{1,4}}, int64[2] all = {{1,16}}>"
    model = parse(f"{declared} {{ {body} }}")
    NameNodes()(model)
    return model


def points(
    body: str, inputs: str = "float[1,4,2,2] x", output: str = "float[a,b,c,d] y"
) -> list[PartitionPoint]:
    return partition_points(network(body, inputs, output))


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
    assert names(points(body)) == "input input_2 p p_q local_2"


def test_find() -> None:
    found = points('["conv/a"] a = Conv(x, w) ["conv/b"] b = Conv(a, w) y = Conv(b, w)')
    assert find_point(found, "conv.b") is found[2]
    assert find_point(found, "b") is found[2]
    with pytest.raises(ClioError) as caught:
        find_point(found, "conv.c")
    assert str(caught.value) == "unknown partition point 'conv.c'\n  hint: did you mean 'conv.b'?"
    with pytest.raises(ClioError) as caught:
        find_point(found, "zzz")
    assert caught.value.hint == "'clio-cc inspect MODEL' lists the partition points"


# --- blocks -----------------------------------------------------------------------------------------

CONVOLUTIONS = (
    "float[12,4,1,1] up, float[12,1,3,3] each, float[6,12,1,1] down, float[4,1,3,3] dw, float[8,4,1,1] pw, "
    "float[2,4,1,1] thin, float[2,2,3,3] mix, float[4,2,1,1] back, float[4,4,1,1] w, float[4,8,1,1] half, "
    "float[4,1,1,1] scale, float[4,4,3,3] k"
)


def wide(body: str) -> ir.Model:
    return network(body, "float[1,4,8,8] x", weights=CONVOLUTIONS)


def points_and_kinds(body: str) -> tuple[str, str]:
    """The default points, and the kinds of all blocks."""
    model = wide(body)
    return names(partition_points(model)), " ".join(block.kind for block in blocks(model))


@pytest.mark.parametrize(
    ("body", "expected", "kinds"),
    [
        # An inverted bottleneck that has no skip, as where MobileNetV2 strides; its result is linear.
        (
            """a = Conv(x, up) r = Relu(a) b = Conv <group=12, strides=[2,2], pads=[1,1,1,1]> (r, each) s = Relu(b)
            c = Conv(s, down) y = GlobalAveragePool(c)""",
            "input c",
            "bottleneck layer",
        ),
        # with squeeze and excitation in the middle, as in MobileNetV3
        (
            """a = Conv(x, up) r = HardSwish(a) b = Conv <group=12> (r, each) p = GlobalAveragePool(b)
            g = HardSigmoid(p) m = Mul(b, g) c = Conv(m, down) y = GlobalAveragePool(c)""",
            "input c",
            "bottleneck layer",
        ),
        # narrow in the middle, as ResNet-50's, without the skip
        (
            """a = Conv(x, thin) r = Relu(a) b = Conv(r, mix) s = Relu(b) c = Conv(s, back) t = Relu(c)
            y = GlobalAveragePool(t)""",
            "input t",
            "bottleneck layer",
        ),
        (
            "a = Conv <group=4> (x, dw) r = Relu(a) b = Conv(r, pw) s = Relu(b) y = GlobalAveragePool(s)",
            "input s",
            "separable layer",
        ),
        # 1x1, depthwise, 1x1 is MobileNetV1's chain of pairs as long as nothing is wide inside
        (
            "a = Conv(x, w) b = Conv <group=4> (a, dw) c = Conv(b, w) y = GlobalAveragePool(c)",
            "input a c",
            "layer separable layer",
        ),
        # one element per channel is a scale, no depthwise layer
        (
            "a = Conv(x, w) b = Conv <group=4> (a, scale) r = Relu(b) c = Conv(r, w) y = GlobalAveragePool(c)",
            "input r c",
            "layer layer layer",
        ),
        ("a = Conv(x, w) s = Add(a, x) r = Relu(s) y = Conv(r, w)", "input r", "residual layer"),
        (
            "a = Conv(x, w) b = Conv(x, w) s = Concat <axis=1> (a, b) y = Conv(s, half)",
            "input s",
            "inception layer",
        ),
        # DenseNet as Caffe2 writes it: every layer ends in a Concat that all paths cross
        (
            """a = Conv(x, thin) s = Concat <axis=1> (x, a) b = GlobalAveragePool(s) e = Add(s, b)
            t = Concat <axis=1> (s, e) r = Relu(t) y = GlobalAveragePool(r)""",
            "input r",
            "dense layer",
        ),
        ("a = Conv(x, w) g = Sigmoid(a) m = Mul(a, g) y = Conv(m, w)", "input m", "layer layer"),
        ("p = GlobalAveragePool(x) g = Conv(p, w) m = Mul(x, g) y = Conv(m, w)", "input m", "gate layer"),
        ("a = Relu(x) b = Conv(x, w) y = Max(a, b)", "input", "branched"),
    ],
)
def test_default_points_are_ends_of_blocks(body: str, expected: str, kinds: str) -> None:
    assert points_and_kinds(body) == (expected, kinds)


def test_a_block_says_what_it_holds() -> None:
    model = wide("a = Conv(x, w) b = Conv <group=4> (a, dw) c = Conv(b, w) r = Relu(c) y = Conv(r, w)")
    assert blocks(model) == [
        Block("layer", "x", "a", ("a",)),
        Block("separable", "a", "r", ("b", "c", "r")),
        Block("layer", "r", "y", ("y",)),
    ]


def test_inside_blocks_are_all_cuts() -> None:
    model = wide("a = Conv <group=4> (x, dw) r = Relu(a) b = Conv(r, w) s = Relu(b) y = Conv(s, w)")
    found = partition_points(model, inside_blocks=True)
    assert names(found) == "input a r b s"
    assert [point.inside for point in found] == [False, True, True, True, False]
    assert {point.block for point in found[1:]} == {"separable"}
    assert [point for point in found if not point.inside] == partition_points(model)


@pytest.mark.parametrize("name", ["separable", "layer"])
def test_a_block_that_ends_in_the_output_has_no_point(name: str) -> None:
    body = "a = Conv <group=4> (x, dw) y = Conv(a, w)" if name == "separable" else "y = Conv(x, w)"
    assert names(partition_points(wide(body))) == "input"


# --- names ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("paths", "default", "inside"),
    [
        # PyTorch: children repeat their parent; a block is called as its module, a cut inside as the part before it
        (
            "/features/features.1/conv/conv.0/Conv /features/features.1/conv/conv.1/Relu "
            "/features/features.1/conv/conv.2/Conv /features/features.2/Conv /head/Conv",
            "input features.1 features.2",
            "features.1.conv.0 features.1.conv.1",
        ),
        # TensorFlow: all lies in a wrapper
        (
            "call/net/dw/depthwise call/net/act/Relu call/net/pw/Conv2D call/net/last/Conv2D call/net/d/MatMul",
            "input pw last",
            "dw act",
        ),
        # modules that hold several blocks give no name
        ("stem/a stem/b stem/c stem/d head/e", "input stem.c stem.d", "stem.a stem.b"),
        # converters that fuse join names
        ("m/a/x;m/b m/c/x:0 m/d/x m/e/x m/f/x", "input d e", "a c"),
        ("a b c d e", "input c d", "a b"),
        ("-a/x .b/x ../y d/.. e/x", "input cut d", "a b"),
    ],
)
def test_a_point_is_called_as_the_module_that_ends_there(paths: str, default: str, inside: str) -> None:
    model = wide("a = Conv <group=4> (x, dw) r = Relu(a) b = Conv(r, w) c = Conv(b, w) y = Conv(c, w)")
    for node, name in zip(model.graph, paths.split(), strict=True):
        node.name = name
    every = partition_points(model, inside_blocks=True)
    assert names(partition_points(model)) == default
    assert names([point for point in every if point.inside]) == inside
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+", point.name) for point in every)


def test_modules_from_metadata(tmp_path: Path) -> None:
    """PyTorch's newer exporter names nodes plainly and tells their modules apart."""
    proto = graph.to_proto(network("a = Conv(x, w) r = Relu(a) b = Conv(r, w) y = Conv(b, w)"))
    modules = (
        "['', 'f', 'f.0', 'f.0.0', 'c']",
        "['', 'f', 'f.0', 'f.0.1', 'r']",
        "['', 'f', 'f.1', 'c_1']",
        "[",
    )
    for node, text in zip(proto.graph.node, modules, strict=True):
        node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=text)
        node.metadata_props.add(key="stack", value="File x.py")
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    model = load_model(tmp_path / "m.onnx")
    run_passes(model)
    assert names(partition_points(model, inside_blocks=True)) == "input f.0.0 f.0 f.1"
    assert b"x.py" not in graph.to_bytes(model)


# --- brute force ------------------------------------------------------------------------------------

DIMS = (1, 2, 1, 1)


@st.composite
def networks(draw: st.DrawFn) -> ir.Model:
    """Random DAGs: several inputs and outputs, dead ends, constants that are computed, pairs of outputs."""
    inputs = [f"x{i}" for i in range(draw(st.integers(1, 3)))]
    tensors, nodes = list(inputs), []
    for number in range(draw(st.integers(1, 9))):
        out = f"t{number}"
        op = draw(
            st.sampled_from("Relu Identity Conv Depthwise Sum Sum Mul Concat Dropout ConstantOfShape".split())
        )
        recent = st.sampled_from(tensors[-3:] if draw(st.booleans()) else tensors)
        if op == "ConstantOfShape":
            nodes.append(helper.make_node(op, ["shape"], [out]))
        elif op in ("Sum", "Mul", "Concat"):
            read = draw(st.lists(recent, min_size=2, max_size=2 if op == "Mul" else 3))
            name = f"{out}_wide" if op == "Concat" else out
            nodes.append(helper.make_node(op, read, [name], axis=2 if op == "Concat" else None))
            if op == "Concat":
                nodes.append(helper.make_node("GlobalAveragePool", [name], [out]))
        elif op in ("Conv", "Depthwise"):
            weights, group = ("w", 1) if op == "Conv" else ("d", 2)
            nodes.append(helper.make_node("Conv", [draw(recent), weights], [out], group=group))
        else:
            outs = [out, f"{out}_mask"] if op == "Dropout" else [out]
            nodes.append(helper.make_node(op, [draw(recent)], outs))
        tensors.append(out)
    outputs = draw(st.lists(st.sampled_from(tensors[len(inputs) :]), min_size=1, max_size=2, unique=True))
    rng = np.random.default_rng(0)
    constants = [
        numpy_helper.from_array(rng.standard_normal((2, 2, 1, 1)).astype(np.float32), "w"),
        numpy_helper.from_array(rng.standard_normal((2, 1, 1, 1)).astype(np.float32), "d"),
        numpy_helper.from_array(np.asarray(DIMS, np.int64), "shape"),
    ]
    body = helper.make_graph(
        nodes,
        "random",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, DIMS) for name in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, DIMS) for name in outputs],
        constants,
    )
    proto = helper.make_model(body, ir_version=10, opset_imports=[helper.make_opsetid("", 21)])
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto, strict_mode=True))
    NameNodes()(model)
    return model


def paths_from(tensor: ir.Value, way: frozenset[str]) -> Iterator[frozenset[str]]:
    """The tensors of every path from here to an output; paths end at each output that they meet, and go on."""
    way = way | {str(tensor.name)}
    if tensor.is_graph_output():
        yield way
    for use in tensor.uses():
        for out in use.node.outputs:
            yield from paths_from(out, way)


def cuts_by_brute_force(model: ir.Model) -> set[str]:
    """What all paths have in common, as far as it can be sent: floats that are no output."""
    paths = [path for value in model.graph.inputs for path in paths_from(value, frozenset())]
    sendable = {
        str(value.name)
        for value in (*model.graph.inputs, *(out for node in model.graph for out in node.outputs))
        if not value.is_graph_output() and value.dtype == ir.DataType.FLOAT
    }
    return set.intersection(sendable, *map(set, paths)) if paths else set()


def assert_consistent(model: ir.Model) -> None:
    every, default = partition_points(model, inside_blocks=True), partition_points(model)
    assert [point for point in every if not point.inside] == default
    assert len({point.name for point in every}) == len(every)
    assert [point.macs_before for point in every] == sorted(point.macs_before for point in every)
    held = [node for block in blocks(model) for node in block.nodes]
    assert len(set(held)) == len(held)


@settings(max_examples=400)
@given(networks())
def test_the_points_are_those_of_brute_force(model: ir.Model) -> None:
    assert {point.tensor for point in partition_points(model, inside_blocks=True)} == cuts_by_brute_force(
        model
    )
    assert_consistent(model)


@settings(max_examples=60)
@given(networks())
def test_both_halves_of_a_random_network_give_its_answer(model: ir.Model) -> None:
    feeds = random_feeds(model)
    wanted = run(graph.to_bytes(model), feeds)
    outputs = [str(value.name) for value in model.graph.outputs]
    cuts = [(point.tensor,) for point in partition_points(model, inside_blocks=True)]
    for tensors in [*cuts, *(cut.tensors for cut in multi_tensor_cuts(model))]:
        computed = [name for name in tensors if name not in feeds]
        head = graph.extract(model, list(feeds), computed)
        sent = {
            **feeds,
            **dict(zip(computed, run(graph.to_bytes(head), feeds) if computed else [], strict=True)),
        }
        tail = graph.extract(model, tensors, outputs)
        assert_close(run(graph.to_bytes(tail), {name: sent[name] for name in tensors}), wanted)


def test_what_a_nested_graph_reads_travels() -> None:
    text = """
        m (float[1,4,2,2] x, bool c, float[4,4,1,1] w) => (float[1,4,2,2] y)
        { a = Conv(x, w) b = Conv(a, w) d = Conv(b, w)
          y = If (c) <then_branch = t () => (float[1,4,2,2] p) { p = Add(a, d) },
                      else_branch = e () => (float[1,4,2,2] q) { q = Relu(d) }> }
    """
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]>{text}')
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto))
    NameNodes()(model)
    assert partition_points(model) == []  # three inputs
    del model.graph.inputs[1:]
    assert [point.tensor for point in partition_points(model, inside_blocks=True)] == ["x", "a"]


# --- real models ------------------------------------------------------------------------------------


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
        if not reachable_around(model, out.name or "") and can_travel(out)
    ]
    assert [point.tensor for point in partition_points(model, inside_blocks=True)[1:]] == by_hand
    assert found == partition_points(model)


def test_mobilenetv2_has_its_blocks(shared: Path) -> None:
    for path in ("models/mobilenetv2_imagenette96", "models_structure/mobilenetv2_224"):
        model = load_model(shared / "data" / f"{path}.onnx")
        run_passes(model)
        found = names(partition_points(model)).split()
        assert found[:20] == ["input", *(f"features.{number}" for number in range(19))]


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
