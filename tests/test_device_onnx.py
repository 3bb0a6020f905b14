"""device.onnx: valid, standard operators only, and within a step of the Program at every operator."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from graph_text import parse
from test_lower import DEEP, GRAPHS, TRUNK, canonical

from clio_cc import reference
from clio_cc.calibrate import Samples
from clio_cc.device_onnx import device_onnx
from clio_cc.lower import lower
from clio_cc.quantization.formats import Mode
from clio_cc.quantize import Quantized, quantize_model


def quantized(name: str, mode: Mode) -> tuple[Quantized, dict[str, np.ndarray]]:
    model = canonical(GRAPHS[name][0])
    network = lower(model)
    rng = np.random.default_rng(3)
    inputs = {
        each: rng.standard_normal((20, *network.layouts[each].graph_shape[1:])).astype(np.float32)
        for each in network.inputs
    }
    return quantize_model(model, network, Samples(inputs), mode), inputs


def session(model: onnx.ModelProto, fused: bool = False) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if not fused:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


@pytest.mark.parametrize("mode", ["shift", "mulshift"])
@pytest.mark.parametrize("name", GRAPHS)
def test_within_a_step_at_every_operator(name: str, mode: Mode) -> None:
    """Each operator is fed the integers of the Program, so that no step of difference is inherited."""
    result, inputs = quantized(name, mode)
    model = device_onnx(result)
    onnx.checker.check_model(model, full_check=True)
    steps = result.quantize_inputs(inputs)
    values = dict(zip((tensor.name for tensor in result.program.inputs), steps, strict=True))
    for op, wanted in reference.walk(result.program, steps):
        part = onnx.utils.Extractor(onnx.shape_inference.infer_shapes(model))
        names = [f"{tensor.name}:int8" for tensor in op.inputs]
        single = part.extract_model(list(dict.fromkeys(names)), [f"{op.output.name}:int8"])
        feeds = {f"{tensor.name}:int8": as_graph(values[tensor.name]) for tensor in op.inputs}
        got = session(single).run(None, feeds)[0].astype(int)
        assert np.abs(got - as_graph(wanted)).max() <= 1, op.name
        values[op.output.name] = wanted


def as_graph(value: np.ndarray) -> np.ndarray:
    return value.transpose(0, 3, 1, 2) if value.ndim == 4 else value


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", GRAPHS)
def test_whole_model_in_the_layout_of_the_original(name: str, fused: bool) -> None:
    """Onnxruntime's fused integer kernels saturate 16-bit partial sums on some processors: there only most values agree."""
    result, inputs = quantized(name, "shift")
    model = device_onnx(result)
    feeds = {f"{tensor.name}:float": inputs[tensor.name] for tensor in result.program.inputs}
    found = session(model, fused).run(None, feeds)
    wanted = result.dequantize_outputs(reference.run(result.program, result.quantize_inputs(inputs)))
    for got, value, tensor in zip(found, wanted, result.program.outputs, strict=True):
        assert got.shape == value.shape
        off = np.abs(got - value) / result.program.tensors[tensor].scale
        assert np.mean(off > 3) < 0.1 if fused else off.max() <= 3


def test_standard_operators_and_equal_bytes() -> None:
    result, _ = quantized("residual", "shift")
    model = device_onnx(result)
    assert {node.domain for node in model.graph.node} == {""}
    assert {opset.domain for opset in model.opset_import} == {""}
    assert len({node.name for node in model.graph.node}) == len(model.graph.node)
    assert device_onnx(result).SerializeToString(deterministic=True) == model.SerializeToString(
        deterministic=True
    )


def test_scales_are_powers_of_two_and_zero_points_zero() -> None:
    result, _ = quantized("image to vector", "shift")
    constants = {
        each.name: onnx.numpy_helper.to_array(each) for each in device_onnx(result).graph.initializer
    }
    for name, value in constants.items():
        if name.endswith(":scale"):
            assert (np.frexp(value)[0] == 0.5).all(), name
    assert constants["zero:int8"] == 0 and constants["zero:int8"].dtype == np.int8


def test_dequantized_weights_are_the_programs() -> None:
    model = parse("m (float[1,4] x, float[4,3] w) => (float[1,3] y) { y = MatMul(x, w) }")
    from clio_cc.passes.runner import run_passes

    run_passes(model)
    x = np.random.default_rng(0).standard_normal((30, 4)).astype(np.float32)
    result = quantize_model(model, lower(model), Samples({"x": x}))
    names = {node.op_type for node in device_onnx(result).graph.node}
    assert {"Gemm", "QuantizeLinear", "DequantizeLinear"} <= names


def test_what_leaves_at_partition_points_is_units() -> None:
    """An encoder's, some channels in another order, and a whole vector: as the cloud takes them, but for the scale."""
    model = canonical(TRUNK)
    rng = np.random.default_rng(4)
    network, _ = lower(model, DEEP).with_encoder("first", rng.standard_normal((2, 4)), np.zeros(2))
    network = network.with_order("linear", (5, 0, 2))
    x = {"x": rng.standard_normal((20, 3, 8, 8)).astype(np.float32)}
    result = quantize_model(model, network, Samples(x))
    program = result.program
    got = session(device_onnx(result)).run(None, {"x:float": x["x"]})
    ran = reference.run(program, result.quantize_inputs(x))
    for tap, floats, value in zip(program.taps, got, ran, strict=True):
        units, scale = reference.units_of(tap, value), program.tensors[tap.tensor].scale
        assert floats.shape == units.shape
        assert np.abs(floats / scale - units).mean() < 0.5
