"""The yardstick: differences, and the check that the passes kept the user's network."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from digits import MODEL

from clio_cc.compiler import front_end
from clio_cc.errors import ClioError
from clio_cc.float_run import TOLERANCE, check_same_function, difference


@pytest.mark.parametrize(
    ("wanted", "got", "apart"),
    [
        ([1.0, -8.0], [1.0, -8.0], 0.0),
        ([1.0, -8.0], [1.5, -8.0], 0.5 / 8),
        ([0.1, 0.2], [0.1, 0.3], 0.1),  # small values count absolutely
        ([math.inf, 1.0], [math.inf, 1.0], 0.0),
        ([math.nan, 1.0], [math.nan, 1.0], 0.0),
        ([math.nan, 1.0], [0.0, 1.0], math.inf),
        ([1.0, 1.0], [math.nan, 1.0], math.inf),
        ([1.0, 1.0], [math.inf, 1.0], math.inf),
    ],
)
def test_difference(wanted: list[float], got: list[float], apart: float) -> None:
    assert difference([[np.array(wanted)]], [[np.array(got)]]) == pytest.approx(apart)


def test_difference_of_other_kinds() -> None:
    yes, no, text = np.array([True]), np.array([False]), np.array(["a"])
    assert (difference([[yes]], [[yes]]), difference([[yes]], [[no]])) == (0.0, 1.0)
    assert (difference([[text]], [[text]]), difference([[text]], [[np.array(["b"])]])) == (0.0, math.inf)
    assert difference([[np.zeros(3)]], [[np.zeros(2)]]) == math.inf


def inputs() -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    return {"image": np.random.default_rng(0).random((2, 1, 8, 8), np.float32)}


def test_the_passes_keep_the_example() -> None:
    check_same_function(MODEL, front_end(MODEL), inputs())


def test_a_pass_that_changes_the_network_is_caught() -> None:
    graph = front_end(MODEL)
    gemm = next(node for node in graph.graph if node.op_type == "Gemm")
    bias = gemm.inputs[2]
    assert bias is not None and bias.const_value is not None
    bias.const_value = ir.tensor(bias.const_value.numpy() + np.float32(1e3 * TOLERANCE))
    with pytest.raises(ClioError, match=r"gives another answer than the model, .* of its range away"):
        check_same_function(MODEL, graph, inputs())


def test_what_onnxruntime_cannot_run_is_said(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(MODEL.read_bytes()[:-100])
    with pytest.raises(ClioError, match=r"broken.onnx: onnxruntime cannot run the model: "):
        check_same_function(broken, front_end(MODEL), inputs())
