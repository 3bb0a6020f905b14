"""Time per node, measured with onnxruntime."""

from __future__ import annotations

import re

import numpy as np
import onnx
import onnx.parser

from clio_cc.cloud_time import _by_node, _inner_nodes, measure_cloud

MODEL = """<ir_version: 8, opset_import: ["" : 17]>
g (float[1,3,16,16] x) => (float[1,3,16,16] y) {
    a = Relu(x)
    b = HardSwish(a)
    y = Softplus(b)
}"""


def test_cloud_is_measured() -> None:
    model = onnx.parser.parse_model(MODEL)
    for node, name in zip(model.graph.node, ("relu", "swish", "soft"), strict=True):
        node.name = name
    times = measure_cloud(model, repeats=3)
    assert re.fullmatch(r"measured: onnxruntime \d+\.\d+\.\d+, 3 runs", times.source)
    assert list(times.us) == ["relu", "swish", "soft"]
    assert all(us > 0 for us in times.us.values())  # also of HardSwish, which onnxruntime takes apart


BRANCH = """<ir_version: 8, opset_import: ["" : 17]>
g (float[n,64] units, int64[n] received) => (float[n,64] y) {
    one = Constant <value = int64 {1}> ()
    most = ReduceMax <keepdims = 0> (received)
    full = Greater (most, one)
    y = If (full) <
        then_branch = a () => (float[n,64] z) { z = Relu (units) },
        else_branch = b () => (float[n,64] z) { z = Neg (units) }
    >
}"""


def test_inputs_as_given_and_branches_counted_once() -> None:
    model = onnx.parser.parse_model(BRANCH)
    for index, node in enumerate(model.graph.node):
        node.name = f"node{index}"
        for attribute in node.attribute:
            if attribute.HasField("g"):
                attribute.g.node[0].name = f"inner {attribute.g.name}"
    seen: list[tuple[int, int]] = []
    given = {"received": np.array([2], np.int64)}
    times = measure_cloud(model, 3, given, lambda done, of: seen.append((done, of)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert list(times.us) == ["node0", "node1", "node2", "node3"] and times.us["node3"] > 0


def test_time_in_branches_is_their_owners() -> None:
    model = onnx.parser.parse_model(BRANCH)
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                attribute.g.node[0].name = f"inner {attribute.g.name}"
    assert list(_inner_nodes(model.graph)) == ["inner a", "inner b"]


def test_kernels_of_other_names_count_for_the_operator_they_replace() -> None:
    events = [("relu", 1), ("HardSigmoid_3", 10), ("Mul_4", 100), ("soft", 1000), ("Cast_5", 1)]
    kernels = [{"cat": "Node", "name": f"{name}_kernel_time", "dur": us} for name, us in events]
    assert _by_node(["relu", "swish", "soft"], kernels) == {"relu": 1, "swish": 110, "soft": 1001}
