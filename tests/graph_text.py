"""Small models written as ONNX text, and how to run them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import dedent

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray
from onnx import numpy_helper

from clio_cc import graph
from clio_cc.passes.runner import run_passes

Floats = NDArray[np.float32]


def parse_proto(text: str, opset: int = 21) -> onnx.ModelProto:
    """A model from the text of its graph: ``m (float[1,4] x, float[4] w) => (float[1,4] y) { y = Add(x, w)
    }``.

    Inputs whose names do not start with ``x`` become initializers with seeded random contents (positive ones
    if the name starts with ``var``).
    """
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]>\n{text}')
    rng = np.random.default_rng(7)
    for value in [value for value in proto.graph.input if not value.name.startswith("x")]:
        dims = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        array = rng.standard_normal(dims).astype(np.float32)
        array = np.abs(array) + np.float32(0.1) if value.name.startswith("var") else array
        proto.graph.initializer.append(numpy_helper.from_array(array, value.name))
        proto.graph.input.remove(value)
    return proto


def parse(text: str, opset: int = 21) -> ir.Model:
    """As :func:`parse_proto`, with shapes inferred (an output's ``[a,b]`` only says its rank), as a graph.

    Constants that the body does not use are dropped: tests share declarations.
    """
    proto = parse_proto(text, opset)
    for value in proto.graph.output:
        for dim in value.type.tensor_type.shape.dim:
            dim.ClearField("dim_param")
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True))
    graph.remove_unused(model)
    return model


def run(model: bytes | onnx.ModelProto, feeds: Mapping[str, NDArray[np.generic]]) -> list[Floats]:
    """Outputs in onnxruntime, its own optimizer switched off."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    data = model if isinstance(model, bytes) else model.SerializeToString()
    outputs: list[Floats] = onnxruntime.InferenceSession(data, options).run(None, dict(feeds))
    return outputs


def random_feeds(model: ir.Model, seed: int = 0) -> dict[str, Floats]:
    """Seeded normal numbers for every input."""
    rng = np.random.default_rng(seed)
    return {
        value.name or "": rng.standard_normal(graph.shape(value)).astype(np.float32) * 2
        for value in model.graph.inputs
    }


def assert_close(got: Sequence[Floats], wanted: Sequence[Floats]) -> None:
    """Equal outputs within 1e-4 of the largest value."""
    assert len(got) == len(wanted)
    for a, b in zip(got, wanted, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * max(1e-3, float(np.abs(b).max())))


def check_passes(text: str, *passes: ir.passes.InPlacePass, modified: bool = True) -> ir.Model:
    """Run passes under the contract checker; the function must stay the same. Returns the result."""
    model = parse(text)
    feeds = random_feeds(model)
    wanted = run(graph.to_bytes(model), feeds)
    records = run_passes(model, passes, check=True)
    assert any(record.modified for record in records) == modified
    assert_close(run(graph.to_bytes(model), feeds), wanted)
    return model


def lines(model: ir.Model) -> str:
    """The nodes as text, without names of nodes and shapes: ``y = Relu(x)``."""
    rows = []
    for node in model.graph:
        attributes = sorted((a.name, a.value) for a in node.attributes.values())
        shown = ", ".join(f"{name}={list(v) if isinstance(v, tuple) else v}" for name, v in attributes)
        inputs = ", ".join((value.name or "") if value is not None else "-" for value in node.inputs)
        outputs = ", ".join(value.name or "" for value in node.outputs)
        rows.append(f"{outputs} = {node.op_type}({inputs})" + (f" {shown}" if shown else ""))
    return "\n".join(rows)


def assert_lines(model: ir.Model, expected: str) -> None:
    """Compare :func:`lines` with a text block."""
    assert lines(model) == dedent(expected).strip()


def ops(model: ir.Model) -> str:
    """Operators in order, separated by blanks."""
    return " ".join(node.op_type for node in model.graph)


def save(proto: onnx.ModelProto, path: Path) -> Path:
    """Write a model file; returns its path."""
    path.write_bytes(proto.SerializeToString(deterministic=True))
    return path
