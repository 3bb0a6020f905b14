"""compile with several partition points and the whole network on the device: what its folder says."""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import onnx
import pytest
from digits import CALIBRATION, MODEL, compiled
from graph_text import run

from clio_cc import accuracy
from clio_cc.compiler import Compiled, Options, compile_model

SAMPLES = 64


@pytest.fixture(scope="module")
def several() -> Compiled:
    """Cut in the middle, cut late, and uncut."""
    options = Options(
        MODEL, "stm32f7", CALIBRATION, samples=SAMPLES, partition="pointwise,local,block1", units="rotation"
    )
    return compile_model(options, lambda stage, done, of: None)


def loads(result: Compiled, name: str) -> Any:
    return json.loads(result.files.files[name])


def test_the_manifest_says_how_each_point_is_sliced(several: Compiled) -> None:
    found = loads(several, "manifest.json")
    assert found["local"] is True and found["warnings"] == []
    assert [each["name"] for each in found["partitions"]] == ["block1", "pointwise"]
    for each, sliced in zip(found["partitions"], several.points, strict=True):
        units, pixels = each["shape"][1], each["shape"][2] * each["shape"][3]
        assert each["slices"] == sorted(each["slices"]) and each["slices"][-1] == each["units"] == units
        assert each["unit_bytes"] == pixels and each["scale"] > 0 and each["order"] is None
        nodes = list(several.graph.graph)  # the activation, or what goes into it
        assert nodes[sliced.point.node_index - 1].outputs[0].name == each["tensor"]
        assert each["layer"] == nodes[sliced.point.node_index - 1].name
        assert each["layer"].startswith(f"/{each['name']}/")
        assert each["layer"] in found["layers"]
        assert each["encoder"]["method"] == "rotation"
        # Both are behind a ReLU.
        assert each["encoder"]["layer"] == f"{each['name']}/units"
        assert each["encoder"]["macs"] == units**2 * pixels
        assert each["encoder"]["head_macs"] == units**2 * each["encoder"]["window"] ** 2 * pixels
        assert len(each["residual"]) == len(each["slices"])
        assert each["residual"][0] <= 1 and each["residual"] == sorted(each["residual"], reverse=True)
        assert each["residual"][-1] == pytest.approx(0, abs=1e-5)
        assert each["macs"] == sliced.point.macs_before + sliced.macs
    assert found["partitions"][0]["macs"] < found["partitions"][1]["macs"] < found["device"]["macs"]
    encoders = sum(each["encoder"]["macs"] for each in found["partitions"])
    whole = compiled("stm32f7", "local").manifest["device"]["macs"]
    assert found["device"]["macs"] == whole + encoders
    assert len(found["outputs"]) == 3 and found["outputs"][2]["graph_shape"] == [1, 10]


def test_every_point_has_a_cloud_of_its_own(several: Compiled) -> None:
    files = {PurePosixPath(path).parts[1] for path in several.files.files if path.startswith("cloud/")}
    assert files == {"digits_block1", "digits_pointwise"}
    for each in loads(several, "manifest.json")["partitions"]:
        assert each["cloud"] == f"cloud/digits_{each['name']}/1/model.onnx"
        proto = onnx.load_from_string(several.files.files[each["cloud"]])
        units = np.zeros((2, each["units"], *each["shape"][2:]), np.int8)
        feeds = {"units": units, "received": np.array([0, each["units"]], np.int64)}
        assert run(proto, feeds)[0].shape == (2, 10)


def test_one_point_needs_no_name_in_the_cloud() -> None:
    single = compiled("stm32f7")
    [partition] = loads(single, "manifest.json")["partitions"]
    assert partition["cloud"] == "cloud/digits/1/model.onnx"
    clouds = {path for path in single.files.files if path.startswith("cloud/")}
    assert clouds == {"cloud/digits/config.pbtxt", "cloud/digits/1/model.onnx"}


def test_nothing_is_sent_when_all_is_local() -> None:
    local = compiled("stm32f7", "local")
    found = loads(local, "manifest.json")
    assert (found["local"], found["partitions"]) == (True, [])
    assert not [path for path in local.files.files if path.startswith("cloud/")]
    assert [row.partition for row in local.accuracy] == ["local"]


def test_answers_are_judged_per_point_and_count(several: Compiled) -> None:
    text = several.files.files["accuracy.csv"].decode()
    assert text == accuracy.to_csv(several.accuracy)
    found = loads(several, "manifest.json")
    wanted = [
        (each["name"], count, count * each["unit_bytes"])
        for each in found["partitions"]
        for count in each["slices"]
    ]
    rows = [(row.partition, row.slices, row.bytes) for row in several.accuracy]
    assert rows == [*wanted, ("local", 0, 0)]
    assert {row.metric for row in several.accuracy} == {"agreement"}
    assert {row.samples for row in several.accuracy} == {SAMPLES}
    best = {row.partition: row.value for row in several.accuracy}  # the last row of each has all units
    assert min(best.values()) >= 0.95
    first = {row.partition: row.value for row in reversed(several.accuracy)}
    assert first["block1"] < best["block1"]


def test_the_plan_knows_every_point(several: Compiled) -> None:
    plan = loads(several, "plan.json")
    assert {each["partition"] for each in plan["intervals"]} == {"block1", "pointwise", "local"}
    assert {each["partition"] for each in plan["ranges"]} <= {"block1", "pointwise", "local", "input", None}


def test_the_profile_has_a_row_per_encoder(several: Compiled) -> None:
    rows = [line.split(",")[:3] for line in several.files.files["profile.csv"].decode().splitlines()[1:]]
    found = loads(several, "manifest.json")
    for each in found["partitions"]:
        at = rows.index([f"{each['name']}/units", "Encode", str(each["encoder"]["macs"])])
        assert rows[at - 1][0] == each["layer"]
