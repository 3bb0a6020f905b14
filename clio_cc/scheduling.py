"""Which schedule every operator gets: the one that executes fewest instructions of those that memory has room for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

from clio_cc.arena import plan_arena
from clio_cc.costs import Costs, Shape, costs_of
from clio_cc.operators.base import Operator
from clio_cc.operators.conv import Conv
from clio_cc.operators.schedule import Schedule
from clio_cc.program import Program
from clio_cc.targets import Target

ROOM = {"latency": Fraction(9, 8), "ram": Fraction(1)}
"""How large an arena may grow by scratch buffers, over the smallest that any schedules give."""

Choice = dict[Shape, Schedule]


def choose_schedules(program: Program, target: Target, optimize: str, limit: int | None = None) -> Program:
    """Return the program with a schedule for every operator that has several.

    Operators of one shape get one schedule, so that they share their code. Starting from the schedules with the least
    scratch memory, shapes take the fastest that keeps the arena within its bounds, those that gain most first.

    Args:
        program: As quantized, in bands if need be.
        target: Whose costs count.
        optimize: ``latency`` or ``ram``.
        limit: Bytes that the arena may have at most, if the smallest has no more.
    """
    costs = costs_of(target)
    shapes = _shapes(program)
    smallest = {shape: _most_frugal(ops[0], costs) for shape, ops in shapes.items()}
    least = plan_arena(with_schedules(program, smallest)).bytes
    most = int(least * ROOM[optimize])
    if limit is not None:
        most = max(least, min(most, limit))
    fastest = {shape: _by_cost(ops[0], costs)[0] for shape, ops in shapes.items()}
    best = with_schedules(program, fastest)
    if plan_arena(best).bytes <= most:
        return best
    chosen = dict(smallest)
    for shape in sorted(
        shapes, key=lambda s: -_gain(shapes[s], smallest[s], fastest[s], costs)
    ):  # stable: ties in order
        for schedule in _by_cost(shapes[shape][0], costs):
            if schedule == chosen[shape]:
                break
            tried = {**chosen, shape: schedule}
            if plan_arena(with_schedules(program, tried)).bytes <= most:
                chosen = tried
                break
    return with_schedules(program, chosen)


def _shapes(program: Program) -> dict[Shape, list[Conv]]:
    """The operators with something to choose, by shape, in order of execution."""
    found: dict[Shape, list[Conv]] = {}
    for op in program.operators:
        if isinstance(op, Conv) and len(op.schedules) > 1:
            found.setdefault(Shape.of(op), []).append(op)
    return found


def _cost(op: Conv, schedule: Schedule, costs: Costs) -> float:
    """Instructions; what nothing is known of comes last, but for the default."""
    known = costs.instructions(op, schedule)
    if known is None:
        return float("inf") if schedule != op.schedules[0] else 1e18
    return known


def _by_cost(op: Conv, costs: Costs) -> Sequence[Schedule]:
    return sorted(op.schedules, key=lambda schedule: _cost(op, schedule, costs))


def _most_frugal(op: Conv, costs: Costs) -> Schedule:
    return min(
        op.schedules, key=lambda each: (replace(op, schedule=each).scratch_bytes, _cost(op, each, costs))
    )


def _gain(ops: Sequence[Conv], slow: Schedule, fast: Schedule, costs: Costs) -> float:
    return len(ops) * (_cost(ops[0], slow, costs) - _cost(ops[0], fast, costs))


def with_schedules(program: Program, chosen: Choice) -> Program:
    """Return the program with the schedules of `chosen`, by shape; other operators as they are."""

    def scheduled(op: Operator) -> Operator:
        schedule = chosen.get(Shape.of(op)) if isinstance(op, Conv) else None
        return op if schedule is None or not isinstance(op, Conv) else replace(op, schedule=schedule)

    return replace(program, operators=tuple(scheduled(op) for op in program.operators))
