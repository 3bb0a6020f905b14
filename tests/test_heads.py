"""Slice heads: least squares for every count, and the cloud graph computes what numpy does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from graph_text import parse, run
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from clio_cc.cloud import RECEIVED, UNITS, cloud_model, tail_model
from clio_cc.heads import (
    MOST_STRETCH,
    RIDGE,
    RIDGE_PER_INPUT,
    TABLE_BYTES,
    WINDOWS,
    Heads,
    choose_window,
    exact_heads,
    fit_heads,
    head_bytes,
    patches,
    restore,
    thinned,
)
from clio_cc.partition import find_point, partition_points
from clio_cc.passes.runner import run_passes
from clio_cc.qformat import Int8Array

Array = npt.NDArray[Any]
SCALE = 1 / 64


def sent(rng: np.random.Generator, *shape: int) -> Int8Array:
    return rng.integers(-128, 128, shape).astype(np.int8)


def naive_windows(values: Array, window: int) -> Array:
    """What every position sees, ``[n, height, width, units, window, window]``, zeros beyond the border."""
    count, units, height, width = values.shape
    seen = np.zeros((count, height, width, units, window, window))
    for row in range(height):
        for column in range(width):
            for y in range(window):
                for x in range(window):
                    r, c = row + y - window // 2, column + x - window // 2
                    if 0 <= r < height and 0 <= c < width:
                        seen[:, row, column, :, y, x] = values[:, :, r, c]
    return seen


def naive_fit(rows: Array, target: Array, stretch: float, widest: int) -> tuple[Array, Array]:
    """Ridge least squares with a mean, each input damped by its own variance; then the stretch."""
    means = rows.mean(axis=0), target.mean(axis=0)
    rows, target = rows - means[0], target - means[1]
    gram = rows.T @ rows / len(rows)
    ridge = RIDGE + RIDGE_PER_INPUT * widest / len(rows)
    weight = np.linalg.solve(gram + ridge * np.diag(np.diag(gram)), rows.T @ target / len(rows))
    reached = (rows @ weight).std(axis=0)
    factor = np.clip(target.std(axis=0) / np.maximum(reached, 1e-12), 1, MOST_STRETCH) ** stretch
    weight = weight * factor
    return weight.T, means[1] - means[0] @ weight


@pytest.mark.parametrize("stretch", [0.0, 1.0])
@pytest.mark.parametrize("window", WINDOWS)
def test_heads_are_ridge_least_squares_for_each_count(window: int, stretch: float) -> None:
    rng = np.random.default_rng(window)
    units = sent(rng, 60, 4, 5, 6)
    mixing = rng.standard_normal((3, 4))
    x = np.einsum("cu,nuhw->nchw", mixing, units * SCALE) + rng.standard_normal((60, 3, 5, 6)) + 2
    heads = fit_heads(units, SCALE, x, (1, 3, 4), window, stretch=stretch)
    seen = naive_windows(units * SCALE, window)
    target = np.moveaxis(x, 1, -1).reshape(-1, 3)
    for row, count in enumerate((1, 3, 4), 1):
        rows = seen[:, :, :, :count].reshape(len(target), -1)
        weight, bias = naive_fit(rows, target, stretch, units.shape[1] * window**2)
        size = count * window**2
        np.testing.assert_allclose(heads.weight[row, :, :size], weight, rtol=1e-3, atol=2e-4)
        np.testing.assert_allclose(heads.bias[row], bias, rtol=1e-3, atol=2e-4)
        assert not heads.weight[row, :, size:].any()
    np.testing.assert_allclose(heads.bias[0], target.mean(axis=0), rtol=1e-5)
    assert not heads.weight[0].any()
    assert heads.bytes == head_bytes(4, 3, window, 3)


def test_heads_of_vectors() -> None:
    rng = np.random.default_rng(0)
    units = sent(rng, 80, 5)
    x = (units * SCALE) @ rng.standard_normal((5, 4)) + rng.standard_normal((80, 4))
    heads = fit_heads(units, SCALE, x, (2, 5))
    for row, count in ((1, 2), (2, 5)):
        weight, bias = naive_fit(units[:, :count] * SCALE, x, 1.0, 5)
        np.testing.assert_allclose(heads.weight[row, :, :count], weight, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(heads.bias[row], bias, rtol=1e-3, atol=1e-4)
    restored = restore(heads, units * SCALE, [5] * 80)
    assert restored.shape == x.shape
    np.testing.assert_allclose(restored, (units * SCALE) @ weight.T + bias, rtol=1e-3, atol=1e-3)


def test_channels_keep_their_spread() -> None:
    """Least squares shrinks what it cannot know; a stretch gives it back, up to a bound."""
    rng = np.random.default_rng(1)
    units = sent(rng, 4000, 1)
    known = units[:, 0] * SCALE
    noise = rng.standard_normal((2, 4000)) * known.std()
    x = np.stack([known, known + noise[0], known + 20 * noise[1], np.full(4000, 3.0)], axis=1)
    heads = fit_heads(units, SCALE, x, (1,))
    restored = restore(heads, units * SCALE, [1] * 4000)
    assert restored[:, :2].std(axis=0) == pytest.approx(x[:, :2].std(axis=0), rel=0.01)
    plain = restore(fit_heads(units, SCALE, x, (1,), stretch=0), units * SCALE, [1] * 4000)
    assert restored[:, 2].std() == pytest.approx(MOST_STRETCH * plain[:, 2].std(), rel=0.01)
    np.testing.assert_allclose(restored[:, 3], 3.0, atol=1e-4)
    np.testing.assert_allclose(restored.mean(axis=0), x.mean(axis=0), atol=1e-3)


@pytest.mark.parametrize("dead", ["one", "all"])
def test_units_that_never_change(dead: str) -> None:
    rng = np.random.default_rng(2)
    units = sent(rng, 50, 3, 2, 2)
    units[:, 1 if dead == "one" else slice(None)] = 7
    x = rng.standard_normal((50, 4, 2, 2))
    heads = fit_heads(units, SCALE, x, (1, 2, 3), 3)
    assert np.isfinite(heads.weight).all() and np.isfinite(heads.bias).all()
    assert np.abs(restore(heads, units * SCALE, [3] * 50)).max() < 30
    # Of a window, only the border tells anything of a unit that never changes.
    assert dead == "all" or np.abs(heads.weight[:, :, 9 + 4]).max() < 1e-6


def test_fewer_samples_than_units() -> None:
    rng = np.random.default_rng(3)
    heads = fit_heads(sent(rng, 3, 8), SCALE, rng.standard_normal((3, 8)), (4, 8))
    assert np.isfinite(heads.weight).all() and np.isfinite(heads.bias).all()


def test_many_positions_are_thinned_out() -> None:
    """A fit on a draw of positions is close to one on all, and the same every time."""
    rng = np.random.default_rng(4)
    units = sent(rng, 200, 3, 6, 6)
    x = np.einsum("cu,nuhw->nchw", rng.standard_normal((2, 3)), units * SCALE)
    x = x + 0.1 * rng.standard_normal(x.shape)
    whole = fit_heads(units, SCALE, x, (2, 3), 3)
    thin = fit_heads(units, SCALE, x, (2, 3), 3, work=27**2 * 3000)
    assert 0 < np.abs(whole.weight[2] - thin.weight[2]).max() < 0.1
    again = fit_heads(units, SCALE, x, (2, 3), 3, work=27**2 * 3000)
    np.testing.assert_array_equal(thin.weight, again.weight)


def test_exact_heads_put_channels_back() -> None:
    order = (2, 0, 3, 1)
    x = np.random.default_rng(5).standard_normal((3, 4, 2, 2)).astype(np.float32)
    heads = exact_heads(order, 4)
    np.testing.assert_array_equal(restore(heads, x[:, list(order)], [4, 9, 4]), x)
    np.testing.assert_array_equal(restore(heads, x[:, list(order)], [3, 0, 1]), np.zeros_like(x))


def test_patches_are_windows() -> None:
    values = np.random.default_rng(6).standard_normal((2, 3, 4, 5)).astype(np.float32)
    for window in WINDOWS:
        seen = naive_windows(values, window).reshape(40, -1)
        np.testing.assert_array_equal(patches(values, window), seen.astype(np.float32))
        chosen = np.array([0, 7, 39])
        np.testing.assert_array_equal(patches(values, window, chosen), seen[chosen].astype(np.float32))
    vectors = values[:, :, 0, 0]
    np.testing.assert_array_equal(patches(vectors, 1), vectors)
    np.testing.assert_array_equal(
        patches(values[:, :, 0], 1), np.moveaxis(values[:, :, 0], 1, 2).reshape(10, 3)
    )


# --- how large ----------------------------------------------------------------------------------------


@given(
    st.integers(1, 600),
    st.integers(1, 600),
    st.integers(1, 24),
    st.sampled_from([(8, 8), (1, 9), (2, 2), (1, 1)]),
)
def test_the_window_is_the_widest_that_is_small(
    units: int, channels: int, counts: int, shape: tuple[int, int]
) -> None:
    chosen = choose_window(units, channels, counts, shape)
    sensible = [window for window in WINDOWS if window == 1 or window < 2 * max(shape)]
    assert chosen in sensible
    assert chosen == 1 or head_bytes(units, channels, chosen, counts) <= TABLE_BYTES
    for wider in sensible:
        assert wider <= chosen or head_bytes(units, channels, wider, counts) > TABLE_BYTES


def test_only_images_have_windows() -> None:
    assert (
        choose_window(4, 4, 2, ()) == choose_window(4, 4, 2, (16,)) == choose_window(4, 4, 2, (4, 4, 4)) == 1
    )
    assert choose_window(4, 4, 2, (8, 8)) == 5
    assert choose_window(4, 4, 2, (2, 2)) == 3


@given(st.integers(1, 4096), st.integers(1, 24))
def test_thinned_counts_fit(units: int, most: int) -> None:
    counts = sorted({max(1, units * k // most) for k in range(1, most + 1)})
    kept = thinned(counts, units, units)
    assert list(kept) == sorted(set(kept)) and set(kept) <= set(counts)
    assert kept[-1] == units
    assert len(kept) <= 2 or head_bytes(units, units, 1, len(kept)) <= TABLE_BYTES
    assert kept == tuple(counts) or head_bytes(units, units, 1, len(counts)) > TABLE_BYTES


# --- in the cloud graph -------------------------------------------------------------------------------

NET = """
    m (float[1,3,6,5] x, float[4,3,3,3] w, float[4] b, float[7,4,1,1] k, float[7,4,3,3] v, float[140,2] d) => (float[1,2] y)
    <int64[2] s = {1,-1}>
    {
        a = Conv<pads=[1,1,1,1]>(x, w, b) c = Conv<pads=[1,1,1,1]>(a, v)
        e = Conv(a, k) f = Add(c, e) r = Relu(f) p = MaxPool<kernel_shape=[2,2], strides=[1,1]>(r)
        g = Reshape(p, s) y = MatMul(g, d)
    }
"""


def fitted(window: int, counts: Sequence[int] = (1, 2, 4), seed: int = 0) -> tuple[Int8Array, Heads]:
    rng = np.random.default_rng(seed)
    units = sent(rng, 12, 4, 6, 5)
    return units, fit_heads(units, SCALE, rng.standard_normal((12, 4, 6, 5)), counts, window)


@pytest.mark.parametrize("window", WINDOWS)
def test_the_cloud_graph_computes_the_same(window: int) -> None:
    """Every count, allowed or between, none and too many, together in a batch and one by one."""
    model = parse(NET)
    run_passes(model)
    point = find_point(partition_points(model), "a")
    units, heads = fitted(window)
    received = np.array([0, 1, 2, 3, 4, 5, 99, -1, 3, 1, 0, 4], np.int64)
    proto = cloud_model(model, point, SCALE, heads)
    tail = tail_model(model, point)
    restored = restore(heads, units * np.float32(SCALE), received.tolist())
    [together] = run(proto, {UNITS: units, RECEIVED: received})
    np.testing.assert_allclose(together, run(tail, {UNITS: restored})[0], rtol=1e-5, atol=1e-4)
    for index, count in enumerate(received):
        alone = run(proto, {UNITS: units[index : index + 1], RECEIVED: received[index : index + 1]})[0]
        np.testing.assert_allclose(alone, together[index : index + 1], rtol=1e-5, atol=1e-4)
        allowed = max((each for each in heads.counts if each <= count), default=0)
        wanted = restore(heads, units[index : index + 1] * np.float32(SCALE), [allowed])
        np.testing.assert_array_equal(restored[index : index + 1], wanted)


@pytest.mark.parametrize("window", WINDOWS)
def test_units_beyond_the_count_do_not_matter(window: int) -> None:
    model = parse(NET)
    run_passes(model)
    units, heads = fitted(window)
    proto = cloud_model(model, find_point(partition_points(model), "a"), SCALE, heads)
    received = np.array([0, 1, 2, 3] * 3, np.int64)
    zeros = units.copy()
    for index, count in enumerate(received):
        zeros[index, [0, 1, 2, 2][count] :] = 0  # 3 is no allowed count: 2 units serve
    first, second = (run(proto, {UNITS: each, RECEIVED: received})[0] for each in (units, zeros))
    np.testing.assert_array_equal(first, second)
    assert np.ptp(first[0::4], axis=0).max() == 0 < np.ptp(first[1::4], axis=0).max()  # nothing: one answer


def weights(proto: onnx.ModelProto) -> dict[str, Array]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


@pytest.mark.parametrize("window", WINDOWS)
def test_a_graph_is_the_tail_once_and_the_heads(window: int) -> None:
    model = parse(NET)
    run_passes(model)
    point = find_point(partition_points(model), "a")
    tail = weights(tail_model(model, point))
    for counts in ((4,), (1, 2, 3, 4)):
        heads = fitted(window, counts)[1]
        proto = cloud_model(model, point, SCALE, heads)
        held = weights(proto)
        for array in tail.values():
            same = [each for each in held.values() if each.shape == array.shape and (each == array).all()]
            assert len(same) == 1 or not array.any()
        extra = sum(array.nbytes for array in held.values()) - sum(array.nbytes for array in tail.values())
        assert heads.bytes <= extra <= heads.bytes + 4 * 4 * window**4 + 300  # the window's kernels, shapes
        assert len(proto.SerializeToString()) < sum(a.nbytes for a in held.values()) + 4000


@pytest.mark.parametrize("samples", [1, 3, 16])
def test_with_little_data_the_encoders_inverse_is_what_counts(samples: int) -> None:
    """All units restore a vector that nothing like it was fitted on; so they do with any data that is constant."""
    rng = np.random.default_rng(samples)
    mixing = rng.standard_normal((12, 12))
    codes = rng.integers(-100, 100, (samples, 12)).astype(np.int8)
    prior = np.linalg.inv(mixing)
    x = (codes * SCALE) @ prior.T + 3.0
    fitted = fit_heads(codes, SCALE, x, (4, 12), 1, prior=prior)
    fresh = rng.integers(-100, 100, (50, 12)).astype(np.int8)
    restored = restore(fitted, fresh.astype(np.float32) * np.float32(SCALE), [12] * 50)
    np.testing.assert_allclose(
        restored, (fresh * SCALE) @ prior.T + 3.0, rtol=1e-3, atol=1e-3 * np.abs(prior).max()
    )
    blind = fit_heads(codes, SCALE, x, (4, 12), 1)
    assert (
        np.abs(restore(blind, fresh.astype(np.float32) * np.float32(SCALE), [12] * 50) - restored).max() > 1
    )


def test_with_much_data_the_inverse_gives_way() -> None:
    """A wrong prior costs next to nothing where the data says otherwise."""
    rng = np.random.default_rng(5)
    codes = rng.integers(-100, 100, (20000, 4)).astype(np.int8)
    truth = rng.standard_normal((4, 4))
    x = (codes * SCALE) @ truth.T
    fitted = fit_heads(codes, SCALE, x, (4,), 1, prior=rng.standard_normal((4, 4)), stretch=0)
    np.testing.assert_allclose(fitted.weight[1], truth, atol=0.1)
