"""Loading: what is accepted, what comes out, and the exact words for what is not."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from graph_text import assert_close, parse_proto, run, save
from onnx import TensorProto, helper, numpy_helper

from clio_cc import graph
from clio_cc.errors import ClioError
from clio_cc.load import OPSET, load_model, missing_bytes, model_sha256

CONV = "m (float[N,2,4,4] x, float[3,2,3,3] w) => (float[N,3,2,2] y) { y = Conv(x, w) }"


def refused(path: Path) -> str:
    with pytest.raises(ClioError) as caught:
        load_model(path)
    return str(caught.value)


# --- what comes out -------------------------------------------------------------------------------


def test_a_dynamic_batch_is_one(tmp_path: Path) -> None:
    text = "m (float[N,2,4,4] x, float[3,2,3,3] w) => (float[N,12] y) { a = Conv(x, w) y = Flatten(a) }"
    model = load_model(save(parse_proto(text), tmp_path / "m.onnx"))
    assert [graph.shape(value) for value in model.graph.inputs] == [(1, 2, 4, 4)]
    assert [graph.shape(value) for value in model.graph.outputs] == [(1, 12)]
    assert all(graph.static_shape(out) is not None for node in model.graph for out in node.outputs)


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 15, 17, 19, 21, 22])
def test_any_opset(opset: int, tmp_path: Path) -> None:
    proto = parse_proto(
        "m (float[1,2,4,4] x, float[3,2,3,3] w, float[12,5] v) => (float[1,5] y)"
        "{ a = Conv(x, w) b = Relu(a) c = Flatten(b) d = MatMul(c, v) y = Softmax <axis=1> (d) }",
        opset,
    )
    proto.ir_version = 3 if opset == 7 else proto.ir_version
    model = load_model(save(proto, tmp_path / "m.onnx"))
    assert model.graph.opset_imports[""] == OPSET
    feeds = {"x": np.ones((1, 2, 4, 4), np.float32)}
    proto.ir_version = 10
    assert_close(run(graph.to_bytes(model), feeds), run(proto, feeds))


def test_initializers_that_are_inputs_too(tmp_path: Path) -> None:
    proto = parse_proto(CONV)
    proto.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, (3, 2, 3, 3)))
    model = load_model(save(proto, tmp_path / "m.onnx"))
    assert [value.name for value in model.graph.inputs] == ["x"]


def test_names_of_converters_and_reshape_to_batch_minus_one(tmp_path: Path) -> None:
    proto = parse_proto(
        "m (float[N,2,4,4] x) => (float[M,32] y) <int64[2] s = {-1,32}> { a = Relu(x) y = Reshape(a, s) }"
    )
    proto.graph.node[0].name = "model/relu;model/bn/Fused:0"
    proto.graph.node[0].output[0] = proto.graph.node[1].input[0] = "model/relu;model/bn/Fused:0__1"
    model = load_model(save(proto, tmp_path / "m.onnx"))
    assert model.graph[0].name == "model/relu;model/bn/Fused:0"
    assert graph.shape(model.graph.outputs[0]) == (1, 32)


def test_local_functions_are_inlined(tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(
        """
        <ir_version: 10, opset_import: ["" : 21, "mine" : 1]>
        m (float[1,4] x) => (float[1,4] y) { y = mine.twice(x) }
        <domain: "mine", opset_import: ["" : 21]>
        twice (a) => (b) { b = Add(a, a) }
        """
    )
    model = load_model(save(proto, tmp_path / "m.onnx"))
    assert [node.op_type for node in model.graph] == ["Add"]


def test_shape_arithmetic_is_folded(tmp_path: Path) -> None:
    proto = parse_proto(
        "m (float[N,2,4,4] x) => (float[M,K] y) <int64 zero = {0}, int64[1] axis = {0}, int64[1] rest = {-1}>"
        "{ s = Shape(x) n = Gather(s, zero) u = Unsqueeze(n, axis) t = Concat <axis=0> (u, rest)"
        "  y = Reshape(x, t) }"
    )
    model = load_model(save(proto, tmp_path / "m.onnx"))
    assert [node.op_type for node in model.graph if node.op_type != "Constant"] == ["Reshape"]
    assert graph.shape(model.graph.outputs[0]) == (1, 32)


def external(tmp_path: Path) -> Path:
    """A model whose weights are in m.bin."""
    path = tmp_path / "m.onnx"
    onnx.save(parse_proto(CONV), path, save_as_external_data=True, location="m.bin", size_threshold=0)
    return path


def test_external_data(tmp_path: Path) -> None:
    model = load_model(external(tmp_path))
    inside = load_model(save(parse_proto(CONV), tmp_path / "inside.onnx"))
    assert graph.to_bytes(model) == graph.to_bytes(inside)


def test_digest(tmp_path: Path) -> None:
    path = save(parse_proto(CONV), tmp_path / "inside.onnx")
    assert model_sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    outside = external(tmp_path)
    before = model_sha256(outside)
    weights = outside.read_bytes() + (tmp_path / "m.bin").read_bytes()
    assert before == hashlib.sha256(weights).hexdigest()
    (tmp_path / "m.bin").write_bytes(bytes(len((tmp_path / "m.bin").read_bytes())))
    assert model_sha256(outside) != before


# --- what is refused ------------------------------------------------------------------------------


def test_no_file(tmp_path: Path) -> None:
    assert refused(tmp_path / "m.onnx") == f"{tmp_path / 'm.onnx'}: no such file"
    assert refused(tmp_path) == f"{tmp_path}: cannot be read: Is a directory"


@pytest.mark.parametrize(
    "data",
    [
        b"hello, world\n",
        b"\x89PNG\r\n\x1a\n" + bytes(40),
        b"PK\x03\x04" + bytes(100),
        bytes(64),
        b"\x08",
        b"TFL3",
    ],
)
def test_not_onnx(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(data)
    assert refused(tmp_path / "m.onnx").startswith("m.onnx: is ")
    if len(data) > 1:
        message = "m.onnx: is not an ONNX model\n  hint: export the model to ONNX first"
        assert refused(tmp_path / "m.onnx") == message


def test_empty(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"")
    assert refused(tmp_path / "m.onnx") == "m.onnx: is empty, expected an ONNX model"


def test_truncated(tmp_path: Path) -> None:
    data = parse_proto(CONV).SerializeToString()
    (tmp_path / "m.onnx").write_bytes(data[:200])
    cut = len(data) - 200
    opsets = len(parse_proto(CONV).opset_import[0].SerializeToString()) + 2  # the fields behind the graph
    assert refused(tmp_path / "m.onnx") == (
        f"m.onnx: is truncated: it ends at byte 200, at least {cut - opsets} more are missing\n"
        "  hint: copy or export the model again"
    )


def test_truncated_anywhere(tmp_path: Path) -> None:
    data = parse_proto(CONV).SerializeToString()
    for end in range(4, len(data) - 1, 7):
        (tmp_path / "m.onnx").write_bytes(data[:end])
        assert refused(tmp_path / "m.onnx").startswith("m.onnx: is truncated: it ends at byte"), end
        assert missing_bytes(data[:end]) > 0


def test_missing_external_data(tmp_path: Path) -> None:
    path = external(tmp_path)
    hint = "\n  hint: keep the data files beside the model, under their names"
    data = (tmp_path / "m.bin").read_bytes()
    (tmp_path / "m.bin").write_bytes(data[:-5])
    sizes = f"it has {len(data) - 5} bytes, {len(data)} are needed"
    assert refused(path) == f"m.onnx: external data file 'm.bin' is truncated: {sizes}{hint}"
    (tmp_path / "m.bin").unlink()
    assert refused(path) == f"m.onnx: external data file 'm.bin' is missing (initializer 'w'){hint}"


def test_external_data_outside_the_folder(tmp_path: Path) -> None:
    path = external(tmp_path)
    proto = onnx.load(path, load_external_data=False)
    proto.graph.initializer[0].external_data[0].value = "../m.bin"
    message = "external data file '../m.bin' of initializer 'w' lies outside the model's folder"
    assert refused(save(proto, path)).splitlines()[0] == f"m.onnx: {message}"


def test_dynamic_shapes_all_at_once(tmp_path: Path) -> None:
    text = (
        "m (float[N,3,H,W] x, float[2,4] x2) => (float[N,3,H,W] y, float[2,4] z) { y = Relu(x) z = Abs(x2) }"
    )
    only = "only the batch, dimension 0, may be dynamic"
    assert refused(save(parse_proto(text), tmp_path / "m.onnx")) == (
        f"m.onnx: input 'x' has a dynamic dimension 2 ('H'); {only}\n"
        f"  input 'x' has a dynamic dimension 3 ('W'); {only}\n"
        "  input 'x2' has batch 2, a device runs one sample at a time\n"
        "  hint: export the model with a fixed input shape and batch 1"
    )


def test_an_input_without_shape(tmp_path: Path) -> None:
    proto = parse_proto(CONV)
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    assert refused(save(proto, tmp_path / "m.onnx")).startswith("m.onnx: input 'x' has no shape\n")


def spoil(array: np.ndarray[tuple[int, ...], np.dtype[np.float32]], *values: float) -> None:
    array.reshape(-1)[: len(values)] = values


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ((np.nan,), "1 NaN value"),
        ((np.nan, np.nan, np.inf), "2 NaN values and 1 infinite value"),
        ((np.inf, -np.inf), "2 infinite values"),
    ],
)
def test_weights_that_are_no_numbers(values: tuple[float, ...], words: str, tmp_path: Path) -> None:
    proto = parse_proto(CONV)
    array = numpy_helper.to_array(proto.graph.initializer[0]).copy()
    spoil(array, *values)
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(array, "w"))
    proto.graph.node[0].name = "first"
    assert refused(save(proto, tmp_path / "m.onnx")) == (
        f"m.onnx: initializer 'w' of node 'first' (Conv) holds {words}\n"
        "  hint: the training went wrong or the file is damaged; export a healthy model"
    )


def test_infinite_bounds_are_fine(tmp_path: Path) -> None:
    text = "m (float[1,4] x) => (float[1,4] y) <float low = {0}, float high = {1}> { y = Clip(x, low, high) }"
    proto = parse_proto(text)
    proto.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.asarray(np.inf, np.float32), "high"))
    assert load_model(save(proto, tmp_path / "m.onnx")).graph[0].op_type == "Clip"


NEWEST = onnx.defs.onnx_opset_version()
READS = f"this version of clio-cc reads 7 to {NEWEST}\n  hint: export the model with opset 21"


def old_opset(proto: onnx.ModelProto) -> None:
    proto.opset_import[0].version = 6


def no_opset(proto: onnx.ModelProto) -> None:
    proto.opset_import[0].domain = "mine"


def unknown_operator(proto: onnx.ModelProto) -> None:
    proto.graph.node[0].op_type = "Conf"


def future_opset(proto: onnx.ModelProto) -> None:
    proto.opset_import[0].version = 999


def wrong_shapes(proto: onnx.ModelProto) -> None:
    proto.graph.initializer[0].dims[:] = [3, 2, 9]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (old_opset, f"m.onnx: has opset 6, {READS}"),
        (no_opset, "m.onnx: does not import the standard ONNX operators"),
        (unknown_operator, "m.onnx: is not valid ONNX: No Op registered for Conf with domain_version of 21"),
        (future_opset, f"m.onnx: has opset 999, {READS}"),
        (wrong_shapes, "m.onnx: is not a valid model: "),
    ],
)
def test_invalid(change: Callable[[onnx.ModelProto], None], message: str, tmp_path: Path) -> None:
    proto = parse_proto(CONV)
    change(proto)
    assert refused(save(proto, tmp_path / "m.onnx")).startswith(message)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "g (float[4] x) => (float[4] y) { y = Relu(x) }",
            "input 'x' has fewer than two dimensions; the first is the batch",
        ),
        ("g (float[1,4] x) => (float[1,4] x) { }", "output 'x' is constant or an input"),
        (
            "g (float[1,4] x) => (float[1] y) { y = Constant<value_floats=[1.0]>() }",
            "output 'y' is constant or an input",
        ),
    ],
)
def test_what_computes_nothing_is_refused(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}'), path)
    with pytest.raises(ClioError) as caught:
        load_model(path)
    assert words in str(caught.value)
