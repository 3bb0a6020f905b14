"""Which choice wins where, by the code of benchmarks/regimes.py: figures worked out by hand, and the way through a model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from digits import CALIBRATION, FOLDER, MODEL
from scripts import benchmark

from clio_cc import results
from clio_cc.accuracy import AccuracyRow
from clio_cc.planner import PlanPoint
from clio_cc.profile import ProfileRow
from clio_cc.radios import find_link
from clio_cc.targets import find_target
from clio_cc.units import BandwidthRange

bench = benchmark("regimes")
LORA = find_link("clio-lora")  # 50 kbit/s at 60 mW


def row(layer: str, op: str, device_ms: float, cloud_ms: float) -> ProfileRow:
    return ProfileRow(layer, op, 1, 0, 0, device_ms * 1000, "emulated: x", cloud_ms * 1000, "measured: x")


def case(*, holds_all: bool = True) -> Any:
    """102 ms to the point and 3.5 ms behind it, 500 ms for all, at 60 mW; 4 ms where nothing is on the device."""
    values = {("p", 1): 0.5, ("p", 2): 0.8, ("p", 4): 0.86, ("jpeg", 10): 0.7, ("jpeg", 50): 0.85}
    sizes = {"p": 100, "jpeg": 25}
    rows = [
        AccuracyRow(name, count, 300 if count == 10 else count * 20 if name == "jpeg" else count * sizes[name],
                    "accuracy", value, 100)
        for (name, count), value in values.items()
    ]  # fmt: skip
    return bench.Case(
        "stm32f7",
        find_target("stm32f7"),
        (row("a", "Conv", 100, 1), row("p/units", "Encode", 2, 0.5), row("b", "Conv", 400, 3)),
        (PlanPoint("p", "a", (1, 2, 4), 100, 4),),
        (*rows, AccuracyRow("local", 0, 0, "accuracy", 0.865, 100), AccuracyRow("input", 1, 10_000, "accuracy", 0.87, 100)),
        10_000,
        {} if holds_all else {"local": "too large"},
    )  # fmt: skip


def test_who_wins_within_a_deadline() -> None:
    found = bench.regimes(case(), [LORA], (300_000, 1_000_000))
    assert [each.winner for each in found] == ["split", "local"]
    offers = {
        kind: (o.slices, o.bytes, o.latency_us, o.energy_uj, o.in_time) for kind, o in found[0].offers.items()
    }
    assert offers == {
        "split": (4, 400, 169_500, 102 * 60 + 64 * 60, True),
        "jpeg": (50, 1000, 164_000, 160 * 60, True),
        "input": (1, 10_000, 1_604_000, 1600 * 60, False),
        "local": (0, 0, 500_000, 500 * 60, False),
    }  # fmt: skip
    # One unit leaves 300 - 3.5 - 16 ms for the device's 102, the four that are accurate enough 300 - 3.5 - 64.
    assert found[0].split_lacks == (0.364, 0.439)


def test_the_least_energy_of_what_is_as_good() -> None:
    """A JPEG of quality 50 is one point worse than the split and takes 9.6 mJ instead of 9.96."""
    found = bench.regimes(case(), [LORA], (300_000, 1_000_000))
    assert [(each.thrifty.kind, each.thrifty.slices) for each in found] == [("jpeg", 50), ("split", 4)]
    better = replace(
        case(), accuracy=tuple(replace(r, value=r.value - 0.001 * (r.slices == 50)) for r in case().accuracy)
    )
    assert bench.regimes(better, [LORA], (300_000,))[0].thrifty.kind == "split"


def test_a_network_that_the_board_cannot_hold_does_not_win() -> None:
    found = bench.regimes(case(holds_all=False), [LORA], (1_000_000,))[0]
    assert (found.winner, found.local_fits) == ("split", False)
    assert found.offers["local"].accuracy == 0.865  # what it would be
    assert case(holds_all=False).held[-1].device_us is None


def test_nothing_in_time() -> None:
    slow = replace(case(holds_all=False), accuracy=())
    found = bench.regimes(slow, [LORA], (10_000,))[0]
    assert found.winner is None and found.thrifty is None
    assert found.split_lacks == (None, None)
    assert not any(offer.in_time for offer in found.offers.values())


def test_ratios_at_equal_accuracy() -> None:
    (found,) = bench.ratios(case(), [LORA], 0.845)
    assert (found.split.partition, found.split.slices, found.split.latency_us) == ("p", 4, 169_500)
    assert found.latency == {"jpeg": 0.968, "input": 9.463, "local": 2.95, "fewer bits": None}
    assert found.energy == {"jpeg": 0.964, "input": 9.639, "local": 3.012, "fewer bits": None}
    (found,) = bench.ratios(case(), [LORA], 0.868)
    assert found.split is None and set(found.latency.values()) == {None}


def test_winners_over_bandwidth() -> None:
    """At 100 ms only what needs no device is in time: 2,400 bits within 96 ms, then 8,000, then 80,000."""
    found = bench.spans(case(holds_all=False), 100_000, BandwidthRange(10_000, 2_000_000))
    assert [(each.from_bps, each.to_bps, each.kind, each.first, each.last) for each in found] == [
        (10_000, 25_000, None, "", ""),
        (25_000, 833_334, "jpeg", "quality 10", "quality 50"),
        (833_334, 2_000_000, "input", "raw input", "raw input"),
    ]
    found = bench.spans(case(holds_all=False), 300_000, BandwidthRange(10_000, 2_000_000))
    assert [(each.from_bps, each.kind, each.first, each.last, each.accuracy) for each in found] == [
        (10_000, "split", "p, 2 units", "p, 4 units", (0.8, 0.86)),
        (270_271, "input", "raw input", "raw input", (0.87, 0.87)),
    ]


def test_accuracy_by_bandwidth() -> None:
    found = bench.sweeps(case(), 300_000, (10_000, 50_000, 1_000_000))
    assert {each.kind: list(each.accuracy.values()) for each in found} == {
        "split": [0.8, 0.86, 0.86],
        "jpeg": [0.7, 0.85, 0.85],
        "input": [None, None, 0.87],
        "local": [None, None, None],
    }
    assert "local" not in {each.kind for each in bench.sweeps(case(holds_all=False), 300_000)}


def test_layers_that_no_board_has_run() -> None:
    """100 ms for 1 MAC; 3 more take 300 ms, whatever the published rate says."""
    rows = (
        row("a", "Conv", 100, 1),
        replace(row("b", "Conv", 7, 1), macs=3, device_source="modelled: at a rate"),
    )
    assert [each.device_us for each in bench.extrapolated(rows)] == [100_000, 300_000]
    assert bench.extrapolated(rows)[1].device_source.startswith("extrapolated: ")
    assert bench.extrapolated(rows[1:]) == rows[1:]


def test_tables() -> None:
    cases = [case(holds_all=False)]
    text = "\n".join(bench.tables(cases, [LORA], (300_000,)))
    assert (
        "| stm32f7 | 300ms | split | **80.0** | **86.0** | **86.0** | **86.0** | **86.0** | **86.0** |"
        in text
    )
    assert "| stm32f7 | 300ms | raw input | late | late | late | late | late | **87.0** |" in text
    assert (
        "| stm32f7 | clio-lora, 50k | 300ms | p, 4 units: 86.0 %, 400 B, 170 ms, 9.96 mJ "
        "| JPEG, quality 50: 85.0 %, 1,000 B, 164 ms, 9.60 mJ | 86.0 %, p, 4 units, 170 ms, 10.0 mJ "
        "| 85.0 %, quality 50, 164 ms, 9.6 mJ | late: 1604 ms | does not fit (late: 500 ms) |"
    ) in text
    assert (
        "| stm32f7 | clio-lora | p, 4 units | 170 | 9.96 | 0.97 | 9.46 | 2.95 | 0.96 | 9.64 | 3.01 |" in text
    )
    assert "| stm32f7 | 300ms | 10k to 270.3k | split | p, 2 units | p, 4 units | 80.0 to 86.0 |" in text
    assert "  cannot hold 'local': too large" in text
    assert "stm32f7: to the last cut 100 ms emulated; power" in text
    assert "  the whole network, if it could: 500 ms emulated" in text
    assert (
        "  300ms: a split is the most accurate over clio-lora; within a point and of the least energy over no radio"
        in text
    )
    text = "\n".join(bench.tables(cases, [LORA], (110_000,)))
    assert "  110ms: a split is the most accurate over no radio" in text
    assert (
        "    clio-lora: to send a unit in time a device 1.13 times as fast, for 84.5 % a device 2.40 times as fast"
        in text
    )
    text = "\n".join(bench.tables(cases, [LORA], (60_000,)))
    assert (
        "    clio-lora: to send a unit in time a device 2.52 times as fast, for 84.5 % no device is fast enough"
        in text
    )
    assert "no LoRaWAN rate" in text


def test_from_a_model_to_winners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two boards that compute the same: compiled and profiled each, evaluated once; a second run does nothing."""
    with np.load(FOLDER / "digits-test.npz") as data:
        np.savez(tmp_path / "data.npz", x=data["x"][:40], y=data["y"][:40])
    job = bench.Job(MODEL, CALIBRATION, 32, tmp_path / "data.npz", 16.0, ("pointwise",))
    said: list[str] = []
    monkeypatch.setattr(bench, "_say", said.append)
    cases = bench.prepare(job, ("gap8", "stm32f7"), tmp_path)
    assert said == [
        "compiling for gap8", "compiling for stm32f7", "profiling gap8", "profiling stm32f7", "evaluating gap8",
        "stm32f7 computes and sends what gap8 does: the same accuracies",
    ]  # fmt: skip
    gap8, stm32f7 = cases["gap8"], cases["stm32f7"]
    assert gap8.accuracy == stm32f7.accuracy
    assert [each.cloud_us for each in gap8.profile] == [each.cloud_us for each in stm32f7.profile]
    if "gap8, own code" in cases:  # where a compiler and an emulator are installed
        own = cases["gap8, own code"]
        assert own == replace(gap8, board="gap8, own code", profile=own.profile)
        assert [each.cloud_us for each in own.profile] == [each.cloud_us for each in gap8.profile]
        assert own.profile[0].device_source.startswith("emulated: ")
        assert gap8.profile[0].device_source.startswith("modelled: ")
    assert {each.metric for each in gap8.accuracy} == {"accuracy"}
    assert {"pointwise", "pointwise/2bit", "local", "input", "jpeg"} <= {
        each.partition for each in gap8.accuracy
    }
    found = bench.regimes(gap8, [LORA], (300_000,))[0]
    in_time = [offer for offer in found.offers.values() if offer.in_time]
    assert found.offers[found.winner].accuracy == max(offer.accuracy for offer in in_time)
    said.clear()
    assert bench.prepare(job, ("gap8", "stm32f7"), tmp_path) == cases
    assert said == []
    prints = bench.fingerprints(tmp_path / "gap8")
    assert prints == bench.fingerprints(tmp_path / "stm32f7")
    assert set(prints) == {"pointwise", "local"}
    # Another graph in the cloud is noticed, and then other data is evaluated there, too.
    manifest = results.read_manifest(tmp_path / "stm32f7")
    manifest["files"][manifest["partitions"][0]["cloud"]] = "0" * 64
    (tmp_path / "stm32f7/manifest.json").write_text(json.dumps(manifest))
    np.savez(tmp_path / "data.npz", x=np.zeros((3, 1, 8, 8), np.float32), y=np.zeros(3, np.int64))
    evaluated: list[Path] = []
    monkeypatch.setattr(bench, "evaluate", lambda out, *_, **__: evaluated.append(out))
    bench._evaluated(job, tmp_path / "stm32f7", [tmp_path / "gap8"])
    assert evaluated == [tmp_path / "stm32f7"]
