"""Quantization: scales, equalization, rounding, the walk, and what the report says."""

from __future__ import annotations

import re

import numpy as np
import onnx_ir as ir
import pytest
from graph_text import parse
from hypothesis import given, settings
from hypothesis import strategies as st
from test_lower import At

from clio_cc import graph, reference
from clio_cc.calibrate import Samples, calibrate
from clio_cc.errors import ClioError
from clio_cc.lower import lower
from clio_cc.operators.conv import Conv
from clio_cc.packing import value_range
from clio_cc.passes.runner import run_passes
from clio_cc.qformat import fraction_bits, quantize
from clio_cc.quantization.equalize import equalize
from clio_cc.quantization.formats import (
    Formats,
    Mode,
    activation_scale,
    candidates,
    error_of,
    power_at_least,
    weight_scales,
)
from clio_cc.quantization.layers import ConvLayer
from clio_cc.quantization.rounding import round_weights
from clio_cc.quantize import Quantized, _bounded, quantize_model

BLOCKS = """m (float[1,3,12,12] x, float[8,3,3,3] w1, float[8] b1, float[8,1,3,3] w2, float[8,8,1,1] w3, float[8] b3,
    float[8,10] v) => (float[1,10] y) {
    lo = Constant<value_float=0.0>() hi = Constant<value_float=6.0>()
    c1 = Conv<pads=[1,1,1,1]>(x, w1, b1) r1 = Relu(c1)
    c2 = Conv<group=8, pads=[1,1,1,1]>(r1, w2) r2 = Clip(c2, lo, hi)
    c3 = Conv(r2, w3, b3) s = Add(c3, r1) r3 = Relu(s)
    p = GlobalAveragePool(r3) f = Flatten(p) y = MatMul(f, v) }"""
EVERYTHING = """m (float[1,4,8,8] x, float[4,2,3,3] w, float[4,4,1,1] g, float[64,6] v) => (float[1,6] y) {
    a = Conv<group=2, pads=[1,1,1,1], strides=[2,2]>(x, w) t = HardSwish(a)
    p = GlobalAveragePool(t) q = Conv(p, g) h = Sigmoid(q) m = Mul(t, h)
    n = MaxPool<kernel_shape=[2,2], strides=[2,2]>(m) e = AveragePool<kernel_shape=[2,2], strides=[2,2]>(t)
    j = Concat<axis=1>(n, e) k = Concat<axis=1>(j, j) f = Flatten(k) l = MatMul(f, v) y = Softmax(l) }"""
MODES: tuple[Mode, ...] = ("shift", "mulshift")


def canonical(text: str) -> ir.Model:
    model = parse(text)
    run_passes(model)
    return model


def quantized(model: ir.Model, x: np.ndarray, mode: Mode = "shift") -> Quantized:
    return quantize_model(model, lower(model), Samples({"x": x.astype(np.float32)}), mode)


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def outputs(result: Quantized, x: np.ndarray) -> np.ndarray:
    steps = result.quantize_inputs({"x": x})
    return np.asarray(result.dequantize_outputs(reference.run(result.program, steps))[0])


def sqnr_db(got: np.ndarray, wanted: np.ndarray) -> float:
    return float(10 * np.log10(np.square(wanted).sum() / np.square(got - wanted).sum()))


# --- scales ---------------------------------------------------------------------------------------------------------


@given(st.floats(1e-9, 1e9))
def test_power_at_least(value: float) -> None:
    power = power_at_least(value)
    assert fraction_bits(power) is not None and value <= power < 2 * value


@given(st.floats(1e-6, 1e6), st.sampled_from(MODES))
def test_candidates_cover_the_range(largest: float, mode: Mode) -> None:
    scales = candidates(largest, mode)
    assert scales == sorted(scales, reverse=True) and scales[0] * 127 >= largest
    if mode == "shift":
        assert all(fraction_bits(scale) is not None for scale in scales)


@pytest.mark.parametrize("mode", MODES)
def test_a_rare_outlier_saturates(mode: Mode) -> None:
    values = normal(100_000, 1)
    values[0] = 40
    scale = activation_scale(values, 40.0, mode)
    assert scale * 127 < 35 and error_of(values, scale) < error_of(values, 40 / 127)


@pytest.mark.parametrize("mode", MODES)
def test_all_channels_are_looked_at(mode: Mode) -> None:
    values = normal(2**16, 8)
    values[:, 3] *= 50
    assert activation_scale(values, float(np.abs(values).max()), mode) * 127 > 100


def test_weight_scales_are_per_channel() -> None:
    weight = np.array([[1.0, -0.5], [0.01, 0.02], [0.0, 0.0]])
    scales = weight_scales(weight, np.ones(2), "shift")
    assert scales[0] == 2**-6 and scales[1] < 2**-11 and scales[2] > 0


@settings(max_examples=20)
@given(st.integers(0, 2**31), st.integers(1, 12), st.integers(1, 4))
def test_rounding_knows_its_inputs(seed: int, inputs: int, groups: int) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((groups, 5, inputs))
    mixed = rng.standard_normal((groups, 200, inputs)) @ rng.standard_normal((groups, inputs, inputs))
    gram = mixed.transpose(0, 2, 1) @ mixed
    scale = np.full((groups, 5), 0.1)

    def loss(steps: np.ndarray) -> float:
        error = weight - steps * scale[:, :, None]
        return float(np.einsum("goi,gij,goj->", error, gram, error))

    steps = round_weights(weight, scale, gram)
    assert np.array_equal(steps, np.round(steps)) and np.abs(steps).max() <= 128
    assert loss(steps) <= loss(np.round(weight / scale[:, :, None])) * 1.3 + 1e-9


# --- equalization ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_equalization_keeps_the_function(mode: Mode) -> None:
    model = canonical(BLOCKS)
    network, x = lower(model), normal(64, 3, 12, 12)
    seen = calibrate(model, network, Samples({"x": x}))
    equal, scaled, scalings = equalize(network, seen, mode)
    assert scalings and not {*network.inputs, *network.outputs} & {*scalings}
    values = network.layouts["x"].to_device(x)
    wanted, got = network.run({"x": values}), equal.run({"x": values})
    np.testing.assert_allclose(got["y"], wanted["y"], atol=1e-4)
    for name, scaling in scalings.items():
        np.testing.assert_allclose(got[name], wanted[name] * scaling.channels, atol=1e-3)
        np.testing.assert_allclose(
            scaled[name].high, got[name].max(axis=(0, *range(1, got[name].ndim - 1))), atol=1e-3
        )


def test_equalization_rescues_a_small_channel() -> None:
    text = """m (float[1,3,8,8] x, float[8,3,3,3] w, float[5,8,1,1] v) => (float[1,5,a,c] y)
        { c = Conv(x, w) r = Relu(c) y = Conv(r, v) }"""
    model = canonical(text)
    weight = model.graph.initializers["w"].const_value
    assert weight is not None
    array = weight.numpy().copy()
    array[0] *= 0.01  # one weak channel, which its reader may make strong again
    model.graph.initializers["w"].const_value = ir.tensor(array, name="w")
    network = lower(model)
    seen = calibrate(model, network, Samples({"x": normal(32, 3, 8, 8)}))
    before, after = seen["r"].largest, equalize(network, seen, "shift")[1]["r"].largest
    assert after[0] / after.max() > 2 * before[0] / before.max() > 0


# --- the whole ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("text", "shape"), [(BLOCKS, (3, 12, 12)), (EVERYTHING, (4, 8, 8))])
def test_close_to_float(text: str, shape: tuple[int, ...], mode: Mode) -> None:
    model = canonical(text)
    x = normal(96, *shape)
    result = quantized(model, x, mode)
    network = lower(model)
    values = network.run({"x": network.layouts["x"].to_device(x)})
    assert sqnr_db(outputs(result, x), values["y"]) > 18
    assert len(result.layers) == len(result.program.operators) == len(network.layers)
    assert min(layer.sqnr_db for layer in result.layers) > 15
    assert result.calibration_samples == 96 and result.samples == 96
    if mode == "shift":
        assert all(fraction_bits(tensor.scale) is not None for tensor in result.program.tensors.values())
        convs = [op for op in result.program.operators if isinstance(op, Conv)]
        assert convs and all(op.requantize.multiplier is None for op in convs)


@pytest.mark.parametrize("mode", MODES)
def test_the_same_bytes_twice(mode: Mode) -> None:
    x = normal(40, 3, 12, 12)
    first, second = (quantized(canonical(BLOCKS), x, mode) for _ in range(2))
    assert first.layers == second.layers
    for a, b in zip(first.program.operators, second.program.operators, strict=True):
        assert a.output == b.output
        if isinstance(a, Conv) and isinstance(b, Conv):
            assert a.weight.tobytes() == b.weight.tobytes() and a.bias.tobytes() == b.bias.tobytes()


def test_bias_correction_takes_the_mean_error_out() -> None:
    model = canonical("m (float[1,6,5,5] x, float[4,6,3,3] w) => (float[1,4,a,c] y) { y = Conv(x, w) }")
    x = np.abs(normal(64, 6, 5, 5))
    result = quantized(model, x)
    network = lower(model)
    wanted = network.layouts["y"].to_graph(network.run({"x": network.layouts["x"].to_device(x)})["y"])
    step = result.program.tensors["y"].scale
    assert np.abs((outputs(result, x) - wanted).mean(axis=(0, 2, 3))).max() < step / 8


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("factor", [0.0, 1e-12, 1e4])
def test_extreme_weights_and_inputs(mode: Mode, factor: float) -> None:
    model = canonical(BLOCKS)
    x = normal(16, 3, 12, 12)
    for name in ("w1", "w2", "w3"):
        value = model.graph.initializers[name]
        assert value.const_value is not None
        array = value.const_value.numpy().copy()
        array[0] *= factor if name != "w3" or factor < 1 else 1
        value.const_value = ir.tensor(array, name=name)
    result = quantized(model, x, mode)
    assert np.isfinite(outputs(result, x)).all()
    quantized(model, x * 0, mode)


def test_a_single_sample_will_do() -> None:
    result = quantized(canonical(BLOCKS), normal(1, 3, 12, 12))
    assert result.samples == 1


@given(st.floats(1e-3, 1e3), st.floats(-1e9, 1e9), st.sampled_from([1, 1000, 200_000]))
@settings(max_examples=20)
def test_large_sums_get_fewer_bits_rather_than_overflow(size: float, bias: float, inputs: int) -> None:
    weight = np.full((1, inputs), size)
    scale = _bounded(np.array([size / 127]), weight, np.array([bias]), input_scale=0.5, output_scale=1.0)
    steps = np.floor(weight / scale + 0.5)
    assert np.abs(steps).sum() * 128 + abs(bias) / (0.5 * scale[0]) + 2**24 < 2**31
    assert fraction_bits(float(scale[0] / (size / 127))) is not None  # a scale of mode shift stays one


def test_a_cut_becomes_a_tap() -> None:
    model = canonical(BLOCKS)
    network = lower(model, [At("middle", "r2")])
    result = quantize_model(model, network, Samples({"x": normal(32, 3, 12, 12)}))
    (tap,) = result.program.taps
    assert (tap.partition, tap.tensor, tap.units, tap.unit_bytes) == ("middle", "r2", 8, 144)
    assert result.program.outputs == ("r2",)


@pytest.mark.parametrize("bits", [4, 6])
def test_units_of_few_bits_are_clamped_and_the_share_of_it_is_known(bits: int) -> None:
    """Scales are those of int8 where none are given, so most of the values lie beyond."""
    model, x = canonical(BLOCKS), normal(32, 3, 12, 12)
    network, _ = lower(model, [At("early", "r1")]).with_encoder("early", np.eye(8), np.zeros(8), bits=bits)
    result = quantize_model(model, network, Samples({"x": x}))
    (tap,) = result.program.taps
    assert (tap.bits, tap.unit_bytes) == (bits, 144 * bits // 8)
    [units] = reference.run(result.program, result.quantize_inputs({"x": x}))
    low, high = value_range(bits)
    assert low <= units.min() and units.max() == high
    share = float(((units == low) | (units == high)).mean())
    assert share > 0.01 and result.layers[-1].saturated == round(share, 6)


@pytest.mark.parametrize("mode", MODES)
def test_several_taps_with_an_encoder_and_an_order(mode: Mode) -> None:
    """Equalized and quantized together; each tap is close to what the float graph gives."""
    model, x = canonical(BLOCKS), normal(64, 3, 12, 12)
    rng = np.random.default_rng(5)
    weight, bias = rng.standard_normal((5, 8)), rng.standard_normal(5)
    cut = lower(model, [At("deep", "r3"), At("early", "r1"), At("middle", "r2")], local=True)
    network, layer = cut.with_encoder("early", weight, bias)
    assert layer is not None
    network = network.with_order("middle", (6, 1, 3))
    result = quantize_model(model, network, Samples({"x": x}), mode)
    program = result.program
    assert [(tap.partition, tap.units, tap.unit_bytes, tap.order) for tap in program.taps] == [
        ("early", 5, 144, ()),
        ("middle", 3, 144, (6, 1, 3)),
        ("deep", 8, 144, ()),
    ]
    assert program.outputs == ("early/units", "r2", "r3", "y")
    values = cut.run({"x": cut.layouts["x"].to_device(x)})
    wanted = [values["r1"] @ weight.T + bias, values["r2"][..., [6, 1, 3]], values["r3"]]
    ran = reference.run(program, result.quantize_inputs({"x": x}))
    for number, right in enumerate(wanted):
        tap = program.taps[number]
        got = reference.units_of(tap, ran[number]) * program.tensors[tap.tensor].scale
        right = np.moveaxis(right, -1, 1)
        assert got.shape == right.shape
        assert np.square(got - right).mean() < 0.004 * np.square(right).mean()
    # What travels keeps its real scale; what only an encoder and the trunk read may be equalized.
    np.testing.assert_allclose(
        result.network.run({"x": cut.layouts["x"].to_device(x)})["r2"], values["r2"], rtol=1e-4, atol=1e-4
    )
    assert program.macs_to(0) < program.macs_to(1) < program.macs_to(2) < program.macs
    assert program.macs_to(1) + layer.macs + 144 * 64 == program.macs_to(2) + layer.macs


def test_a_folded_encoder_is_quantized_like_any_layer() -> None:
    text = BLOCKS.replace("s = Add(c3, r1) r3 = Relu(s)", "r3 = Relu(c3)")
    model, x = canonical(text), normal(64, 3, 12, 12)
    rng = np.random.default_rng(5)
    weight, bias = rng.standard_normal((8, 8)), rng.standard_normal(8)
    network, layer = lower(model, [At("linear", "c3")]).with_encoder("linear", weight, bias)
    assert layer is None
    result = quantize_model(model, network, Samples({"x": x}))
    assert result.layers[-1].kind == "Conv+Encode" and result.layers[-1].sqnr_db > 20


def test_statistics_of_an_encoder_are_recorded() -> None:
    """Even if the graph happens to have a tensor of that name."""
    text = BLOCKS.replace("r3 = Relu(s)", "units = Relu(s)").replace("(r3)", "(units)")
    model = canonical(text)
    x = normal(16, 3, 12, 12)
    weight = np.random.default_rng(5).standard_normal((2, 8))
    for value in [value for node in model.graph for value in node.outputs if value.name == "units"]:
        value.name = "p/units"
    network, _ = lower(model, [At("p", "r1")]).with_encoder("p", weight, np.zeros(2))
    seen = calibrate(model, network, Samples({"x": x}))
    values = network.run({"x": network.layouts["x"].to_device(x)})
    np.testing.assert_allclose(seen["p/units"].high, values["p/units"].max(axis=(0, 1, 2)), atol=1e-4)


def test_an_encoder_of_a_tensor_that_is_arranged_for_it() -> None:
    text = """m (float[1,16] x, float[16,32] w, float[3,8,3,3] c) => (float[1,3,2,2] y)
        { s = Constant<value_ints=[-1,8,2,2]>() a = MatMul(x, w) q = Reshape(a, s) y = Conv<pads=[1,1,1,1]>(q, c) }"""
    model, x = canonical(text), normal(32, 16)
    tensor = next(str(v.name) for node in model.graph for v in node.outputs if graph.shape(v) == (1, 8, 2, 2))
    network, layer = lower(model, [At("image", tensor)]).with_encoder("image", np.eye(8)[:5], np.zeros(5))
    assert layer is not None and layer.inputs != (tensor,)
    result = quantize_model(model, network, Samples({"x": x}))
    assert result.layers[-1].kind == "Encode" and result.layers[-1].sqnr_db > 25


def test_what_cannot_be_quantized_names_its_node() -> None:
    model = canonical("m (float[1,4] x, float[1,4] xx) => (float[1,4] y) { y = Add(x, xx) }")
    x = normal(16, 4)
    with pytest.raises(ClioError, match=r"node '.*' \(Add\): cannot be quantized: .* lie too far apart"):
        quantize_model(model, lower(model), Samples({"x": x, "xx": -x}))


def test_a_term_that_vanishes_is_left_out() -> None:
    model = canonical("m (float[1,4] x, float[1,4] xx) => (float[1,4] y) { y = Add(x, xx) }")
    samples = Samples({"x": normal(16, 4), "xx": normal(16, 4) * np.float32(1e-30)})
    result = quantize_model(model, lower(model), samples)
    inputs = result.quantize_inputs(samples.inputs)
    np.testing.assert_array_equal(reference.run(result.program, inputs)[0], inputs[0])


def test_progress_ends_at_the_total() -> None:
    model, calls = canonical(BLOCKS), []
    quantize_model(
        model,
        lower(model),
        Samples({"x": normal(32, 3, 12, 12)}),
        progress=lambda done, of: calls.append((done, of)),
    )
    assert calls == sorted(calls) and calls[-1][0] == calls[-1][1]


# --- formats that are given ----------------------------------------------------------------------------

POOLED = """m (float[1,3,8,8] x, float[4,3,3,3] w, float[4] b) => (float[1,4,3,3] y)
    { c = Conv(x, w, b) r = Relu(c) y = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r) }"""
FORMATS = Formats({"x": 2.0**-4, "r": 0.25}, {"r": np.array([2.0**-7, 2.0**-8, 2.0**-6, 2.0**-7])})


def with_formats(text: str, formats: Formats) -> Quantized:
    model = canonical(text)
    return quantize_model(model, lower(model), Samples({"x": normal(64, 3, 8, 8)}), formats=formats)


def test_given_formats_are_kept_to() -> None:
    result = with_formats(POOLED, FORMATS)
    conv, pool = result.program.operators
    assert isinstance(conv, Conv)
    assert (conv.inputs[0].scale, conv.output.scale, pool.output.scale) == (2.0**-4, 0.25, 0.25)
    np.testing.assert_array_equal(conv.requantize.shift, [9, 10, 8, 9])
    layer = lower(canonical(POOLED)).layers[0]
    assert isinstance(layer, ConvLayer)
    scale = FORMATS.weight_scales["r"]
    np.testing.assert_array_equal(conv.weight, quantize(layer.weight, scale[:, None, None, None]))
    np.testing.assert_array_equal(conv.bias, np.floor(layer.bias / (scale * 2.0**-4) + 0.5))
    assert [report.name for report in result.layers] == [op.name for op in result.program.operators]
    assert result.layers[0].sqnr_db > 5  # the formats are coarse


def test_an_output_without_a_given_scale_gets_one_that_a_shift_reaches() -> None:
    coarse = Formats({"x": 2.0**-5}, {"r": np.full(4, 64.0)})
    op = with_formats(POOLED, coarse).program.operators[0]
    assert isinstance(op, Conv) and op.output.scale == 2.0 and list(op.requantize.shift) == [0] * 4


def test_only_what_has_formats_is_left_as_it_is() -> None:
    """Equalization, which moves ranges between layers, goes on behind the last given format."""
    model = canonical(BLOCKS)
    network, x = lower(model), normal(64, 3, 12, 12)
    r1, r2, r3 = (layer.output for layer in network.layers[:3])
    given = Formats({"x": 2.0**-5, r1: 2.0**-3}, {r1: np.full(8, 2.0**-7)})
    result = quantize_model(model, network, Samples({"x": x}), formats=given)
    free = quantize_model(model, network, Samples({"x": x}))
    for index, kept in ((0, True), (1, False)):
        before, after, always = (net.layers[index] for net in (network, result.network, free.network))
        assert all(isinstance(layer, ConvLayer) for layer in (before, after, always))
        assert np.array_equal(before.weight, after.weight) == kept  # type: ignore[attr-defined]
        assert not np.array_equal(before.weight, always.weight)  # type: ignore[attr-defined]
    assert result.program.tensors[r1].scale == 2.0**-3 and {r2, r3} <= set(result.program.tensors)


@pytest.mark.parametrize(
    ("scales", "weights", "words"),
    [
        (
            {"r": 2.0**-13},
            {},
            "the given scales of its input and weights, 0.0625 and 0.015625, come to more than that of its output, "
            "0.00012207",
        ),
        ({"r": 2.0**20}, {}, "shift must be in [0, 30], got 30..32"),
        ({}, {"r": np.full(4, 2.0**-48)}, "its bias comes to"),
        ({}, {"r": np.ones(3)}, "3 scales of weights are given for 4 channels"),
        ({}, {"r": None}, "the scale of its output is given, those of its weights are not"),
    ],
)
def test_formats_that_a_layer_cannot_have_are_refused(
    scales: dict[str, float], weights: dict[str, np.ndarray | None], words: str
) -> None:
    given = {name: each for name, each in {**FORMATS.weight_scales, **weights}.items() if each is not None}
    with pytest.raises(ClioError, match=f"cannot be quantized: {re.escape(words)}") as caught:
        with_formats(POOLED, Formats({**FORMATS.scales, **scales}, given))
    assert caught.value.where.endswith("(Conv+Relu)")


def test_a_layer_that_keeps_its_scale_is_given_no_other() -> None:
    with pytest.raises(ClioError, match=r"\(MaxPool\): .* its output has the scale 0.25, not the given 0.5"):
        with_formats(POOLED, Formats({**FORMATS.scales, "y": 0.5}, FORMATS.weight_scales))


@pytest.mark.parametrize(("bits", "given"), [(6, True), (4, True), (4, False)])
def test_units_of_few_bits_are_clamped_to_them(bits: int, given: bool) -> None:
    model = canonical(BLOCKS)
    network = lower(model, [At("p", lower(model).layers[0].output)])
    encoded, layer = network.with_encoder("p", np.eye(8)[:3] * 9, np.zeros(3), bits=bits)
    assert layer is not None and encoded.taps[0].bits == bits
    formats = Formats({"p/units": 2.0**-3}, {"p/units": np.full(3, 2.0**-3)}) if given else None
    x = normal(64, 3, 12, 12)
    result = quantize_model(model, encoded, Samples({"x": x}), formats=formats)
    [tap], [units] = result.program.taps, reference.run(result.program, result.quantize_inputs({"x": x}))
    assert (tap.bits, tap.unit_bytes) == (bits, 144 * bits // 8)
    assert units.max() == 2 ** (bits - 1) - 1 and units.min() >= -(2 ** (bits - 1))
