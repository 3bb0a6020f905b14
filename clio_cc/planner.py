"""Makes the plan: the greedy cover of CLIO §3.4 and the envelope of §3.3, for a deadline, an energy budget, or both."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

from clio_cc.accuracy import AccuracyRow
from clio_cc.envelope import Piece, best, is_inside
from clio_cc.errors import ClioError
from clio_cc.link import Link, Stream, exact
from clio_cc.options import (
    Costs,
    Option,
    PlanPoint,
    Times,
    known_accuracy,
    local_option,
    point_options,
    read_points,
    rounded_uj,
    rounded_us,
)
from clio_cc.plan import DEADLINE_US, LOCAL, Boundary, Hysteresis, Interval, Plan, PlanRange, Shortest, Step
from clio_cc.profile import ProfileRow
from clio_cc.strategies import CLIO, Followed, follow_all, plan_range, strategy, winners
from clio_cc.targets.facts import Figure
from clio_cc.units import BandwidthRange, format_bps
from clio_cc.why import Reasons

__all__ = ["DEADLINE_US", "MARGIN", "PlanPoint", "cover_range", "make_plan", "read_points"]

MARGIN = Fraction(1, 10)
"""By which share a bandwidth must exceed a boundary before a runtime switches up."""
_PROFILE = "profile.csv"


def make_plan(
    profile: Sequence[ProfileRow],
    points: Sequence[PlanPoint],
    bandwidth: BandwidthRange,
    *,
    deadline_us: int | None = DEADLINE_US,
    budget_uj: Fraction | None = None,
    input_bytes: int,
    link: Link | None = None,
    device_power_mw: Figure | None = None,
    accuracy: Sequence[AccuracyRow] = (),
    local: bool = False,
    no_local: str = "",
    margin: Fraction = MARGIN,
) -> Plan:
    """Plan for a range of bandwidths.

    Args:
        profile: Layers in order of execution, with `Encode` rows of points behind their layers.
        points: Partition points that were compiled; none means that the whole network runs on the device.
        bandwidth: The range to cover; of it, what the link reaches is planned.
        deadline_us: From the input's arrival to the result in the cloud; None with a budget only.
        budget_uj: Energy of device and radio per inference; None with a deadline only.
        input_bytes: Bytes of the raw input on the wire, for comparison.
        link: How bytes travel and what that costs; without one at the bandwidth itself, and energy is not known.
        device_power_mw: The target's power while computing.
        accuracy: What was evaluated, if anything.
        local: Whether the whole network was compiled for the device, too.
        no_local: Why the device cannot run the whole network, though every layer has a time; empty if it can.
        margin: See :data:`MARGIN`.

    Returns:
        A plan. If nothing meets the deadline, all of the range is a hole; see :func:`clio_cc.plan.check_reachable`.

    Raises:
        ClioError: The profile does not fit the points; the link does not reach the range; a budget without energies.
    """
    low, high, unreachable = _reached(bandwidth, link)
    costs = _costs(deadline_us, budget_uj, link, device_power_mw)
    known = known_accuracy(accuracy)
    times = Times.of(profile)
    whole = None if no_local else local_option(times, known)
    options = {point.name: point_options(point, times, known) for point in points}
    if local or not options:
        options[LOCAL] = _only_local(whole)
    every = [option for found in options.values() for option in found]
    intervals = _intervals(options, (low, high), costs)
    # Of points that cover equally much, the one that is fastest where time is shortest comes first.
    first = {i.partition: min(costs.latency_ns(o, low) for o in options[i.partition]) for i in intervals}
    by_latency = sorted(intervals, key=lambda interval: first[interval.partition])
    cover, holes = cover_range(by_latency, low, high)
    pieces = best(every, low, high, costs)
    ranges = _ranges(pieces, Reasons.of(options, low, high, costs), costs)
    followed = follow_all(whole, points, times, accuracy, input_bytes, (low, high), costs)
    followed.append(Followed(CLIO, every, pieces))
    return Plan(
        deadline_us=deadline_us,
        budget_uj=None if budget_uj is None else float(budget_uj),
        link=link.name if link is not None else None,
        metric=accuracy[0].metric if accuracy else None,
        bandwidth=(low, high),
        unreachable=unreachable,
        steps=tuple(_step(option, costs) for option in every),
        intervals=intervals,
        cover=cover,
        adaptive_cover=cover_range(_adapting(by_latency), low, high)[0],
        holes=holes,
        ranges=ranges,
        hysteresis=_hysteresis(ranges, high, margin, bool(holes)),
        strategies=tuple(strategy(each, (low, high), costs) for each in followed),
        winners=winners(followed, (low, high), costs),
        shortest=_figures(min(every, key=lambda option: costs.latency_ns(option, high)), high, costs),
        cheapest=_cheapest(every, high, costs),
        no_local=no_local,
        sources=_sources(device_power_mw, link),
    )


def _reached(bandwidth: BandwidthRange, link: Link | None) -> tuple[int, int, tuple[int, int] | None]:
    """The part of a range that a link reaches, and the rest."""
    low, high = bandwidth.low_bps, bandwidth.high_bps
    if link is None or high <= link.ceiling_bps:
        return low, high, None
    top = link.ceiling_bps
    if low > top:
        raise ClioError(
            f"link '{link.name}' reaches at most {format_bps(top)}, the range begins at {format_bps(low)}",
            hint="without --bandwidth the plan is for the link's own rate",
        )
    return low, top, (top, high)


def _costs(
    deadline_us: int | None, budget_uj: Fraction | None, link: Link | None, device_power_mw: Figure | None
) -> Costs:
    if deadline_us is None and budget_uj is None:
        raise ValueError("neither a deadline nor a budget")
    if budget_uj is not None:
        _check_energy_is_known(link, device_power_mw)
    known = link is not None and link.knows_energy
    return Costs(
        transfer=Stream() if link is None else link.transfer,
        device_mw=None if device_power_mw is None else exact(device_power_mw.value),
        radio_mw=link.power_mw if link is not None and known else None,
        radio_pj_per_byte=link.pj_per_byte if link is not None else Fraction(0),
        deadline_ns=None if deadline_us is None else deadline_us * 1000,
        budget_pj=None if budget_uj is None else budget_uj * 10**6,
    )


def _check_energy_is_known(link: Link | None, device_power_mw: Figure | None) -> None:
    if link is None:
        raise ClioError("an energy budget needs a link", hint="add --link; `clio-cc links` lists them")
    if not link.knows_energy:
        raise ClioError(
            f"an energy budget needs a link whose energy is known; that of '{link.name}' is not",
            hint="give a file with sending_mw or energy_nj_per_byte; `clio-cc links --json` shows the form",
        )
    if device_power_mw is None:
        raise ClioError("an energy budget needs the device's power, which is not known")


def _only_local(whole: Option | None) -> tuple[Option, ...]:
    if whole is None:
        raise ClioError(
            "the whole network is to run on the device, and some layers have no device_us", _PROFILE
        )
    return (whole,)


# --- cover ----------------------------------------------------------------------------------------


def _intervals(
    options: Mapping[str, Sequence[Option]], bandwidth: tuple[int, int], costs: Costs
) -> tuple[Interval, ...]:
    low, high = bandwidth
    found = []
    for name, choices in options.items():
        starts = [costs.from_bps(option) for option in choices]
        reached = [start for start in starts if start is not None and is_inside(start, low, high)]
        if reached:
            last = starts[-1]  # of all units
            everything = max(last, low) if last is not None and last <= high else None
            found.append(Interval(name, max(min(reached), low), high, everything))
    return tuple(found)


def cover_range(
    intervals: Sequence[Interval], low: int, high: int
) -> tuple[tuple[str, ...], tuple[tuple[int, int], ...]]:
    """The fewest intervals that cover all of [low, high] that any interval covers, and the holes that remain.

    Greedy (CLIO §3.4): of the intervals that reach back to where the cover ends, take the one that reaches farthest;
    of equals the first. Single bandwidths cover nothing, unless one is asked for.
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
            farthest = max(reaching, key=lambda i: i.to_bps)
            chosen.append(farthest.partition)
            position = farthest.to_bps
        else:
            start = min((i.from_bps for i in ahead), default=high)
            holes.append((position, start))
            position = start
    return tuple(chosen), tuple(holes)


def _adapting(intervals: Sequence[Interval]) -> list[Interval]:
    """CLIO's equation 3: up to where all units fit; beyond, a point has nothing left to adapt."""
    return [
        Interval(i.partition, i.from_bps, i.to_bps if i.all_from_bps is None else i.all_from_bps)
        for i in intervals
    ]


# --- envelope -------------------------------------------------------------------------------------


def _ranges(pieces: Sequence[Piece], reasons: Reasons, costs: Costs) -> tuple[PlanRange, ...]:
    found = []
    before: Option | None = None
    for piece in pieces:
        figures = plan_range(piece, costs)
        found.append(replace(figures, why=reasons.why(piece, before)))
        before = piece.option
    return tuple(found)


def _hysteresis(ranges: Sequence[PlanRange], high: int, margin: Fraction, hole: bool) -> Hysteresis:
    """Up with a margin, but not beyond the range's upper end, or its last choice would never be used; down at once."""
    found = []
    if hole and ranges:
        start = ranges[0].from_bps
        found.append(Boundary(start, start, start, None, 0))
    for index, above in enumerate(ranges[1:]):
        at = above.from_bps
        found.append(Boundary(at, min(math.ceil(at * (1 + margin)), high), at, index, index + 1))
    return Hysteresis(float(margin), tuple(found))


# --- figures --------------------------------------------------------------------------------------


def _step(option: Option, costs: Costs) -> Step:
    return Step(
        option.partition,
        option.slices,
        option.bytes,
        rounded_us(option.device_ns),
        rounded_us(option.cloud_ns),
        costs.from_bps(option),
        option.accuracy,
    )


def _figures(option: Option, high: int, costs: Costs) -> Shortest:
    return Shortest(
        option.partition,
        option.slices,
        option.bytes,
        rounded_us(option.device_ns),
        rounded_us(costs.transfer.time_ns(option.bytes, high)),
        rounded_us(option.cloud_ns),
        rounded_us(costs.latency_ns(option, high)),
        rounded_uj(None if costs.device_mw is None else option.device_ns * costs.device_mw),
        rounded_uj(costs.energy_pj(option, high)),
    )


def _cheapest(options: Sequence[Option], high: int, costs: Costs) -> Shortest | None:
    known = [
        (energy, i)
        for i, option in enumerate(options)
        if (energy := costs.energy_pj(option, high)) is not None
    ]
    return _figures(options[min(known)[1]], high, costs) if known else None


def _sources(device_power_mw: Figure | None, link: Link | None) -> dict[str, str]:
    sources = {}
    if device_power_mw is not None:
        sources["device_power"] = f"{device_power_mw.value:g} mW; {device_power_mw.source}"
    if link is not None:
        sources["link"] = link.source()
    return sources
