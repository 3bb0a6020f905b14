"""How often each number of units is sent: the weights of the expected loss that training minimizes (CLIO §3.2).

A prior says how likely each bandwidth is. At a bandwidth the device sends as many units as are in time; that number
changes at few bandwidths only, those at which one more count comes into reach, so its probabilities are differences of
the prior's distribution there and nothing is sampled.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from clio_cc.errors import ClioError, raise_collected
from clio_cc.link import Link, Stream
from clio_cc.options import Costs, Option, PlanPoint, Times, point_options
from clio_cc.profile import ProfileRow
from clio_cc.table import number, read_table
from clio_cc.units import BandwidthRange, format_bps, format_us, parse_bandwidth

FLOOR = 0.05
"""Share of the probability that all counts have alike. No count that may be asked for stays untrained, however unlikely
the prior makes it; five in a hundred of the loss do not move what the likely ones learn."""
UNIFORM, LOG = "uniform", "log"
WHERE = "--bandwidth-prior"
_ROWS, _EQUAL_ROWS, _TRACE = ("bandwidth", "weight"), ("bandwidth",), ("time_s", "kbps")
_FORMS = (_ROWS, _EQUAL_ROWS, _TRACE)


@dataclass(frozen=True)
class RangePrior:
    """Every bandwidth of a range alike; or, with `log`, every octave of it."""

    bandwidth: BandwidthRange
    log: bool = False

    def at_least(self, bps: float) -> float:
        """Probability of this bandwidth or more."""
        low, high = self.bandwidth.low_bps, self.bandwidth.high_bps
        if bps <= low or bps > high:
            return float(bps <= low)
        return math.log(high / bps) / math.log(high / low) if self.log else (high - bps) / (high - low)

    def within(self, link: Link) -> RangePrior:
        """The part of the range that a link reaches, as in a plan.

        Raises:
            ClioError: it reaches none of it.
        """
        low, high, top = self.bandwidth.low_bps, self.bandwidth.high_bps, link.ceiling_bps
        if low > top:
            raise ClioError(
                f"link '{link.name}' reaches at most {format_bps(top)}, the range begins at {format_bps(low)}",
                hint="give a range that the link reaches",
            )
        return replace(self, bandwidth=BandwidthRange(low, min(high, top)))


@dataclass(frozen=True)
class TablePrior:
    """Bandwidths in bits per second, each with its weight; 0 where nothing gets through."""

    rows: tuple[tuple[float, float], ...]

    def at_least(self, bps: float) -> float:
        """Probability of this bandwidth or more."""
        reached = math.fsum(weight for each, weight in self.rows if each >= bps)
        return reached / math.fsum(weight for _, weight in self.rows)

    def within(self, link: Link) -> TablePrior:
        """What a link makes of it: it carries no more than its ceiling where there would be more."""
        return TablePrior(tuple((min(bps, link.ceiling_bps), weight) for bps, weight in self.rows))


Prior = RangePrior | TablePrior


@dataclass(frozen=True)
class Widths:
    """Probabilities of the counts of each partition point.

    Attributes:
        probabilities: Partition point → one per count, ascending; they sum to 1 and are at least ``FLOOR / counts``.
        warnings: Counts that nothing but that floor has the network trained for, a sentence per point.
    """

    probabilities: Mapping[str, tuple[float, ...]]
    warnings: tuple[str, ...] = ()


def given_probabilities(points: Sequence[PlanPoint], shares: Sequence[float]) -> Widths:
    """Return how often each count is sent as somebody says it, the same at each point.

    Args:
        points: Their counts.
        shares: Of the counts, from 0 up, in any unit.

    Raises:
        ClioError: there are more or fewer of them than counts.
    """
    for point in points:
        if len(shares) != len(point.slices):
            counts = ",".join(map(str, point.slices))
            message = f"{len(shares)} shares for the {len(point.slices)} counts {counts} of '{point.name}'"
            raise ClioError(message, "--shares", "give one per count")
    total = math.fsum(shares)
    return Widths({point.name: _floored([share / total for share in shares]) for point in points})


def parse_shares(text: str) -> tuple[float, ...]:
    """Return the shares of ``1,2,4``.

    Raises:
        ClioError: these are no numbers from 0 up, or all of them 0.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"[0-9]+(\.[0-9]+)?", part, re.ASCII) for part in parts) or not any(
        map(float, parts)
    ):
        raise ClioError(
            f"'{text}' are no shares", "--shares", "give a number from 0 up for each count, e.g. 1,2,4,4"
        )
    return tuple(map(float, parts))


def slice_probabilities(
    points: Sequence[PlanPoint],
    prior: Prior | None,
    *,
    deadline_us: int,
    link: Link | None = None,
    profile: Sequence[ProfileRow] = (),
) -> Widths:
    """Return how often each count of units is sent, each point by itself: the device cuts at one of them at a time.

    The largest count in time is sent. Where not even the smallest is, that one is sent nevertheless: late.

    Args:
        points: Their counts and the bytes of a unit.
        prior: Of the bandwidth; None where any number of units is as likely to arrive as any other, up to the last count.
        deadline_us: From the input's arrival to the result.
        link: How bytes travel; None for a stream.
        profile: Of device and cloud, see :func:`clio_cc.profile.modelled`; empty if they are to count as instant.

    Raises:
        ClioError: The link does not reach the range, or the device has no time for a layer before a point.
    """
    if prior is None:
        return Widths({point.name: _floored(_nearest(point.slices)) for point in points})
    reached = prior if link is None else prior.within(link)
    costs = Costs(Stream() if link is None else link.transfer, deadline_ns=deadline_us * 1000)
    times = Times.of(profile) if profile else None
    probabilities, warnings = {}, []
    for point in points:
        starts = [costs.from_bps(option) for option in _options(point, times)]
        found = _between(starts, reached)
        probabilities[point.name] = _floored(found)
        warnings += _warnings(point, starts, found, deadline_us)
    return Widths(probabilities, tuple(warnings))


def _nearest(counts: Sequence[int]) -> list[float]:
    """Share of the numbers of units from 1 to the last count that each count is the nearest to.

    All counts alike would be another choice without a prior, and a worse one: they are close together where there are
    few units, and what few units lose is most of the loss, so the network would learn little for many. Counting every
    number for the count below, as they are sent, leaves next to nothing for the last.
    """
    edges = [counts[0] - 0.5, *(sum(pair) / 2 for pair in pairwise(counts)), counts[-1]]
    return [(above - below) / (edges[-1] - edges[0]) for below, above in pairwise(edges)]


def _floored(found: Sequence[float]) -> tuple[float, ...]:
    return tuple((1 - FLOOR) * each + FLOOR / len(found) for each in found)


def _options(point: PlanPoint, times: Times | None) -> Sequence[Option]:
    if times is not None:
        return point_options(point, times, {})
    sizes = {count: count * point.unit_bytes for count in point.slices}
    return [Option(point.name, count, size, 0, 0, None, (0.0, 0.0)) for count, size in sizes.items()]


def _between(starts: Sequence[int | None], prior: Prior) -> list[float]:
    """Probability of each count, from the bandwidths at which they come into reach."""
    reached = [0.0 if start is None else prior.at_least(start) for start in starts]
    return [more - most for more, most in pairwise([1.0, *reached[1:], 0.0])]


def _warnings(
    point: PlanPoint, starts: Sequence[int | None], found: Sequence[float], deadline_us: int
) -> list[str]:
    within = f"within {format_us(deadline_us)}"
    if all(start is None for start in starts):
        return [
            f"'{point.name}' sends nothing {within} at any bandwidth: it is trained for its smallest count"
        ]
    never = [str(count) for count, share in zip(point.slices, found, strict=True) if share <= 0]
    if not never:
        return []
    return [
        f"no bandwidth of the prior has '{point.name}' send {_joined(never)} unit{'s' if never != ['1'] else ''} {within}: "
        f"{'these are' if len(never) > 1 else 'that is'} trained with the {FLOOR:.0%} that all counts share"
    ]


def _joined(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


# --- reading --------------------------------------------------------------------------------------


def read_prior(text: str, bandwidth: BandwidthRange | None) -> Prior | None:
    """The prior of ``--bandwidth-prior`` and ``--bandwidth``.

    Args:
        text: ``uniform``, ``log``, or a ``.csv`` or ``.json`` file of bandwidths with weights, or of a trace.
        bandwidth: The range; of a file, what lies outside of it is left out.

    Returns:
        None for `uniform` without a range.

    Raises:
        ClioError: The word is unknown, a range is missing, or the file is at fault: all mistakes are named.
    """
    if text == UNIFORM and bandwidth is None:
        return None
    if text in (UNIFORM, LOG):
        if bandwidth is None:
            raise ClioError("needs a range of bandwidths", WHERE, "add --bandwidth, e.g. 50k:2M")
        return RangePrior(bandwidth, text == LOG)
    if Path(text).suffix.lower() not in (".csv", ".json"):
        near = difflib.get_close_matches(text.lower(), (UNIFORM, LOG), n=1)
        hint = f"did you mean '{near[0]}'?" if near else "give uniform, log, or a .csv or .json file"
        raise ClioError(f"unknown prior '{text}'", WHERE, hint)
    return _read_file(Path(text), bandwidth)


Row = tuple[str, Mapping[str, str]]
"""Where it stands, and its cells."""


def _read_file(path: Path, bandwidth: BandwidthRange | None) -> TablePrior:
    rows = _json_rows(path) if path.suffix.lower() == ".json" else _csv_rows(path)
    if not rows:
        raise ClioError("holds no bandwidths", str(path))
    errors: list[str] = []
    found = _trace(rows, errors) if set(rows[0][1]) == set(_TRACE) else _weighted(rows, errors)
    raise_collected(errors)
    if bandwidth is not None:
        found = [row for row in found if bandwidth.low_bps <= row[0] <= bandwidth.high_bps]
        if not found:
            given = f"{format_bps(bandwidth.low_bps)}:{format_bps(bandwidth.high_bps)}"
            raise ClioError(
                f"holds no bandwidth within {given}", str(path), "leave out --bandwidth for all of the file"
            )
    if not any(weight for _, weight in found):
        raise ClioError("all weights are 0", str(path))
    return TablePrior(tuple(found))


def _csv_rows(path: Path) -> list[Row]:
    return [(f"{path}:{line}", cells) for line, cells in read_table(path, *_FORMS)]


def _json_rows(path: Path) -> list[Row]:
    """Objects with the columns of a table as their keys, all of them with the same."""
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ClioError("no such file", str(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ClioError("cannot be read as UTF-8 text", str(path)) from error
    except (ValueError, RecursionError) as error:
        raise ClioError(f"is no JSON: {error}", str(path)) from error
    wanted = " or ".join("{" + ", ".join(f'"{name}"' for name in form) + "}" for form in _FORMS)
    if not isinstance(data, list):
        raise ClioError(f"must hold a list of {wanted}", str(path))
    form = next((each for each in _FORMS if data and _has_keys(data[0], each)), None)
    raise_collected(
        f"{path}: row {index} must be {wanted if form is None else 'like the first'}, got {json.dumps(row)}"
        for index, row in enumerate(data, start=1)
        if form is None or not _has_keys(row, form)
    )
    return [
        (f"{path}: row {index}", {name: _cell(value) for name, value in row.items()})
        for index, row in enumerate(data, start=1)
    ]


def _has_keys(row: Any, names: Sequence[str]) -> bool:
    return isinstance(row, dict) and set(row) == set(names)


def _cell(value: Any) -> str:
    """A value as it would stand in a table; of 50000.0, which some programs write, what 50000 is."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return value if isinstance(value, str) else json.dumps(value)


def _weighted(rows: Sequence[Row], errors: list[str]) -> list[tuple[float, float]]:
    found = []
    for where, cells in rows:
        weight = number(cells.get("weight", "1"))
        if weight is None:
            errors.append(f"{where}: weight must be a number from 0 up, got '{cells['weight']}'")
        try:
            bps = 0 if cells["bandwidth"] == "0" else parse_bandwidth(cells["bandwidth"], where)
        except ClioError as error:
            errors.append(f"{where}: {error.message}")
            continue
        found.append((float(bps), weight or 0.0))
    return found


def _trace(rows: Sequence[Row], errors: list[str]) -> list[tuple[float, float]]:
    """Each row's bandwidth lasted from the end of the row before, at first from 0, to its own `time_s`."""
    found = []
    before = 0.0
    for where, cells in rows:
        numbers = {name: number(cells[name]) for name in _TRACE}
        errors += [
            f"{where}: {name} must be a number from 0 up, got '{cells[name]}'"
            for name, value in numbers.items()
            if value is None
        ]
        end, kbps = numbers["time_s"], numbers["kbps"]
        if end is None or kbps is None:
            continue
        if end <= before:
            errors.append(f"{where}: time_s must rise, got {end:g} after {before:g}")
        found.append((kbps * 1000, end - before))
        before = end
    return found
