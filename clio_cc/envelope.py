"""Which of several choices costs least at which bandwidth, exactly.

A cost is ``fixed + weight · transfer time``. On a stream that is a line over 1 / bandwidth, and the cheapest choices are
the lower envelope of lines. With connection events it is a staircase over the bandwidth, and since every staircase only
falls, the cheapest choice is whoever set the lowest value so far.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeVar

from clio_cc.link import NS_PER_S, ConnectionEvents, Stream
from clio_cc.options import Costs, Option

_T = TypeVar("_T")


@dataclass(frozen=True)
class Piece:
    """An option, and the bandwidths from where to where it is chosen, both included."""

    from_bps: int
    to_bps: int
    option: Option


@dataclass(frozen=True)
class _Cost:
    fixed: Fraction | int
    weight: Fraction | int
    bytes: int


def best(options: Sequence[Option], low: int, high: int, costs: Costs) -> list[Piece]:
    """At each bandwidth the option of the highest merit that meets deadline and budget, then of the lowest latency.

    An option meets them from some bandwidth on, and more bandwidth never hurts: so the range splits where a better
    merit comes into reach, and of each part's options the fastest is one that is in time.
    """
    starts: list[tuple[int, tuple[float, float]]] = []
    by_merit: dict[tuple[float, float], list[tuple[int, Option]]] = {}
    for option in options:
        start = costs.from_bps(option)
        if start is not None and is_inside(start, low, high):
            start = max(start, low)
            starts.append((start, option.merit))
            by_merit.setdefault(option.merit, []).append((start, option))
    steps: list[tuple[int, tuple[float, float]]] = []
    for start, value in sorted(starts, key=lambda step: (step[0], -step[1][0], -step[1][1])):
        if not steps or value > steps[-1][1]:
            steps.append((start, value))
    return merged(
        Piece(start, end, option)
        for step, until, value in with_ends(steps, high)
        for start, end, option in _in_time(by_merit[value], step, until, costs)
    )


def _in_time(
    options: Sequence[tuple[int, Option]], low: int, high: int, costs: Costs
) -> list[tuple[int, int, Option]]:
    """Fastest of those that are in reach, each with where it comes into reach: that may be after `low`.

    With an energy budget the fastest of all may be one that takes too much. Who loses everywhere from some bandwidth on
    need not be looked at again.
    """
    entering: dict[int, list[Option]] = {low: []}
    for start, option in options:
        if start < high or low == high:
            entering.setdefault(max(start, low), []).append(option)
    found: list[tuple[int, int, Option]] = []
    still: list[Option] = []
    for start, end, fresh in with_ends(sorted(entering.items()), high):
        steps = with_ends(fastest([*still, *fresh], start, high, costs), high)
        still = [option for _, _, option in steps]
        found += [(at, min(to, end), option) for at, to, option in steps if at < end or low == high]
    return found


def fastest(options: Sequence[Option], low: int, high: int, costs: Costs) -> list[tuple[int, Option]]:
    """The option of the lowest latency, and from which bandwidth on."""
    found = _cheapest([_Cost(o.compute_ns, 1, o.bytes) for o in options], low, high, costs.transfer)
    return [(start, options[index]) for start, index in found]


def thriftiest(options: Sequence[Option], low: int, high: int, costs: Costs) -> list[tuple[int, Option]]:
    """The option of the lowest energy, of those whose energy is known, and from which bandwidth on."""
    known = [(option, fixed) for option in options if (fixed := costs.fixed_pj(option)) is not None]
    found = _cheapest(
        [_Cost(fixed, costs.radio_mw or 0, option.bytes) for option, fixed in known],
        low, high, costs.transfer,
    )  # fmt: skip
    return [(start, known[index][0]) for start, index in found]


def is_inside(start_bps: int, low: int, high: int) -> bool:
    """Whether what holds from `start_bps` on holds in some of the range, and not at its upper end only."""
    return start_bps < high or start_bps == low


def with_ends(steps: Sequence[tuple[int, _T]], high: int) -> list[tuple[int, int, _T]]:
    """(start, value) → (start, end, value), where each ends where the next starts and the last at `high`."""
    ends = [*(start for start, _ in steps[1:]), high]
    return [(start, end, value) for (start, value), end in zip(steps, ends, strict=False)]


def merged(pieces: Iterable[Piece]) -> list[Piece]:
    """Pieces of which no two neighbors are of the same option."""
    found: list[Piece] = []
    for piece in pieces:
        if found and found[-1].option == piece.option and found[-1].to_bps == piece.from_bps:
            piece = Piece(found.pop().from_bps, piece.to_bps, piece.option)
        found.append(piece)
    return found


def _cheapest(
    costs: Sequence[_Cost], low: int, high: int, transfer: Stream | ConnectionEvents
) -> list[tuple[int, int]]:
    """(start, index) of the lowest cost from `low` up to, not including, `high`; of equals who came first stays."""
    if isinstance(transfer, Stream):
        return _lines(costs, low, high)
    return _stairs(costs, low, high, transfer)


def _lines(costs: Sequence[_Cost], low: int, high: int) -> list[tuple[int, int]]:
    """More bandwidth favors lines with a higher slope, what is sent, and a lower fixed part, what is computed."""
    slopes = [cost.weight * cost.bytes * 8 * NS_PER_S for cost in costs]
    hull: list[tuple[int, int]] = []
    for index in sorted(range(len(costs)), key=lambda i: (slopes[i], costs[i].fixed)):
        start = low
        while hull and costs[index].fixed < costs[hull[-1][1]].fixed:
            top_start, top = hull[-1]
            saved = costs[top].fixed - costs[index].fixed
            start = math.floor((slopes[index] - slopes[top]) // saved) + 1
            if start > top_start:
                break
            hull.pop()
            start = low
        if not hull or (costs[index].fixed < costs[hull[-1][1]].fixed and start < high):
            hull.append((start, index))
    return hull


def _stairs(costs: Sequence[_Cost], low: int, high: int, transfer: ConnectionEvents) -> list[tuple[int, int]]:
    if not costs:
        return []
    least = min(range(len(costs)), key=lambda i: (costs[i].bytes, costs[i].fixed))
    start = max(low, _first_rival(costs, costs[least], transfer, high))
    at_start = [
        (cost.fixed + cost.weight * transfer.time_ns(cost.bytes, start), index != least, index)
        for index, cost in enumerate(costs)
    ]
    lowest, _, first = min(at_start)
    found = [(low, first)]  # below `start`, too: see _first_rival
    falls = [
        fall
        for index, cost in enumerate(costs)
        for fall in _falls(cost, index, lowest, start, high, transfer)
    ]
    for bps, value, index in sorted(falls):
        if value < lowest:
            lowest = value
            if found[-1][1] != index:
                found.append((bps, index))
    return found


def _first_rival(costs: Sequence[_Cost], least: _Cost, transfer: ConnectionEvents, high: int) -> int:
    """Up to this bandwidth nothing beats what sends least, so that its many small steps there need not be looked at.

    A staircase leaves its line by less than a cycle and an event, so a rival's line must come that near.
    """
    apart_us = transfer.cycle_us + (transfer.packets_per_event - 1) * transfer.pair_us
    found = [high]
    for cost in costs:
        saved = least.fixed - cost.fixed + cost.weight * apart_us * 1000
        if saved > 0 and cost.bytes > least.bytes:
            found.append(math.floor((cost.bytes - least.bytes) * 8 * NS_PER_S * cost.weight // saved))
    return min(found)


def _falls(
    cost: _Cost, index: int, lowest: Fraction | int, low: int, high: int, transfer: ConnectionEvents
) -> Iterator[tuple[int, Fraction | int, int]]:
    """Where a staircase falls below `lowest` between two bandwidths, and to what."""
    if cost.bytes == 0 or cost.weight == 0:
        return
    most = transfer.most_in(Fraction(lowest - cost.fixed) / cost.weight)
    if most is None:
        return
    events, packets = min(most, transfer.needed(cost.bytes, low))
    while events:
        packets = min(packets, transfer.most_packets(cost.bytes, events))
        start = transfer.end_from_bps(cost.bytes, events, packets)
        if start is None or start >= high:
            return
        if start > low:
            yield start, cost.fixed + cost.weight * transfer.end_ns(events, packets), index
        packets -= 1
        if events == 1 or not packets:
            events, packets = events - 1, transfer.packets_per_event
