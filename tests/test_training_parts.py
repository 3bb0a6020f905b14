"""The parts of a training: ways of samples, losses, batches, normalization, the split network, checkpoints, importance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from digits import CALIBRATION, MODEL
from graph_text import parse
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from clio_cc.calibrate import Samples, load_samples
from clio_cc.compiler import front_end
from clio_cc.errors import ClioError
from clio_cc.passes.runner import run_passes
from clio_cc.training.channels import channel_groups
from clio_cc.training.checkpoint import NAME, Checkpoint, find_checkpoint
from clio_cc.training.data import Dataset
from clio_cc.training.importance import taylor_importance
from clio_cc.training.network import EPSILON, MOMENTUM, Point, RunningNorm, SlicedNetwork, Way
from clio_cc.training.objective import TEMPERATURE, draw_ways, losses
from clio_cc.training.session import open_session, saying_batch_size
from clio_cc.training.settings import TrainOptions, parse_augment
from clio_cc.training.torch_graph import TorchGraph, with_weights

# --- ways ----------------------------------------------------------------------------------------------

TWO = [{1: 0.5, 4: 0.2, 8: 0.3}, {2: 0.9, 3: 0.1}]
shares = st.lists(
    st.dictionaries(st.integers(1, 64), st.floats(0.01, 1), min_size=1, max_size=5).map(
        lambda found: {count: weight / sum(found.values()) for count, weight in found.items()}
    ),
    min_size=1,
    max_size=3,
)


@given(shares, st.booleans(), st.integers(1, 100), st.integers(0, 99), st.booleans())
def test_all_samples_are_sent_at_every_point(
    found: list[dict[int, float]], local: bool, samples: int, seed: int, sandwich: bool
) -> None:
    ways = draw_ways(found, local, samples, np.random.default_rng(seed), sandwich=sandwich)
    for point in range(len(found) + local):
        assert sum(way.samples for way in ways if way.point == point) == samples
    assert all(way.samples > 0 for way in ways)
    places = [(way.point, way.count) for way in ways]
    assert places == sorted(set(places))
    for point, count in places:
        assert count == 0 if point == len(found) else count in found[point]
    assert local or max(place[0] for place in places) < len(found)


@given(shares, st.integers(1, 100), st.integers(0, 99))
def test_shares_of_a_batch_are_nearly_the_probabilities(
    found: list[dict[int, float]], samples: int, seed: int
) -> None:
    for way in draw_ways(found, False, samples, np.random.default_rng(seed)):
        assert abs(way.samples - samples * found[way.point][way.count]) < 1 + 1e-9


def test_expected_shares_are_the_probabilities() -> None:
    """Of batches too small to hold every way: their mean over many draws."""
    rng = np.random.default_rng(0)
    drawn: dict[tuple[int, int], float] = dict.fromkeys([(0, 1), (0, 4), (0, 8), (1, 2), (1, 3), (2, 0)], 0.0)
    rounds, samples = 4000, 7
    for _ in range(rounds):
        for way in draw_ways(TWO, True, samples, rng):
            drawn[way.point, way.count] += way.samples / samples / rounds
    wanted = {(0, 1): 0.5, (0, 4): 0.2, (0, 8): 0.3, (1, 2): 0.9, (1, 3): 0.1, (2, 0): 1}
    for place, share in wanted.items():
        assert abs(drawn[place] - share) < 0.008, place


def test_what_never_arrives_is_not_trained() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        assert {way.count for way in draw_ways([{1: 0.0, 2: 1.0, 4: 0.0}], False, 5, rng)} == {2}


@given(st.integers(3, 40), st.integers(0, 99))
def test_sandwich_has_the_smallest_and_the_largest(samples: int, seed: int) -> None:
    share = {1: 0.0, 2: 0.5, 4: 0.5, 8: 0.0}
    ways = draw_ways([share], False, samples, np.random.default_rng(seed), sandwich=True)
    taken = {way.count: way.samples for way in ways}
    assert taken[1] == taken[8] == max(1, samples // 4)


def test_ways_are_those_of_the_seed() -> None:
    first, again, other = (draw_ways(TWO, True, 33, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert first == again != other


# --- losses --------------------------------------------------------------------------------------------

SCORES = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
TEACHER = np.random.default_rng(1).normal(size=(4, 5)).astype(np.float32)
LABELS = np.array([0, 3, 4, 1])


def softmax(scores: Any) -> Any:
    found = np.exp(scores)
    return found / found.sum(1, keepdims=True)


def loss(distill: float, *, original: bool = True, labels: bool = True) -> Any:
    return losses(
        torch.tensor(SCORES),
        torch.tensor(TEACHER) if original else None,
        torch.tensor(LABELS) if labels else None,
        "scores",
        distill,
    ).numpy()


def test_loss_by_formula() -> None:
    entropy = -np.log(softmax(SCORES)[np.arange(4), LABELS])
    wanted, got = softmax(TEACHER / TEMPERATURE), softmax(SCORES / TEMPERATURE)
    apart = TEMPERATURE**2 * (wanted * np.log(wanted / got)).sum(1)
    np.testing.assert_allclose(loss(0, original=False), entropy, rtol=1e-5)
    np.testing.assert_allclose(loss(1), apart, rtol=1e-4)
    np.testing.assert_allclose(loss(1, labels=False), apart, rtol=1e-4)
    np.testing.assert_allclose(loss(0.3), 0.7 * entropy + 0.3 * apart, rtol=1e-4)


def test_nothing_is_lost_where_answers_are_equal() -> None:
    """Or differ by what a softmax does not see."""
    answers = torch.tensor(SCORES)
    found = losses(answers + 3, answers, torch.tensor(LABELS), "scores", 1.0)
    assert found.abs().max() < 1e-6
    assert losses(answers, answers, None, "values", 1.0).tolist() == [0.0] * 4


def test_loss_of_values() -> None:
    answers, original = torch.tensor([[[1.0, 2.0]], [[0.0, 4.0]]]), torch.tensor([[[1.0, 0.0]], [[3.0, 1.0]]])
    assert losses(answers, original, None, "values", 1.0).tolist() == [2.0, 9.0]


def test_scores_may_have_axes_of_one() -> None:
    """A network may end with a convolution."""
    answers = torch.tensor(SCORES)[:, :, None, None]
    found = losses(answers, answers + 1, torch.tensor(LABELS), "scores", 0.0)
    np.testing.assert_allclose(found.numpy(), loss(0, original=False), rtol=1e-6)


# --- data ----------------------------------------------------------------------------------------------


def numbered(samples: int, *shape: int, **options: Any) -> Dataset:
    """Each sample is full of its number, and so is its label."""
    numbers = np.arange(samples)
    x = np.broadcast_to(numbers.reshape(-1, *[1] * len(shape)), (samples, *shape)).astype(np.float32)
    return Dataset(x, numbers, **options)


def order(data: Dataset, size: int, seed: tuple[int, int], part: tuple[int, int] = (0, 1)) -> list[list[int]]:
    found = []
    for batch in data.batches(size, seed, "cpu", part):
        assert batch.labels is not None
        assert torch.equal(batch.x.flatten(1)[:, 0].long(), batch.labels)
        found.append(batch.labels.tolist())
    return found


def test_order_is_that_of_seed_and_epoch() -> None:
    data = numbered(20, 3)
    first = order(data, 5, (7, 0))
    assert first == order(data, 5, (7, 0))
    assert first != order(data, 5, (7, 1)) and first != order(data, 5, (8, 0))
    assert sorted(number for batch in first for number in batch) == list(range(20))
    assert [len(batch) for batch in first] == [5] * 4 and data.count(5) == 4


@pytest.mark.parametrize(("samples", "size", "sizes"), [(11, 4, [4, 4]), (8, 4, [4, 4]), (3, 4, [3])])
def test_last_samples_that_make_no_batch_are_left_out(samples: int, size: int, sizes: list[int]) -> None:
    data = numbered(samples, 2)
    assert [len(batch) for batch in order(data, size, (0, 0))] == sizes
    assert data.count(size) == len(sizes)


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_every_batch(processes: int) -> None:
    data = numbered(24, 2)
    parts = [order(data, 8, (0, 0), (number, processes)) for number in range(processes)]
    for whole, *pieces in zip(order(data, 8, (0, 0)), *parts, strict=True):
        assert [number for piece in pieces for number in piece] == whole


def test_samples_as_they_are() -> None:
    data = numbered(10, 1, 4, 4, augment=("flip", "shift", "zoom"))
    part = data.part(8, 4, "cpu")
    assert part.labels is not None and part.labels.tolist() == [8, 9]
    assert part.x.shape == (2, 1, 4, 4)
    assert Dataset(data.x, None).part(0, 2, "cpu").labels is None


@pytest.mark.parametrize("augment", [("flip",), ("shift",), ("zoom",), ("flip", "shift", "zoom")])
@pytest.mark.parametrize("size", [(16, 24), (5, 3)])
def test_augmented_images_keep_shape_and_range(augment: tuple[str, ...], size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (6, 3, *size)).astype(np.float32)
    data = Dataset(x, np.arange(6), augment)
    [batch] = data.batches(6, (0, 0), "cpu")
    assert batch.labels is not None
    assert batch.x.shape == x.shape and batch.x.dtype == torch.float32
    assert float(batch.x.min()) >= x.min() and float(batch.x.max()) <= x.max()
    [again] = data.batches(6, (0, 0), "cpu")
    [later] = data.batches(6, (0, 1), "cpu")
    assert torch.equal(batch.x, again.x) and not torch.equal(batch.x, later.x)
    if size == (16, 24):
        assert not torch.equal(batch.x, torch.from_numpy(x[batch.labels]))


def test_flipped_images_are_mirrored_from_left_to_right() -> None:
    x = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4).repeat(40, 0)
    [batch] = Dataset(x, None, ("flip",)).batches(40, (0, 0), "cpu")
    mirrored = [bool(torch.equal(image, torch.from_numpy(x[0, :, :, ::-1].copy()))) for image in batch.x]
    assert 10 < sum(mirrored) < 30
    assert all(
        done or torch.equal(image, torch.from_numpy(x[0]))
        for done, image in zip(mirrored, batch.x, strict=True)
    )


def test_augmentation_knows_which_axes_are_the_image() -> None:
    """The same images, whichever axis holds the channels."""
    x = np.random.default_rng(0).normal(size=(5, 3, 16, 8)).astype(np.float32)
    augment = ("flip", "shift", "zoom")
    [first] = Dataset(x, None, augment).batches(5, (0, 0), "cpu")
    turned = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
    [last] = Dataset(turned, None, augment, channels_last=True).batches(5, (0, 0), "cpu")
    torch.testing.assert_close(last.x.permute(0, 3, 1, 2), first.x)


def test_unknown_augmentations() -> None:
    assert parse_augment("none") == ()
    assert parse_augment("flip, zoom") == ("flip", "zoom")
    with pytest.raises(ClioError) as caught:
        parse_augment("flip,blur")
    assert str(caught.value) == (
        "--augment: unknown augmentation 'blur'\n  hint: give none, or some of flip, shift, zoom"
    )


# --- normalization and points --------------------------------------------------------------------------


def point(bounds: tuple[float, float] | None = None, *, image: bool = True, window: int = 3) -> Point:
    """Of six channels, with heads for one, two and four units."""
    rng = np.random.default_rng(0)
    counts = (1, 2, 4)
    weights = [rng.normal(size=(6, count, *([window] * 2 if image else []))) for count in counts]
    biases = [rng.normal(size=6) for _ in counts]
    return Point(
        "p",
        "made",
        "tensor",
        bounds,
        counts,
        (rng.normal(size=(4, 6)), rng.normal(size=4)),
        (weights, biases),
    )


def some_units(*, image: bool = True) -> torch.Tensor:
    torch.manual_seed(0)
    return 3 * torch.randn(8, 4, *([5, 5] if image else [])) + 1


def test_running_norm_follows_slowly() -> None:
    norm, x = RunningNorm(2), torch.randn(50, 2, 3, 3) * torch.tensor([2.0, 5.0]).view(1, 2, 1, 1) + 4
    norm.eval()
    assert torch.equal(norm(x), x)
    norm.train()
    found = norm(x)
    mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
    torch.testing.assert_close(norm.mean, MOMENTUM * mean)
    torch.testing.assert_close(norm.spread, (1 - MOMENTUM + MOMENTUM * variance).sqrt())
    wanted = (x - norm.mean.view(1, 2, 1, 1)) / norm.spread.view(1, 2, 1, 1)
    torch.testing.assert_close(found, wanted)
    for _ in range(600):
        norm(x[:, :, 0, 0][:, :, None, None])
    norm.eval()
    rows = norm(x[:, :, 0, 0])
    torch.testing.assert_close(rows.mean(0), torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(rows.std(0, correction=0), torch.ones(2), atol=1e-4, rtol=0)


def test_channel_that_never_changes_does_not_divide_by_zero() -> None:
    norm = RunningNorm(1)
    norm.spread.zero_()
    assert torch.isfinite(norm(torch.zeros(4, 1))).all() and norm.spread.item() == pytest.approx(EPSILON)


@pytest.mark.parametrize("image", [True, False])
def test_head_has_its_normalization_folded_in(image: bool) -> None:
    made, units = point(image=image), some_units(image=image)
    for _ in range(5):
        for count in made.counts:
            made.raw(units, count)  # in training: statistics move
    with torch.no_grad():
        for parameter in [*made.gains, *made.offsets]:
            parameter += torch.rand_like(parameter)
    made.eval()
    for row, count in enumerate(made.counts):
        weight, bias = made.head(row)
        assert not weight.requires_grad and weight.shape[:2] == (6, count)
        if image:
            wanted = functional.conv2d(units[:, :count], weight, bias, padding=1)
        else:
            wanted = functional.linear(units[:, :count], weight, bias)
        torch.testing.assert_close(made.raw(units, count).detach(), wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("image", [True, False])
def test_settled_heads_restore_what_they_did(image: bool) -> None:
    made, units = point(image=image), some_units(image=image)
    made.eval()
    before = [made.raw(units, count).detach() for count in made.counts]
    made.settle(units)
    for row, (count, wanted) in enumerate(zip(made.counts, before, strict=True)):
        torch.testing.assert_close(made.raw(units, count).detach(), wanted, atol=1e-4, rtol=1e-4)
        normalized = made.norms[row](wanted)
        axes = (0, 2, 3) if image else (0,)
        torch.testing.assert_close(normalized.mean(axes), torch.zeros(6), atol=1e-4, rtol=0)
        torch.testing.assert_close(normalized.std(axes, correction=0), torch.ones(6), atol=1e-4, rtol=0)


def test_restored_values_are_bounded_as_the_activation_does() -> None:
    units = some_units()
    bounded, free = point((0.0, 6.0)).eval(), point().eval()
    wanted = free.restore(units, 2).clamp(0, 6)
    assert torch.equal(bounded.restore(units, 2), wanted)
    assert (free.restore(units, 2) < 0).any() and torch.equal(free.restore(units, 2), free.raw(units, 2))


def test_units_that_do_not_arrive_do_not_count() -> None:
    made, units = point().eval(), some_units()
    changed = units.clone()
    changed[:, 2:] += 100
    assert torch.equal(made.restore(units, 2), made.restore(changed, 2))
    assert not torch.equal(made.restore(units, 4), made.restore(changed, 4))


def test_encoder_is_what_units_are_made_by() -> None:
    made = point()
    weight, bias = made.encoder()
    assert weight.shape == (4, 6) and bias.shape == (4,)
    x = torch.randn(2, 6, 3, 3)
    wanted = np.moveaxis(np.tensordot(x.numpy(), weight, (1, 1)) + bias, -1, 1)
    np.testing.assert_allclose(made.encode(x, None).detach().numpy(), wanted, rtol=1e-4, atol=1e-5)
    weight[:] = 0
    assert made.encoder()[0].any()  # a copy


# --- the split network ---------------------------------------------------------------------------------

TOY = (
    "m (float[1,3,6,6] x, float[6,3,3,3] v, float[6] c, float[6,6,3,3] w, float[6] d, float[5,6] u, float[5] e) "
    "=> (float[a,b] y) <int64[2] shape = {1, 6}> { p = Conv <pads: ints = [1, 1, 1, 1]> (x, v, c) q = Relu (p) "
    "r = Conv <strides: ints = [2, 2], pads: ints = [1, 1, 1, 1]> (q, w, d) s = Relu (r) t = GlobalAveragePool (s) "
    "z = Reshape (t, shape) y = Gemm <transB: int = 1> (z, u, e) }"
)


class Coarse:
    """A rounding to halves."""

    def weights(self, _: str, weight: Any, bias: Any) -> Any:
        return weight.mul(2).round() / 2, bias

    def values(self, _: str, x: Any) -> Any:
        return x.mul(2).round() / 2


def toy(*, rounded: bool = False) -> SlicedNetwork:
    """Two points: units of what goes into an activation, and of what comes out of one."""
    first, second = point((0.0, float("inf"))), point()
    first.name, first.made_of, first.tensor = "first", "p", "q"
    second.name, second.made_of, second.tensor = "second", "s", "s"
    network = SlicedNetwork(TorchGraph(parse(TOY)), [first, second], "y")
    network.eval()
    rounding: Any = Coarse() if rounded else None
    network.rounding = rounding
    return network


def inputs(samples: int) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(samples, 3, 6, 6)


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize(
    "ways",
    [
        [Way(0, 1, 2), Way(0, 4, 1), Way(1, 2, 3), Way(2, 0, 3)],
        [Way(1, 1, 1), Way(1, 2, 1), Way(1, 4, 1)],
        [Way(0, 2, 3)],
        [Way(0, 2, 3), Way(2, 0, 3)],
        [Way(0, 4, 3), Way(1, 1, 1), Way(1, 2, 2)],
        [Way(2, 0, 3)],
    ],
)
def test_samples_go_their_ways(ways: list[Way], rounded: bool) -> None:
    """All in one pass as each way on its own."""
    network = toy(rounded=rounded)
    x = inputs(3)
    found, first = network(x, ways), 0
    for way in ways:
        mine = x[first % 3 : first % 3 + way.samples]
        if way.point == 2:
            start = mine if network.rounding is None else network.rounding.values("x", mine)
            wanted = network.graph.run({"x": start}, "y", network.rounding)
        else:
            wanted = network.answer(network.units(mine, way.point), way.point, way.count)
        torch.testing.assert_close(found[first : first + way.samples], wanted, atol=1e-4, rtol=1e-4)
        first += way.samples
    assert len(found) == first


def test_cloud_computes_in_floats() -> None:
    """Rounding ends where units are made."""
    network, plain = toy(rounded=True), toy()
    x = inputs(3)
    units = network.units(x, 0)
    assert torch.equal(units, units.mul(2).round() / 2) and not torch.equal(units, plain.units(x, 0))
    assert torch.equal(network.answer(units, 0, 2), plain.answer(units, 0, 2))


def test_gradients_reach_what_lies_on_the_way() -> None:
    network = toy().train()
    network(inputs(4), [Way(0, 2, 4)]).square().sum().backward()
    first, second = network.points
    assert all(parameter.grad is not None for parameter in network.graph.parameters())
    assert first.encoder_weight.grad is not None and first.head_weights[1].grad is not None
    assert first.gains[1].grad is not None and first.offsets[1].grad is not None
    assert first.head_weights[0].grad is None and first.head_weights[2].grad is None
    assert all(parameter.grad is None for parameter in second.parameters())


def test_settled_network_answers_as_before() -> None:
    network, x = toy(), inputs(16)
    ways = [Way(0, 1, 16), Way(1, 2, 16), Way(2, 0, 16)]
    before = network(x, ways)
    network.settle(x)
    torch.testing.assert_close(network(x, ways), before, atol=1e-3, rtol=1e-4)
    assert all((norm.mean != 0).all() for each in network.points for norm in each.norms)


def test_what_is_settled_does_not_follow_what_settles_it() -> None:
    network, x = toy(), inputs(16)
    training = toy().train()
    training.load_state_dict(network.state_dict())
    network.settle(x)
    training.settle(x)
    assert training.training
    for name, value in network.state_dict().items():
        assert torch.equal(value, training.state_dict()[name]), name


# --- checkpoints ---------------------------------------------------------------------------------------

OPTIONS: dict[str, Any] = {"epochs": 3, "augment": ["flip"], "link": None}


def saved(folder: Path) -> Checkpoint:
    network = {"weight": torch.arange(4.0), "norm.mean": torch.zeros(2)}
    made = Checkpoint(
        OPTIONS, "digest", 2, network, {"state": {}, "param_groups": []}, [{"epoch": 1, "loss": 0.5}]
    )
    made.save(folder)
    return made


def test_checkpoint_comes_back(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "there"
    made = saved(folder)
    assert [path.name for path in folder.iterdir()] == [NAME]
    found = find_checkpoint(folder, resume=True)
    assert found is not None
    assert torch.equal(found.network.pop("weight"), made.network.pop("weight"))
    assert (found.options, found.data, found.epoch, found.optimizer, found.rows) == (
        made.options,
        made.data,
        2,
        made.optimizer,
        made.rows,
    )
    replace(found, epoch=3).save(folder)
    again = find_checkpoint(folder, resume=True)
    assert again is not None and again.epoch == 3


def test_nothing_to_resume(tmp_path: Path) -> None:
    assert find_checkpoint(tmp_path, resume=False) is None
    assert words(lambda: find_checkpoint(tmp_path, resume=True)) == (
        f"{tmp_path}/checkpoint.pt: no such file: there is nothing to resume\n  hint: leave --resume out to begin"
    )


def test_output_folder_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    assert words(lambda: find_checkpoint(tmp_path / "out", resume=False)) == (
        f"{tmp_path}/out: is not a folder\n  hint: give another --out"
    )


def test_interrupted_training_is_not_passed_over(tmp_path: Path) -> None:
    saved(tmp_path)
    assert words(lambda: find_checkpoint(tmp_path, resume=False)) == (
        f"{tmp_path}/checkpoint.pt: an interrupted training is there\n"
        "  hint: go on with --resume, delete the file, or give another --out"
    )


def test_checkpoint_of_another_training(tmp_path: Path) -> None:
    found = saved(tmp_path)
    found.refuse_other(OPTIONS, "digest", tmp_path)
    changed = OPTIONS | {"augment": ["flip", "zoom"], "link": "wifi"}
    assert words(lambda: found.refuse_other(changed, "digest", tmp_path)) == (
        f"{tmp_path}/checkpoint.pt: was made with other options: augment was ['flip'], is ['flip', 'zoom']\n"
        "  hint: give the same options, or another --out"
    )
    assert words(lambda: found.refuse_other(OPTIONS, "another", tmp_path)) == (
        f"{tmp_path}/checkpoint.pt: was made with other data or another model\n"
        "  hint: give the same files, or another --out"
    )


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b"nothing of the kind"),
        lambda path: path.write_bytes(path.read_bytes()[:100]),
        lambda path: torch.save(torch.load(path) | {"schema": 2}, path),
        lambda path: torch.save({"schema": 1, "epoch": 2}, path),
        lambda path: torch.save([1, 2], path),
    ],
    ids=["text", "short", "schema", "fields", "list"],
)
def test_damaged_checkpoint(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    saved(tmp_path)
    damage(tmp_path / NAME)
    assert words(lambda: find_checkpoint(tmp_path, resume=True)) == (
        f"{tmp_path}/checkpoint.pt: is not a checkpoint of this version\n  hint: delete it to begin again"
    )


def words(action: Callable[[], object]) -> str:
    with pytest.raises(ClioError) as caught:
        action()
    return str(caught.value)


# --- session -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes"),
        RuntimeError("CPUAllocator: not enough memory"),
        torch.OutOfMemoryError("CUDA: tried to allocate 2 GiB"),
        MemoryError(),
    ],
)
@pytest.mark.parametrize(
    ("batch", "hint"),
    [
        (48, "give --batch 24"),
        (5, "give --batch 2"),
        (1, "this network is too large to train on this machine"),
    ],
)
def test_short_memory(error: Exception, batch: int, hint: str) -> None:
    def fail() -> None:
        with saying_batch_size(batch):
            raise error

    assert words(fail) == f"out of memory with batches of {batch} samples\n  hint: {hint}"


def test_other_errors_are_not_about_memory() -> None:
    with pytest.raises(RuntimeError, match="shapes differ"), saying_batch_size(8):
        raise RuntimeError("shapes differ")


def test_sessions() -> None:
    with open_session("cpu", 7) as session:
        assert (session.device, session.number, session.processes, session.first) == ("cpu", 0, 1, True)
        drawn = torch.rand(3)
    with open_session("cpu", 7):
        assert torch.equal(torch.rand(3), drawn)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu() -> None:
    with open_session("auto", 0) as session:
        assert session.device == "cpu"

    def ask() -> None:
        with open_session("cuda", 0):
            pass

    assert words(ask) == (
        "--device: PyTorch finds no GPU\n  hint: give cpu, or install a build of PyTorch for this GPU"
    )


# --- importance ----------------------------------------------------------------------------------------

DEEP = (
    "m (float[1,3,6,6] x, float[4,3,3,3] v, float[4] c, float[6,4,3,3] w, float[6] d, float[5,6] u, float[5] e) "
    "=> (float[a,b] y) <int64[2] shape = {1, 6}> { p = Conv <pads: ints = [1, 1, 1, 1]> (x, v, c) q = Tanh (p) "
    "r = Conv (q, w, d) t = GlobalAveragePool (r) z = Reshape (t, shape) y = Gemm <transB: int = 1> (z, u, e) }"
)


def weighed(samples: int, labels: bool, kind: Any, **weights: Any) -> tuple[Any, dict[str, Any]]:
    """The model, and the importance of its channels with other values of some weights."""
    model = parse(DEEP)
    run_passes(model)
    model = with_weights(model, weights)
    x = np.random.default_rng(0).normal(size=(samples, 3, 6, 6)).astype(np.float32)
    given = Samples({"x": x}, labels=np.arange(samples) % 5 if labels else None)
    return model, taylor_importance(model, channel_groups(model), given, "y", kind)


def test_channels_that_are_zero_have_no_importance() -> None:
    model, full = weighed(8, True, "scores")
    weight, bias = (np.array(model.graph.initializers[name].const_value.numpy()) for name in "vc")
    assert {name: len(each) for name, each in full.items()} == {"p": 4, "r": 6}
    assert all((each > 0).all() for each in full.values())
    weight[2], bias[2] = 0, 0
    found = weighed(8, True, "scores", v=weight, c=bias)[1]["p"]
    assert found[2] == 0 and (np.delete(found, 2) > 0).all()


@pytest.mark.parametrize(("labels", "kind"), [(True, "scores"), (False, "scores"), (False, "values")])
def test_importance_is_the_mean_squared_derivative(labels: bool, kind: str) -> None:
    """By a gate on the channel, one sample at a time; found here by moving the gate a little."""
    samples, step = 35, 1e-3
    model, found = weighed(samples, labels, kind)
    network = TorchGraph(model).double()
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(samples, 3, 6, 6)).astype(np.float32)).double()
    with torch.no_grad():
        made = network.run({"x": x}, "p")
        plain = network.run({"x": x}, "y")
        right = torch.arange(samples) % 5 if labels else plain.argmax(1)
        for channel in range(4):
            lost = []
            for sign in (1, -1):
                gated = made.clone()
                gated[:, channel] *= 1 + sign * step
                answers = network.run({"p": gated}, "y")
                if kind == "values":
                    lost.append(answers.square().sum(1) / 2)
                else:
                    lost.append(functional.cross_entropy(answers, right, reduction="none"))
            wanted = ((lost[0] - lost[1]) / (2 * step)).square().mean()
            np.testing.assert_allclose(found["p"][channel], wanted.item(), rtol=1e-3)


def test_channels_that_are_added_have_one_gate() -> None:
    """A group of several tensors: what it adds up to in all of them counts, squared after the sum."""
    model = front_end(MODEL)
    samples = load_samples(model, CALIBRATION, most=40)
    groups = channel_groups(model)
    found = taylor_importance(model, groups, samples, str(model.graph.outputs[0].name), "scores")
    assert {group.name: group.channels for group in groups} == {
        name: len(each) for name, each in found.items()
    }
    assert any(len(group.tensors) > 1 for group in groups)
    assert all((each >= 0).all() and each.any() for each in found.values())


def test_options_are_recorded_without_paths() -> None:
    """What a file holds must not tell where its maker keeps things, nor what does not change the result."""
    options = TrainOptions(
        Path("/home/me/net.onnx"), Path("/data/x.npz"), Path("/tmp/out"), "a,b", prior="/p/prior.csv"
    )
    recorded = options.recorded()
    assert (recorded["model"], recorded["data"], recorded["prior"]) == ("net.onnx", "x.npz", "prior.csv")
    assert not {"out", "resume", "device"} & recorded.keys()
    assert "/" not in str(recorded)
    assert replace(options, seed=5).recorded() != recorded
