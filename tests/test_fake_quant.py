"""Fake quantization: values and gradients by formula, what is learned by them, and the device's integers bit for bit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from digits import CALIBRATION, FOLDER, MODEL
from graph_text import Floats, parse, parse_proto, run
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper
from torch import Tensor

from clio_cc import reference
from clio_cc.calibrate import load_samples
from clio_cc.cloud import RECEIVED, UNITS
from clio_cc.compiler import Compiled, Options, compile_model
from clio_cc.lower import lower
from clio_cc.packing import pack_units
from clio_cc.passes.runner import run_passes
from clio_cc.qformat import quantize
from clio_cc.split import units_sent
from clio_cc.training.fake_quant import MOST_SHIFT, FakeQuant
from clio_cc.training.network import SlicedNetwork
from clio_cc.training.prepare import Start, prepare
from clio_cc.training.settings import TrainOptions
from clio_cc.training.start import fake_quant
from clio_cc.training.torch_graph import TorchGraph, with_weights
from clio_cc.training.write import trained_model

TEST = FOLDER / "digits-test.npz"
LAYER = (
    "m (float[1,3] x, float[2,3] w, float[2] b) => (float[a,b] y) { y = Gemm <transB: int = 1> (x, w, b) }"
)


def quiet(*_: object) -> None:
    """No progress wanted."""


def layer(x: float = 2.0**-5, y: float = 2.0**-4, w: tuple[float, float] = (2.0**-7, 2.0**-8)) -> FakeQuant:
    """The rounding of one Gemm of three inputs and two outputs, `y`."""
    network = lower(parse(LAYER))
    return FakeQuant(network, {"y": "gemm"}, {"x": x, "y": y}, {"y": np.array(w)})


def threshold(rounding: FakeQuant, tensor: str) -> Tensor:
    return rounding.thresholds[list(rounding.scales()).index(tensor)]


# --- values --------------------------------------------------------------------------------------------


def test_halves_round_up() -> None:
    steps = torch.tensor([-1.5, -0.5, -0.25, 0.25, 0.5, 1.5, 2.5])
    found = layer().values("y", steps * 2.0**-4) * 2**4
    assert found.tolist() == [-1, 0, 0, 0, 1, 2, 3]


def test_saturation() -> None:
    steps = torch.tensor([-1e6, -129.0, -128.0, 127.0, 127.49, 127.5, 1e6])
    rounding = layer()
    assert (rounding.values("y", steps * 2.0**-4) * 2**4).tolist() == [-128, -128, -128, 127, 127, 127, 127]
    rounding.bounds = {"y": (-8.0, 7.0)}
    assert (rounding.values("y", steps * 2.0**-4) * 2**4).tolist() == [-8, -8, -8, 7, 7, 7, 7]


@given(st.integers(-30, 12), st.lists(st.integers(-(2**17), 2**17), min_size=1, max_size=50))
def test_values_are_those_of_the_device(exponent: int, parts: list[int]) -> None:
    """Of any sum that an accumulator may hold: here in parts of 1/256 of a step."""
    scale = 2.0**exponent
    x = np.array(parts) * scale / 256
    found = layer(y=scale).values("y", torch.tensor(x, dtype=torch.float32))
    np.testing.assert_array_equal(found.detach().numpy(), quantize(x, scale) * np.float32(scale))


def test_tensor_without_a_scale_stays_as_it_is() -> None:
    x = torch.randn(4, 2)
    assert layer().values("another", x) is x


def test_powers_of_two_are_exact() -> None:
    """However many there are at once: PyTorch computes them by vectors, and what is left over one by one."""
    exponents = np.arange(-60, 31)
    for few in (exponents, *np.array_split(exponents, 7), *exponents[:, None]):
        found = torch.exp2(torch.tensor(few, dtype=torch.float32)).double().numpy()
        np.testing.assert_array_equal(found, 2.0**few)


def test_scales_are_those_that_were_given() -> None:
    rounding = layer()
    assert rounding.scales() == {"x": 2.0**-5, "y": 2.0**-4}
    assert rounding.weight_scales().keys() == {"y"}
    assert rounding.weight_scales()["y"].tolist() == [2.0**-7, 2.0**-8]


def test_weights_and_bias() -> None:
    """Weights on the grid of their channel, the bias on that of the accumulator."""
    rounding = layer()
    weight = torch.tensor([[0.1, -0.3, 5.0], [0.1, -0.3, -5.0]])
    bias = torch.tensor([0.1, 2.5 * 2.0**-13])
    got_weight, got_bias = rounding.weights("gemm", weight, bias)
    scale = np.array([2.0**-7, 2.0**-8])
    wanted = quantize(weight.numpy(), scale[:, None]) * scale[:, None]
    np.testing.assert_array_equal(got_weight.detach().numpy(), wanted)
    step = scale * 2.0**-5
    assert got_bias is not None
    np.testing.assert_array_equal(
        got_bias.detach().numpy(), np.floor(bias.numpy().astype(np.float64) / step + 0.5) * step
    )
    assert rounding.weights("gemm", weight, None)[1] is None
    kept_weight, kept_bias = rounding.weights("another", weight, bias)
    assert kept_weight is weight and kept_bias is bias


@pytest.mark.parametrize(
    ("start", "end"), [(2.0**4, 2.0**1), (2.0**1, 2.0**1), (2.0**-23, 2.0**-23), (2.0**-30, 2.0**-23)]
)
def test_shifts_are_those_that_the_device_has(start: float, end: float) -> None:
    """To the right, 24 at most: the scale of weights follows those of the tensors before and after."""
    rounding = layer(w=(start, 2.0**-7))
    assert rounding.weight_scales()["y"].tolist() == [end, 2.0**-7]
    shift = np.log2(2.0**-4 / (2.0**-5 * end))
    assert 0 <= shift <= MOST_SHIFT
    weight, _ = rounding.weights("gemm", torch.full((2, 3), 1e9), None)
    assert weight[0].tolist() == [127 * end] * 3


def test_tensors_that_keep_a_scale_have_that_of_their_source() -> None:
    """A layer behind a pool reads values on the grid of what the pool read."""
    text = (
        "m (float[1,2,4,4] x, float[2,2,1,1] v, float[2] c, float[2,2,1,1] w, float[2] b) => (float[a,d,e,f] y) "
        "{ p = Conv (x, v, c) q = MaxPool <kernel_shape: ints = [2, 2], strides: ints = [2, 2]> (p) y = Conv (q, w, b) }"
    )
    model = parse(text)
    run_passes(model)
    scales = {"x": 2.0**-7, "p": 2.0**-4, "y": 2.0**-2}
    rounding = FakeQuant(lower(model), {"y": "last"}, scales, {"y": np.full(2, 2.0**-9)})
    _, bias = rounding.weights("last", torch.zeros(2, 2, 1, 1), torch.tensor([0.3, -0.3]))
    assert bias is not None
    step = 2.0 ** (-9 - 4)
    assert bias.tolist() == [float(np.floor(b / step + 0.5) * step) for b in (0.3, -0.3)]


# --- gradients -----------------------------------------------------------------------------------------


def formula(x: Floats, scale: Any, low: float, high: float) -> tuple[Floats, Floats]:
    """Derivatives of the rounded by x and by the logarithm of the threshold: Jain et al., equations 8 and 7."""
    steps = x.astype(np.float64) / scale
    rounded = np.floor(steps + 0.5)
    inside = (low <= rounded) & (rounded <= high)
    felt = np.where(inside, rounded - steps, np.clip(rounded, low, high))
    return inside.astype(np.float32), (scale * np.log(2) * felt).astype(np.float32)


@pytest.mark.parametrize("bounds", [(-128.0, 127.0), (-8.0, 7.0)])
def test_gradients_of_values(bounds: tuple[float, float]) -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=(50, 2)), 20 * rng.normal(size=(50, 2)), [[-8.0, 7.96875]]]).astype(
        np.float32
    )
    grad = rng.normal(size=x.shape).astype(np.float32)
    rounding = layer()
    rounding.bounds = {"y": bounds}
    values = torch.tensor(x, requires_grad=True)
    rounding.values("y", values).backward(torch.tensor(grad))
    passed, felt = formula(x, 2.0**-4, *bounds)
    assert 0 < passed.mean() < 1
    assert values.grad is not None
    np.testing.assert_array_equal(values.grad.numpy(), grad * passed)
    slope = threshold(rounding, "y").grad
    assert slope is not None
    np.testing.assert_allclose(slope.numpy(), (grad * felt).sum(), rtol=1e-5)


def test_gradients_of_weights() -> None:
    """A threshold per output channel; what the bias was rounded by is felt by nobody."""
    rng = np.random.default_rng(0)
    weight, grad = (rng.normal(size=(2, 3)).astype(np.float32) for _ in range(2))
    weights, bias = torch.tensor(weight, requires_grad=True), torch.tensor([0.3, -0.2], requires_grad=True)
    rounding = layer()
    rounded, shifted = rounding.weights("gemm", weights, bias)
    assert shifted is not None
    ((rounded * torch.tensor(grad)).sum() + (shifted * torch.tensor([3.0, 5.0])).sum()).backward()
    passed, felt = formula(weight, np.array([[2.0**-7], [2.0**-8]]), -128, 127)
    assert 0 < passed.mean() < 1
    assert weights.grad is not None and bias.grad is not None
    np.testing.assert_array_equal(weights.grad.numpy(), grad * passed)
    assert bias.grad.tolist() == [3.0, 5.0]
    slope = rounding.weight_thresholds[0].grad
    assert slope is not None
    np.testing.assert_allclose(slope.numpy(), (grad * felt).sum(1), rtol=1e-5)
    assert all(parameter.grad is None for parameter in rounding.thresholds)


def test_inputs_keep_their_scale() -> None:
    """Whoever feeds the device must know it: no gradient, nothing to train."""
    rounding = layer()
    assert [parameter.requires_grad for parameter in rounding.thresholds] == [False, True]
    x = torch.randn(5, 3, requires_grad=True)
    rounding.values("x", x).sum().backward()
    assert x.grad is not None and threshold(rounding, "x").grad is None


@pytest.mark.parametrize("start", [2.0**2, 2.0**-9])
def test_thresholds_move_to_where_the_error_is_least(start: float) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=500)
    errors = {e: float(np.square(quantize(x, 2.0**e) * 2.0**e - x).mean()) for e in range(-10, 3)}
    best = min(errors, key=errors.__getitem__)
    rounding, values = layer(y=start), torch.tensor(x, dtype=torch.float32)
    optimizer = torch.optim.SGD([threshold(rounding, "y")], 0.2)
    for _ in range(60):
        optimizer.zero_grad()
        (rounding.values("y", values) - values).square().mean().log().backward()
        optimizer.step()
    assert abs(np.log2(rounding.scales()["y"]) - best) <= 1


# --- against the device --------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Both:
    """The example split at two points: in PyTorch as it would be trained, and compiled."""

    network: SlicedNetwork
    rounding: FakeQuant
    compiled: Compiled
    x: Floats

    @property
    def sent(self) -> dict[str, Any]:
        return units_sent(self.compiled.program, self.inputs)

    @property
    def inputs(self) -> list[Any]:
        return self.compiled.quantized.quantize_inputs({self.network.input: self.x})


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Start:
    out = tmp_path_factory.mktemp("unused")
    return prepare(
        TrainOptions(MODEL, CALIBRATION, out, partition="block1,pointwise,local", slices="1,4,6"), quiet
    )


def test_equalized_network_answers_as_before(start: Start) -> None:
    """Ranges are made even before rounding; what the network computes stays the same."""
    feeds = {name: torch.from_numpy(x) for name, x in start.calibration.take(16).inputs.items()}
    before, after = TorchGraph(start.original), TorchGraph(start.model)
    wanted = before.run(feeds, start.answer)
    torch.testing.assert_close(after.run(feeds, start.answer), wanted, atol=1e-4, rtol=1e-4)
    changed = [name for name, w in after.trained().items() if not np.array_equal(w, before.trained()[name])]
    assert changed


@pytest.fixture(scope="module", params=[8, 4])
def both(request: pytest.FixtureRequest, start: Start, tmp_path_factory: pytest.TempPathFactory) -> Both:
    torch.manual_seed(request.param)
    network = SlicedNetwork(TorchGraph(start.model), [cut.module() for cut in start.cuts], start.answer)
    network.eval()
    x = load_samples(start.model, TEST, most=48).inputs[network.input]
    with torch.no_grad():
        network.settle(torch.from_numpy(x))
        for parameter in network.parameters():  # as if something had been learned
            parameter += 0.05 * parameter.abs().max() * torch.randn_like(parameter)
    rounding = fake_quant(
        with_weights(start.model, network.graph.trained()),
        [cut.made_of for cut in start.cuts],
        {point.name: point.encoder() for point in network.points},
        start.calibration,
        local=True,
        bits=request.param,
    )
    with torch.no_grad():
        for parameter in rounding.parameters():
            if parameter.requires_grad:
                parameter += 1.2 * torch.rand_like(parameter) - 0.6
    network.rounding = rounding
    path = tmp_path_factory.mktemp("trained") / "model.onnx"
    options = TrainOptions(MODEL, CALIBRATION, path.parent, partition="", unit_bits=request.param)
    path.write_bytes(trained_model(network, start, options))
    return Both(network, rounding, compile_model(Options(path, "stm32f7", CALIBRATION, samples=64), quiet), x)


def test_units_are_those_of_the_device(both: Both) -> None:
    sent = both.sent
    assert list(sent) == ["block1", "pointwise"]
    scales = both.rounding.scales()
    with torch.no_grad():
        for number, (name, units) in enumerate(sent.items()):
            found = both.network.units(torch.from_numpy(both.x), number).numpy() / scales[f"{name}/units"]
            np.testing.assert_array_equal(found, units)
            assert len(np.unique(units)) > 10


def assert_same_tensors(network: SlicedNetwork, rounding: FakeQuant, compiled: Compiled, x: Floats) -> int:
    """Every tensor with a scale of its own, but for units; how many these are."""
    scales, compared = rounding.scales(), 0
    layouts = compiled.quantized.network.layouts
    with torch.no_grad():
        given = rounding.values(network.input, torch.from_numpy(x))
        inputs = compiled.quantized.quantize_inputs({network.input: x})
        for operator, value in reference.walk(compiled.program, inputs):
            name = operator.output.name
            if name in scales and not name.endswith("/units"):
                found = network.graph.run({network.input: given}, name, rounding).numpy() / scales[name]
                np.testing.assert_array_equal(found, layouts[name].to_graph(value), name)
                compared += 1
    return compared


def test_all_tensors_are_those_of_the_device(both: Both) -> None:
    assert assert_same_tensors(both.network, both.rounding, both.compiled, both.x) > 5


GATES = (
    "m (float[1,3,7,7] x, float[8,3,3,3] w, float[8] b, float[8,8,1,1] v, float[8] c, float[5,8] u, float[5] d) => "
    "(float[a,b] y) <float three = {3}, float zero = {0}, float six = {6}> { h = Conv <pads: ints = [1, 1, 1, 1]> (x, w, b) "
    "s = HardSwish (h) g = GlobalAveragePool (s) f = Conv (g, v, c) z = HardSigmoid <alpha: float = 0.16666667> (f) "
    "m = Mul (s, z) i = Add (m, three) j = Clip (i, zero, six) k = Div (j, six) n = Sigmoid (k) o = Mul (m, n) "
    "p = GlobalAveragePool (o) q = Flatten (p) y = Gemm <transB: int = 1> (q, u, d) }"
)


def test_gates_are_those_of_the_device(tmp_path: Path) -> None:
    """Functions of one value are tables there, of float64: a sixth of a step's multiple is often half-way between two."""
    path = tmp_path / "gates.onnx"
    proto = parse_proto(GATES, opset=18)
    for each in proto.graph.initializer:
        if each.name in ("v", "c"):  # so that what goes into HardSigmoid has the format of what comes out
            each.CopyFrom(numpy_helper.from_array(0.1 * numpy_helper.to_array(each), each.name))
    onnx.save(proto, path)
    x = np.random.default_rng(0).normal(size=(256, 3, 7, 7)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=x)
    options = TrainOptions(path, tmp_path / "x.npz", tmp_path, partition="local")
    start = prepare(options, quiet)
    network = SlicedNetwork(TorchGraph(start.model), [], start.answer).eval()
    network.rounding = rounding = fake_quant(start.model, [], {}, start.calibration, local=True, bits=8)
    trained = tmp_path / "trained.onnx"
    trained.write_bytes(trained_model(network, start, options))
    compiled = compile_model(
        Options(trained, "stm32f7", tmp_path / "x.npz", samples=64, partition="local"), quiet
    )
    assert assert_same_tensors(network, rounding, compiled, x) > 8


def test_answers_are_those_of_the_cloud(both: Both) -> None:
    bits = both.compiled.program.taps[0].bits
    for number, (name, units) in enumerate(both.sent.items()):
        cloud = both.compiled.files.files[f"cloud/model_{name}/1/model.onnx"]
        scale = both.rounding.scales()[f"{name}/units"]
        for count in (1, 4, 6):
            arrived = pack_units(units, bits).copy()
            arrived[:, count:] = 0
            [wanted] = run(cloud, {UNITS: arrived, RECEIVED: np.full(len(units), count, np.int64)})
            with torch.no_grad():
                got = both.network.answer(torch.from_numpy(units * np.float32(scale)), number, count).numpy()
            np.testing.assert_allclose(got, wanted, atol=1e-4 * np.abs(wanted).max(), rtol=0)
