"""CLIO's own figure, by the code of benchmarks/clio_figure.py: our arithmetic, by hand, beside the paper's."""

from __future__ import annotations

from pathlib import Path

import pytest
from scripts import benchmark

figure = benchmark("clio_figure")

# (channels, side, multiply-accumulates up to and including it) of features.0 to features.18.
MOBILENETV2 = (
    (32, 112, 10_838_016), (16, 112, 20_873_216), (24, 56, 50_075_648), (24, 56, 75_815_936), (32, 28, 91_282_688),
    (32, 28, 102_271_232), (32, 28, 113_259_776), (64, 14, 120_823_808), (64, 14, 131_134_976),
    (64, 14, 141_446_144), (64, 14, 151_757_312), (96, 14, 164_476_928), (96, 14, 187_169_024),
    (96, 14, 209_861_120), (160, 7, 225_468_992), (160, 7, 240_945_152), (160, 7, 256_421_312),
    (320, 7, 279_423_872), (1280, 7, 299_494_272),
)  # fmt: skip


def test_the_network() -> None:
    assert tuple((b.channels, b.side, b.macs) for b in figure.blocks()) == MOBILENETV2


def test_the_network_is_the_exported_one(shared: Path) -> None:
    from clio_cc.compiler import front_end
    from clio_cc.inspection import inspect_model
    from clio_cc.lower import device_supports

    graph = front_end(shared / "data/models_structure/mobilenetv2_224.onnx")
    points = {p.name: p for p in inspect_model(graph, device_supports).partition_points}
    for index, (channels, side, macs) in enumerate(MOBILENETV2):
        point = points[f"features.{index}"]
        assert (tuple(point.shape), point.macs_before) == ((1, channels, side, side), macs)


def test_our_figures_beside_the_papers() -> None:
    """By hand, layer 8 counted from 1: 120.8 MMAC take 230.1 ms and leave 69.9 ms for 4 * 196 bytes: 89.8 kbit/s."""
    found = {(r.layer, r.counted_from): r for r in figure.rows()}
    assert {key: (r.block, r.step, r.kbps[r.step], r.paper_kbps) for key, r in found.items()} == {
        (3, 0): ("features.3", 2, 322.5, 195),
        (3, 1): ("features.2", 2, 245.2, 195),
        (5, 0): ("features.5", 2, 119.2, 175),
        (5, 1): ("features.4", 2, 99.5, 175),
        (8, 0): ("features.8", 4, 124.9, 98),
        (8, 1): ("features.7", 4, 89.8, 98),
    }
    # What would give the paper's figures: 1.6 channels, 3.5 channels, 4.4 channels with layers counted from 1.
    assert [found[layer, 1].paper_channels for layer in (3, 5, 8)] == [1.59, 3.52, 4.37]
    # Layer 8 is the paper's with 6 ms in the cloud; the other two lie between one slice and the next.
    in_cloud = {(r.layer, r.counted_from): r.kbps for r in figure.rows(6000)}
    assert in_cloud[8, 1][4] == pytest.approx(98, rel=0.005)
    assert in_cloud[3, 1][1] < 195 < in_cloud[3, 1][2]
    assert in_cloud[5, 1][2] < 175 < in_cloud[5, 1][4]


@pytest.mark.parametrize("cloud_us", [0, 6000])
def test_three_points_at_most_cover_the_range(cloud_us: float) -> None:
    plan = figure.plan(cloud_us)
    assert 1 <= len(plan.cover) <= len(plan.adaptive_cover) <= 3
    by_name = {i.partition: i for i in plan.intervals}
    rows = {r.block: r for r in figure.rows(cloud_us)}
    for name, row in rows.items():
        assert by_name[name].from_bps / 1000 == pytest.approx(row.kbps[row.step], abs=0.06)
    # What the paper's three points leave uncovered, ours leave, too: nothing reaches down to 50 kbit/s.
    lowest = min(i.from_bps for i in plan.intervals)
    assert plan.holes == ((50_000, lowest),)
    assert plan.cover == ("features.7",)
