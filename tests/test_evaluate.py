"""evaluate: every figure worked out by hand, what it writes, and its words."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import split_folder
from conftest import Done
from split_folder import CLOUD, SLICES, expected, features, samples, scores

from clio_cc import results
from clio_cc.accuracy import AccuracyRow, read_accuracy
from clio_cc.cloud import cloud_model
from clio_cc.errors import ClioError
from clio_cc.evaluate import evaluate
from clio_cc.heads import Heads
from clio_cc.judge import Judge, accuracy, agreement, class_scores
from clio_cc.operators.conv import Conv
from clio_cc.packing import value_range
from clio_cc.partition import partition_points
from clio_cc.qformat import quantize
from clio_cc.split_run import evaluate_points

Clio = Callable[..., Done]
Array = split_folder.Array

COUNT = 100


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as compile leaves it, in the current folder, beside data with and without labels."""
    monkeypatch.chdir(tmp_path)
    np.savez("data.npz", x=samples(COUNT), y=labels())
    np.savez("plain.npz", x=samples(COUNT))
    return split_folder.write(Path("clio-out"))


def classes() -> Array:
    return np.asarray(scores(features(samples(COUNT))).argmax(axis=1))


def labels() -> Array:
    """What the float model says, but for every fifth sample."""
    found = classes()
    found[::5] = (found[::5] + 1) % split_folder.CLASSES
    return found


def local_classes() -> Array:
    return np.asarray(quantize(scores(features(samples(COUNT))), 64.0).argmax(axis=1))


def share(same: Array) -> float:
    return round(float(np.mean(same)), 6)


def nothing(stage: str, done: int, of: int) -> None:
    """No progress wanted."""


# --- figures --------------------------------------------------------------------------------------


def test_accuracy(out: Path) -> None:
    told: list[tuple[str, int, int]] = []
    found = evaluate(out, Path("data.npz"), progress=lambda *report: told.append(report))
    assert (found.samples, found.metric, found.original) == (COUNT, "accuracy", 0.8)
    points = [
        AccuracyRow("front", n, 16 * n, "accuracy", share(expected(samples(COUNT), n) == labels()), COUNT)
        for n in SLICES
    ]
    local = AccuracyRow("local", 0, 0, "accuracy", share(local_classes() == labels()), COUNT)
    assert found.rows == (*points, local)
    assert points[-1].value == 0.8 != local.value
    assert len({row.value for row in found.rows}) == 4  # each says something of its own
    assert found.notes == ()
    assert {stage for stage, done, of in told if done == of == COUNT} == {
        "original", "front", "local", "input", "jpeg", "front, fewer bits"
    }  # fmt: skip
    assert read_accuracy(out / "accuracy.csv") == (*found.rows, *found.baselines)
    assert results.changed_files(out, results.read_manifest(out)) == []


def test_agreement_without_labels(out: Path, clio: Clio) -> None:
    done = clio("evaluate", "--data", "plain.npz", "--json")
    assert (done.code, done.err) == (0, "")
    found = json.loads(done.out)
    assert (found["samples"], found["metric"], found["original"]) == (COUNT, "agreement", 1.0)
    assert found["notes"] == ["plain.npz has no labels y: agreement with the original model"]
    values = [share(expected(samples(COUNT), n) == classes()) for n in SLICES]
    assert found["results"] == [
        {"partition": "front", "slices": 1, "bytes": 16, "value": values[0]},
        {"partition": "front", "slices": 2, "bytes": 32, "value": values[1]},
        {"partition": "front", "slices": 4, "bytes": 64, "value": 1.0},
        {"partition": "local", "slices": 0, "bytes": 0, "value": share(local_classes() == classes())},
    ]
    assert [row["partition"] for row in found["baselines"]] == (
        ["input"] + ["jpeg"] * 7 + [f"front/{bits}bit" for bits in (2, 3, 4, 5, 6, 7)]
    )
    assert found["baselines"][0] == {"partition": "input", "slices": 1, "bytes": 48, "value": 1.0}


def test_a_part_of_the_data(out: Path) -> None:
    chosen = np.linspace(0, COUNT - 1, 50).astype(np.int64)
    found = evaluate(out, Path("data.npz"), samples=50, baselines=False, progress=nothing)
    assert found.samples == 50 and found.baselines == ()
    wanted = share(expected(samples(COUNT)[chosen], 2) == labels()[chosen])
    assert found.rows[1] == AccuracyRow("front", 2, 32, "accuracy", wanted, 50)


def test_the_pure_part_needs_no_files() -> None:
    x = samples(40)
    judge = agreement([x], [scores(features(x)).astype(np.float32)[:, :, None, None]])
    steps = [quantize(x.transpose(0, 2, 3, 1), 1.0)]
    rows = evaluate_points(
        split_folder.program(), {"front": [4]}, {"front": split_folder.cloud_model()}, steps, judge,
        progress=nothing,
    )  # fmt: skip
    assert rows == (AccuracyRow("front", 4, 64, "agreement", 1.0, 40),)


@pytest.mark.parametrize(("bits", "unit_bytes"), [(4, 8), (6, 12)])
def test_units_of_few_bits_cost_fewer_bytes_and_answer_alike(bits: int, unit_bytes: int) -> None:
    """Against the same values sent as int8."""
    whole, x = split_folder.program(), samples(40)
    first, *rest = whole.operators
    assert isinstance(first, Conv)
    clamped = replace(first, requantize=replace(first.requantize, hi=value_range(bits)[1]))
    model = ir.serde.deserialize_model(split_folder.float_model())
    point = next(each for each in partition_points(model) if each.tensor == "r")
    judge = Judge("agreement", 40, classes()[:40])
    rows = {}
    for each, size in ((8, 16), (bits, unit_bytes)):
        tap = replace(whole.taps[0], bits=each, unit_bytes=size)
        program = replace(whole, operators=(clamped, *rest), taps=(tap,))
        cloud = cloud_model(model, point, 1.0, prefix_heads(), each)
        steps = [quantize(x.transpose(0, 2, 3, 1), 1.0)]
        rows[each] = evaluate_points(
            program, {"front": [1, 2, 4]}, {"front": cloud}, steps, judge, progress=nothing
        )
    assert [row.bytes for row in rows[bits]] == [unit_bytes, 2 * unit_bytes, 4 * unit_bytes]
    assert [row.value for row in rows[bits]] == [row.value for row in rows[8]]
    assert len({row.value for row in rows[bits]}) > 1


def prefix_heads() -> Heads:
    """What puts the channels that arrived where they belong, and nothing in the place of others."""
    weight = np.zeros((1 + len(SLICES), split_folder.CHANNELS, split_folder.CHANNELS), np.float32)
    for row, count in enumerate((0, *SLICES)):
        for unit, channel in enumerate(split_folder.ORDER[:count]):
            weight[row, channel, unit] = 1
    return Heads(SLICES, 1, weight, np.zeros(weight.shape[:2], np.float32))


def test_a_cloud_graph_for_one_sample_at_a_time(out: Path) -> None:
    """What a graph that mixes samples must be: its batch fixed to 1."""
    model = split_folder.cloud_model()
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    x = samples(7)
    judge = Judge("agreement", 7, expected(x, 2))
    rows = evaluate_points(
        split_folder.program(), {"front": [2]}, {"front": model}, [quantize(x.transpose(0, 2, 3, 1), 1.0)],
        judge, progress=nothing,
    )  # fmt: skip
    assert rows[0].value == 1.0


def test_some_points(out: Path) -> None:
    everything = evaluate(out, Path("data.npz"), progress=nothing)
    (out / "accuracy.csv").unlink()
    only = evaluate(out, Path("data.npz"), partitions=["local"], baselines=False, progress=nothing)
    assert only.rows == everything.rows[-1:]
    assert read_accuracy(out / "accuracy.csv") == only.rows
    front = evaluate(out, Path("data.npz"), partitions=["front"], baselines=False, progress=nothing)
    assert front.rows == everything.rows[:-1]
    assert read_accuracy(out / "accuracy.csv") == (*front.rows, *only.rows)  # measured alike: kept
    assert only.notes == front.notes == ()
    fewer = evaluate(
        out, Path("data.npz"), samples=9, partitions=["front"], baselines=False, progress=nothing
    )
    assert read_accuracy(out / "accuracy.csv") == fewer.rows  # other samples: not comparable
    assert fewer.notes == (
        "dropped earlier rows of local from accuracy.csv: "
        "they are accuracy on 100 samples, these are accuracy on 9 samples",
    )


def test_dropped_rows_are_told(out: Path, clio: Clio) -> None:
    assert clio("evaluate", "--data", "data.npz").code == 0
    options = ("--partition", "local", "--no-baselines")
    done = clio("evaluate", "--data", "plain.npz", *options)
    told = (
        "dropped earlier rows of front, input, jpeg from accuracy.csv: "
        "they are accuracy on 100 samples, these are agreement on 100 samples"
    )
    assert done.code == 0 and told in " ".join(done.out.split())
    found = json.loads(
        clio(
            "evaluate",
            "--data",
            "data.npz",
            "--samples",
            "1",
            "--json",
            "--partition",
            "front",
            "--no-baselines",
        ).out
    )
    assert found["notes"] == [
        "dropped earlier rows of local from accuracy.csv: "
        "they are agreement on 100 samples, these are accuracy on 1 sample"
    ]


# --- the judge ------------------------------------------------------------------------------------


def test_what_class_scores_are() -> None:
    image, scores_ = np.zeros((5, 3, 4, 4)), np.zeros((5, 10), np.float32)
    assert class_scores([image], [scores_])
    assert class_scores([image], [scores_[:, :, None, None]])
    assert not class_scores([scores_], [scores_])  # an autoencoder
    assert not class_scores([image], [scores_, scores_])
    assert not class_scores([image], [scores_[:, :1]])  # a regression
    assert not class_scores([image], [np.zeros((5, 3, 8), np.float32)])
    assert not class_scores([image], [np.zeros((5, 10), np.int64)])


def test_agreement_of_values() -> None:
    """1 for the same, 0 for always the mean, and in between by the squared error; parts add up."""
    x = np.zeros((6, 2))  # of the same shape: no classes
    wanted = np.arange(12, dtype=np.float32).reshape(6, 2)
    judge = agreement([x], [wanted])
    spread = float(np.sum((wanted - wanted.mean(axis=0)) ** 2))

    def value(got: Array) -> float:
        return judge.value(judge.lost(0, [got[:4]]) + judge.lost(4, [got[4:]]))

    assert value(wanted) == 1.0
    assert value(np.broadcast_to(wanted.mean(axis=0), wanted.shape)) == 0.0
    assert value(wanted + 1) == round(1 - 12 / spread, 6)
    assert value(wanted + 1000) == 0.0
    assert value(np.full_like(wanted, np.nan)) == 0.0


def test_agreement_of_several_outputs_and_of_whole_numbers() -> None:
    floats, numbers = np.array([[0.0], [1.0], [2.0], [3.0]], np.float32), np.array([[1], [2], [3], [4]])
    judge = agreement([np.zeros((4, 2))], [floats, numbers])
    assert judge.value(judge.lost(0, [floats, numbers])) == 1.0
    assert judge.value(judge.lost(0, [floats, np.where(numbers == 2, 7, numbers)])) == 1 - 1 / 8
    one = agreement([np.zeros((1, 2))], [floats[1:2], numbers[:1]])  # no spread: relative to the value
    assert one.value(one.lost(0, [floats[1:2] / 2, numbers[:1]])) == 1 - 0.25 / 2


def test_labels_of_other_classes() -> None:
    with pytest.raises(ClioError) as caught:
        accuracy(np.array([0, 3, 4, -1]), 4, "d.npz")
    assert str(caught.value) == (
        "d.npz: label 4 of sample 2 is none of the model's 4 classes\n  hint: labels are 0 to 3"
    )
    with pytest.raises(ClioError) as caught:
        accuracy(np.array([1, 4]), 4, "d.npz")
    assert str(caught.value) == (
        "d.npz: label 4 of sample 1 is none of the model's 4 classes\n  hint: labels count from 0: subtract 1"
    )


# --- words ----------------------------------------------------------------------------------------


def test_what_it_prints(out: Path, clio: Clio) -> None:
    done = clio("evaluate", out, "--data", "plain.npz", "--no-baselines")
    lines = [line.rstrip() for line in done.out.splitlines()]
    assert (done.code, done.err) == (0, "")
    assert lines[0] == "original model: agreement 1.0000 on 100 samples"
    assert lines[1:3] == ["Partition points", "partition  slices  bytes  agreement"]
    assert lines[5].split() == ["front", "4", "64", "1.0000"]
    assert lines[-1] == "note: plain.npz has no labels y: agreement with the original model"


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": np.zeros((0, 3, 4, 4))}, "d.npz: holds no samples"),
        (
            {"x": np.zeros((2, 4, 4, 3))},
            "d.npz: has shape (2, 4, 4, 3), input 'x' needs (n, 3, 4, 4)\n"
            "  hint: x.transpose(0, 3, 1, 2) has the right shape",
        ),
        (
            {"x": np.zeros((2, 3, 4, 4)), "y": np.array([1, 4])},
            "d.npz: label 4 of sample 1 is none of the model's 4 classes\n  hint: labels count from 0: subtract 1",
        ),
        (
            {"x": np.zeros((2, 3, 4, 4)), "y": np.zeros((2, 4))},
            "d.npz: labels y must be one number for each of 2 samples",
        ),
    ],
)
def test_data_at_fault(out: Path, clio: Clio, arrays: dict[str, Any], words: str) -> None:
    np.savez("d.npz", **arrays)
    assert clio("evaluate", "--data", "d.npz") == Done(1, "", f"clio-cc: error: {words}\n")
    assert not (out / "accuracy.csv").exists()


def test_unknown_points(out: Path, clio: Clio) -> None:
    words = "clio-cc: error: --partition: unknown partition point"
    assert clio("evaluate", "--data", "data.npz", "--partition", "front,frnt") == Done(
        1, "", f"{words} 'frnt'\n  hint: did you mean 'front'?\n"
    )
    assert clio("evaluate", "--data", "data.npz", "--partition", "zzz") == Done(
        1, "", f"{words} 'zzz'\n  hint: choose of front, local\n"
    )


def test_folders_at_fault(out: Path, clio: Clio) -> None:
    def error(words: str) -> Done:
        return Done(1, "", f"clio-cc: error: {words}\n")

    evaluate_it = ("evaluate", "--data", "data.npz")
    assert clio("evaluate", "none", "--data", "data.npz") == error(
        "'none' is not a folder that clio-cc compile wrote\n"
        "  hint: run `clio-cc compile MODEL --target BOARD` first"
    )
    good = (out / CLOUD).read_bytes()
    (out / CLOUD).write_bytes(good[:-9])
    assert clio(*evaluate_it) == error(f"clio-out/{CLOUD}: is not what compile wrote\n  hint: compile again")
    (out / CLOUD).unlink()
    assert clio(*evaluate_it) == error(f"clio-out/{CLOUD}: is missing\n  hint: compile again")
    assert clio(*evaluate_it, "--partition", "local", "--no-baselines").code == 0  # which does not need it
    (out / CLOUD).write_bytes(good)
    (out / "program.json").write_text("{}")
    assert clio(*evaluate_it) == error(
        "clio-out/program.json: is not what compile wrote\n  hint: compile again"
    )


def test_another_graph_for_the_cloud(out: Path, clio: Clio) -> None:
    manifest = results.read_manifest(out)
    model = split_folder.float_model()
    (out / CLOUD).write_bytes(model.SerializeToString())
    manifest["files"][CLOUD] = split_folder.digest((out / CLOUD).read_bytes())
    (out / "manifest.json").write_text(json.dumps(manifest))
    assert clio("evaluate", "--data", "data.npz") == Done(
        1,
        "",
        f"clio-cc: error: clio-out/{CLOUD}: is no cloud graph for partition point 'front'\n"
        "  hint: compile again\n",
    )
    assert onnx.load(out / CLOUD) == model


def test_a_damaged_table(out: Path, clio: Clio) -> None:
    """Only where rows of it would be kept; evaluating everything replaces it."""
    (out / "accuracy.csv").write_text(
        "partition,slices,bytes,metric,value,samples\nfront,1,16,accuracy,high,9\n"
    )
    assert clio("evaluate", "--data", "data.npz", "--no-baselines") == Done(
        1, "", "clio-cc: error: clio-out/accuracy.csv:2: value must be a number from 0 to 1, got 'high'\n"
    )
    assert clio("evaluate", "--data", "data.npz").code == 0
    assert read_accuracy(out / "accuracy.csv")
