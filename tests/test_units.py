"""Bandwidths and times as typed, and the words for those that are not."""

from __future__ import annotations

from fractions import Fraction

import pytest

from clio_cc.errors import ClioError
from clio_cc.units import (
    BandwidthRange,
    format_bps,
    format_uj,
    format_us,
    parse_bandwidth,
    parse_bandwidth_range,
    parse_energy_uj,
    parse_share,
    parse_time_us,
)

FORM = "give it from low to high, e.g. 50k:2M"
UNIT = "a time needs a unit: us, ms or s"
ENERGY = "an energy needs a unit: nJ, uJ, mJ or J"
RULE = "bandwidth is in bits per second, k and M are thousands and millions"


@pytest.mark.parametrize(
    ("text", "bps"),
    [("50k", 50_000), ("2M", 2_000_000), ("1.5M", 1_500_000), ("9600", 9600), (" 250 k ", 250_000)],
)
def test_bandwidth(text: str, bps: int) -> None:
    assert parse_bandwidth(text) == bps


def test_ranges() -> None:
    assert parse_bandwidth_range("50k:2M") == BandwidthRange(50_000, 2_000_000)
    assert parse_bandwidth_range("250k") == BandwidthRange(250_000, 250_000)


@pytest.mark.parametrize(
    ("text", "us"), [("300ms", 300_000), ("1s", 1_000_000), ("1.5 ms", 1500), ("800us", 800)]
)
def test_time(text: str, us: int) -> None:
    assert parse_time_us(text) == us


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2M:50k", "--bandwidth: '2M:50k' runs from high to low\n  hint: did you mean '50k:2M'?"),
        ("50kb", f"--bandwidth: '50kb' is not a bandwidth\n  hint: {RULE}; did you mean '50k'?"),
        ("50k:2Mbps", f"--bandwidth: '2Mbps' is not a bandwidth\n  hint: {RULE}; did you mean '2M'?"),
        ("2m", f"--bandwidth: '2m' is not a bandwidth\n  hint: {RULE}; did you mean '2M'?"),
        ("50G", f"--bandwidth: '50G' is not a bandwidth\n  hint: {RULE}"),
        ("-5k", f"--bandwidth: '-5k' is not a bandwidth\n  hint: {RULE}"),
        ("fast", f"--bandwidth: 'fast' is not a bandwidth\n  hint: {RULE}"),
        ("0:2M", "--bandwidth: '0' is not above 0"),
        ("1.0005k", "--bandwidth: '1.0005k' is not a whole number of bits per second"),
        (
            "50k:",
            f"--bandwidth: '50k:' is not a range of bandwidths\n  hint: {FORM}",
        ),
        ("", f"--bandwidth: '' is not a range of bandwidths\n  hint: {FORM}"),
        (
            "1:2:3",
            f"--bandwidth: '1:2:3' is not a range of bandwidths\n  hint: {FORM}",
        ),
    ],
)
def test_words_for_bandwidths(text: str, message: str) -> None:
    with pytest.raises(ClioError) as error:
        parse_bandwidth_range(text)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "300",
            f"--deadline: '300' is not a time\n  hint: {UNIT}; did you mean '300ms'?",
        ),
        (
            "2sec",
            f"--deadline: '2sec' is not a time\n  hint: {UNIT}; did you mean '2s'?",
        ),
        (
            "3MS",
            f"--deadline: '3MS' is not a time\n  hint: {UNIT}; did you mean '3ms'?",
        ),
        ("soon", f"--deadline: 'soon' is not a time\n  hint: {UNIT}"),
        ("0ms", "--deadline: '0ms' is not above 0"),
        ("0.5us", "--deadline: '0.5us' is not a whole number of microseconds"),
    ],
)
def test_words_for_times(text: str, message: str) -> None:
    with pytest.raises(ClioError) as error:
        parse_time_us(text)
    assert str(error.value) == message


def test_back_to_text() -> None:
    assert [format_bps(bps) for bps in (146, 50_000, 175_348, 2_000_000)] == ["146", "50k", "175.3k", "2M"]
    assert [format_us(us) for us in (0.25, 800, 300_000, 1.5e6)] == ["0.25us", "800us", "300ms", "1.5s"]
    assert [format_uj(uj) for uj in (0.02, 812.5, 5000, 2.5e6)] == ["20nJ", "812.5uJ", "5mJ", "2.5J"]


@pytest.mark.parametrize(
    ("text", "uj"), [("5mJ", 5000), ("800 uJ", 800), ("0.1J", 100_000), ("2.5nJ", Fraction("0.0025"))]
)
def test_energy(text: str, uj: int | Fraction) -> None:
    assert parse_energy_uj(text) == uj


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("5", f"--energy: '5' is not an energy\n  hint: {ENERGY}; did you mean '5mJ'?"),
        ("5mj", f"--energy: '5mj' is not an energy\n  hint: {ENERGY}; did you mean '5mJ'?"),
        ("5mJoule", f"--energy: '5mJoule' is not an energy\n  hint: {ENERGY}; did you mean '5mJ'?"),
        ("5Wh", f"--energy: '5Wh' is not an energy\n  hint: {ENERGY}"),
        ("0J", "--energy: '0J' is not above 0"),
    ],
)
def test_words_for_energies(text: str, message: str) -> None:
    with pytest.raises(ClioError) as error:
        parse_energy_uj(text)
    assert str(error.value) == message


def test_shares() -> None:
    assert [parse_share(text, "--hysteresis") for text in ("10%", "0.1", "0 %", "100%", "12.5%")] == [
        Fraction(1, 10), Fraction(1, 10), 0, 1, Fraction(1, 8),
    ]  # fmt: skip
    for text in ("10", "-5%", "a lot", "101%"):
        with pytest.raises(ClioError) as error:
            parse_share(text, "--hysteresis")
        assert str(error.value) == (
            f"--hysteresis: '{text}' is not a share from 0% to 100%\n  hint: give it like 10% or 0.1"
        )
