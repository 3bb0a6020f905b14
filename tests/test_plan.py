"""The planner: cases computed by hand, brute force on small ones, and the words for the rest."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clio_cc.errors import ClioError
from clio_cc.link import find_link
from clio_cc.plan import Interval, Plan, PlanRange, Shortest, check_reachable
from clio_cc.planner import Accuracy, PlanPoint, cover_range, make_plan, read_points
from clio_cc.profile import ProfileRow
from clio_cc.targets.facts import Figure
from clio_cc.units import BandwidthRange


def row(layer: str, device_us: float | None, cloud_us: float) -> ProfileRow:
    return ProfileRow(layer, "Conv", 1, 1, 1, device_us, "test", cloud_us, "test")


PROFILE = (row("a", 100_000, 1000), row("b", 100_000, 2000), row("c", 50_000, 3000))
# p: 100 ms + 5 ms leave 195 ms for 32,000 bits: 164,102.6 bit/s. q: 200 ms + 3 ms leave 97 ms for 3,200 bits:
# 32,989.7 bit/s. p is faster where 28,800 bits take less than the 98 ms that it saves: above 293,877.6.
P = PlanPoint("p", "a", (4,), 1000)
Q = PlanPoint("q", "b", (4,), 100)
RANGE = BandwidthRange(20_000, 1_000_000)


def by_hand(points: Sequence[PlanPoint] = (P, Q), deadline_us: int = 300_000, **more: Any) -> Plan:
    return make_plan(PROFILE, points, RANGE, deadline_us=deadline_us, input_bytes=8000, **more)


def test_by_hand() -> None:
    plan = by_hand(link=find_link("clio-ble"), device_power_mw=Figure(50, "paper"))
    assert plan.intervals == (Interval("p", 164_103, 1_000_000), Interval("q", 32_990, 1_000_000))
    assert plan.cover == ("q",)
    assert plan.holes == ((20_000, 32_990),)
    # 203 ms + 3,200 / 32,990 s; 200 ms at 50 mW + 97.0 ms at 15 mW. 105 ms + 32,000 / 293,878 s; likewise.
    assert plan.ranges == (
        PlanRange(32_990, 293_878, "q", 4, 299_999.091, 11_454.986, None),
        PlanRange(293_878, 1_000_000, "p", 4, 213_888.723, 6_633.331, None),
    )
    assert plan.shortest == Shortest("p", 4, 4000, 100_000.0, 32_000.0, 5000.0, 137_000.0)


def test_strategies_by_hand() -> None:
    plan = by_hand(link=find_link("clio-ble"), device_power_mw=Figure(50, "paper"))
    shown = [
        (s.strategy, s.partition, s.bytes, s.from_bps, s.latency_us, s.shortest_us) for s in plan.strategies
    ]
    assert shown == [
        ("local", "local", 0, 20_000, 250_000.0, 250_000.0),
        ("input", "input", 8000, 217_688, 3_206_000.0, 70_000.0),  # 64,000 bits in 294 ms
        ("cut", "p", 4000, 164_103, 1_705_000.0, 137_000.0),
        ("cut", "q", 400, 32_990, 363_000.0, 206_200.0),
    ]
    # At 20 kbit/s: 250 ms at 50 mW; 3.2 s at 15 mW; 100 ms at 50 mW and 1.6 s at 15 mW; 200 ms and 160 ms.
    assert [s.energy_uj for s in plan.strategies] == [12_500.0, 48_000.0, 29_000.0, 12_400.0]
    late = by_hand(deadline_us=60_000)
    assert [(s.from_bps, s.to_bps) for s in late.strategies] == [(None, None)] * 4


def test_unknown_power_is_no_energy() -> None:
    assert {r.energy_uj for r in by_hand().ranges} == {None}
    only_device = by_hand(device_power_mw=Figure(50, "paper"))
    assert [s.energy_uj for s in only_device.strategies] == [12_500.0, None, None, None]
    only_link = by_hand(link=find_link("clio-ble"))
    assert {s.energy_uj for s in only_link.strategies} == {None}


def test_accuracy_comes_before_latency() -> None:
    accuracy = {("p", 4): 0.8, ("q", 4): 0.9, ("local", 0): 0.95}
    plan = by_hand(accuracy=accuracy)
    assert [(r.partition, r.accuracy) for r in plan.ranges] == [("q", 0.9)]
    plan = by_hand(accuracy={("p", 4): 0.9, ("q", 4): 0.8})
    assert [(r.from_bps, r.partition) for r in plan.ranges] == [(32_990, "q"), (164_103, "p")]
    assert [s.accuracy for s in by_hand(accuracy=accuracy).strategies] == [0.95, None, 0.8, 0.9]


def test_slices_widen_the_interval() -> None:
    plan = by_hand([PlanPoint("p", "a", (1, 4), 1000)], accuracy={("p", 1): 0.5, ("p", 4): 0.9})
    assert plan.intervals == (Interval("p", 41_026, 1_000_000),)  # 8,000 bits in 195 ms
    assert [(r.from_bps, r.to_bps, r.slices) for r in plan.ranges] == [
        (41_026, 164_103, 1),
        (164_103, 1_000_000, 4),
    ]


def test_one_bandwidth() -> None:
    one = BandwidthRange(250_000, 250_000)
    plan = make_plan(PROFILE, (P, Q), one, input_bytes=8000)
    assert [(r.from_bps, r.to_bps, r.partition) for r in plan.ranges] == [(250_000, 250_000, "q")]
    assert (plan.cover, plan.holes) == (("q",), ())
    plan = make_plan(PROFILE, (P,), BandwidthRange(20_000, 20_000), input_bytes=8000)
    assert (plan.cover, plan.holes, plan.ranges) == ((), ((20_000, 20_000),), ())


def test_no_partition_point_is_everything_local() -> None:
    plan = by_hand([])
    assert [(r.from_bps, r.to_bps, r.partition, r.slices) for r in plan.ranges] == [
        (20_000, 1_000_000, "local", 0)
    ]
    assert (plan.cover, plan.holes) == (("local",), ())
    assert [s.strategy for s in plan.strategies] == ["local", "input"]


def test_raw_input_may_be_a_point() -> None:
    plan = by_hand([PlanPoint("input", None, (1,), 8000)])
    assert plan.intervals == (Interval("input", 217_688, 1_000_000),)
    assert [s.strategy for s in plan.strategies] == ["local", "input"]


def test_what_the_device_cannot_run_stays_in_the_cloud() -> None:
    profile = (*PROFILE, row("d", None, 0))
    plan = make_plan(profile, (P, Q), RANGE, input_bytes=8000)
    assert plan.ranges == by_hand().ranges
    assert [s.strategy for s in plan.strategies] == ["input", "cut", "cut"]


def test_json() -> None:
    plan = by_hand(link=find_link("clio-lora"), device_power_mw=Figure(50, "CLIO"))
    data = json.loads(plan.to_text())
    assert list(data) == [
        "schema", "deadline_us", "link", "bandwidth", "intervals", "cover", "holes", "ranges", "strategies",
        "shortest", "sources",
    ]  # fmt: skip
    assert (data["deadline_us"], data["link"], data["cover"]) == (300_000, "clio-lora", ["q"])
    assert data["intervals"][0] == {"partition": "p", "from_bps": 164_103, "to_bps": 1_000_000}
    assert data["holes"] == [[20_000, 32_990]]
    assert list(data["ranges"][0]) == [
        "from_bps", "to_bps", "partition", "slices", "latency_us", "energy_uj", "accuracy",
    ]  # fmt: skip
    assert data["sources"] == {
        "device_power": "50 mW; CLIO",
        "link": "LoRa as in the CLIO paper: 50k, 60 mW; CLIO (MobiCom'20), section 5.5; the paper's figure; "
        "no LoRaWAN rate: SF7 at 125 kHz is 4.8 kbit/s",
    }
    assert (
        plan.to_text() == by_hand(link=find_link("clio-lora"), device_power_mw=Figure(50, "CLIO")).to_text()
    )


def test_points_of_a_manifest() -> None:
    entries: list[dict[str, object]] = [
        {"name": "stack2", "layer": "relu_7", "slices": [1, 2], "unit_bytes": 256, "shape": [1, 32, 16, 16]},
        {"name": "conv1", "slices": [8], "unit_bytes": 64},
        {"name": "input", "slices": [3], "unit_bytes": 1024},
        {"name": "local", "slices": [], "unit_bytes": 0},
    ]
    assert read_points({"partitions": entries}) == (
        PlanPoint("stack2", "relu_7", (1, 2), 256),
        PlanPoint("conv1", "conv1", (8,), 64),
        PlanPoint("input", None, (3,), 1024),
    )
    for broken in ({}, {"partitions": [{"name": "a"}]}, {"partitions": [{**entries[1], "slices": []}]}):
        with pytest.raises(ClioError) as error:
            read_points(broken, "clio-out/manifest.json")
        assert (
            str(error.value)
            == "clio-out/manifest.json: not a manifest of this clio-cc\n  hint: compile again"
        )


# --- words ----------------------------------------------------------------------------------------


def test_words_for_points_that_do_not_fit_the_profile() -> None:
    with pytest.raises(ClioError) as error:
        by_hand([PlanPoint("x", "z", (1,), 1)])
    assert str(error.value) == "profile.csv: layer 'z' of partition point 'x' is not in the profile"
    with pytest.raises(ClioError) as error:
        make_plan((row("a", None, 1), row("b", 1, 1)), [PlanPoint("x", "b", (1,), 1)], RANGE, input_bytes=1)
    assert (
        str(error.value) == "profile.csv: partition point 'x' needs a device_us for layer 'a', which has none"
    )
    with pytest.raises(ClioError) as error:
        make_plan((row("a", None, 1),), [], RANGE, input_bytes=1)
    assert str(error.value) == "profile.csv: there is no partition point, and some layers have no device_us"


def test_words_for_an_unreachable_deadline() -> None:
    check_reachable(by_hand())
    with pytest.raises(ClioError) as error:
        check_reachable(by_hand(deadline_us=60_000))
    assert str(error.value) == (
        "no partition point meets a deadline of 60ms\n  hint: the shortest reachable is 137ms, at 'p': 100ms "
        "on the device and 5ms in the cloud, 32ms for 4000 bytes at 1M"
    )


# --- properties -----------------------------------------------------------------------------------

ENDS = st.integers(0, 30)
INTERVALS = st.lists(st.tuples(ENDS, ENDS).map(lambda e: (min(e), max(e))), max_size=7).map(
    lambda pairs: [Interval(str(i), low, high) for i, (low, high) in enumerate(pairs)]
)


def cells(intervals: Sequence[Interval | tuple[int, int]], low: int, high: int) -> set[int]:
    """Unit steps [n, n + 1] of the range that lie in an interval."""
    ends = [(i.from_bps, i.to_bps) if isinstance(i, Interval) else i for i in intervals]
    return {n for n in range(low, high) if any(start <= n and n + 1 <= stop for start, stop in ends)}


@given(INTERVALS, st.integers(0, 15), st.integers(1, 15))
def test_cover_is_the_smallest_and_holes_are_the_rest(
    intervals: list[Interval], low: int, length: int
) -> None:
    high = low + length
    cover, holes = cover_range(intervals, low, high)
    chosen = [i for i in intervals if i.partition in cover]
    coverable = cells(intervals, low, high)
    assert cells(chosen, low, high) == coverable
    assert cells(holes, low, high) == set(range(low, high)) - coverable
    assert all(start < stop for start, stop in holes)
    for fewer in range(len(cover)):
        for some in itertools.combinations(intervals, fewer):
            assert cells(some, low, high) != coverable


US = st.integers(0, 2000).map(float)
PROFILES = st.lists(st.tuples(US, US), min_size=2, max_size=5).map(
    lambda times: tuple(row(str(i), *pair) for i, pair in enumerate(times))
)


@st.composite
def cases(draw: st.DrawFn) -> tuple[tuple[ProfileRow, ...], list[PlanPoint], Accuracy, BandwidthRange, int]:
    profile = draw(PROFILES)
    layers = draw(st.lists(st.sampled_from([r.layer for r in profile]), min_size=2, unique=True))
    slices = st.lists(st.integers(1, 8), min_size=1, max_size=3, unique=True).map(lambda s: tuple(sorted(s)))
    points = [PlanPoint(f"after {name}", name, draw(slices), draw(st.integers(1, 12))) for name in layers]
    levels = draw(st.sampled_from([st.none(), st.just(0.5), st.none() | st.sampled_from([0.25, 0.5, 0.75])]))
    every = [(point.name, count) for point in points for count in point.slices]
    accuracy = {key: level for key in every if (level := draw(levels)) is not None}
    low, length = draw(st.integers(1, 40)), draw(st.integers(0, 40))
    bandwidth = BandwidthRange(low * SCALE, (low + length) * SCALE)
    # 1 to 96 bytes at 20 kbit/s to 1.6 Mbit/s: 5 us to 38 ms.
    return profile, points, accuracy, bandwidth, draw(st.integers(1000, 20_000))


SCALE = 20_000
"""Bandwidths of the cases are multiples of this, so that a byte takes some microseconds."""


def latency_us(profile: Sequence[ProfileRow], point: PlanPoint, slices: int, bps: int) -> Fraction:
    count = [r.layer for r in profile].index(str(point.layer)) + 1
    device = sum(int(r.device_us or 0) for r in profile[:count])
    cloud = sum(int(r.cloud_us) for r in profile[count:])
    return device + cloud + Fraction(slices * point.unit_bytes * 8_000_000, bps)


Case = tuple[tuple[ProfileRow, ...], list[PlanPoint], Accuracy, BandwidthRange, int]


def best(case: Case, bps: int) -> tuple[float, Fraction] | None:
    """Best accuracy (-1: unknown) and its lowest latency at a bandwidth; None if all miss the deadline."""
    profile, points, accuracy, _, deadline_us = case
    found = [
        (-accuracy.get((point.name, slices), -1.0), latency)
        for point in points
        for slices in point.slices
        if (latency := latency_us(profile, point, slices, bps)) <= deadline_us
    ]
    return (-min(found)[0], min(found)[1]) if found else None


@settings(max_examples=1000)
@given(cases())
def test_ranges_against_brute_force(case: Case) -> None:
    profile, points, accuracy, bandwidth, deadline_us = case
    low, high = bandwidth.low_bps, bandwidth.high_bps
    plan = make_plan(profile, points, bandwidth, deadline_us=deadline_us, input_bytes=1, accuracy=accuracy)
    tiles = sorted([*plan.holes, *((r.from_bps, r.to_bps) for r in plan.ranges)])
    assert (tiles[0][0], tiles[-1][1]) == (low, high)
    assert all(before[1] == after[0] for before, after in itertools.pairwise(tiles))
    assert low == high or all(start < stop for start, stop in tiles)
    probes = {*range(low, high, SCALE), *(bps for start, stop in tiles for bps in (start, stop - 1))}
    for bps in probes if low < high else {low}:
        here = [r for r in plan.ranges if r.from_bps <= bps < r.to_bps or low == high]
        expected = best(case, bps)
        if expected is None:
            assert not here
        else:
            (found,) = here
            point = next(p for p in points if p.name == found.partition)
            latency = latency_us(profile, point, found.slices, bps)
            assert (found.accuracy if found.accuracy is not None else -1.0, latency) == expected


@given(cases())
def test_every_range_meets_the_deadline(case: Case) -> None:
    profile, points, accuracy, bandwidth, deadline_us = case
    plan = make_plan(profile, points, bandwidth, deadline_us=deadline_us, input_bytes=1, accuracy=accuracy)
    by_name = {point.name: point for point in points}
    for found in plan.ranges:
        exact = latency_us(profile, by_name[found.partition], found.slices, found.from_bps)
        assert exact <= deadline_us
        assert found.latency_us == pytest.approx(float(exact), abs=0.001)
    assert len(plan.cover) <= 1  # every interval reaches the upper end
    assert bool(plan.cover) == bool(plan.ranges)
