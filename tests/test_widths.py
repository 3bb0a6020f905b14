"""How often each count is sent: cases by hand, brute force over sampled bandwidths, and the words for the rest."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clio_cc.errors import ClioError
from clio_cc.link import Link, Stream
from clio_cc.options import PlanPoint
from clio_cc.profile import ENCODE, ProfileRow
from clio_cc.radios import find_link
from clio_cc.targets.facts import Figure
from clio_cc.training.widths import (
    FLOOR,
    RangePrior,
    TablePrior,
    Widths,
    given_probabilities,
    parse_shares,
    read_prior,
    slice_probabilities,
)
from clio_cc.units import BandwidthRange

POINT = PlanPoint("p", "a", (1, 2, 4), 1000)
RANGE = BandwidthRange(10_000, 50_000)
SAMPLED = 4000


def row(layer: str, device_us: float, cloud_us: float, op: str = "Conv") -> ProfileRow:
    return ProfileRow(layer, op, 1, 1, 1, device_us, "test", cloud_us, "test")


PROFILE = (row("a", 90_000, 5000), row("p/units", 9000, 500, ENCODE), row("b", 80_000, 10_500))


def without_floor(widths: Widths, name: str = "p") -> list[float]:
    found = np.array(widths.probabilities[name])
    return [round(float(each), 12) for each in (found - FLOOR / len(found)) / (1 - FLOOR)]


def test_uniform_by_hand() -> None:
    # 8,000, 16,000 and 32,000 bits in a second: from 10k to 16k the one, to 32k two, to 50k four.
    widths = slice_probabilities([POINT], RangePrior(RANGE), deadline_us=1_000_000)
    assert without_floor(widths) == [0.15, 0.4, 0.45]
    assert widths.warnings == ()
    assert sum(widths.probabilities["p"]) == pytest.approx(1)


def test_log_by_hand() -> None:
    prior = RangePrior(
        BandwidthRange(8_000, 128_000), log=True
    )  # four octaves; a count for each of the first two
    assert without_floor(slice_probabilities([POINT], prior, deadline_us=1_000_000)) == [0.25, 0.25, 0.5]


def test_computing_takes_from_the_deadline() -> None:
    # 90 + 9 ms on the device; of the cloud's 16 ms those behind the layer, and the head: 99 + 11 = 110 ms.
    prior = TablePrior(((8000, 1), (16_000, 1), (31_999, 3), (32_000, 5)))
    widths = slice_probabilities([POINT], prior, deadline_us=1_110_000, profile=PROFILE)
    assert without_floor(widths) == [0.1, 0.4, 0.5]


def test_too_late_counts_for_the_smallest() -> None:
    prior = TablePrior(((0, 1), (7999, 2), (32_000, 1)))
    assert without_floor(slice_probabilities([POINT], prior, deadline_us=1_000_000)) == [0.75, 0, 0.25]


def test_points_have_their_own() -> None:
    other = PlanPoint("q", "b", (3,), 10)
    widths = slice_probabilities([POINT, other], RangePrior(RANGE), deadline_us=1_000_000)
    assert widths.probabilities["q"] == (1.0,)
    assert without_floor(widths) == [0.15, 0.4, 0.45]


def test_one_bandwidth() -> None:
    widths = slice_probabilities(
        [POINT], RangePrior(BandwidthRange(20_000, 20_000), log=True), deadline_us=1_000_000
    )
    assert without_floor(widths) == [0, 1, 0]


def test_without_a_prior_all_numbers_of_units_are_alike() -> None:
    # Nearest to one unit: from a half to one and a half; to two: to three; to four: to four.
    widths = slice_probabilities([POINT], None, deadline_us=1)
    assert without_floor(widths) == [round(1 / 3.5, 12), round(1.5 / 3.5, 12), round(1 / 3.5, 12)]
    assert widths.warnings == ()
    assert widths.probabilities["p"][0] == pytest.approx(0.95 / 3.5 + 0.05 / 3)
    alone = PlanPoint("p", "a", (8,), 1000)
    assert slice_probabilities([alone], None, deadline_us=1).probabilities == {"p": (1.0,)}


def test_shares_as_somebody_says_them() -> None:
    assert without_floor(given_probabilities([POINT], parse_shares("1, 2,0"))) == [
        round(1 / 3, 12),
        round(2 / 3, 12),
        0,
    ]
    with pytest.raises(ClioError) as raised:
        given_probabilities([POINT], (1.0, 2.0))
    assert str(raised.value) == (
        "--shares: 2 shares for the 3 counts 1,2,4 of 'p'\n  hint: give one per count"
    )


@pytest.mark.parametrize("text", ["", "1,,2", "a,b", "-1,2", "0,0", "1e3", "nan"])
def test_wrong_shares(text: str) -> None:
    with pytest.raises(ClioError) as raised:
        parse_shares(text)
    assert str(raised.value) == (
        f"--shares: '{text}' are no shares\n  hint: give a number from 0 up for each count, e.g. 1,2,4,4"
    )


def test_what_the_link_cannot_reach() -> None:
    link = Link("slow", "", bandwidth_bps=Figure(18_000, "test"))
    widths = slice_probabilities([POINT], RangePrior(RANGE), deadline_us=1_000_000, link=link)
    assert without_floor(widths) == [0.75, 0.25, 0]  # of 10k to 18k
    table = TablePrior(((9000, 1), (50_000, 3)))  # four units would be in time at 50k, not at 18k
    assert without_floor(slice_probabilities([POINT], table, deadline_us=1_000_000, link=link)) == [
        0.25,
        0.75,
        0,
    ]
    with pytest.raises(ClioError) as caught:
        slice_probabilities([POINT], RangePrior(BandwidthRange(20_000, 30_000)), deadline_us=10**6, link=link)
    assert str(caught.value) == (
        "link 'slow' reaches at most 18k, the range begins at 20k\n  hint: give a range that the link reaches"
    )


@settings(max_examples=60)
@given(
    counts=st.sets(st.integers(1, 64), min_size=1, max_size=8),
    unit_bytes=st.integers(1, 2000),
    low=st.integers(1000, 400_000),
    width=st.integers(0, 2_000_000),
    log=st.booleans(),
    radio=st.sampled_from([None, "clio-wifi", "ble-2m", "ble-1m"]),
    deadline_us=st.integers(1000, 900_000),
    timed=st.booleans(),
)
def test_against_sampled_bandwidths(
    counts: set[int],
    unit_bytes: int,
    low: int,
    width: int,
    log: bool,
    radio: str | None,
    deadline_us: int,
    timed: bool,
) -> None:
    """What is in time is asked of the link at every one of many bandwidths; shares are then off by a sample per step."""
    link = None if radio is None else find_link(radio)
    high = low + width
    if link is not None:
        low, high = min(low, link.ceiling_bps), min(high, link.ceiling_bps)
    point = PlanPoint("p", "a", tuple(sorted(counts)), unit_bytes)
    prior = RangePrior(BandwidthRange(low, high), log)
    profile = PROFILE if timed else ()
    widths = slice_probabilities([point], prior, deadline_us=deadline_us, link=link, profile=profile)
    middles = (np.arange(SAMPLED) + 0.5) / SAMPLED
    sampled = low * (high / low) ** middles if log else low + (high - low) * middles
    free_ns = deadline_us * 1000 - (110_000_000 if timed else 0)
    transfer = Stream() if link is None else link.transfer
    sent = [
        max(
            (
                count
                for count in point.slices
                if transfer.time_ns(count * unit_bytes, max(1, int(bps))) <= free_ns
            ),
            default=point.slices[0],
        )
        for bps in sampled
    ]
    shares = [sent.count(count) / SAMPLED for count in point.slices]
    # A sample on either side of a step, and one bit per second from rounding to whole ones where the range is short.
    near = 2 / SAMPLED + (2 / (high - low) if high > low and not log else 2 / low if high > low else 0)
    if high > low:
        assert without_floor(widths) == pytest.approx(shares, abs=near)
    else:
        assert without_floor(widths) == shares
    assert sum(widths.probabilities["p"]) == pytest.approx(1)
    assert min(widths.probabilities["p"]) >= FLOOR / len(counts) - 1e-12


@pytest.mark.parametrize(
    ("range_", "warning"),
    [
        (
            BandwidthRange(16_000, 31_000),
            "no bandwidth of the prior has 'p' send 1 or 4 units within 1s: these are trained with the 5% that all "
            "counts share",
        ),
        (
            BandwidthRange(16_000, 50_000),
            "no bandwidth of the prior has 'p' send 1 unit within 1s: that is trained with the 5% that all counts share",
        ),
    ],
)
def test_counts_that_are_never_sent(range_: BandwidthRange, warning: str) -> None:
    widths = slice_probabilities([POINT], RangePrior(range_), deadline_us=1_000_000)
    assert widths.warnings == (warning,)


def test_a_device_that_is_too_slow() -> None:
    widths = slice_probabilities([POINT], RangePrior(RANGE), deadline_us=100_000, profile=PROFILE)
    assert without_floor(widths) == [1, 0, 0]
    assert widths.warnings == (
        "'p' sends nothing within 100ms at any bandwidth: it is trained for its smallest count",
    )


def test_words_and_ranges() -> None:
    assert read_prior("uniform", None) is None
    assert read_prior("uniform", RANGE) == RangePrior(RANGE)
    assert read_prior("log", RANGE) == RangePrior(RANGE, log=True)


def message(text: str, bandwidth: BandwidthRange | None = None, folder: Path | None = None) -> str:
    with pytest.raises(ClioError) as caught:
        read_prior(text, bandwidth)
    return str(caught.value).replace(f"{folder}/", "")


def test_words_that_are_none() -> None:
    where = "--bandwidth-prior: "
    assert message("log") == f"{where}needs a range of bandwidths\n  hint: add --bandwidth, e.g. 50k:2M"
    assert message("unifrom", RANGE) == f"{where}unknown prior 'unifrom'\n  hint: did you mean 'uniform'?"
    assert message("gauss", RANGE) == (
        f"{where}unknown prior 'gauss'\n  hint: give uniform, log, or a .csv or .json file"
    )
    assert message("none.csv") == "none.csv: no such file"
    assert message("none.json") == "none.json: no such file"


CSV = "bandwidth,weight\n50k,1\n\n2M, 3\n0,0.5\n"
JSON = [
    {"bandwidth": 50_000, "weight": 1},
    {"bandwidth": "2M", "weight": 3},
    {"bandwidth": 0.0, "weight": 0.5},
]


@pytest.mark.parametrize(("name", "text"), [("p.csv", CSV), ("p.JSON", json.dumps(JSON))])
def test_weighted_rows(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    prior = read_prior(str(tmp_path / name), None)
    assert prior == TablePrior(((50_000, 1), (2_000_000, 3), (0, 0.5)))
    within = read_prior(str(tmp_path / name), BandwidthRange(50_000, 60_000))
    assert within == TablePrior(((50_000, 1),))


def test_rows_without_weight_count_alike(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("bandwidth\n9600\n50k\n")
    assert read_prior(str(tmp_path / "p.csv"), None) == TablePrior(((9600, 1), (50_000, 1)))


def test_a_trace_weighs_by_duration(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("time_s,kbps\n1,2290.857\n2,40\n98,0.02\n")
    prior = read_prior(str(tmp_path / "p.csv"), None)
    assert prior == TablePrior(((2_290_857, 1), (40_000, 1), (20, 96)))
    assert prior.at_least(40_000) == 2 / 98


def test_a_real_trace(shared: Path) -> None:
    file = shared / "data/traces/bus/ljansbakken-oslo_2010-09-28_1407.csv"
    point = PlanPoint("p", "a", (1, 4, 16, 64), 144)
    widths = slice_probabilities([point], read_prior(str(file), None), deadline_us=100_000)
    assert min(without_floor(widths)) > 0 and sum(widths.probabilities["p"]) == pytest.approx(1)


def test_files_at_fault(tmp_path: Path) -> None:
    def found(text: str, name: str = "p.csv", bandwidth: BandwidthRange | None = None) -> str:
        (tmp_path / name).write_text(text)
        return message(str(tmp_path / name), bandwidth, tmp_path)

    assert found("bps\n1\n") == (
        "p.csv:1: the first line must be 'bandwidth,weight' or 'bandwidth' or 'time_s,kbps', got 'bps'"
    )
    assert found("bandwidth\n") == "p.csv: holds no bandwidths"
    assert found("bandwidth,weight\n50kb,1\n9600,-1\n2M\n") == "p.csv:4: a row has 2 cells, got 1"
    assert found("bandwidth,weight\n50kb,1\n9600,-1\n") == (
        "p.csv:2: '50kb' is not a bandwidth\n  p.csv:3: weight must be a number from 0 up, got '-1'"
    )
    assert found("bandwidth,weight\n50k,0\n") == "p.csv: all weights are 0"
    assert found("bandwidth\n50k\n", bandwidth=BandwidthRange(1000, 2500)) == (
        "p.csv: holds no bandwidth within 1k:2.5k\n  hint: leave out --bandwidth for all of the file"
    )
    assert found("time_s,kbps\n1,x\n2,3\n2,4\n") == (
        "p.csv:2: kbps must be a number from 0 up, got 'x'\n  p.csv:4: time_s must rise, got 2 after 2"
    )
    forms = '{"bandwidth", "weight"} or {"bandwidth"} or {"time_s", "kbps"}'
    assert found("{}", "p.json") == f"p.json: must hold a list of {forms}"
    assert found("[", "p.json").startswith("p.json: is no JSON: ")
    assert found("[]", "p.json") == "p.json: holds no bandwidths"
    assert found("[7]", "p.json") == f"p.json: row 1 must be {forms}, got 7"
    assert found('[{"bandwidth": 7}, {"bandwith": 8}, {"bandwidth": 9}]', "p.json") == (
        'p.json: row 2 must be like the first, got {"bandwith": 8}'
    )
    assert found('[{"bandwidth": true}]', "p.json") == "p.json: row 1: 'true' is not a bandwidth"
