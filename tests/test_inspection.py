"""What inspect shows."""

from __future__ import annotations

import json

import onnx_ir as ir
from graph_text import parse

from clio_cc.inspection import inspect_model
from clio_cc.passes.runner import run_passes

TEXT = """
    m (float[1,3,4,4] x, float[4,3,3,3] w, float[4] b, float[4,2] v) => (float[1,2] y) <int64[2] s = {1,4}>
    {
        ["c"] a = Conv(x, w, b) ["e"] r = LpPool <kernel_shape=[2,2]> (a)
        ["f"] f = Reshape(r, s) ["g"] y = MatMul(f, v)
    }
"""


def supports(node: ir.Node) -> str:
    return "there is no kernel for it" if node.op_type == "LpPool" else ""


def test_layers_and_points() -> None:
    model = parse(TEXT)
    run_passes(model)
    found = inspect_model(model, supports).to_json()
    assert json.loads(json.dumps(found)) == {
        "layers": [
            {
                "name": "c",
                "op": "Conv",
                "shape": [1, 4, 2, 2],
                "macs": 432,
                "weight_bytes": 124,
                "output_bytes": 16,
                "device": True,
                "reason": "",
            },
            {
                "name": "e",
                "op": "LpPool",
                "shape": [1, 4, 1, 1],
                "macs": 0,
                "weight_bytes": 0,
                "output_bytes": 4,
                "device": False,
                "reason": "there is no kernel for it",
            },
            {
                "name": "f",
                "op": "Reshape",
                "shape": [1, 4],
                "macs": 0,
                "weight_bytes": 0,
                "output_bytes": 4,
                "device": True,
                "reason": "",
            },
            {
                "name": "g",
                "op": "Gemm",
                "shape": [1, 2],
                "macs": 8,
                "weight_bytes": 16,
                "output_bytes": 2,
                "device": True,
                "reason": "",
            },
        ],
        "partition_points": [
            {
                "name": "input",
                "tensor": "x",
                "shape": [1, 3, 4, 4],
                "bytes": 48,
                "macs_before": 0,
                "kind": "raw",
                "runnable": True,
                "reason": "",
            },
            {
                "name": "c",
                "tensor": "a",
                "shape": [1, 4, 2, 2],
                "bytes": 16,
                "macs_before": 432,
                "kind": "features",
                "runnable": True,
                "reason": "",
            },
            {
                "name": "f",
                "tensor": "f",
                "shape": [1, 4],
                "bytes": 4,
                "macs_before": 432,
                "kind": "features",
                "runnable": False,
                "reason": "layer 'e' (LpPool): there is no kernel for it",
            },
        ],
    }


def test_layers_without_known_shapes() -> None:
    model = parse("m (float[1,4] x) => (int64[2,K] y) { y = NonZero(x) }")
    run_passes(model)
    layer = inspect_model(model, supports).layers[0]
    assert (layer.shape, layer.macs, layer.output_bytes) == ((2, -1), 0, 0)
