"""The whole chain at small size: float network and samples → ordered units on the device → heads in the cloud."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest
from graph_text import parse

from clio_cc import graph, reference
from clio_cc.calibrate import Samples
from clio_cc.cloud import RECEIVED, UNITS, tail_model
from clio_cc.errors import ClioError
from clio_cc.float_run import Runner
from clio_cc.heads import Heads
from clio_cc.lower import lower
from clio_cc.ordering import before_activation
from clio_cc.partition import PartitionPoint, find_point, partition_points
from clio_cc.passes.runner import run_passes
from clio_cc.quantize import Quantized, quantize_model
from clio_cc.slicing import MOST_CHANNELS, MOST_COUNTS
from clio_cc.split import (
    FITTED_SAMPLES,
    CloudHalf,
    SlicedPoint,
    Slicing,
    cloud_half,
    fitting_samples,
    order_units,
    parse_slices,
    units_sent,
)

Array = npt.NDArray[Any]

# A ReLU (encoder), a linear bottleneck (folded), a residual sum (encoder), a vector behind a ReLU, scores.
NET = """
    m (float[1,3,8,8] x, float[6,3,3,3] w1, float[6] b1, float[5,6,1,1] w2, float[5] b2, float[5,5,3,3] w3,
       float[8,5,3,3] w4, float[128,10] w5, float[10] b5, float[10,4] w6) => (float[1,4] y) <int64[2] s = {1,-1}>
    {
        c1 = Conv<strides=[2,2], pads=[1,1,1,1]>(x, w1, b1) r1 = Relu(c1)
        c2 = Conv(r1, w2, b2)
        c3 = Conv<pads=[1,1,1,1]>(c2, w3) r3 = Relu(c3) a3 = Add(c2, r3)
        c4 = Conv<pads=[1,1,1,1]>(a3, w4) r4 = Relu(c4)
        f = Reshape(r4, s) m5 = MatMul(f, w5) g5 = Add(m5, b5) r5 = Relu(g5)
        y = MatMul(r5, w6)
    }
"""


@dataclass(frozen=True, eq=False)
class Split:
    """A model, split."""

    model: ir.Model
    quantized: Quantized
    points: tuple[SlicedPoint, ...]
    halves: dict[str, CloudHalf]
    samples: Samples

    def sent(self, x: Array) -> dict[str, Array]:
        """Units by point."""
        return {**units_sent(self.quantized.program, self.quantized.quantize_inputs({"x": x}))}

    def scale(self, name: str) -> float:
        program = self.quantized.program
        return next(program.tensors[tap.tensor].scale for tap in program.taps if tap.partition == name)

    def answer(self, name: str, x: Array, count: int) -> Array:
        """What the cloud answers when `count` units of a point arrive: the rest are zeros."""
        units = self.sent(x)[name].copy()
        units[:, count:] = 0
        return cloud_answer(self.halves[name], units, count)

    def original(self, x: Array) -> Array:
        return Runner(graph.to_proto(self.model))({"x": x})[0]


def heads_of(made: Split, name: str) -> Heads:
    found = made.halves[name].heads
    assert found is not None
    return found


def cloud_answer(half: CloudHalf, units: Array, count: int) -> Array:
    return Runner(half.model)({UNITS: units, RECEIVED: np.full(len(units), count, np.int64)})[0]


def canonical(text: str) -> ir.Model:
    model = parse(text)
    run_passes(model)
    return model


def images(model: ir.Model, count: int, seed: int = 0) -> Array:
    shape = graph.shape(model.graph.inputs[0])[1:]
    return np.random.default_rng(seed).standard_normal((count, *shape)).astype(np.float32)


def split(
    model: ir.Model,
    names: Sequence[str],
    slicing: Slicing | None = None,
    *,
    local: bool = False,
    samples: int = 64,
    seed: int = 0,
) -> Split:
    """All steps of compile that make units and heads."""
    slicing = slicing or Slicing()
    known = partition_points(model, inside_blocks=True)
    points = sorted((find_point(known, name) for name in names), key=lambda point: point.node_index)
    data = Samples({"x": images(model, samples, seed)})
    network = lower(model, points, local=local)
    fitting = fitting_samples(network, points, data)
    steps: list[tuple[int, int]] = []
    network, sliced = order_units(
        model, points, fitting, slicing, lambda done, of: steps.append((done, of)), local=local
    )
    assert steps == [(done, len(points)) for done in range(len(points) + 1)]
    quantized = quantize_model(model, network, data)
    sent = units_sent(quantized.program, quantized.quantize_inputs(fitting.inputs))
    scales = {t.partition: quantized.program.tensors[t.tensor].scale for t in quantized.program.taps}
    halves = {
        each.point.name: cloud_half(model, each, sent[each.point.name], scales[each.point.name], slicing)
        for each in sliced
    }
    return Split(model, quantized, sliced, halves, data)


def close(got: Array, wanted: Array) -> float:
    """Correlation of answers around their means."""
    got, wanted = got - got.mean(axis=0), wanted - wanted.mean(axis=0)
    return float(np.sum(got * wanted) / np.sqrt(np.sum(got**2) * np.sum(wanted**2)))


def point_of(model: ir.Model, name: str) -> PartitionPoint:
    return find_point(partition_points(model, inside_blocks=True), name)


# --- everything sent ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["r1", "c2", "a3", "r4", "r5"])
def test_a_selection_of_everything_is_the_tail_on_the_int8_tensor(name: str) -> None:
    model = canonical(NET)
    made = split(model, [name], Slicing((999,), "selection"))
    [sliced], x = made.points, images(model, 5, 1)
    assert sliced.counts == (sliced.point.shape[1],) and sliced.layer == "" and sliced.macs == 0
    [tap], [output] = (
        made.quantized.program.taps,
        made.quantized.dequantize_outputs(
            reference.run(made.quantized.program, made.quantized.quantize_inputs({"x": x}))
        ),
    )
    assert tap.order == sliced.encoder.order
    wanted = Runner(tail_model(model, sliced.point))({UNITS: output})[0]
    got = made.answer(sliced.point.name, x, sliced.units)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("method", ["rotation", "selection", "auto"])
@pytest.mark.parametrize("name", ["r1", "c2", "a3", "r5"])
def test_everything_sent_is_close_to_the_original(name: str, method: str) -> None:
    model = canonical(NET)
    made = split(model, [name], Slicing(None, method), samples=128)
    x = images(model, 64, 1)
    [sliced], wanted = made.points, made.original(x)
    counts = sliced.counts
    assert len(counts) <= MOST_COUNTS and counts[-1] == sliced.units == sliced.point.shape[1]
    reached = [close(made.answer(sliced.point.name, x, count), wanted) for count in counts]
    assert reached[-1] > 0.99
    assert reached[-1] >= max(reached) - 0.01
    nothing = made.answer(sliced.point.name, x, 0)
    np.testing.assert_allclose(nothing, np.repeat(nothing[:1], 64, axis=0), rtol=1e-5, atol=1e-6)


def test_a_rotation_is_worth_more_with_few_units() -> None:
    """Channels that are mixtures of others: half of the units say more than half of the channels."""
    model = canonical(
        "m (float[1,8,6,6] x, float[8,8,1,1] w, float[4,8,3,3] v, float[4] b, float[64,3] d) => (float[1,3] y)"
        " <int64[2] s = {1,-1}>"
        "{ c = Conv(x, w) e = Conv(c, v, b) r = Relu(e) f = Reshape(r, s) y = MatMul(f, d) }"
    )
    x, near = images(model, 64, 1), {}
    for method in ("rotation", "selection", "auto"):
        made = split(model, ["c"], Slicing((2, 4, 8), method), samples=256)
        assert made.points[0].encoder.method == ("selection" if method == "selection" else "rotation")
        near[method] = [close(made.answer("c", x, count), made.original(x)) for count in (2, 4)]
    assert (np.array(near["rotation"]) > np.array(near["selection"]) + 0.02).all()
    assert near["auto"] == near["rotation"]


# --- several points -----------------------------------------------------------------------------------


def test_several_points_share_one_device_half() -> None:
    model = canonical(NET)
    names = ["r1", "c2", "a3", "r4", "r5"]
    together = split(model, names, Slicing(None, "rotation"))
    assert [each.point.tensor for each in together.points] == names
    x = images(model, 4, 1)
    sent = together.sent(x)
    assert [*sent] == [tap.partition for tap in together.quantized.program.taps]
    for each in together.points:
        name = each.point.name
        assert sent[name].shape == (4, each.units, *each.point.shape[2:]) and sent[name].dtype == np.int8
        assert together.answer(name, x, each.units).shape == (4, 4)
    alone = split(model, ["a3"], Slicing(None, "rotation"))
    # The point's own units do not depend on other points; on the way there only formats may.
    [one] = alone.points
    same = next(each for each in together.points if each.point.tensor == "a3")
    np.testing.assert_allclose(same.encoder.weight, one.encoder.weight, rtol=1e-4, atol=1e-6)


def test_points_and_the_whole_network_on_the_device() -> None:
    model = canonical(NET)
    made = split(model, ["r1", "a3"], local=True)
    program = made.quantized.program
    assert len(program.outputs) == 3 and len(program.taps) == 2
    x = images(model, 64, 1)
    outputs = made.quantized.dequantize_outputs(
        reference.run(program, made.quantized.quantize_inputs({"x": x}))
    )
    assert close(outputs[-1], made.original(x)) > 0.99
    for each in made.points:
        assert close(made.answer(each.point.name, x, each.units), made.original(x)) > 0.99


def test_a_linear_layer_takes_the_encoder_in() -> None:
    """No operator more, and the same units in float; a sum needs one."""
    model = canonical(NET)
    data, slicing = Samples({"x": images(model, 32)}), Slicing(None, "rotation")
    for name, added in (("c2", 0), ("a3", 1)):
        point = point_of(model, name)
        plain = lower(model, [point])
        network, [sliced] = order_units(model, [point], data, slicing, lambda *_: None)
        assert len(network.layers) - len(plain.layers) == added
        pixels = int(np.prod(point.shape[2:]))
        assert (sliced.layer, sliced.macs) == (
            (f"{point.name}/units", point.shape[1] ** 2 * pixels) if added else ("", 0)
        )
        assert network.macs - plain.macs == sliced.macs
        feeds = {"x": plain.layouts["x"].to_device(data.inputs["x"].astype(np.float64))}
        channels = plain.run(feeds)[plain.taps[0].tensor]
        units = network.run(feeds)[network.taps[0].tensor]
        wanted = channels @ sliced.encoder.weight.T + sliced.encoder.bias
        np.testing.assert_allclose(units, wanted, rtol=1e-6, atol=1e-6)


def test_a_device_half_of_one_layer_that_makes_units() -> None:
    """Its output is no tensor of the model: nothing is left for the float run to calibrate but the input."""
    model = canonical(
        "m (float[1,3,4,4] x, float[4,3,1,1] w, float[2,4,4,4] v) => (float[a,b,c,d] y) { c = Conv(x, w) y = Conv(c, v) }"
    )
    made = split(model, ["c"], Slicing(None, "rotation"))
    assert [op.name for op in made.quantized.program.operators] == ["c"]
    x = images(model, 64, 1)
    assert close(made.answer("c", x, 4), made.original(x)) > 0.99


# --- options ------------------------------------------------------------------------------------------


def test_counts_asked_for() -> None:
    model = canonical(NET)
    made = split(model, ["r1", "r4"], Slicing((1, 2, 7, 999)))
    assert [each.counts for each in made.points] == [(1, 2, 6), (1, 2, 7, 8)]
    for each in made.points:
        assert heads_of(made, each.point.name).counts == each.counts


def test_a_window_asked_for() -> None:
    model = canonical(NET)
    made = split(model, ["r1"], Slicing((2, 6), window=1, stretch=0))
    assert heads_of(made, "r1").window == 1
    assert heads_of(split(model, ["r1"], Slicing((2, 6))), "r1").window == 5


@pytest.mark.parametrize("weighting", ["sensitivity", "readers", "none"])
def test_weightings(weighting: Any) -> None:
    """A channel that the next layer hardly reads comes last, unless nobody asks; its size alone would put it first."""
    model = canonical(
        "m (float[1,3,4,4] x, float[3,3,1,1] w, float[3,3,1,1] v, float[48,2] d) => (float[1,2] y) <int64[2] s = {1,-1}>"
        "{ c = Conv(x, w) r = Relu(c) e = Conv(r, v) q = Relu(e) f = Reshape(q, s) y = MatMul(f, d) }"
    )
    constants = {value.name: value for value in model.graph.initializers.values()}
    first = np.zeros((3, 3, 1, 1), np.float32)
    first[range(3), range(3), 0, 0] = (10, 1, 2)
    readers = next(node for node in model.graph if node.outputs[0].name in ("e", "q"))
    name = str(readers.inputs[1].name)  # type: ignore[union-attr]
    second = constants[name].const_value.numpy().copy()  # type: ignore[union-attr]
    second[:, 0] *= 1e-4
    constants["w"].const_value = ir.tensor(first, name="w")
    constants[name].const_value = ir.tensor(second, name=name)
    made = split(model, ["r"], Slicing(None, "selection", weighting))
    order = made.points[0].encoder.order
    assert order[0 if weighting == "none" else -1] == 0


def test_auto_keeps_channels_that_are_apart() -> None:
    """Channels that are independent and of very different size: a rotation has nothing to gain."""
    model = canonical(
        "m (float[1,4,4,4] x, float[4,1,1,1] w, float[4,4,1,1] v, float[64,2] d) => (float[1,2] y) <int64[2] s = {1,-1}>"
        "{ c = Conv<group=4>(x, w) e = Conv(c, v) q = Relu(e) f = Reshape(q, s) y = MatMul(f, d) }"
    )
    depthwise = model.graph.initializers["w"]
    sizes = np.array([8, 4, 2, 1], np.float32).reshape(4, 1, 1, 1)
    depthwise.const_value = ir.tensor(sizes, name="w")
    made = split(model, ["c"], Slicing(None, weighting="none"))
    assert made.points[0].encoder.method == "selection"
    assert made.points[0].encoder.order == (0, 1, 2, 3)
    forced = split(model, ["c"], Slicing(None, "rotation", "none"))
    assert forced.points[0].encoder.method == "rotation"


def test_a_sequence_is_only_selected() -> None:
    """(1, T, C): the device has no encoder for it, so units are its T rows in some order."""
    model = canonical("m (float[1,5,6] x, float[6,3] v) => (float[a,b,c] y) { r = Tanh(x) y = MatMul(r, v) }")
    for method in ("auto", "selection", "rotation"):
        made = split(model, ["r"], Slicing((1, 3, 5), method))
        [sliced] = made.points
        assert sliced.encoder.method == "selection" and sorted(sliced.encoder.order) == list(range(5))
        x = images(model, 16, 1)
        for count in (0, 1, 3, 5):
            assert made.answer(sliced.point.name, x, count).shape == (16, 5, 3)
        assert close(made.answer(sliced.point.name, x, 5), made.original(x)) > 0.99


@pytest.mark.parametrize("method", ["rotation", "selection"])
@pytest.mark.parametrize("samples", [1, 2, 64])
def test_dead_channels_and_few_samples(samples: int, method: str) -> None:
    """Channels that a ReLU never lets through, and fewer samples than units: no crash, and no nonsense."""
    model = canonical(
        "m (float[1,3,4,4] x, float[6,3,1,1] w, float[6] b, float[4,6,3,3] v, float[16,12] d, float[12,3] e)"
        " => (float[1,3] y) <int64[2] s = {1,-1}>"
        "{ c = Conv(x, w, b) r = Relu(c) g = Conv(r, v) q = Relu(g) f = Reshape(q, s) h = MatMul(f, d) t = Relu(h)"
        " y = MatMul(t, e) }"
    )
    bias = model.graph.initializers["b"]
    bias.const_value = ir.tensor(np.array([0.1, -99, 0, -99, -99, 0.2], np.float32), name="b")
    made = split(model, ["r", "t"], Slicing(None, method), samples=samples)
    x = images(model, 64, 1)
    for each in made.points:
        for count in (0, *each.counts):
            assert np.isfinite(made.answer(each.point.name, x, count)).all()
    if samples == 64:
        dead = made.points[0]
        reached = [close(made.answer("r", x, count), made.original(x)) for count in dead.counts]
        assert reached[-1] > 0.99
        if method == "selection":
            assert set(dead.encoder.order[3:]) == {1, 3, 4}


def test_fitting_takes_fewer_samples_of_large_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    model = canonical(NET)
    point = point_of(model, "r1")
    network, data = lower(model, [point]), Samples({"x": images(model, 100)})
    assert fitting_samples(network, [point], data).count == 100
    monkeypatch.setattr("clio_cc.split.FITTED_MACS", 40.5 * network.macs)
    assert fitting_samples(network, [point], data).count == 40
    monkeypatch.setattr("clio_cc.split.FITTED_BYTES", 4 * 30 * point.bytes)
    assert fitting_samples(network, [point], data).count == 30
    monkeypatch.setattr("clio_cc.split.FITTED_MACS", 0)
    assert fitting_samples(network, [point], data).count == FITTED_SAMPLES
    assert fitting_samples(network, [point], data.take(3)).count == 3


def test_two_runs_are_equal() -> None:
    first, second = (split(canonical(NET), ["r1", "c2"]) for _ in range(2))
    for name, half in first.halves.items():
        assert half.model == second.halves[name].model


def test_slices_on_the_command_line() -> None:
    assert parse_slices("auto") is None
    assert parse_slices("8, 1,2,2") == (1, 2, 8)
    for text in ("", "0", "1,,2", "-1", "1.5", "one", "²", "1,2,"):
        with pytest.raises(ClioError) as caught:
            parse_slices(text)
        words = f"--slices: '{text}' is not a list of unit counts\n  hint: give auto, or e.g. 1,2,4,8"
        assert str(caught.value) == words


def test_a_tensor_too_wide_to_slice_is_sent_whole() -> None:
    """All channels as they are: no encoder, no heads, exactly the float tail on what the device has."""
    wide = MOST_CHANNELS + 1
    model = canonical(
        f"m (float[1,8] x, float[8,{wide}] w, float[{wide},3] v) => (float[1,3] y)"
        " { a = MatMul(x, w) r = Relu(a) y = MatMul(r, v) }"
    )
    made = split(model, ["r"], samples=16)
    [sliced] = made.points
    assert (sliced.counts, sliced.units, sliced.layer) == ((wide,), wide, "")
    assert made.halves["r"].heads is None
    x = images(model, 4, seed=1)
    channels = made.sent(x)["r"].astype(np.float32) * np.float32(made.scale("r"))
    wanted = Runner(tail_model(model, sliced.point))({UNITS: channels})[0]
    np.testing.assert_allclose(made.answer("r", x, wide), wanted, rtol=1e-5, atol=1e-5)


def test_units_come_from_before_an_activation_where_that_is_better() -> None:
    """A ReLU whose readers want what a linear code can tell, and one that is fed by signs it would hide."""
    model = canonical(NET)
    point = point_of(model, "r4")
    moved = before_activation(model, point)
    assert moved is not None
    assert (moved.name, moved.shape, moved.macs_before) == (point.name, point.shape, point.macs_before)
    assert moved.node_index == point.node_index - 1
    assert before_activation(model, moved) is None  # a Conv writes it
    shared = canonical(
        "m (float[1,4] x, float[4,4] w) => (float[1,4] y) { a = MatMul(x, w) r = Relu(a) y = Add(r, a) }"
    )
    assert before_activation(shared, replace(point, tensor="r")) is None  # the cut would hold two tensors


@pytest.mark.parametrize("name", ["r1", "r4", "r5"])
def test_wherever_units_come_from_all_of_them_give_the_answer(name: str) -> None:
    model = canonical(NET)
    made = split(model, [name], Slicing(None, "rotation"))
    [sliced] = made.points
    assert sliced.point.tensor in (name, before_activation(model, point_of(model, name)).tensor)  # type: ignore[union-attr]
    x = images(model, 32, seed=3)
    assert close(made.answer(name, x, sliced.units), made.original(x)) > 0.98


@pytest.mark.parametrize("method", ["rotation", "selection"])
def test_units_that_are_never_sent_are_not_made(method: str) -> None:
    model = canonical(NET)
    made = split(model, ["a3"], Slicing((1, 3), method))
    [sliced], [tap] = made.points, made.quantized.program.taps
    assert (sliced.units, tap.units, sliced.counts) == (3, 3, (1, 3))
    assert made.sent(images(model, 2))["a3"].shape[1] == 3
    if method == "rotation":
        assert sliced.macs == 3 * 5 * 16
