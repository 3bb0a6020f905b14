"""What inspect shows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir
import pytest
from conftest import Done
from graph_text import parse

from clio_cc.inspection import inspect_model
from clio_cc.passes.runner import run_passes
from clio_cc.targets import find_target

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
                "block": "layer",
                "inside": False,
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
                "block": "layer",
                "inside": False,
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
                "block": "layer",
                "inside": False,
                "runnable": False,
                "reason": "layer 'e' (LpPool): there is no kernel for it",
            },
        ],
    }


def too_large(needed: int, left: int) -> str:
    return f"needs {needed} bytes for tensors, too many even in bands of rows: gap8 has {left} left for them"


@pytest.mark.parametrize(
    ("body", "behind"),
    [
        # in bands of rows the large tensor is never there as a whole
        ("e = Conv <strides=[40,40]> (a, d)", [("e", "")]),
        # nor is that of a skip around it
        (
            "b = Conv(a, k) s = Add(a, b) e = Conv <strides=[40,40]> (s, d)",
            [("s", too_large(1228944, 512088)), ("e", "")],
        ),
    ],
)
def test_tensors_that_a_board_cannot_hold(body: str, behind: list[tuple[str, str]]) -> None:
    model = parse(
        "m (float[1,2,160,160] x, float[24,2,1,1] w, float[24,24,1,1] k, float[4,24,1,1] d, float[2,4,1,1] v)"
        f"=> (float[1,2,4,4] y) {{ a = Conv(x, w) {body} y = Conv(e, v) }}"
    )
    run_passes(model)
    found = inspect_model(model, supports, target=find_target("gap8"))
    a = "a", too_large(614424, 516856)
    assert [(p.name, p.reason) for p in found.partition_points] == [("input", ""), a, *behind]
    assert [p.runnable for p in found.partition_points] == [
        True,
        False,
        *(not reason for _, reason in behind),
    ]


def test_tables_that_a_board_cannot_hold() -> None:
    model = parse(
        "m (float[1,800] x, float[800,800] v, float[800,800] w, float[800,2] u) => (float[1,2] y)"
        "{ a = MatMul(x, v) b = MatMul(a, w) y = MatMul(b, u) }"
    )
    run_passes(model)
    found = inspect_model(model, supports, target=find_target("nrf5340"))
    assert [(point.name, point.reason) for point in found.partition_points] == [
        ("input", ""),
        ("a", ""),
        ("b", "needs 1284000 bytes for tables beside code, nrf5340 has 1048576 bytes of flash"),
    ]
    assert all(point.runnable for point in inspect_model(model, supports).partition_points)


def test_cuts_inside_blocks_and_at_several_tensors() -> None:
    model = parse(
        "m (float[1,8,4,4] x, float[2,8,1,1] a_w, float[3,8,1,1] b_w, float[6,2,1,1] c_w, float[6,3,1,1] d_w)"
        "=> (float[1,12,1,1] y) { a = Conv(x, a_w) b = Conv(x, b_w) c = Conv(a, c_w) d = Conv(b, d_w)"
        "s = Concat <axis=1> (c, d) r = Relu(s) y = GlobalAveragePool(r) }"
    )
    run_passes(model)
    assert "multi_tensor_cuts" not in inspect_model(model, supports).to_json()
    found = inspect_model(model, supports, inside_blocks=True, multi=True)
    assert [(p.name, p.inside) for p in found.partition_points] == [
        ("input", False),
        ("s", True),
        ("r", False),
    ]
    assert found.to_json()["multi_tensor_cuts"] == [
        {
            "name": "a+b",
            "tensors": ("a", "b"),
            "bytes": 80,
            "macs_before": 640,
            "runnable": False,
            "reason": "clio-cc compiles cuts at one tensor only",
        }
    ]


def test_layers_without_known_shapes() -> None:
    model = parse("m (float[1,4] x) => (int64[2,K] y) { y = NonZero(x) }")
    run_passes(model)
    layer = inspect_model(model, supports).layers[0]
    assert (layer.shape, layer.macs, layer.output_bytes) == ((2, -1), 0, 0)


def test_the_command(clio: Callable[..., Done]) -> None:
    model = Path(__file__).parents[1] / "examples/digits/digits.onnx"
    done = clio("inspect", model, "--target", "gap8", "--partition-inside-blocks", "--multi")
    assert (done.code, done.err) == (0, "")
    assert "inside layer" in done.out and "residual" in done.out and "Cuts at several tensors" in done.out
    every = json.loads(clio("inspect", model, "--json", "--partition-inside-blocks").out)["partition_points"]
    default = json.loads(clio("inspect", model, "--json").out)["partition_points"]
    assert [point for point in every if not point["inside"]] == default != every
    wrong = clio("inspect", model, "--target", "gap9")
    assert (wrong.code, wrong.err.splitlines()[0]) == (1, "clio-cc: error: unknown target 'gap9'")
