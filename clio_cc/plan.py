"""What a plan is: at which bandwidth to cut where and to send how much, and why. Made by ``planner``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from clio_cc.errors import ClioError
from clio_cc.units import format_bps, format_uj, format_us

DEADLINE_US = 300_000
"""CLIO's target latency, and the default."""
LOCAL = "local"
"""The whole network on the device."""
RAW = "input"
"""Nothing on the device: the raw input is sent."""


@dataclass(frozen=True)
class Interval:
    """Bandwidths, both ends included, at which a partition point meets deadline and budget.

    Attributes:
        all_from_bps: From where on all of its units do; None if nowhere. Between `from_bps` and here progressive
            slicing adapts: B_k in CLIO, equation 3.
    """

    partition: str
    from_bps: int
    to_bps: int
    all_from_bps: int | None = None


@dataclass(frozen=True)
class Step:
    """A partition point and a number of its units: one of what was chosen from.

    Attributes:
        from_bps: Lowest bandwidth that meets deadline and budget, perhaps out of the range; None if none does.
    """

    partition: str
    slices: int
    bytes: int
    device_us: float
    cloud_us: float
    from_bps: int | None
    accuracy: float | None


@dataclass(frozen=True)
class Choice:
    """A partition point and how much to send, at one bandwidth.

    Latency and energy are those at that bandwidth; `energy_uj` is None where a power is not known, `accuracy` where it
    was not evaluated. `slices` is the quality where a JPEG is sent.
    """

    partition: str
    slices: int
    bytes: int
    latency_us: float
    energy_uj: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Neighbor:
    """A choice that lost at the low end of a range, and why.

    Attributes:
        kind: ``more accurate`` (the one that comes into reach first), ``more slices`` (the next count at this point) or
            ``below`` (the choice of the range below).
        misses_by_us: How much too late it is; None if it is in time.
        misses_by_uj: How much too much it takes; None if it does not.
        from_bps: From where on it meets deadline and budget; None if nowhere in the range that was asked for.
        reason: All that in words.
    """

    kind: str
    partition: str
    slices: int
    latency_us: float
    energy_uj: float | None
    accuracy: float | None
    misses_by_us: float | None
    misses_by_uj: float | None
    from_bps: int | None
    reason: str


@dataclass(frozen=True)
class PlanRange:
    """What to do between two bandwidths, both included (at a shared end the next range's choice is no worse).

    Latency and energy are those at `from_bps`, where they are worst.
    """

    from_bps: int
    to_bps: int
    partition: str
    slices: int
    bytes: int
    latency_us: float
    energy_uj: float | None
    accuracy: float | None
    why: tuple[Neighbor, ...] = ()


@dataclass(frozen=True)
class Boundary:
    """Where two ranges meet, for a runtime that follows a bandwidth that goes up and down.

    Attributes:
        at_bps: Where the choice above becomes better, or possible.
        up_bps: Switch up when the bandwidth reaches this; out of a hole at once, there is nothing to stay with.
        down_bps: Switch down when the bandwidth falls below this, at once: the choice above may be late.
        below: Index into `ranges` of the plan; None for a hole, which only the low end can be.
        above: Likewise.
    """

    at_bps: int
    up_bps: int
    down_bps: int
    below: int | None
    above: int


@dataclass(frozen=True)
class Hysteresis:
    """Boundaries from low to high, and the share of bandwidth by which to exceed one before switching up."""

    margin: float
    boundaries: tuple[Boundary, ...]


@dataclass(frozen=True)
class Strategy:
    """What a user could do instead, or what this plan does.

    Attributes:
        strategy: ``local``, ``input``, ``jpeg``, ``neurosurgeon``, ``neurosurgeon-energy``, ``jalad`` or ``clio``.
        from_bps: Lowest bandwidth of the range at which it meets deadline and budget; None if nowhere.
        to_bps: Highest one, or None.
        at_low: Its choice at the range's low end, in time or not.
        at_high: At the range's upper end.
        ranges: Its choices where it meets deadline and budget.
    """

    strategy: str
    from_bps: int | None
    to_bps: int | None
    at_low: Choice
    at_high: Choice
    ranges: tuple[PlanRange, ...]


@dataclass(frozen=True)
class Winner:
    """The strategy with the highest accuracy between two bandwidths, and its choice (latency and energy at `from_bps`)."""

    from_bps: int
    to_bps: int
    strategy: str
    partition: str
    slices: int
    bytes: int
    latency_us: float
    energy_uj: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Shortest:
    """The choice that comes nearest to deadline or budget in the range, and what it is made of, at its upper end."""

    partition: str
    slices: int
    bytes: int
    device_us: float
    transfer_us: float
    cloud_us: float
    latency_us: float
    device_uj: float | None
    energy_uj: float | None


@dataclass(frozen=True)
class Plan:
    """Bandwidth → (partition point, units); the fields are the keys of ``plan --json``.

    Attributes:
        deadline_us: None if only energy counts.
        budget_uj: Energy per inference, device and radio; None if only time counts.
        metric: What `accuracy` is everywhere, ``accuracy`` or ``agreement``; None where nothing was evaluated.
        bandwidth: The range that was planned: of the one asked for, what the link reaches.
        unreachable: What the link does not reach, or None.
        steps: All that was chosen from, by partition point in order of execution, then by number of units.
        intervals: Per partition point that meets deadline and budget somewhere in the range.
        cover: The fewest partition points whose intervals cover what can be covered.
        adaptive_cover: The fewest with one that still adapts (`Interval.all_from_bps`) wherever one does.
        holes: Bandwidths that nothing covers; a hole's upper end is covered unless it is the range's.
        ranges: The best choice at each bandwidth: highest accuracy, then lowest latency.
        winners: Which of `strategies` is best where; what none reaches is left out.
        shortest: Lowest latency, and `cheapest` lowest energy, that any choice reaches.
        no_local: Why `local` is not among the strategies though every layer has a time; empty if it is.
        sources: Where powers and the link's figures come from.
    """

    deadline_us: int | None
    budget_uj: float | None
    link: str | None
    metric: str | None
    bandwidth: tuple[int, int]
    unreachable: tuple[int, int] | None
    steps: tuple[Step, ...]
    intervals: tuple[Interval, ...]
    cover: tuple[str, ...]
    adaptive_cover: tuple[str, ...]
    holes: tuple[tuple[int, int], ...]
    ranges: tuple[PlanRange, ...]
    hysteresis: Hysteresis
    strategies: tuple[Strategy, ...]
    winners: tuple[Winner, ...]
    shortest: Shortest
    cheapest: Shortest | None
    no_local: str = ""
    sources: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The object of ``plan --json`` (DESIGN §8)."""
        return {"schema": 1, **asdict(self)}

    def to_text(self) -> str:
        """The text of ``plan.json``; equal plans give equal text."""
        return json.dumps(self.to_json(), indent=2, ensure_ascii=False) + "\n"


def follow(plan: Plan, current: int | None, bps: int) -> int | None:
    """The range to use at a measured bandwidth, coming from another: what a runtime does with `hysteresis`.

    Args:
        plan: With the boundaries.
        current: Index into its ranges; None in a hole, and before the first measurement.
        bps: Now.

    Returns:
        An index; None where nothing meets the deadline.
    """
    if current is None:
        return next((i for i, r in enumerate(plan.ranges) if r.from_bps <= bps <= r.to_bps), None)
    for boundary in plan.hysteresis.boundaries:
        if boundary.below == current and bps >= boundary.up_bps:
            return follow(plan, boundary.above, bps)
        if boundary.above == current and bps < boundary.down_bps:
            return follow(plan, boundary.below, bps) if boundary.below is not None else None
    return current


def check_reachable(plan: Plan) -> None:
    """Raise a :class:`ClioError` with what is reachable if nothing ever meets deadline and budget."""
    if plan.ranges:
        return
    late = plan.deadline_us is not None and plan.shortest.latency_us > plan.deadline_us
    dear = (
        plan.budget_uj is not None
        and plan.cheapest is not None
        and (plan.cheapest.energy_uj or 0.0) > plan.budget_uj
    )
    deadline = f"a deadline of {format_us(plan.deadline_us)}" if plan.deadline_us is not None else ""
    budget = f"a budget of {format_uj(plan.budget_uj)}" if plan.budget_uj is not None else ""
    if late:
        raise ClioError(f"no partition point meets {deadline}", hint=_shortest(plan))
    if dear:
        raise ClioError(f"no partition point meets {budget}", hint=_cheapest(plan))
    raise ClioError(
        f"no partition point meets both {deadline} and {budget}", hint=f"{_shortest(plan)}; {_cheapest(plan)}"
    )


def _shortest(plan: Plan) -> str:
    best = plan.shortest
    made_of = f"{format_us(best.device_us)} on the device and {format_us(best.cloud_us)} in the cloud"
    if best.bytes:
        made_of += f", {format_us(best.transfer_us)} for {_sent(best, plan)}"
    return f"the shortest reachable is {format_us(best.latency_us)}, at '{best.partition}': {made_of}"


def _cheapest(plan: Plan) -> str:
    best = plan.cheapest
    assert best is not None and best.energy_uj is not None and best.device_uj is not None
    made_of = f"{format_uj(best.device_uj)} on the device"
    if best.bytes:
        made_of += f" and {format_uj(best.energy_uj - best.device_uj)} for {_sent(best, plan)}"
    return f"the least reachable is {format_uj(best.energy_uj)}, at '{best.partition}': {made_of}"


def _sent(best: Shortest, plan: Plan) -> str:
    return f"{best.bytes} bytes at {format_bps(plan.bandwidth[1])}"
