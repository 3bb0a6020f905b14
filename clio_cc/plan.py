"""What a plan is: at which bandwidth to cut where and to send how much, and why. Made by ``planner``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from clio_cc.errors import ClioError
from clio_cc.units import format_bps, format_us

LOCAL = "local"
"""The whole network on the device."""
RAW = "input"
"""Nothing on the device: the raw input is sent."""


@dataclass(frozen=True)
class Interval:
    """Bandwidths, both ends included, at which a partition point meets the deadline."""

    partition: str
    from_bps: int
    to_bps: int


@dataclass(frozen=True)
class PlanRange:
    """What to do between two bandwidths, both included (at a shared end the next range's choice is no worse).

    Latency and energy are those at `from_bps`, where they are worst. `energy_uj` is None where a power is not
    known, `accuracy` where it was not evaluated.
    """

    from_bps: int
    to_bps: int
    partition: str
    slices: int
    latency_us: float
    energy_uj: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Strategy:
    """One fixed choice for all bandwidths, to compare with: everything local, the raw input, or one cut.

    Attributes:
        strategy: ``local``, ``input`` or ``cut``.
        from_bps: Lowest bandwidth of the range at which the deadline holds; None if it never does.
        to_bps: The range's upper end, or None.
        latency_us: At the range's lower end, whether the deadline holds there or not.
        shortest_us: Latency at the range's upper end.
        energy_uj: At the range's lower end.
    """

    strategy: str
    partition: str
    slices: int
    bytes: int
    from_bps: int | None
    to_bps: int | None
    latency_us: float
    shortest_us: float
    energy_uj: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Shortest:
    """The lowest latency that any choice reaches in the range, and what it is made of."""

    partition: str
    slices: int
    bytes: int
    device_us: float
    transfer_us: float
    cloud_us: float
    latency_us: float


@dataclass(frozen=True)
class Plan:
    """Bandwidth → (partition point, units); the fields are the keys of ``plan --json``.

    Attributes:
        intervals: Per partition point that meets the deadline somewhere in the range.
        cover: The fewest partition points whose intervals cover what can be covered.
        holes: Bandwidths that nothing covers; a hole's upper end is covered unless it is the range's.
        ranges: The best choice at each bandwidth: highest accuracy, then lowest latency.
        sources: Where powers and the link's figures come from.
    """

    deadline_us: int
    link: str | None
    bandwidth: tuple[int, int]
    intervals: tuple[Interval, ...]
    cover: tuple[str, ...]
    holes: tuple[tuple[int, int], ...]
    ranges: tuple[PlanRange, ...]
    strategies: tuple[Strategy, ...]
    shortest: Shortest
    sources: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The object of ``plan --json`` (DESIGN §8)."""
        return {"schema": 1, **asdict(self)}

    def to_text(self) -> str:
        """The text of ``plan.json``; equal plans give equal text."""
        return json.dumps(self.to_json(), indent=2, ensure_ascii=False) + "\n"


def check_reachable(plan: Plan) -> None:
    """Raise a :class:`ClioError` with the shortest reachable latency if nothing ever meets the deadline."""
    if plan.ranges:
        return
    best = plan.shortest
    made_of = f"{format_us(best.device_us)} on the device and {format_us(best.cloud_us)} in the cloud"
    if best.bytes:
        made_of += (
            f", {format_us(best.transfer_us)} for {best.bytes} bytes at {format_bps(plan.bandwidth[1])}"
        )
    raise ClioError(
        f"no partition point meets a deadline of {format_us(plan.deadline_us)}",
        hint=f"the shortest reachable is {format_us(best.latency_us)}, at '{best.partition}': {made_of}",
    )
