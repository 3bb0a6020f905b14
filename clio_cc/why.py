"""Why a choice won: what its neighbors miss by, at the low end of the range where it wins."""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from clio_cc.envelope import Piece
from clio_cc.options import Costs, Option
from clio_cc.plan import Choice, Neighbor
from clio_cc.units import format_bps, format_uj, format_us


@dataclass(frozen=True)
class Reasons:
    """All options that a plan chose from.

    Attributes:
        merits: Ascending, each once.
        better: For each of `merits`, of the options with at least that the one that comes into reach first.
        by_count: Options of each point by number of units, ascending.
    """

    costs: Costs
    low: int
    high: int
    merits: Sequence[tuple[float, float]]
    better: Sequence[Option]
    by_count: Mapping[str, Sequence[Option]]

    @staticmethod
    def of(points: Mapping[str, Sequence[Option]], low: int, high: int, costs: Costs) -> Reasons:
        """Sort the options of each point."""

        def reach(option: Option) -> tuple[float, float]:
            start = costs.from_bps(option)
            out_of_reach = start is None or start > high
            return (
                float("inf") if start is None or out_of_reach else start,
                float(costs.latency_ns(option, high)),
            )

        merits: list[tuple[float, float]] = []
        better: list[Option] = []
        ranked = [(option.merit, reach(option), option) for options in points.values() for option in options]
        for value, reached, option in sorted(ranked, key=lambda each: (each[0], each[1]), reverse=True):
            if not merits or value != merits[-1]:
                merits.append(value)
                better.append(better[-1] if better else option)
                first = reach(better[-1])
            if reached <= first:
                better[-1], first = option, reached
        return Reasons(costs, low, high, merits[::-1], better[::-1], points)

    def why(self, piece: Piece, below: Option | None) -> tuple[Neighbor, ...]:
        """The neighbors of a choice, `below` being that of the range below."""
        option, bps = piece.option, piece.from_bps
        found = []
        above = bisect.bisect_right(self.merits, option.merit)
        if above < len(self.merits):
            found.append(self._neighbor("more accurate", self.better[above], option, bps))
        more = next((o for o in self.by_count.get(option.partition, ()) if o.slices > option.slices), None)
        if more is not None and all(n.partition != more.partition or n.slices != more.slices for n in found):
            found.append(self._neighbor("more slices", more, option, bps))
        if below is not None:
            found.append(self._neighbor("below", below, option, bps))
        return tuple(found)

    def _neighbor(self, kind: str, other: Option, chosen: Option, bps: int) -> Neighbor:
        costs = self.costs
        choice = costs.choice(other, bps)
        late_us = dear_uj = None
        if costs.deadline_ns is not None and costs.latency_ns(other, bps) > costs.deadline_ns:
            late_us = round(choice.latency_us - costs.deadline_ns / 1000, 3)
        energy_pj = costs.energy_pj(other, bps)
        if costs.budget_pj is not None and energy_pj is not None and energy_pj > costs.budget_pj:
            dear_uj = round(float((energy_pj - costs.budget_pj) / 10**6), 3)
        start = costs.from_bps(other)
        reached = max(start, self.low) if start is not None and start <= self.high else None
        misses = _misses(choice, late_us, dear_uj)
        if misses:
            reason = f"{misses}; " + (
                f"from {format_bps(reached)} on" if reached else f"nowhere up to {format_bps(self.high)}"
            )
        else:
            reason = _in_reach(other, chosen, choice)
        return Neighbor(
            kind, other.partition, other.slices, choice.latency_us, choice.energy_uj, other.accuracy,
            late_us, dear_uj, reached, reason,
        )  # fmt: skip


def _misses(choice: Choice, late_us: float | None, dear_uj: float | None) -> str:
    found = []
    if late_us is not None:
        found.append(f"takes {format_us(choice.latency_us)}, {format_us(late_us)} too long")
    if dear_uj is not None and choice.energy_uj is not None:
        found.append(f"takes {format_uj(choice.energy_uj)}, {format_uj(dear_uj)} too much")
    return ", ".join(found)


def _in_reach(other: Option, chosen: Option, choice: Choice) -> str:
    """Why something in time was not chosen."""
    if other.merit >= chosen.merit:
        return f"no better, and takes {format_us(choice.latency_us)}"
    if other.accuracy is not None and chosen.accuracy is not None:
        return f"less accurate: {other.accuracy:.2%} against {chosen.accuracy:.2%}"
    return "sends a smaller share" if chosen.accuracy is None else "less accurate, as far as known"
