"""Makes the plan: the greedy cover of CLIO §3.4 and the envelope of §3.3.

Latency of a cut at bandwidth b is device + bits / b + cloud: sums over the profile's layers on either side,
and the transfer at a constant rate. The reply, packet overhead and losses do not count. More bandwidth never
hurts, so what can be done at one bandwidth can be done at every higher one. All arithmetic is exact, in
fractions; bandwidths at which something changes are rounded up to whole bits per second.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeVar

from clio_cc.errors import ClioError
from clio_cc.link import Link
from clio_cc.plan import LOCAL, RAW, Interval, Plan, PlanRange, Shortest, Strategy
from clio_cc.profile import ProfileRow
from clio_cc.targets.facts import Figure
from clio_cc.units import BandwidthRange, format_bps

DEADLINE_US = 300_000
"""CLIO's target latency, and the default."""
Accuracy = Mapping[tuple[str, int], float]
"""(partition, slices) → accuracy, from ``accuracy.csv``."""
_PROFILE = "profile.csv"
_T = TypeVar("_T")


@dataclass(frozen=True)
class PlanPoint:
    """A partition point as the planner sees it.

    Attributes:
        name: Of the partition point.
        layer: The last layer on the device's side; None if the raw input is sent.
        slices: Allowed numbers of units.
        unit_bytes: Bytes of one unit on the wire.
    """

    name: str
    layer: str | None
    slices: tuple[int, ...]
    unit_bytes: int

    def __post_init__(self) -> None:
        if not self.slices or min(self.slices) < 1 or self.unit_bytes < 1:
            raise ValueError(f"partition point {self.name} sends nothing")


@dataclass(frozen=True)
class _Option:
    """A point and a number of units, with exact costs."""

    partition: str
    slices: int
    bytes: int
    device_us: Fraction
    cloud_us: Fraction
    accuracy: float | None

    @property
    def compute_us(self) -> Fraction:
        return self.device_us + self.cloud_us

    def transfer_us(self, bps: int) -> Fraction:
        return Fraction(self.bytes * 8 * 10**6, bps)

    def latency_us(self, bps: int) -> Fraction:
        return self.compute_us + self.transfer_us(bps)

    def from_bps(self, deadline_us: int) -> int | None:
        """Lowest whole bandwidth that meets the deadline; None if none does."""
        budget_us = deadline_us - self.compute_us
        if self.bytes == 0:
            return 1 if budget_us >= 0 else None
        return math.ceil(self.bytes * 8 * 10**6 / budget_us) if budget_us > 0 else None


@dataclass(frozen=True)
class _Powers:
    device_mw: Figure | None
    link_mw: Figure | None

    def energy_uj(self, option: _Option, bps: int) -> float | None:
        """Energy of device and radio; a radio that sends nothing needs no figure. mW · us = nJ."""
        if self.device_mw is None or (option.bytes and self.link_mw is None):
            return None
        energy_nj = option.device_us * _exact(self.device_mw.value)
        if option.bytes and self.link_mw is not None:
            energy_nj += option.transfer_us(bps) * _exact(self.link_mw.value)
        return _rounded(energy_nj / 1000)


def read_points(manifest: Mapping[str, Any], where: str = "manifest.json") -> tuple[PlanPoint, ...]:
    """The ``partitions`` of a manifest; ``local`` is none.

    ``layer`` (the last layer on the device's side) may be absent where the partition is called like its
    layer, and for the raw input.

    Raises:
        ClioError: The manifest does not look like that.
    """
    try:
        return tuple(
            PlanPoint(
                name=str(entry["name"]),
                layer=None if entry["name"] == RAW else entry.get("layer", entry["name"]),
                slices=tuple(int(count) for count in entry["slices"]),
                unit_bytes=int(entry["unit_bytes"]),
            )
            for entry in manifest["partitions"]
            if entry["name"] != LOCAL
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ClioError("not a manifest of this clio-cc", where, "compile again") from error


def make_plan(
    profile: Sequence[ProfileRow],
    points: Sequence[PlanPoint],
    bandwidth: BandwidthRange,
    *,
    deadline_us: int = DEADLINE_US,
    input_bytes: int,
    link: Link | None = None,
    device_power_mw: Figure | None = None,
    accuracy: Accuracy | None = None,
) -> Plan:
    """Plan for a range of bandwidths.

    Args:
        profile: Layers in order of execution.
        points: Partition points that were compiled; none means that the whole network runs on the device.
        bandwidth: The range to cover; a link's own rate is the range of that one bandwidth.
        deadline_us: From the input's arrival to the result in the cloud.
        input_bytes: Bytes of the raw input on the wire, for comparison.
        link: Whose power counts; without one energy is not known.
        device_power_mw: The target's power while computing.
        accuracy: What was evaluated, if anything.

    Returns:
        A plan. If nothing meets the deadline, all of the range is a hole; see :func:`check_reachable`.

    Raises:
        ClioError: A point's layer is not in the profile, or has no time on the device.
    """
    known = accuracy or {}
    local = _local(profile, known)
    options = {point.name: _options(point, profile, known) for point in points}
    if not options:
        options = {LOCAL: _only_local(local)}
    every = [option for found in options.values() for option in found]
    powers = _Powers(device_power_mw, link.power_mw if link is not None else None)
    low, high = bandwidth.low_bps, bandwidth.high_bps
    intervals = _intervals(options, bandwidth, deadline_us)
    # Of points that cover equally much, the one that is fastest where time is shortest comes first.
    by_latency = sorted(
        intervals, key=lambda i: min(option.latency_us(low) for option in options[i.partition])
    )
    cover, holes = cover_range(by_latency, low, high)
    return Plan(
        deadline_us=deadline_us,
        link=link.name if link is not None else None,
        bandwidth=(low, high),
        intervals=intervals,
        cover=cover,
        holes=holes,
        ranges=_ranges(every, bandwidth, deadline_us, powers),
        strategies=_strategies(
            ([local] if local else []),
            _raw(profile, input_bytes, known),
            options,
            bandwidth,
            deadline_us,
            powers,
        ),
        shortest=_shortest(every, high),
        sources=_sources(device_power_mw, link),
    )


def cover_range(
    intervals: Sequence[Interval], low: int, high: int
) -> tuple[tuple[str, ...], tuple[tuple[int, int], ...]]:
    """The fewest intervals that cover all of [low, high] that any interval covers, and the holes that remain.

    Greedy: of the intervals that reach back to where the cover ends, take the one that reaches farthest; of
    equals the first. Single bandwidths cover nothing, unless one is asked for.
    """
    if low == high:
        found = next((i.partition for i in intervals if i.from_bps <= low <= i.to_bps), None)
        return ((), ((low, high),)) if found is None else ((found,), ())
    chosen: list[str] = []
    holes: list[tuple[int, int]] = []
    position = low
    while position < high:
        ahead = [i for i in intervals if i.to_bps > max(position, i.from_bps) and i.from_bps < high]
        reaching = [i for i in ahead if i.from_bps <= position]
        if reaching:
            best = max(reaching, key=lambda i: i.to_bps)
            chosen.append(best.partition)
            position = best.to_bps
        else:
            start = min((i.from_bps for i in ahead), default=high)
            holes.append((position, start))
            position = start
    return tuple(chosen), tuple(holes)


# --- options --------------------------------------------------------------------------------------


def _options(point: PlanPoint, profile: Sequence[ProfileRow], accuracy: Accuracy) -> tuple[_Option, ...]:
    count = _layers_before(point, profile)
    device_us = _device_us(profile[:count])
    if device_us is None:
        missing = next(row for row in profile if row.device_us is None)
        raise ClioError(
            f"partition point '{point.name}' needs a device_us for layer '{missing.layer}', which has none",
            _PROFILE,
        )
    cloud_us = _cloud_us(profile[count:])
    return tuple(
        _Option(
            point.name,
            slices,
            slices * point.unit_bytes,
            device_us,
            cloud_us,
            accuracy.get((point.name, slices)),
        )
        for slices in point.slices
    )


def _layers_before(point: PlanPoint, profile: Sequence[ProfileRow]) -> int:
    """Layers on the device's side: all paths cross the cut, so in any order of execution they come first."""
    if point.layer is None:
        return 0
    for index, row in enumerate(profile):
        if row.layer == point.layer:
            return index + 1
    raise ClioError(
        f"layer '{point.layer}' of partition point '{point.name}' is not in the profile", _PROFILE
    )


def _local(profile: Sequence[ProfileRow], accuracy: Accuracy) -> _Option | None:
    device_us = _device_us(profile)
    if device_us is None:
        return None
    return _Option(LOCAL, 0, 0, device_us, Fraction(0), accuracy.get((LOCAL, 0)))


def _only_local(local: _Option | None) -> tuple[_Option, ...]:
    if local is None:
        raise ClioError("there is no partition point, and some layers have no device_us", _PROFILE)
    return (local,)


def _raw(profile: Sequence[ProfileRow], input_bytes: int, accuracy: Accuracy) -> _Option:
    return _Option(RAW, 1, input_bytes, Fraction(0), _cloud_us(profile), accuracy.get((RAW, 1)))


def _device_us(rows: Sequence[ProfileRow]) -> Fraction | None:
    times = [row.device_us for row in rows]
    known = [time for time in times if time is not None]
    return sum(map(_exact, known), Fraction(0)) if len(known) == len(times) else None


def _cloud_us(rows: Sequence[ProfileRow]) -> Fraction:
    return sum((_exact(row.cloud_us) for row in rows), Fraction(0))


def _exact(value: float) -> Fraction:
    """The number as it is written, so that 0.1 is a tenth."""
    return Fraction(str(float(value)))


def _rounded(value: Fraction) -> float:
    return round(float(value), 3)


# --- parts of the plan ----------------------------------------------------------------------------


def _intervals(
    options: Mapping[str, Sequence[_Option]], bandwidth: BandwidthRange, deadline_us: int
) -> tuple[Interval, ...]:
    found = []
    for name, choices in options.items():
        starts = [start for option in choices if (start := option.from_bps(deadline_us)) is not None]
        if starts and _is_inside(min(starts), bandwidth):
            found.append(Interval(name, max(min(starts), bandwidth.low_bps), bandwidth.high_bps))
    return tuple(found)


def _is_inside(start_bps: int, bandwidth: BandwidthRange) -> bool:
    """Whether what holds from `start_bps` on holds in some of the range, and not at its upper end only."""
    return start_bps < bandwidth.high_bps or start_bps == bandwidth.low_bps


def _ranges(
    options: Sequence[_Option], bandwidth: BandwidthRange, deadline_us: int, powers: _Powers
) -> tuple[PlanRange, ...]:
    """Highest accuracy that meets the deadline (unknown is lowest), then lowest latency.

    Options of one accuracy meet the deadline from some bandwidth on, and the fastest of them is then one that
    does: so the range splits where a better accuracy comes into reach, and each part is the lower envelope of
    its options.
    """
    starts: list[tuple[int, float]] = []
    by_accuracy: dict[float, list[_Option]] = {}
    for option in options:
        start = option.from_bps(deadline_us)
        if start is not None and _is_inside(start, bandwidth):
            value = option.accuracy if option.accuracy is not None else -math.inf
            by_accuracy.setdefault(value, []).append(option)
            starts.append((max(start, bandwidth.low_bps), value))
    steps: list[tuple[int, float]] = []
    for start, value in sorted(starts, key=lambda step: (step[0], -step[1])):
        if not steps or value > steps[-1][1]:
            steps.append((start, value))
    choices = [
        choice
        for start, end, value in _with_ends(steps, bandwidth.high_bps)
        for choice in _fastest(by_accuracy[value], start, end)
    ]
    return tuple(
        PlanRange(
            start,
            end,
            option.partition,
            option.slices,
            _rounded(option.latency_us(start)),
            powers.energy_uj(option, start),
            option.accuracy,
        )
        for start, end, option in _with_ends(choices, bandwidth.high_bps)
    )


def _with_ends(steps: Sequence[tuple[int, _T]], high: int) -> list[tuple[int, int, _T]]:
    """(start, value) → (start, end, value), where each ends where the next starts and the last at `high`."""
    ends = [*(start for start, _ in steps[1:]), high]
    return [(start, end, value) for (start, value), end in zip(steps, ends, strict=False)]


def _fastest(options: Sequence[_Option], low: int, high: int) -> list[tuple[int, _Option]]:
    """Which option has the lowest latency from which bandwidth on, from `low` up to, not including, `high`.

    Latency is a line over 1 / bandwidth: more bandwidth favors options that send more and compute less.
    """
    hull: list[tuple[int, _Option]] = []
    for option in sorted(options, key=lambda o: (o.bytes, o.compute_us)):
        start = low
        while hull and option.compute_us < hull[-1][1].compute_us:
            top_start, top = hull[-1]
            saved_us = top.compute_us - option.compute_us
            start = math.floor((option.bytes - top.bytes) * 8 * 10**6 / saved_us) + 1
            if start > top_start:
                break
            hull.pop()
            start = low
        if not hull or (option.compute_us < hull[-1][1].compute_us and start < high):
            hull.append((start, option))
    return hull


def _strategies(
    local: Sequence[_Option],
    raw: _Option,
    options: Mapping[str, Sequence[_Option]],
    bandwidth: BandwidthRange,
    deadline_us: int,
    powers: _Powers,
) -> tuple[Strategy, ...]:
    """Everything local (if the device can), the raw input, then every point with all its units."""
    whole = [
        max(found, key=lambda o: o.slices) for name, found in options.items() if name not in (LOCAL, RAW)
    ]
    kinds = [(LOCAL, option) for option in local] + [(RAW, raw)] + [("cut", option) for option in whole]
    low, high = bandwidth.low_bps, bandwidth.high_bps

    def strategy(kind: str, option: _Option) -> Strategy:
        start = option.from_bps(deadline_us)
        reached = start is not None and _is_inside(start, bandwidth)
        return Strategy(
            strategy=kind,
            partition=option.partition,
            slices=option.slices,
            bytes=option.bytes,
            from_bps=max(start, low) if start is not None and reached else None,
            to_bps=high if reached else None,
            latency_us=_rounded(option.latency_us(low)),
            shortest_us=_rounded(option.latency_us(high)),
            energy_uj=powers.energy_uj(option, low),
            accuracy=option.accuracy,
        )

    return tuple(strategy(kind, option) for kind, option in kinds)


def _shortest(options: Sequence[_Option], high: int) -> Shortest:
    best = min(options, key=lambda option: option.latency_us(high))
    return Shortest(
        best.partition,
        best.slices,
        best.bytes,
        _rounded(best.device_us),
        _rounded(best.transfer_us(high)),
        _rounded(best.cloud_us),
        _rounded(best.latency_us(high)),
    )


def _sources(device_power_mw: Figure | None, link: Link | None) -> dict[str, str]:
    sources = {}
    if device_power_mw is not None:
        sources["device_power"] = f"{device_power_mw.value:g} mW; {device_power_mw.source}"
    if link is not None:
        note = f"; {link.note}" if link.note else ""
        sources["link"] = (
            f"{link.title}: {format_bps(int(link.bandwidth_bps.value))}, {link.power_mw.value:g} mW; "
            f"{link.bandwidth_bps.source}{note}"
        )
    return sources
