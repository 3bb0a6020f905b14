"""What else a user could do, on the same terms, and which of all that wins where: the counterpart of CLIO's Figure 8.

- ``local``: the whole network on the device. ``input``: the raw input is sent.
- ``jpeg``: the best quality in time, from the rows ``jpeg,<quality>`` of ``accuracy.csv``. Encoding counts as no time.
- ``neurosurgeon`` (Kang et al., ASPLOS'17): for each known bandwidth the cut of the lowest latency, all channels sent,
  local and raw input among them; ``neurosurgeon-energy``: of the lowest energy. Neither looks at accuracy or deadline.
- ``jalad`` (Li et al., ICPADS'18): all channels with fewer bits, from the rows ``<point>/<bits>bit``.
- ``clio``: the plan itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass

from clio_cc.accuracy import FEWER_BITS, JPEG, AccuracyRow
from clio_cc.envelope import Piece, best, fastest, merged, thriftiest, with_ends
from clio_cc.options import Costs, Option, PlanPoint, Times, known_accuracy, merit
from clio_cc.plan import RAW, PlanRange, Strategy, Winner

CLIO = "clio"
_WITHOUT_CUT = ("local", "input", "jpeg")


@dataclass(frozen=True)
class Followed:
    """A strategy's choice over the whole range, and where that is in time and in budget."""

    name: str
    options: Sequence[Option]
    pieces: Sequence[Piece]
    always: Sequence[Piece] = ()


def follow_all(
    local: Option | None,
    points: Sequence[PlanPoint],
    times: Times,
    accuracy: Sequence[AccuracyRow],
    input_bytes: int,
    bandwidth: tuple[int, int],
    costs: Costs,
) -> list[Followed]:
    """All strategies but the plan's own; those without anything to choose from are left out."""
    known = known_accuracy(accuracy)
    in_cloud_ns = times.cloud_ns[0]
    raw_accuracy = known.get((RAW, 1))
    raw = Option(RAW, 1, input_bytes, 0, in_cloud_ns, raw_accuracy, merit(raw_accuracy, 1.0))
    jpegs = [
        Option(JPEG, row.slices, row.bytes, 0, in_cloud_ns, row.value, merit(row.value, 0.0))
        for row in accuracy
        if row.partition == JPEG
    ]
    whole = [
        *([local] if local is not None else []),
        raw,
        *(_whole(point, times, known) for point in points if point.layer is not None),
    ]
    low, high = bandwidth
    single = [("local", [local] if local is not None else []), ("input", [raw]), ("jpeg", jpegs)]
    found = [Followed(name, options, best(options, low, high, costs)) for name, options in single]
    found.append(_heedless("neurosurgeon", whole, fastest(whole, low, high, costs), high, costs))
    found.append(_heedless("neurosurgeon-energy", whole, thriftiest(whole, low, high, costs), high, costs))
    jalad = _jalad(points, times, accuracy)
    found.append(Followed("jalad", jalad, best(jalad, low, high, costs)))
    return [
        each for each in found if each.options and (each.always or not each.name.startswith("neurosurgeon"))
    ]


def _whole(point: PlanPoint, times: Times, known: Mapping[tuple[str, int], float]) -> Option:
    """A plain cut: no encoder, every channel."""
    device_ns, cloud_ns = times.cut(point)
    value = known.get((point.name, point.all_units))
    units = point.all_units
    return Option(point.name, units, units * point.unit_bytes, device_ns, cloud_ns, value, merit(value, 1.0))


def _jalad(points: Sequence[PlanPoint], times: Times, accuracy: Sequence[AccuracyRow]) -> list[Option]:
    by_name = {point.name: point for point in points}
    found = []
    for row in accuracy:
        match = FEWER_BITS.fullmatch(row.partition)
        if match is not None and match[1] in by_name:
            device_ns, cloud_ns = times.cut(by_name[match[1]])
            found.append(
                Option(
                    row.partition,
                    row.slices,
                    row.bytes,
                    device_ns,
                    cloud_ns,
                    row.value,
                    merit(row.value, 0.0),
                )
            )
    return found


def _heedless(
    name: str, options: Sequence[Option], steps: Sequence[tuple[int, Option]], high: int, costs: Costs
) -> Followed:
    """A strategy that chooses without looking at deadline and budget: what of its choices meets them."""
    always = merged(Piece(*each) for each in with_ends(steps, high))
    pieces = []
    for piece in always:
        start = costs.from_bps(piece.option)
        if start is not None and (start < piece.to_bps or start <= piece.from_bps):
            pieces.append(Piece(max(start, piece.from_bps), piece.to_bps, piece.option))
    return Followed(name, options, pieces, always)


# --- for the plan ---------------------------------------------------------------------------------


def plan_range(piece: Piece, costs: Costs) -> PlanRange:
    """A piece with its figures, without the reasons."""
    return PlanRange(piece.from_bps, piece.to_bps, *astuple(costs.choice(piece.option, piece.from_bps)))


def strategy(followed: Followed, bandwidth: tuple[int, int], costs: Costs) -> Strategy:
    """The row of a table that compares strategies."""
    low, high = bandwidth
    over = followed.always or followed.pieces
    at_low = (
        over[0].option
        if over and over[0].from_bps == low
        else fastest(followed.options, low, low, costs)[0][1]
    )
    at_high = over[-1].option if over else fastest(followed.options, high, high, costs)[0][1]
    return Strategy(
        strategy=followed.name,
        from_bps=followed.pieces[0].from_bps if followed.pieces else None,
        to_bps=followed.pieces[-1].to_bps if followed.pieces else None,
        at_low=costs.choice(at_low, low),
        at_high=costs.choice(at_high, high),
        ranges=tuple(plan_range(piece, costs) for piece in followed.pieces),
    )


def winners(all_followed: Sequence[Followed], bandwidth: tuple[int, int], costs: Costs) -> tuple[Winner, ...]:
    """Highest accuracy in time; of equals the lowest energy, where all are known, else the lowest latency.

    An unknown accuracy counts as in `Option.merit`. Of equals in everything what needs no cut wins, then the plan's own.
    """
    low, high = bandwidth
    all_followed = sorted(all_followed, key=lambda each: (each.name not in _WITHOUT_CUT, each.name != CLIO))
    edges = {
        low,
        high,
        *(end for each in all_followed for p in each.pieces for end in (p.from_bps, p.to_bps)),
    }
    found: list[tuple[str, Piece]] = []
    for start, end in itertools.pairwise(sorted(edges)) if low < high else [(low, high)]:
        there = [
            (each.name, piece.option)
            for each in all_followed
            for piece in each.pieces
            if piece.from_bps <= start and end <= piece.to_bps
        ]
        for piece in _wins([option for _, option in there], start, end, costs):
            name = next(name for name, option in there if option == piece.option)
            if (
                found
                and found[-1][0] == name
                and found[-1][1].option == piece.option
                and found[-1][1].to_bps == start
            ):
                piece = Piece(found.pop()[1].from_bps, piece.to_bps, piece.option)
            found.append((name, piece))
    return tuple(
        Winner(piece.from_bps, piece.to_bps, name, *astuple(costs.choice(piece.option, piece.from_bps)))
        for name, piece in found
    )


def _wins(options: Sequence[Option], low: int, high: int, costs: Costs) -> list[Piece]:
    if not options:
        return []
    most = max(option.merit for option in options)
    tied = [option for option in options if option.merit == most]
    known = all(costs.fixed_pj(option) is not None for option in tied)
    steps = (thriftiest if known else fastest)(tied, low, high, costs)
    return merged(Piece(*each) for each in with_ends(steps, high))
