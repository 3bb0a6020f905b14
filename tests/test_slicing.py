"""Ordered units: what an error costs, the order that leaves least of it, and how many may be sent."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from graph_text import parse
from hypothesis import given
from hypothesis import strategies as st

from clio_cc import graph, slicing
from clio_cc.slicing import (
    MOST_COUNTS,
    Encoder,
    Method,
    auto_counts,
    divergence,
    fit_encoder,
    metric,
    normalized,
    probed_samples,
    readers_gram,
    sensitivity,
)

Array = npt.NDArray[Any]


def softmax(scores: Array) -> Array:
    e = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


def spread(rng: np.random.Generator, channels: int, rank: int | None = None) -> Array:
    """A covariance of channels that differ in size; of a rank below theirs if asked."""
    mixing = rng.standard_normal((channels, channels if rank is None else rank))
    sizes = rng.uniform(0.1, 3, channels)[:, None]
    return np.asarray((sizes * mixing) @ (sizes * mixing).T)


def values(rng: np.random.Generator, covariance: Array, count: int = 50) -> Array:
    """Samples with exactly that covariance, around a mean."""
    channels = len(covariance)
    white = rng.standard_normal((count, channels))
    white -= white.mean(axis=0)
    root = np.linalg.cholesky(np.cov(white.T, bias=True).reshape(channels, channels))
    white = np.linalg.solve(root, white.T).T
    sizes, vectors = np.linalg.eigh(covariance)
    return np.asarray(white @ (vectors * np.sqrt(np.maximum(sizes, 0))).T + rng.standard_normal(channels))


def left(code: Array, covariance: Array, cost: Array) -> float:
    """Share of the weighted error that the best linear decoder of ``code @ x`` leaves."""
    known = covariance @ code.T
    rest = covariance - known @ np.linalg.pinv(code @ known, rcond=1e-10, hermitian=True) @ known.T
    return float(np.sum(rest * cost) / np.sum(covariance * cost))


def of_x(x: Array) -> Array:
    """Covariance over samples and positions."""
    rows = np.moveaxis(x, 1, -1).reshape(-1, x.shape[1])
    return np.atleast_2d(np.cov(rows.T, bias=True))


# --- what an error costs ----------------------------------------------------------------------------


def test_sensitivity_of_a_linear_tail_is_the_gram_matrix_of_its_weights() -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((5, 3))
    x = rng.standard_normal((8, 5)).astype(np.float32)
    found = sensitivity(lambda v: v.astype(np.float64) @ weight, x, "values")
    np.testing.assert_allclose(found, normalized(weight @ weight.T), rtol=1e-4, atol=1e-6)
    assert np.trace(found) == pytest.approx(5)


def test_sensitivity_sums_over_positions() -> None:
    """Random signs keep positions apart: a sum over positions that cancels for equal errors still counts."""
    rng = np.random.default_rng(1)
    weight = rng.standard_normal((3, 2, 2, 4))
    weight[:, 0] = -weight[:, 1]
    x = rng.standard_normal((6000, 3, 2, 2)).astype(np.float32)
    exact = np.einsum("chwk,dhwk->cd", weight, weight)
    found = sensitivity(
        lambda v: np.einsum("nchw,chwk->nk", v.astype(np.float64), weight),
        x,
        "values",
    )
    np.testing.assert_allclose(found, normalized(exact), atol=0.06)


@pytest.mark.parametrize("probabilities", [False, True])
def test_sensitivity_to_classes_is_that_of_their_log_probabilities(probabilities: bool) -> None:
    """Analytic: ``W (I - 1 1ᵀ / classes) Wᵀ``, whether the network ends in scores or in probabilities."""
    rng = np.random.default_rng(2)
    weight = rng.standard_normal((4, 3))
    x = rng.standard_normal((64, 4)).astype(np.float32)

    def tail(v: Array) -> Array:
        scores = v.astype(np.float64) @ weight + 5
        return softmax(scores) if probabilities else scores

    found = sensitivity(tail, x, "probabilities" if probabilities else "scores")
    centered = weight @ (np.eye(3) - 1 / 3) @ weight.T
    np.testing.assert_allclose(found, normalized(centered), rtol=0.01, atol=1e-3)
    plain = sensitivity(tail, x, "values")
    assert np.abs(plain - found).max() > 0.05


def test_divergence() -> None:
    rng = np.random.default_rng(9)
    right = rng.standard_normal((50, 4))
    assert divergence(right, right, "scores") == 0
    assert divergence(right, right + 7, "scores") == pytest.approx(0)  # common to all classes: nothing
    assert divergence(right, right + 7, "values") > 10
    mean = np.broadcast_to(right.mean(axis=0), right.shape)
    assert divergence(right, mean, "values") == pytest.approx(1)  # no better than always saying the mean
    assert divergence(softmax(right), softmax(right + 1), "probabilities") == pytest.approx(0)
    assert divergence(softmax(right), softmax(2 * right), "probabilities") == pytest.approx(
        divergence(right, 2 * right, "scores")
    )


def test_a_change_common_to_all_scores_is_none() -> None:
    x = np.random.default_rng(3).standard_normal((8, 2)).astype(np.float32)
    mixing = np.array([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
    found = sensitivity(lambda v: v.astype(np.float64) @ mixing, x, "scores")
    np.testing.assert_allclose(found, [[0, 0], [0, 2]], atol=1e-5)


def test_sensitivity_of_a_small_network() -> None:
    """Central differences agree with the derivative of tanh layers."""
    rng = np.random.default_rng(4)
    first, second = rng.standard_normal((4, 6)) * 0.4, rng.standard_normal((6, 2))
    x = rng.standard_normal((16, 4)).astype(np.float32)
    slope = 1 - np.tanh(x @ first) ** 2
    jacobian = np.einsum("ch,nh,hk->nck", first, slope, second)
    found = sensitivity(lambda v: np.tanh(v.astype(np.float64) @ first) @ second, x, "values")
    exact = normalized(np.einsum("nck,ndk->cd", jacobian, jacobian))
    np.testing.assert_allclose(found, exact, rtol=0.01, atol=1e-3)


def test_sensitivity_leaves_its_input_and_is_the_same_twice() -> None:
    x = np.random.default_rng(5).standard_normal((4, 3, 2)).astype(np.float32)
    before = x.copy()

    def tail(v: Array) -> Array:
        return np.asarray(np.maximum(v, 0).sum(axis=2))

    first = sensitivity(tail, x, "values")
    np.testing.assert_array_equal(x, before)
    np.testing.assert_array_equal(first, sensitivity(tail, x, "values"))


@pytest.mark.parametrize("answer", [0.0, np.nan], ids=["constant", "nan"])
def test_a_tail_that_says_nothing(answer: float) -> None:
    found = sensitivity(
        lambda v: np.full((len(v), 2), answer),
        np.ones((4, 3), np.float32),
        "values",
    )
    np.testing.assert_array_equal(found, np.zeros((3, 3)))
    np.testing.assert_allclose(metric(found, np.zeros((3, 3))), np.eye(3), atol=1e-5)


def test_probed_samples_follow_the_tails_size() -> None:
    few, many = slicing.PROBED_SAMPLES
    assert probed_samples(16, 0, 10) == many
    assert probed_samples(64, 10**12, 10) == few
    assert probed_samples(10, int(slicing.PROBED_MACS) // 200, 10) == 20
    assert probed_samples(10, 0, slicing.PROBED_VALUES // 30) == 3  # an answer like an image
    assert probed_samples(1000, 0, slicing.PROBED_VALUES) == 1


READERS = {
    "y = Conv(x, k)": "oihw,ojhw->ij",
    "y = Gemm <transB=1> (v, w)": "oi,oj->ij",
    "y = Gemm (v, u)": "io,jo->ij",
}


@pytest.mark.parametrize("body", READERS)
def test_readers_gram(body: str) -> None:
    model = parse(
        "m (float[1,3,4,4] x, float[1,3] xv, float[5,3,2,2] k, float[6,3] w, float[3,6] u) => (float[a,b] y)"
        f"{{ {body} }}".replace("(v,", "(xv,")
        if "Gemm" in body
        else f"m (float[1,3,4,4] x, float[5,3,2,2] k) => (float[a,b,c,d] y) {{ {body} }}"
    )
    node = model.graph[0]
    value, weight = node.inputs[0], graph.constant(graph.input_at(node, 1))
    assert value is not None and weight is not None
    exact = np.einsum(READERS[body], weight.astype(float), weight.astype(float))
    np.testing.assert_allclose(readers_gram(value), normalized(exact), rtol=1e-5)


def test_readers_that_nothing_is_known_of() -> None:
    nets = (
        "m (float[1,4,4,4] x, float[4,1,3,3] k) => (float[a,b,c,d] y) { y = Conv<group=4>(x, k) }",
        "m (float[1,4,4,4] x, float[2,4,1,1] k) => (float[a,b,c,d] y, float[a,b,c,d] z) { y = Conv(x, k) z = Exp(x) }",
    )
    for text in nets:
        value = parse(text).graph.inputs[0]
        np.testing.assert_array_equal(readers_gram(value), np.zeros((4, 4)))


def test_two_readers_add_up() -> None:
    model = parse(
        "m (float[1,2,3,3] x, float[4,2,1,1] k, float[3,2,2,2] l) => (float[a,b,c,d] y, float[a,b,c,d] z)"
        "{ y = Conv(x, k) z = Conv(x, l) }"
    )
    weights = [graph.constant(graph.input_at(node, 1)) for node in model.graph]
    exact = sum(
        np.einsum("oihw,ojhw->ij", w.astype(float), w.astype(float)) for w in weights if w is not None
    )
    value = model.graph.inputs[0]
    np.testing.assert_allclose(readers_gram(value), normalized(np.asarray(exact)), rtol=1e-5)


# --- units --------------------------------------------------------------------------------------------


@given(st.integers(1, 7), st.integers(0, 10**6), st.data())
def test_rotation_is_the_best_linear_code(channels: int, seed: int, data: st.DataObject) -> None:
    rng = np.random.default_rng(seed)
    covariance, cost = spread(rng, channels), spread(rng, channels) + 0.01 * np.eye(channels)
    encoder = fit_encoder(values(rng, covariance), cost, "rotation")
    count = data.draw(st.integers(1, channels))
    reached = left(encoder.weight[:count], covariance, cost)
    assert reached == pytest.approx(encoder.residual[count], abs=1e-6)
    for _ in range(20):
        other = rng.standard_normal((count, channels))
        near = encoder.weight[:count] * (1 + 0.1 * rng.standard_normal((count, channels)))
        assert min(left(other, covariance, cost), left(near, covariance, cost)) >= reached - 1e-6


@given(st.integers(1, 7), st.integers(0, 10**6), st.integers(1, 7))
def test_each_selected_channel_is_the_best_next_one(channels: int, seed: int, rank: int) -> None:
    rng = np.random.default_rng(seed)
    covariance, cost = spread(rng, channels, rank), spread(rng, channels) + 0.01 * np.eye(channels)
    x = values(rng, covariance)
    encoder = fit_encoder(x, cost, "selection")
    assert sorted(encoder.order) == list(range(channels))
    exact, chosen = np.eye(channels), list(encoder.order)
    for count in range(1, channels + 1):
        reached = left(exact[chosen[:count]], of_x(x), cost)
        assert encoder.residual[count] == pytest.approx(reached, abs=1e-6)
        for other in chosen[count:]:
            assert left(exact[[*chosen[: count - 1], other]], of_x(x), cost) >= reached - 1e-6


@given(st.integers(2, 7), st.integers(0, 10**6), st.sampled_from(slicing.METHODS))
def test_what_is_left_only_falls(channels: int, seed: int, method: Method) -> None:
    rng = np.random.default_rng(seed)
    encoder = fit_encoder(values(rng, spread(rng, channels)), spread(rng, channels), method)
    assert encoder.residual.shape == (channels + 1,)
    assert encoder.residual[0] == 1
    assert (np.diff(encoder.residual) <= 0).all()
    assert encoder.residual[-1] == pytest.approx(0, abs=1e-9)


@given(st.integers(2, 6), st.integers(0, 10**6))
def test_a_rotation_never_leaves_more_than_a_selection(channels: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, cost = values(rng, spread(rng, channels)), spread(rng, channels)
    rotation, selection = (fit_encoder(x, cost, method) for method in slicing.METHODS)
    assert (rotation.residual <= selection.residual + 1e-9).all()


def units_of(encoder: Encoder, x: Array) -> Array:
    """Units by position, ``[positions, units]``."""
    rows = np.moveaxis(x, 1, -1).reshape(-1, x.shape[1])
    return np.asarray(rows @ encoder.weight.T + encoder.bias)


def test_few_samples_do_not_show_how_far_a_unit_goes() -> None:
    """A direction that three samples hardly show keeps room for what others may hold there."""
    rng = np.random.default_rng(7)
    x = rng.standard_normal((2000, 8))
    few, many = (fit_encoder(x[:count], np.eye(8), "rotation") for count in (3, 2000))
    assert (np.abs(units_of(few, x)) > 1).mean() < 0.02 and (np.abs(units_of(many, x)) > 1).mean() < 0.02
    assert (
        np.abs(units_of(many, x)).max(axis=0).min() > 0.5
    )  # where much is known, none of int8 is given away


def test_units_of_a_rotation_fill_int8() -> None:
    rng = np.random.default_rng(6)
    sizes = np.array([100, 10, 3, 1]).reshape(1, 4, 1, 1)
    x = rng.uniform(-1, 1, (5000, 4, 5, 5)) * sizes
    each = units_of(fit_encoder(x, np.eye(4), "rotation"), x)
    largest = np.abs(each).max(axis=0)
    assert ((largest > 0.9) & (largest < 2)).all()
    assert (np.abs(each) > 1).mean() < 0.01  # rare values may saturate
    np.testing.assert_allclose(each.mean(axis=0), 0, atol=1e-6)
    alike = np.abs(units_of(fit_encoder(x, np.eye(4), "rotation", formats_differ=False), x)).max(axis=0)
    assert 0.9 < alike[0] < 2 and alike[3] < 0.02


@pytest.mark.parametrize("seed", range(4))
def test_signs_are_its_own(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, cost = values(rng, spread(rng, 5)), spread(rng, 5)
    encoder = fit_encoder(x, cost, "rotation")
    assert (encoder.weight.sum(axis=1) > 0).all()
    shuffled = fit_encoder(x[rng.permutation(len(x))], cost, "rotation")
    np.testing.assert_allclose(encoder.weight, shuffled.weight, rtol=1e-6, atol=1e-9)


def test_a_large_channel_that_nobody_reads_comes_last() -> None:
    x = np.random.default_rng(8).standard_normal((100, 3)) * [100, 1, 2]
    cost = np.diag([1e-6, 1, 1])
    assert fit_encoder(x, cost, "selection").order == (2, 1, 0)
    rotation = fit_encoder(x, cost, "rotation")
    # What a channel matters: weight times its own spread.
    assert np.abs(rotation.weight * [100, 1, 2]).argmax(axis=1).tolist() == [2, 1, 0]


def test_a_duplicate_comes_after_all_that_is_news() -> None:
    rng = np.random.default_rng(9)
    x = rng.standard_normal((100, 4)) * [4, 3, 2, 1]
    x[:, 1] = x[:, 0]
    encoder = fit_encoder(x, np.eye(4), "selection")
    assert encoder.order == (0, 2, 3, 1)
    assert encoder.residual[3] == pytest.approx(0, abs=1e-12)


ODD = {
    "one channel": np.arange(8.0).reshape(8, 1),
    "one constant channel": np.full((8, 1), 3.0),
    "all zero": np.zeros((8, 3, 2, 2)),
    "one sample of a vector": np.ones((1, 3)) * [1, 2, 3],
    "one zero channel": np.random.default_rng(0).standard_normal((8, 3)) * [1, 0, 2],
    "one constant of three": np.random.default_rng(0).standard_normal((8, 3)) * [1, 0, 2] + [0, 7, 0],
    "fewer samples than channels": np.random.default_rng(0).standard_normal((3, 6)),
    "equal channels": np.tile(np.random.default_rng(0).standard_normal((8, 1)), (1, 3)),
    "tiny": np.random.default_rng(0).standard_normal((8, 3)) * 1e-20,
    "huge": np.random.default_rng(0).standard_normal((8, 3)) * 1e10,
    "three axes": np.random.default_rng(0).standard_normal((8, 3, 4)),
}


@pytest.mark.parametrize("method", slicing.METHODS)
@pytest.mark.parametrize("name", ODD)
def test_odd_tensors(name: str, method: Method) -> None:
    x = ODD[name]
    encoder = fit_encoder(x, np.eye(x.shape[1]), method)
    assert encoder.weight.shape == (x.shape[1],) * 2
    assert all(np.isfinite(part).all() for part in (encoder.weight, encoder.bias, encoder.residual))
    assert sorted(encoder.order) == (list(range(x.shape[1])) if method == "selection" else [])
    assert (np.diff(encoder.residual) <= 0).all() and encoder.residual[0] == 1
    if method == "rotation":
        assert (np.abs(units_of(encoder, x)) < 3).all()


def test_units_that_hold_nothing_do_not_ask_for_large_weights() -> None:
    """A dead channel's unit at full scale would be rounding noise, from weights beyond all bounds."""
    x = np.maximum(np.random.default_rng(1).standard_normal((50, 4)) * [1, 1, 0, 0], 0)
    encoder = fit_encoder(x, np.eye(4), "rotation")
    assert np.abs(encoder.weight[2:]).max() <= 1001 * np.abs(encoder.weight[:2]).max()


def test_many_channels_are_ordered_in_seconds() -> None:
    rng = np.random.default_rng(10)
    before = time.process_time()
    fit_encoder(rng.standard_normal((600, 512)), np.eye(512), "selection")
    assert time.process_time() - before < 10


# --- how many -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("early", [True, False])
def test_counts_of_every_size(early: bool) -> None:
    for units in range(1, 2049):
        counts = auto_counts(units, early)
        assert list(counts) == sorted(set(counts))
        assert counts[0] >= 1 and counts[-1] == units
        assert len(counts) <= MOST_COUNTS
        assert set(counts) >= {2**k for k in range(12) if 2**k < units}


def test_counts_follow_the_paper_while_there_is_room() -> None:
    assert auto_counts(1, True) == (1,)
    assert auto_counts(16, True) == (1, 2, 4, 6, 8, 12, 16)
    assert auto_counts(32, True) == (1, 2, 4, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32)
    assert auto_counts(32, False) == (1, 2, 4, 8, 12, 16, 24, 32)
    assert auto_counts(10, False) == (1, 2, 4, 8, 10)
    assert auto_counts(7, True) == (1, 2, 4, 7)
