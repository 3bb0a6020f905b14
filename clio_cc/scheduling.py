"""Which schedule every operator gets: the one that executes fewest instructions of those that memory has room for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from clio_cc.arena import plan_arena
from clio_cc.costs import Costs, Shape, costs_of
from clio_cc.cut import RAM, arena_limit, fit
from clio_cc.operators.base import Operator
from clio_cc.operators.conv import Conv
from clio_cc.operators.movement import WITHOUT_CODE, RowSlice, RowStack
from clio_cc.operators.schedule import Schedule
from clio_cc.program import Program
from clio_cc.targets import Target

SPENT_BYTES = 8192
"""What ``latency`` may spend on scratch buffers in any case: small networks gain most, on boards with hundreds of KB."""

Choice = dict[Shape, Schedule]


def planned(quantized: Program, target: Target, optimize: str) -> Program:
    """Return the program as it will run on a board: in bands of rows where wanted or needed, every operator scheduled."""
    program = fit(quantized, target, optimize) or quantized
    return choose_schedules(program, target, optimize, arena_limit(program, target))


def conv_instructions(program: Program, target: Target) -> int | None:
    """Return what the convolutions execute in one run, as measured or modelled; None where nothing is known of one."""
    costs, total = costs_of(target), 0.0
    for op in program.operators:
        if isinstance(op, Conv):
            found = costs.instructions(op, op.scheduled)
            if found is None:
                return None
            total += found
    return round(total)


def choose_schedules(program: Program, target: Target, optimize: str, limit: int | None = None) -> Program:
    """Return the program with a schedule for every operator that has several.

    Operators of one shape get one schedule, so that they share their code. Starting from the schedules with the least
    scratch memory, shapes take the fastest that keeps the arena within bounds, those that gain most first. The bound is
    the smallest arena for ``ram``. For ``latency`` it is what tensors side by side would need, as overlaps have saved more
    than that, and at least `SPENT_BYTES` more than the smallest.

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
    most = least if optimize == RAM else max(least + SPENT_BYTES, side_by_side(program))
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


def side_by_side(program: Program) -> int:
    """Return the most bytes of tensors that are needed at once, none over another; bands are parts of others."""
    last = {t.name: i for i, op in enumerate(program.operators) for t in op.inputs}
    last |= dict.fromkeys(program.lasting, len(program.operators))
    alive = {t.name: t.bytes for t in program.inputs}
    most = 0
    for index, op in enumerate(program.operators):
        if not isinstance(op, RowSlice | RowStack):
            alive[op.output.name] = op.output.bytes
        if not isinstance(op, WITHOUT_CODE):
            most = max(most, sum(alive.values()))
        alive = {name: size for name, size in alive.items() if last.get(name, -1) > index}
    return most


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
        # Not every schedule of a shape is one of every operator of it: `wide` has no multipliers.
        return replace(op, schedule=schedule) if isinstance(op, Conv) and schedule in op.schedules else op

    return replace(program, operators=tuple(scheduled(op) for op in program.operators))
