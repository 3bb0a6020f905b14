"""Bandwidths, times, energies as people type them: ``50k:2M`` bits per second, ``300ms``, ``5mJ``; and back to text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from clio_cc.errors import ClioError

Units = Mapping[str, int | Fraction]
_BANDWIDTH_UNITS: Units = {"": 1, "k": 10**3, "M": 10**6}
_TIME_UNITS: Units = {"us": 1, "ms": 10**3, "s": 10**6}
_ENERGY_UNITS: Units = {"nJ": Fraction(1, 1000), "uJ": 1, "mJ": 10**3, "J": 10**6}
_NUMBER = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([A-Za-z/]*)", re.ASCII)
_BANDWIDTH_RULE = "bandwidth is in bits per second, k and M are thousands and millions"
_CLOCK_RULE = "a clock frequency is in hertz, k and M are thousands and millions"
_TIME_RULE = "a time needs a unit: us, ms or s"
_ENERGY_RULE = "an energy needs a unit: nJ, uJ, mJ or J"


@dataclass(frozen=True)
class BandwidthRange:
    """Bandwidths from `low_bps` to `high_bps`, both included and above 0."""

    low_bps: int
    high_bps: int

    def __post_init__(self) -> None:
        if not 0 < self.low_bps <= self.high_bps:
            raise ValueError(f"not a range of bandwidths: {self.low_bps} to {self.high_bps}")


def parse_bandwidth(text: str, where: str = "--bandwidth") -> int:
    """Bits per second of ``250k``, ``2M``, ``1.5M`` or ``9600``.

    Raises:
        ClioError: It is none, is 0, or is not a whole number of bits per second; the hint shows the nearest.
    """
    return _whole(text, "a bandwidth", _BANDWIDTH_UNITS, _BANDWIDTH_RULE, "bits per second", where)


def parse_bandwidth_range(text: str, where: str = "--bandwidth") -> BandwidthRange:
    """The range of ``50k:2M``; one bandwidth alone is a range of one.

    Raises:
        ClioError: As :func:`parse_bandwidth`, or the range is not two bandwidths from low to high.
    """
    ends = text.split(":")
    if len(ends) > 2 or not all(end.strip() for end in ends):
        raise ClioError(
            f"'{text}' is not a range of bandwidths", where, "give it from low to high, e.g. 50k:2M"
        )
    low, high = parse_bandwidth(ends[0], where), parse_bandwidth(ends[-1], where)
    if low > high:
        hint = f"did you mean '{ends[-1].strip()}:{ends[0].strip()}'?"
        raise ClioError(f"'{text}' runs from high to low", where, hint)
    return BandwidthRange(low, high)


def parse_frequency_hz(text: str, where: str = "--clock") -> int:
    """Hertz of ``216M`` or ``32768``.

    Raises:
        ClioError: It is none, is 0, or is not a whole number of hertz.
    """
    return _whole(text, "a clock frequency", _BANDWIDTH_UNITS, _CLOCK_RULE, "hertz", where)


def parse_time_us(text: str, where: str = "--deadline") -> int:
    """Microseconds of ``300ms``, ``1.5s`` or ``800us``.

    Raises:
        ClioError: It is none, is 0, or is not a whole number of microseconds.
    """
    return _whole(text, "a time", _TIME_UNITS, _TIME_RULE, "microseconds", where)


def parse_energy_uj(text: str, where: str = "--energy") -> Fraction:
    """Microjoules of ``5mJ``, ``800uJ`` or ``0.1J``, exactly.

    Raises:
        ClioError: It is none, or is 0.
    """
    return _value(text, "an energy", _ENERGY_UNITS, _ENERGY_RULE, where)


def parse_share(text: str, where: str) -> Fraction:
    """The share of ``10%`` or ``0.1``, exactly; 0 to 1.

    Raises:
        ClioError: It is none.
    """
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?(%?)", text.strip(), re.ASCII)
    value = Fraction(match[1]) / (100 if match[2] else 1) if match is not None else None
    if value is None or value > 1:
        raise ClioError(f"'{text}' is not a share from 0% to 100%", where, "give it like 10% or 0.1")
    return value


def format_bps(bps: int) -> str:
    """``50k``, ``2M``, ``175.3k``: at most four digits are exact, more are rounded."""
    return _scaled(Fraction(bps), _BANDWIDTH_UNITS)


def format_us(us: Fraction | float) -> str:
    """``300ms``, ``1.5s``, ``0.25us``, rounded to four digits."""
    return _scaled(Fraction(us), _TIME_UNITS)


def format_uj(uj: Fraction | float) -> str:
    """``5mJ``, ``812.5uJ``, ``20nJ``, rounded to four digits."""
    return _scaled(Fraction(uj), _ENERGY_UNITS)


def _whole(text: str, what: str, units: Units, rule: str, base: str, where: str) -> int:
    value = _value(text, what, units, rule, where)
    if value.denominator != 1:
        raise ClioError(f"'{text}' is not a whole number of {base}", where)
    return int(value)


def _value(text: str, what: str, units: Units, rule: str, where: str) -> Fraction:
    match = _NUMBER.fullmatch(text.strip())
    if match is None or match[2] not in units:
        near = _nearest(match[2], units) if match is not None else None
        guess = f"; did you mean '{match[1]}{near}'?" if match is not None and near is not None else ""
        raise ClioError(f"'{text}' is not {what}", where, rule + guess)
    value = Fraction(match[1]) * units[match[2]]
    if value == 0:
        raise ClioError(f"'{text}' is not above 0", where)
    return value


def _nearest(unit: str, units: Units) -> str | None:
    """The unit probably meant: one that starts alike (``kb``, ``Mbps``, ``msec``); the thousandth where there is none."""
    if not unit:
        return next(known for known in units if known.startswith("m"))
    by_length = sorted((known for known in units if known), key=len, reverse=True)
    return next((known for known in by_length if unit.lower().startswith(known.lower())), None)


def _scaled(value: Fraction, units: Units) -> str:
    """Four significant digits with the largest unit that leaves at least 1 before the point."""
    by_size = sorted(units.items(), key=lambda item: item[1], reverse=True)
    unit, factor = next((item for item in by_size if value >= item[1]), by_size[-1])
    return f"{float(value / factor):.4g}{unit}"
