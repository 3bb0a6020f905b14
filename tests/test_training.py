"""`clio-cc train` from its command line to what the compiled program answers; the parts have tests of their own."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from conftest import Done
from digits import CALIBRATION, FOLDER, MODEL

from clio_cc import graph
from clio_cc.compiler import Options, compile_model, front_end
from clio_cc.errors import ClioError
from clio_cc.evaluate import evaluate
from clio_cc.terminal import print_trained
from clio_cc.trained import read_trained
from clio_cc.training.folder import write_files
from clio_cc.training.loop import Training, train
from clio_cc.training.session import Session
from clio_cc.training.settings import TrainOptions
from clio_cc.units import BandwidthRange

TEST = FOLDER / "digits-test.npz"
Clio = Callable[..., Done]
POINTS = "block1,pointwise"


def quiet(_stage: str, _done: int, _of: int) -> None:
    """No progress wanted."""


def options(out: Path, **changes: Any) -> TrainOptions:
    fields: dict[str, Any] = {
        "partition": POINTS,
        "slices": "1,2,4,8",
        "validation": TEST,
        "epochs": 6,
        "rounded_epochs": 2,
        "batch": 32,
        "learning_rate": 1e-3,
    }
    return TrainOptions(MODEL, CALIBRATION, out, **(fields | changes))


def values(rows: Any) -> dict[tuple[str, int], float]:
    return {(row["partition"], row["slices"]): row["value"] for row in rows}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Training:
    """The example, trained for two points at once."""
    return train(options(tmp_path_factory.mktemp("trained")), quiet)


# --- train, compile, verify, evaluate --------------------------------------------------------------------


def test_train_compile_verify_evaluate(trained: Training, clio: Clio, tmp_path: Path) -> None:
    out, model = tmp_path / "out", trained.out / "model.onnx"
    done = clio("compile", model, "--target", "nrf5340", "--calibration", CALIBRATION, "--out", out, "--json")
    assert (done.code, done.err) == (0, "")
    manifest = json.loads(done.out)
    assert [(each["name"], each["trained"], each["slices"]) for each in manifest["partitions"]] == [
        ("block1", True, [1, 2, 4, 8]),
        ("pointwise", True, [1, 2, 4, 8]),
    ]
    assert manifest["training"]["options"]["epochs"] == 6
    assert json.loads(clio("verify", out, "--data", TEST, "--json").out)["bit_exact"]
    found = evaluate(out, TEST, baselines=False, progress=quiet)
    got = {(row.partition, row.slices): row.value for row in found.rows}
    wanted = values(trained.rows)  # PyTorch on the same images
    assert got.keys() == wanted.keys()
    assert found.notes == (
        "the original model is here the trained network, whole and in floating point, which answers the raw input and JPEG "
        "too: only with 'local' among the points of its training was it kept able to",
    )
    assert all(abs(got[key] - wanted[key]) <= 0.003 for key in got)


def test_training_beats_the_closed_form(trained: Training, tmp_path: Path) -> None:
    closed = compile_model(Options(MODEL, "nrf5340", CALIBRATION, partition=POINTS, slices="1,2,4,8"), quiet)
    closed.files.write(tmp_path / "out")
    rows = evaluate(tmp_path / "out", TEST, baselines=False, progress=quiet).rows
    before = {(row.partition, row.slices): row.value for row in rows}
    after = values(trained.rows)
    assert after["block1", 1] > before["block1", 1] + 0.1
    assert after["pointwise", 1] > before["pointwise", 1] + 0.1
    assert after["pointwise", 2] > before["pointwise", 2] + 0.05
    assert all(after[key] > before[key] - 0.012 for key in before)


def test_one_trunk_serves_as_well_as_two(trained: Training, tmp_path: Path) -> None:
    together = values(trained.rows)
    for point in POINTS.split(","):
        alone = values(train(options(tmp_path / point, partition=point), quiet).rows)
        lost = [alone[key] - together[key] for key in alone if key[1] > 1]
        assert max(lost) <= 0.02  # a point each in the mean, two at worst: an image is 0.2
        assert np.mean(lost) <= 0.01


# --- the same result, however it is reached ---------------------------------------------------------------


def small(out: Path, **changes: Any) -> TrainOptions:
    return options(
        out, **({"epochs": 3, "rounded_epochs": 1, "partition": "block1", "slices": "2,4"} | changes)
    )


def test_an_interrupted_run_resumes_to_the_same_result(tmp_path: Path, clio: Clio) -> None:
    whole = train(small(tmp_path / "whole"), quiet)
    for stop in ("epoch 2 of 3", "epoch 3 of 3"):  # in floats, and after rounding began

        def interrupted(stage: str, done: int, _of: int, stop: str = stop) -> None:
            if (stage, done) == (stop, 2):
                raise KeyboardInterrupt

        out = tmp_path / stop.replace(" ", "")
        with pytest.raises(KeyboardInterrupt):
            train(small(out), interrupted)
        assert [path.name for path in out.iterdir()] == ["checkpoint.pt"]
        resumed = train(small(out, resume=True), quiet)
        assert resumed.rows == whole.rows
        for name in ("model.onnx", "training.jsonl", "curves.png"):
            assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
        assert not (out / "checkpoint.pt").exists()


def test_another_seed_gives_another_result(tmp_path: Path) -> None:
    train(small(tmp_path / "a"), quiet)
    train(small(tmp_path / "b", seed=1), quiet)
    assert (tmp_path / "a/training.jsonl").read_text() != (tmp_path / "b/training.jsonl").read_text()


def test_a_checkpoint_is_not_passed_over(tmp_path: Path, clio: Clio) -> None:
    out = tmp_path / "out"
    command = [
        "train",
        MODEL,
        "--data",
        CALIBRATION,
        "--partition",
        "block1",
        "--slices",
        "2,4",
        "--out",
        out,
    ]
    command += ["--epochs", "2", "--rounded-epochs", "0"]
    done = clio(*command, "--resume")
    assert (done.code, done.err) == (
        1,
        f"clio-cc: error: {out}/checkpoint.pt: no such file: there is nothing to resume\n"
        "  hint: leave --resume out to begin\n",
    )

    def interrupted(stage: str, _done: int, _of: int) -> None:
        if stage == "epoch 2 of 2":
            raise KeyboardInterrupt

    asked = TrainOptions(MODEL, CALIBRATION, out, "block1", "2,4", epochs=2, rounded_epochs=0)
    with pytest.raises(KeyboardInterrupt):
        train(asked, interrupted)
    done = clio(*command)
    assert (done.code, done.err) == (
        1,
        f"clio-cc: error: {out}/checkpoint.pt: an interrupted training is there\n"
        "  hint: go on with --resume, delete the file, or give another --out\n",
    )
    done = clio(*command, "--resume", "--seed", "5")
    assert (done.code, done.err) == (
        1,
        f"clio-cc: error: {out}/checkpoint.pt: was made with other options: seed was 0, is 5\n"
        "  hint: give the same options, or another --out\n",
    )
    done = clio(*command, "--resume", "--json")
    assert done.code == 0, done.err
    assert {row["epoch"] for row in json.loads(done.out)["rows"]} == {2}


def test_several_processes(tmp_path: Path) -> None:
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "clio_cc",
    ]
    command = ["train", str(MODEL), "--data", str(CALIBRATION), "--partition", "block1", "--slices", "2,4"]
    command += ["--epochs", "2", "--rounded-epochs", "1", "--validation", str(TEST), "--out", "out", "--json"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [*launch, *command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    rows = values(json.loads(run.stdout)["rows"])  # one process reports
    assert rows["block1", 4] > 0.9
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "curves.png",
        "model.onnx",
        "training.jsonl",
    ]


def test_training_goes_on_from_an_earlier_one(trained: Training, tmp_path: Path) -> None:
    model = trained.out / "model.onnx"
    again = TrainOptions(
        model,
        CALIBRATION,
        tmp_path / "out",
        "block1",
        validation=TEST,
        epochs=1,
        rounded_epochs=1,
        learning_rate=1e-6,
    )
    before, after = values(trained.rows), values(train(again, quiet).rows)
    assert sorted(after) == [("block1", count) for count in (1, 2, 4, 8)]
    assert all(
        abs(after[key] - before[key]) < 0.02 for key in after
    )  # formats are chosen anew; closed form: 0.2 less
    for changes, message in (
        (
            {"slices": "1,4"},
            "--slices: 'block1' was trained for 1,2,4,8 units already\n"
            "  hint: give 1,2,4,8, or the network as it was before",
        ),
        (
            {"prune": 0.2},
            "model.onnx, --prune: was trained for slices already: channels can only be removed before\n"
            "  hint: train the network as it was before",
        ),
    ):
        with pytest.raises(ClioError) as raised:
            train(dataclasses.replace(again, **changes), quiet)
        assert str(raised.value) == message


# --- what can be asked for -----------------------------------------------------------------------------------


def test_without_labels_the_original_teaches(tmp_path: Path) -> None:
    x = np.load(CALIBRATION)["x"]
    np.savez(tmp_path / "x.npz", x=x)
    found = train(
        TrainOptions(
            MODEL, tmp_path / "x.npz", tmp_path / "out", "block1", "2,4", epochs=3, rounded_epochs=0
        ),
        quiet,
    )
    assert {(row["metric"], row["set"]) for row in found.rows} == {("agreement", "train")}
    assert values(found.rows)["block1", 4] > 0.9


def test_rounding_is_an_option(tmp_path: Path) -> None:
    train(small(tmp_path, rounded_epochs=0), quiet)
    found = read_trained(tmp_path / "model.onnx")
    assert found is not None
    assert (found.scales, found.weight_scales) == ({}, {})
    compile_model(Options(tmp_path / "model.onnx", "nrf5340", CALIBRATION), quiet)


def test_the_whole_network_on_the_device(tmp_path: Path) -> None:
    found = train(small(tmp_path, partition="block1,local"), quiet)
    assert values(found.rows)["local", 0] > 0.95
    result = compile_model(Options(tmp_path / "model.onnx", "stm32f7", CALIBRATION), quiet)
    assert [point.point.name for point in result.points] == ["block1"]
    assert result.manifest["local"]
    result.files.write(tmp_path / "out")
    rows = evaluate(tmp_path / "out", TEST, baselines=False, progress=quiet).rows
    got = {(row.partition, row.slices): row.value for row in rows}
    assert abs(got["local", 0] - values(found.rows)["local", 0]) <= 0.003


def test_units_of_four_bits(tmp_path: Path) -> None:
    found = train(small(tmp_path, unit_bits=4), quiet)
    result = compile_model(Options(tmp_path / "model.onnx", "stm32f7", CALIBRATION), quiet)
    (entry,) = result.manifest["partitions"]
    assert (entry["unit_bits"], entry["unit_bytes"]) == (4, 32)
    result.files.write(tmp_path / "out")
    rows = evaluate(tmp_path / "out", TEST, baselines=False, progress=quiet).rows
    got = {(row.partition, row.slices): row.value for row in rows}
    assert got["block1", 4] > 0.9
    assert all(abs(value - values(found.rows)[key]) <= 0.003 for key, value in got.items())


@pytest.mark.parametrize(("changes", "left"), [({"prune": 0.4}, 0.9), ({"width": 0.5}, 0.4)])
def test_fewer_channels(tmp_path: Path, changes: dict[str, float], left: float) -> None:
    found = train(small(tmp_path, epochs=12, learning_rate=4e-3, **changes), quiet)
    before, now = found.macs
    assert now < left * before
    assert values(found.rows)["block1", 4] > 0.85
    model = front_end(tmp_path / "model.onnx")
    assert sum(graph.known_macs(node) for node in model.graph) == now
    compile_model(Options(tmp_path / "model.onnx", "nrf5340", CALIBRATION), quiet)


def test_a_prior_says_which_counts_matter(tmp_path: Path, clio: Clio) -> None:
    done = clio(
        "train", MODEL, "--data", CALIBRATION, "--partition", "block1", "--slices", "1,2,4,8", "--epochs", "1",
        "--bandwidth", "10k:20k", "--deadline", "200ms", "--out", tmp_path / "out", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    # 64 bytes per unit in 200 ms: 2.56 kbit/s each. So 1 is never sent, and 8 neither.
    assert done.err == (
        "clio-cc: warning: no bandwidth of the prior has 'block1' send 1 or 8 units within 200ms: "
        "these are trained with the 5% that all counts share\n"
    )


# --- errors ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "arrays", "message"),
    [
        (
            {"partition": "blok1"},
            {},
            "unknown partition point 'blok1'\n  hint: did you mean 'block1'?",
        ),
        (
            {"partition": "auto"},
            {},
            "--partition: training needs to know where the network will be cut\n"
            "  hint: name the partition points; 'clio-cc inspect MODEL' lists them",
        ),
        (
            {"bandwidth": BandwidthRange(1, 2), "shares": (1.0, 2.0)},
            {},
            "--shares: a bandwidth and --shares both say how often each count is sent\n  hint: give one of them",
        ),
        (
            {"deadline_us": 1000, "target": "gap8"},
            {},
            "--deadline: says how often each count is sent at a bandwidth, and there is none\n"
            "  hint: add --bandwidth, e.g. 50k:2M, or leave out --deadline, --target",
        ),
        (
            {"slices": "1,17"},
            {},
            "--slices: 17 units of 'block1', which has 16 channels\n  hint: give counts from 1 to 16",
        ),
        (
            {"unit_bits": 5},
            {},
            "--unit-bits: 5 bits a value, not 8, 6 or 4",
        ),
        (
            {"unit_bits": 4, "rounded_epochs": 0},
            {},
            "--unit-bits: units of 4 bits need epochs with the device's rounding\n"
            "  hint: give --rounded-epochs, at least 1",
        ),
        (
            {"target": "stm32f4"},
            {},
            "unknown target 'stm32f4'\n  hint: did you mean 'stm32f7'?",
        ),
        (
            {},
            {"y": np.full(8, 10)},
            "DATA: label 10 of sample 0 is none of the model's 10 classes\n  hint: labels are 0 to 9",
        ),
        ({}, {"x": np.zeros((0, 1, 8, 8))}, "DATA: holds no samples"),
        (
            {},
            {"x": np.zeros((8, 1, 9, 9))},
            "DATA: has shape (8, 1, 9, 9), input 'image' needs (n, 1, 8, 8)\n  hint: give x of shape (n, 1, 8, 8)",
        ),
    ],
)  # fmt: skip
def test_bad_input(tmp_path: Path, changes: dict[str, Any], arrays: dict[str, Any], message: str) -> None:
    data = tmp_path / "data.npz"
    found = {name: array[:8] for name, array in np.load(CALIBRATION).items()} | arrays
    np.savez(data, **{name: found[name][: len(found["x"])] for name in found})
    fields: dict[str, Any] = {"partition": "block1", "slices": "2,4", "epochs": 1} | changes
    with pytest.raises(ClioError) as raised:
        train(TrainOptions(MODEL, data, tmp_path / "out", **fields), quiet)
    assert str(raised.value) == message.replace("DATA", str(data))
    assert not (tmp_path / "out").exists()  # nothing half-written


def test_the_network_to_train_is_not_overwritten(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(MODEL.read_bytes())
    with pytest.raises(ClioError) as raised:
        train(TrainOptions(model, CALIBRATION, tmp_path, "block1", "2,4", epochs=1), quiet)
    assert str(raised.value) == (
        f"{model}: is the network to train, which would be overwritten\n  hint: give another --out"
    )
    assert model.read_bytes() == MODEL.read_bytes()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "out/model.onnx").mkdir(parents=True)
    (tmp_path / "log/training.jsonl").mkdir(parents=True)
    (tmp_path / "kept/checkpoint.pt").mkdir(parents=True)
    for out, message in (
        ("file", "file: is not a folder"),
        ("file/out", "file/out: cannot be written"),
        ("out", "out/model.onnx: is a folder"),
        ("log", "log/training.jsonl: is a folder"),
        ("kept", "kept/checkpoint.pt: is a folder"),
    ):
        with pytest.raises(ClioError) as raised:
            train(TrainOptions(MODEL, CALIBRATION, tmp_path / out, "block1", "2,4", epochs=1), quiet)
        assert str(raised.value) == f"{tmp_path}/{message}\n  hint: give another --out"


def test_files_are_all_written_or_none(tmp_path: Path) -> None:
    (tmp_path / "b.part").mkdir()
    (tmp_path / "a").write_text("before")
    with pytest.raises(ClioError) as raised:
        write_files(tmp_path, {"a": b"now", "b": b"now"})
    assert str(raised.value) == (
        f"{tmp_path}/b.part: cannot be written: Is a directory\n"
        "  hint: make room for it; where a checkpoint.pt is, the same command with --resume goes on"
    )
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b.part"}
    assert (tmp_path / "a").read_text() == "before"
    (tmp_path / "b.part").rmdir()
    write_files(tmp_path, {"a": b"now", "b": b"now"})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"now", "b": b"now"}


DEAD = """<ir_version: 8, opset_import: ["" : 17]> g (float[1,3,6,6] x) => (float[1,4] y)
<float[4,3,3,3] w, float[4] b, float[4,4,1,1] v> {
a = Conv <pads = [1, 1, 1, 1]> (x, w, b) c = Relu (a) d = Conv (c, v) e = Relu (d)
h = GlobalAveragePool (e) y = Flatten (h) }"""


def test_a_layer_that_is_always_zero_can_be_compiled(tmp_path: Path) -> None:
    """Its scale must leave room for the bias that keeps it there, which training changes little."""
    path = write_random(tmp_path / "dead.onnx", DEAD)
    model = onnx.load(path)
    (bias,) = (each for each in model.graph.initializer if each.name == "b")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.full(4, -100, np.float32), "b"))
    onnx.save(model, path)
    data = tmp_path / "data.npz"
    rng = np.random.default_rng(0)
    np.savez(data, x=rng.random((16, 3, 6, 6), np.float32), y=np.arange(16) % 4)
    train(TrainOptions(path, data, tmp_path / "out", "e", "1,4", epochs=2, rounded_epochs=1), quiet)
    compile_model(Options(tmp_path / "out/model.onnx", "gap8", data), quiet)


TWO_OUTPUTS = """<ir_version: 8, opset_import: ["" : 17]> g (float[1,2,4,4] x) => (float[1,3,4,4] y, float[1,3,4,4] z)
<float[3,2,1,1] w, float[3,3,1,1] v> { a = Conv (x, w) b = Relu (a) y = Conv (b, v) z = Conv (b, v) }"""
CONSTANT_ADD = """<ir_version: 8, opset_import: ["" : 17]> g (float[1,3,6,6] x) => (float[1,4] y)
<float[4,3,3,3] w, float[1,4,1,1] k, float[4,4,1,1] v, float[4,4,1,1] u> {
a = Conv <pads = [1, 1, 1, 1]> (x, w) b = Relu (a) c = Add (b, k) d = Conv (c, v) e = Relu (d) f = Conv (e, u)
h = GlobalAveragePool (f) y = Flatten (h) }"""


def write_random(path: Path, text: str) -> Path:
    """A graph with random weights."""
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    for value in model.graph.value_info:  # all that is declared is a weight
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        weight = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight, value.name))
    del model.graph.value_info[:]
    path.write_bytes(model.SerializeToString())
    return path


def test_a_second_output_is_refused(tmp_path: Path) -> None:
    model = write_random(tmp_path / "two.onnx", TWO_OUTPUTS)
    np.savez(tmp_path / "x.npz", x=np.zeros((4, 2, 4, 4), np.float32))
    with pytest.raises(ClioError) as raised:
        train(TrainOptions(model, tmp_path / "x.npz", tmp_path / "out", "b", "1", epochs=1), quiet)
    assert str(raised.value) == "two.onnx: has 2 outputs; a network of one output can be trained"


def test_a_constant_for_each_channel(tmp_path: Path) -> None:
    """Its layer has no trained weights, and what follows is the device's all the same."""
    model = write_random(tmp_path / "add.onnx", CONSTANT_ADD)
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((64, 3, 6, 6)).astype(np.float32), rng.integers(0, 4, 64)
    np.savez(tmp_path / "x.npz", x=x, y=y)
    asked = TrainOptions(
        model,
        tmp_path / "x.npz",
        tmp_path / "out",
        "e",
        "1,4",
        validation=tmp_path / "x.npz",
        epochs=2,
        rounded_epochs=1,
        batch=16,
    )
    found = train(asked, quiet)
    result = compile_model(Options(tmp_path / "out/model.onnx", "stm32f7", tmp_path / "x.npz"), quiet)
    assert not result.warnings
    result.files.write(tmp_path / "clio-out")
    rows = evaluate(tmp_path / "clio-out", tmp_path / "x.npz", baselines=False, progress=quiet).rows
    assert {(row.partition, row.slices): row.value for row in rows} == values(found.rows)


def test_labels_that_are_no_classes(tmp_path: Path) -> None:
    model = write_random(
        tmp_path / "map.onnx",
        CONSTANT_ADD.replace("float[1,4] y", "float[1,4,6,6] y").replace(
            "f = Conv (e, u)\nh = GlobalAveragePool (f) y = Flatten (h)", "y = Conv (e, u)"
        ),
    )
    rng = np.random.default_rng(1)
    np.savez(tmp_path / "x.npz", x=rng.standard_normal((8, 3, 6, 6)).astype(np.float32), y=np.arange(8))
    asked = TrainOptions(
        model, tmp_path / "x.npz", tmp_path / "out", "e", "1,4", epochs=1, rounded_epochs=0, batch=4
    )
    found = train(asked, quiet)
    assert found.warnings == (
        "labels y of x.npz are not used, as the model does not answer with class scores: "
        "its own answers are what is learned",
    )
    assert {row["value"] for row in found.rows} == {None}
    print_trained(found)


def test_classes_of_folders_and_of_the_model(tmp_path: Path) -> None:
    from PIL import Image

    for number in range(12):
        (tmp_path / f"data/{number:02}").mkdir(parents=True)
        Image.new("L", (8, 8), number).save(tmp_path / f"data/{number:02}/a.png")
    with pytest.raises(ClioError) as raised:
        train(TrainOptions(MODEL, tmp_path / "data", tmp_path / "out", "block1", "2,4", epochs=1), quiet)
    assert str(raised.value) == (
        f"{tmp_path}/data: has 12 classes, the model answers with 10\n"
        "  hint: give one folder per class of the model, in the order of their names"
    )


def test_too_little_memory_names_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object, **__: object) -> None:
        raise RuntimeError(
            "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory"
        )

    monkeypatch.setattr(torch.Tensor, "backward", exhausted)
    with pytest.raises(ClioError) as raised:
        train(small(tmp_path / "out", batch=48), quiet)
    assert str(raised.value) == "out of memory with batches of 48 samples\n  hint: give --batch 24"


def test_a_loss_that_is_no_number(tmp_path: Path) -> None:
    with pytest.raises(ClioError) as raised:
        train(small(tmp_path / "out", learning_rate=1e30), quiet)
    assert str(raised.value) == (
        "the loss is no longer a number in epoch 1\n  hint: give --learning-rate 2.5e+29"
    )


def test_the_last_steps_weights_are_no_numbers(tmp_path: Path) -> None:
    """In one step the loss is still that of the weights before it."""
    changes = {"epochs": 1, "rounded_epochs": 0, "batch": 1000, "validation": None, "learning_rate": 1e30}
    with pytest.raises(ClioError, match="the loss is no longer a number in epoch 1"):
        train(small(tmp_path / "out", **changes), quiet)
    assert not (tmp_path / "out").exists()


def test_without_pytorch_it_says_what_to_install(clio: Clio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    done = clio("train", MODEL, "--data", CALIBRATION, "--partition", "block1")
    assert (done.code, done.err) == (
        1,
        "clio-cc: error: training needs torch\n  hint: pip install 'clio-cc[train]'\n",
    )


def test_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ClioError) as raised:
        train(small(tmp_path / "out", device="cuda"), quiet)
    assert str(raised.value) == (
        "--device: PyTorch finds no GPU\n  hint: give cpu, or install a build of PyTorch for this GPU"
    )


def test_more_processes_than_samples_in_a_batch() -> None:
    Session("cpu", 0, 4).refuse_few(4)
    with pytest.raises(ClioError) as raised:
        Session("cpu", 0, 4).refuse_few(3)
    assert str(raised.value) == (
        "3 samples in a batch for 4 processes\n  hint: start at most 3 processes, or give more samples a batch"
    )
