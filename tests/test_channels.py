"""Structured channel removal: what is tied together, that nothing else changes, and what pruning promises."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import light_models
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from digits import MODEL
from graph_text import assert_lines, parse, random_feeds, run, save
from hypothesis import given, settings
from hypothesis import strategies as st

from clio_cc import graph
from clio_cc.compiler import front_end
from clio_cc.errors import ClioError
from clio_cc.lower import lower
from clio_cc.partition import find_point, partition_points
from clio_cc.passes.fold_constants import FoldConstants
from clio_cc.passes.runner import run_passes
from clio_cc.training.channels import ChannelGroup, channel_groups, remove_channels
from clio_cc.training.pruning import FEWEST, prune, thin, weight_importance

CHAIN = """m (float[1,3,6,6] x, float[12,3,3,3] w1, float[12] b1, float[12,1,3,3] wd, float[12] bd,
  float[20,12,1,1] w2, float[20] b2, float[7,180] w3, float[7] b3) => (float[1,7] y) {
  a = Conv<pads=[1,1,1,1], kernel_shape=[3,3]>(x, w1, b1)
  b = Relu(a)
  c = Conv<pads=[1,1,1,1], kernel_shape=[3,3], group=12>(b, wd, bd)
  d = Relu(c)
  e = Conv<kernel_shape=[1,1]>(d, w2, b2)
  p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(e)
  s = Constant<value_ints=[1,180]>()
  f = Reshape(p, s)
  y = Gemm<transB=1>(f, w3, b3)
}"""
# A gate, Concat, a multiplier of channels, and constants per channel.
BRANCHES = """m (float[1,3,4,4] x, float[6,3,3,3] w1, float[6] b1, float[6,6,1,1] wg, float[6] bg,
  float[5,3,1,1] w2, float[5] b2, float[22,1,3,3] wd, float[22] bd, float[1,22,1,1] scale, float[22,1,1] slope,
  float[4,352] w3, float[4] b3) => (float[1,4] y) {
  a = Conv<pads=[1,1,1,1], kernel_shape=[3,3]>(x, w1, b1)
  q = GlobalAveragePool(a)
  g = Conv<kernel_shape=[1,1]>(q, wg, bg)
  gs = Sigmoid(g)
  h = Mul(a, gs)
  b = Conv<kernel_shape=[1,1]>(x, w2, b2)
  c = Concat<axis=1>(b, h)
  d = Conv<pads=[1,1,1,1], kernel_shape=[3,3], group=11>(c, wd, bd)
  m = Mul(scale, d)
  n = PRelu(m, slope)
  s = Constant<value_ints=[1,352]>()
  f = Reshape(n, s)
  y = Gemm<transB=1>(f, w3, b3)
}"""
RESIDUAL = """m (float[1,3,4,4] x, float[12,3,1,1] w1, float[12] b1, float[16,12,3,3] w2, float[16] b2,
  float[12,16,1,1] w3, float[12] b3, float[9,12,1,1] w4, float[9] b4) => (float[1,9,4,4] y) {
  a = Conv<kernel_shape=[1,1]>(x, w1, b1)
  b = Conv<pads=[1,1,1,1], kernel_shape=[3,3]>(a, w2, b2)
  r = Relu(b)
  c = Conv<kernel_shape=[1,1]>(r, w3, b3)
  t = Add(a, c)
  y = Conv<kernel_shape=[1,1]>(t, w4, b4)
}"""
TEXTS = {"chain": CHAIN, "branches": BRANCHES, "residual": RESIDUAL}

Kept = Mapping[str, Sequence[int]]


@functools.cache
def named(text: str) -> ir.Model:
    """A graph whose nodes are called like what they write; its constants are initializers."""
    model = parse(text)
    run_passes(model, [FoldConstants()])
    for node in model.graph:
        node.name = f"make_{node.outputs[0].name}"
    return model


@functools.cache
def loaded(path: Path) -> ir.Model:
    return front_end(path)


def trained(shared: Path, name: str) -> ir.Model:
    path = shared / "data/models" / f"{name}.onnx"
    if not path.is_file():
        pytest.skip(f"no {path.name}")
    return loaded(path)


def macs(model: ir.Model, until: str | None = None) -> int:
    if until is not None:
        model = graph.extract(model, [str(value.name) for value in model.graph.inputs], [until])
    return sum(graph.known_macs(node) for node in model.graph)


def by_name(model: ir.Model) -> dict[str, ir.Node]:
    return {str(node.name): node for node in model.graph}


def set_constant(value: ir.Value | None, array: graph.Array) -> None:
    assert value is not None
    value.const_value = ir.tensor(array, name=value.name)


def silenced(model: ir.Model, kept: Kept) -> ir.Model:
    """The model with zeros where channels that do not stay are written; depthwise biases are all zero."""
    quiet = model.clone()
    nodes = by_name(quiet)
    for group in channel_groups(model):
        gone = np.setdiff1d(np.arange(group.channels), kept.get(group.name, range(group.channels)))
        for name in group.writers:
            for index in (1, 2):
                array = np.array(graph.constant(nodes[name].inputs[index]))
                array[gone] = 0
                set_constant(nodes[name].inputs[index], array)
        for name in group.carriers:
            bias = graph.constant(nodes[name].inputs[2])
            assert bias is not None
            set_constant(nodes[name].inputs[2], np.zeros_like(bias))
    return quiet


def check_removal(model: ir.Model, kept: Kept) -> ir.Model:
    """Channels that are zero make no difference when they go. Returns what is left of the silenced model."""
    before = graph.to_bytes(model)
    assert channel_groups(model)
    quiet = silenced(model, kept)
    smaller = remove_channels(quiet, kept)
    onnx.checker.check_model(graph.to_proto(smaller), full_check=True)
    feeds = random_feeds(model)
    wanted, got = run(graph.to_bytes(quiet), feeds), run(graph.to_bytes(smaller), feeds)
    for a, b in zip(wanted, got, strict=True):
        assert a.shape == b.shape
        assert np.abs(a).max() > 1e-3 or not np.isfinite(a).all(), "this test sees nothing"
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-5 * max(1.0, float(np.abs(a).max())))
    for group in channel_groups(model):
        sizes = {graph.shape(value)[1] for value in values(smaller) if value.name in group.tensors}
        assert sizes == {len(kept.get(group.name, range(group.channels)))}
    assert names(smaller) == names(model)
    assert graph.to_bytes(model) == before
    return smaller


def check_canonical(smaller: ir.Model) -> None:
    before = graph.to_bytes(smaller)
    assert not any(record.modified for record in run_passes(smaller))
    assert graph.to_bytes(smaller) == before


def values(model: ir.Model) -> list[ir.Value]:
    return [value for node in model.graph for value in node.outputs]


def names(model: ir.Model) -> list[str | None]:
    return [*(n.name for n in model.graph), *(v.name for v in values(model)), *model.graph.initializers]


def random_kept(model: ir.Model, seed: int, fewest: int = 2) -> dict[str, list[int]]:
    rng = np.random.default_rng(seed)
    found = {}
    for group in channel_groups(model):
        count = int(rng.integers(min(fewest, group.channels), group.channels + 1))
        found[group.name] = sorted(rng.choice(group.channels, count, replace=False).tolist())
    return found


# --- groups --------------------------------------------------------------------------------------------


def test_groups_of_a_chain() -> None:
    first, second = channel_groups(named(CHAIN))
    assert first == ChannelGroup(
        name="a",
        channels=12,
        tensors=("a",),
        writers=("make_a",),
        carriers=("make_c",),
        readers=("make_e",),
        passes=("make_b", "make_d"),
    )
    assert (second.name, second.readers, second.passes) == ("e", ("make_y",), ("make_p", "make_f"))


def test_an_add_ties_what_it_adds() -> None:
    stream, inner = channel_groups(named(RESIDUAL))
    assert (stream.tensors, stream.readers, stream.passes) == (
        ("a", "c"),
        ("make_b", "make_y"),
        ("make_t",),
    )
    assert (inner.tensors, inner.readers) == (("b",), ("make_c",))


def test_concat_keeps_apart_what_it_joins() -> None:
    found = {group.name: group for group in channel_groups(named(BRANCHES))}
    assert list(found) == ["a", "b"]
    assert found["a"].tensors == ("a", "g")
    assert found["a"].carriers == found["b"].carriers == ("make_d",)
    assert found["a"].readers == ("make_g", "make_y")
    assert found["b"].readers == ("make_y",)


@pytest.mark.parametrize(
    ("body", "free"),
    [
        ("z = Transpose<perm=[0,2,1,3]>(a)\n y = Conv<kernel_shape=[1,1]>(z, w2, b2)", []),
        ("z = Softmax<axis=1>(a)\n y = Conv<kernel_shape=[1,1]>(z, w2, b2)", []),
        ("z = Conv<kernel_shape=[1,1], group=2>(a, wg, bg)\n y = Conv<kernel_shape=[1,1]>(z, w2, b2)", []),
        ("z = LRN<size=3>(a)\n y = Conv<kernel_shape=[1,1]>(z, w2, b2)", []),
        ("z = Add(a, x)\n y = Conv<kernel_shape=[1,1]>(z, w2, b2)", []),
        ("y = Relu(a)", []),
        ("z = Abs(a)\n y = Conv<kernel_shape=[1,1]>(z, w2, b2)", ["a"]),
    ],
)
def test_what_is_not_understood_is_fixed(body: str, free: list[str]) -> None:
    model = parse(
        f"""m (float[1,8,8,3] x, float[8,8,1,1] w1, float[8] b1, float[8,4,1,1] wg, float[8] bg,
        float[4,8,1,1] w2, float[4] b2) => (float[a,b,c,d] y) {{
        a = Conv<kernel_shape=[1,1]>(x, w1, b1)
        {body}
        }}"""
    )
    assert [group.name for group in channel_groups(model)] == free


def test_the_trunk_ends_at_the_cut() -> None:
    model = named(RESIDUAL)
    assert [group.name for group in channel_groups(model, "t")] == ["b"]
    assert [group.name for group in channel_groups(model, "t", cut=True)] == ["a", "b"]
    assert [group.name for group in channel_groups(model, "r", cut=True)] == ["b"]  # c is written behind it
    assert [group.name for group in channel_groups(model, ["r", "t"])] == []


# --- removal -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("seed", range(4))
def test_zero_channels_make_no_difference(text: str, seed: int) -> None:
    model = named(text)
    check_removal(model, random_kept(model, seed, fewest=1))


@given(st.data())
@settings(max_examples=15)
def test_any_channels_of_digits(data: st.DataObject) -> None:
    model = loaded(MODEL)
    kept = {}
    for group in channel_groups(model):
        some = data.draw(st.none() | st.sets(st.integers(0, group.channels - 1), min_size=2))
        if some is not None:
            kept[group.name] = sorted(some)
    smaller = check_removal(model, kept)
    check_canonical(smaller)
    lower(smaller)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    model = loaded(MODEL)
    smaller = remove_channels(model, prune(model, None, 0.5))
    again = front_end(save(graph.to_proto(smaller), tmp_path / "smaller.onnx"))
    assert graph.to_text(again) == graph.to_text(smaller)
    feeds = random_feeds(model)
    np.testing.assert_array_equal(run(graph.to_bytes(again), feeds), run(graph.to_bytes(smaller), feeds))


@pytest.mark.parametrize("name", ["resnet8_cifar10", "mobilenetv2_imagenette96"])
def test_real_networks(shared: Path, name: str) -> None:
    model = trained(shared, name)
    for kept in (random_kept(model, 1), prune(model, None, 0.4), thin(model, 0.5)):
        smaller = check_removal(model, kept)
        check_canonical(smaller)
        lower(smaller)


@pytest.mark.parametrize("name", ["light_densenet121", "light_resnet50", "light_squeezenet"])
def test_light_models(tmp_path: Path, name: str) -> None:
    model = front_end(save(light_models.filled(name), tmp_path / "model.onnx"))
    smaller = check_removal(model, random_kept(model, 2))
    check_canonical(smaller)


def test_weights_that_two_nodes_share() -> None:
    model = parse(
        """m (float[1,3,4,4] x, float[8,3,1,1] w, float[8] b, float[5,16,1,1] w2, float[5] b2) => (float[1,5,4,4] y) {
        p = Conv<kernel_shape=[1,1]>(x, w, b)
        q = Conv<kernel_shape=[1,1]>(x, w, b)
        c = Concat<axis=1>(p, q)
        y = Conv<kernel_shape=[1,1]>(c, w2, b2)
        }"""
    )
    smaller = remove_channels(model, {"q": [1, 6]})
    assert_lines(
        smaller,
        """
        p = Conv(x, w, b) kernel_shape=[1, 1]
        q = Conv(x, w_2, b_2) kernel_shape=[1, 1]
        c = Concat(p, q) axis=1
        y = Conv(c, w2, b2) kernel_shape=[1, 1]
        """,
    )
    weights = {name: graph.constant(value) for name, value in smaller.graph.initializers.items()}
    whole = graph.constant(model.graph.initializers["w"])
    assert whole is not None
    np.testing.assert_array_equal(weights["w"], whole)
    np.testing.assert_array_equal(weights["w_2"], whole[[1, 6]])


@pytest.mark.parametrize("indices", [[], [0, 0], [3, 2], [-1, 2], [11, 12]])
def test_channels_that_are_not_there(indices: list[int]) -> None:
    with pytest.raises(ClioError) as error:
        remove_channels(named(CHAIN), {"a": indices})
    assert str(error.value) == "the channels of 'a' that stay must be some of 0 to 11, ascending"


def test_a_group_that_is_not_there() -> None:
    with pytest.raises(ClioError) as error:
        remove_channels(named(CHAIN), {"y": [0]})
    assert str(error.value) == "'y' is not the name of channels that can be removed"


# --- choice --------------------------------------------------------------------------------------------


@given(percent=st.integers(1, 75), seed=st.integers(0, 99))
@settings(max_examples=10)
def test_pruning_removes_what_it_promises(percent: int, seed: int) -> None:
    model, share = loaded(MODEL), percent / 100
    rng = np.random.default_rng(seed)
    importance = {group.name: rng.random(group.channels) for group in channel_groups(model)}
    kept = prune(model, None, share, importance)
    smaller = remove_channels(model, kept)
    assert macs(smaller) <= (1 - share) * macs(model)
    for name, channels in kept.items():
        assert len(channels) >= FEWEST
        assert len(channels) % 4 == 0
        gone = np.setdiff1d(np.arange(len(importance[name])), channels)
        assert importance[name][gone].max() <= importance[name][list(channels)].min()
    # No step too many: of some group the last step can be taken back only with what was promised.
    wider = [remove_channels(model, _wider(model, kept, name)) for name in kept]
    assert any(macs(each) > (1 - share) * macs(model) for each in wider)


def _wider(model: ir.Model, kept: Kept, name: str) -> Kept:
    (channels,) = (group.channels for group in channel_groups(model) if group.name == name)
    count = min(channels, len(kept[name]) + 4)
    return {**kept, name: list(range(count))}


def test_pruning_takes_the_least_importance_per_work_saved() -> None:
    model = named(CHAIN)  # of a, a channel costs 27 + 9 + 20 multiply-accumulates per pixel
    of_a, of_e = np.linspace(1, 2, 12), np.linspace(2, 1, 20)
    assert prune(model, None, 0.01, {"a": of_a, "e": of_e}) == {"a": tuple(range(4, 12))}
    assert prune(model, None, 0.01, {"a": 100 * of_a, "e": of_e}) == {"e": tuple(range(16))}
    assert prune(model, None, 0.0) == {}


def test_pruning_leaves_the_cut_and_what_is_behind_it(shared: Path) -> None:
    model = trained(shared, "mobilenetv2_imagenette96")
    point = find_point(partition_points(model), "features.10")
    kept = prune(model, point.tensor, 0.4)
    smaller = remove_channels(model, kept)
    assert macs(smaller, point.tensor) <= 0.6 * macs(model, point.tensor)
    assert macs(smaller) - macs(smaller, point.tensor) == macs(model) - macs(model, point.tensor)
    (there,) = (value for value in values(smaller) if value.name == point.tensor)
    assert graph.shape(there) == point.shape
    lower(smaller, [find_point(partition_points(smaller), "features.10")])
    narrow = remove_channels(model, prune(model, point.tensor, 0.4, cut=True))
    assert macs(narrow, point.tensor) <= 0.6 * macs(model, point.tensor)


@pytest.mark.parametrize(
    ("width", "counts"), [(0.1, (4, 4)), (0.5, (8, 12)), (0.7, (8, 16)), (1.0, (12, 20))]
)
def test_thin(width: float, counts: tuple[int, int]) -> None:
    model = named(CHAIN)
    kept = thin(model, width)
    found = tuple(len(kept.get(group.name, range(group.channels))) for group in channel_groups(model))
    assert found == counts


def test_importance_without_data_follows_the_ways_of_a_channel() -> None:
    model = named(RESIDUAL)
    first, inner, last, after = (
        np.asarray(graph.constant(model.graph.initializers[name]), np.float64)
        for name in "w1 w2 w3 w4".split()
    )
    norm = {
        "w": (first**2).sum((1, 2, 3)),
        "r": (inner**2).sum((0, 2, 3)),
        "c": (last**2).sum((1, 2, 3)),
        "y": (after**2).sum((0, 2, 3)),
    }
    wanted = np.sqrt(norm["w"] * norm["r"] + (norm["w"] + norm["c"]) * norm["y"])
    np.testing.assert_allclose(weight_importance(model)["a"], wanted / wanted.sum())


def test_a_dead_depthwise_filter_makes_a_channel_worthless() -> None:
    model = named(CHAIN).clone()
    filters = np.array(graph.constant(model.graph.initializers["wd"]))
    filters[5] = 0
    set_constant(model.graph.initializers["wd"], filters)
    assert int(np.argmin(weight_importance(model)["a"])) == 5


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_share_out_of_range(share: float) -> None:
    with pytest.raises(ClioError) as error:
        prune(named(CHAIN), None, share)
    message = f"the share of multiply-accumulates to remove must be from 0 up to below 1, got {share:g}"
    assert str(error.value) == message


@pytest.mark.parametrize("width", [0.0, 1.5, float("nan")])
def test_width_out_of_range(width: float) -> None:
    with pytest.raises(ClioError) as error:
        thin(named(CHAIN), width)
    assert str(error.value) == f"the width must be above 0 and at most 1, got {width:g}"


def test_less_than_asked_for() -> None:
    with pytest.raises(ClioError) as error:
        prune(named(CHAIN), "e", 0.9, cut=True)
    assert str(error.value) == (
        "of the multiply-accumulates before 'e' 47.6% can be removed, not 90.0%\n"
        "  hint: at least 8 channels stay of those tied together"
    )


@pytest.mark.parametrize(
    ("text", "until", "message"),
    [
        (CHAIN, "a", "no channels can be removed before 'a': those of 'make_a' are cut"),
        (
            RESIDUAL,
            "r",
            "no channels can be removed before 'r': those of 'make_a' are written behind the cut too, "
            "those of 'make_b' are cut",
        ),
        (
            BRANCHES,
            "d",
            "no channels can be removed before 'd': those of 'make_a' are cut, those of 'make_g' are cut, "
            "those of 'make_b' are cut",
        ),
        (
            RESIDUAL.replace("16", "8").replace("12", "8"),
            None,
            "no channels can be removed: those of 'make_a' "
            "are not more than 8, those of 'make_b' are not more than 8, those of 'make_c' are not more than 8, "
            "... and 1 more",
        ),
        (
            "m (float[1,8] x) => (float[1,8] y) { y = Relu(x) }",
            None,
            "no channels can be removed: there is no Conv and no Gemm",
        ),
        (CHAIN, "nowhere", "there is no tensor 'nowhere' in the model"),
    ],
)
def test_nothing_to_prune(text: str, until: str | None, message: str) -> None:
    with pytest.raises(ClioError) as error:
        prune(named(text), until, 0.5)
    assert str(error.value) == message


def test_nothing_to_thin() -> None:
    model = named(
        "m (float[1,8] x, float[8,8] w, float[8] b) => (float[1,8] y) { y = Gemm<transB=1>(x, w, b) }"
    )
    with pytest.raises(ClioError) as error:
        thin(model, 0.5)
    assert str(error.value) == "no channels can be removed: those of 'make_y' are an answer of the network"
