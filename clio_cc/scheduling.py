"""Which schedule every operator gets: the one that executes fewest instructions of those that memory has room for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

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

    Operators of one shape get one schedule, so that they share their code, and bands of one layer get one kernel, so that
    its weights are stored once. Starting from the schedules with the least scratch memory, layers take the fastest that keep
    the arena within bounds, those that gain most first. The bound is the smallest arena for ``ram``. For ``latency`` it is
    what tensors side by side would need, as overlaps have saved more than that, and at least `SPENT_BYTES` more than the
    smallest.

    Args:
        program: As quantized, in bands if need be.
        target: Whose costs count.
        optimize: ``latency`` or ``ram``.
        limit: Bytes that the arena may have at most, if the smallest has no more.
    """
    layers = [_options(shapes, costs_of(target)) for shapes in _layers(program)]
    frugal = [min(options, key=lambda option: (option.scratch_bytes, option.cost)) for options in layers]
    least = plan_arena(_scheduled(program, frugal)).bytes
    most = least if optimize == RAM else max(least + SPENT_BYTES, side_by_side(program))
    if limit is not None:
        most = max(least, min(most, limit))
    best = _scheduled(program, [options[0] for options in layers])
    if plan_arena(best).bytes <= most:
        return best
    chosen = list(frugal)
    gains = [option.cost - options[0].cost for option, options in zip(frugal, layers, strict=True)]
    for index in sorted(range(len(layers)), key=lambda i: -gains[i]):  # stable: ties in order of execution
        for option in layers[index]:
            if option.cost >= chosen[index].cost:
                break
            tried = [*chosen[:index], option, *chosen[index + 1 :]]
            if plan_arena(_scheduled(program, tried)).bytes <= most:
                chosen = tried
                break
    return _scheduled(program, chosen)


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


@dataclass(frozen=True)
class _Option:
    """A way to compute a layer: the schedules of its shapes, what they cost together, and the most scratch of one."""

    choice: Choice
    cost: float
    scratch_bytes: int


def _layers(program: Program) -> list[dict[Shape, list[Conv]]]:
    """The convolutions by shape, shapes that share weights together, in order of execution."""
    import networkx as nx

    shapes: dict[Shape, list[Conv]] = {}
    shared: nx.Graph[Shape | int] = nx.Graph()
    for op in program.operators:
        if isinstance(op, Conv):
            shapes.setdefault(Shape.of(op), []).append(op)
            shared.add_edge(Shape.of(op), id(op.weight))
    together = nx.connected_components(shared)
    return [{shape: ops for shape, ops in shapes.items() if shape in each} for each in together]


def _options(shapes: Mapping[Shape, Sequence[Conv]], costs: Costs) -> list[_Option]:
    """The ways to compute a layer by one family of kernels, the fastest first: every schedule where it has one shape."""
    first = {shape: ops[0] for shape, ops in shapes.items()}
    families = [{schedule.kernel for schedule in op.schedules} for op in first.values()]
    choices: list[Choice] = []
    for family in sorted(set.intersection(*families)):
        own = {shape: [s for s in op.schedules if s.kernel == family] for shape, op in first.items()}
        if len(first) == 1:
            choices += [{shape: schedule} for shape, schedules in own.items() for schedule in schedules]
            continue
        choices.append({shape: _fastest(op, own[shape], costs) for shape, op in first.items()})
        choices.append({shape: _leanest(op, own[shape]) for shape, op in first.items()})
    options = [
        _Option(
            choice,
            sum(
                len(shapes[shape]) * _cost(first[shape], schedule, costs)
                for shape, schedule in choice.items()
            ),
            max(_scratch(first[shape], schedule) for shape, schedule in choice.items()),
        )
        for choice in choices
    ]
    return sorted(options, key=lambda option: option.cost)


def _fastest(op: Conv, schedules: Sequence[Schedule], costs: Costs) -> Schedule:
    return min(schedules, key=lambda schedule: _cost(op, schedule, costs))


def _leanest(op: Conv, schedules: Sequence[Schedule]) -> Schedule:
    return min(schedules, key=lambda schedule: _scratch(op, schedule))


def _cost(op: Conv, schedule: Schedule, costs: Costs) -> float:
    """Instructions; what nothing is known of comes last, but for the default."""
    known = costs.instructions(op, schedule)
    if known is None:
        return float("inf") if schedule != op.schedules[0] else 1e18
    return known


def _scratch(op: Conv, schedule: Schedule) -> int:
    return replace(op, schedule=schedule).scratch_bytes


def _scheduled(program: Program, options: Sequence[_Option]) -> Program:
    return with_schedules(program, {shape: s for option in options for shape, s in option.choice.items()})


def with_schedules(program: Program, chosen: Choice) -> Program:
    """Return the program with the schedules of `chosen`, by shape; other operators as they are."""

    def scheduled(op: Operator) -> Operator:
        schedule = chosen.get(Shape.of(op)) if isinstance(op, Conv) else None
        # Not every schedule of a shape is one of every operator of it: `wide` has no multipliers.
        return replace(op, schedule=schedule) if isinstance(op, Conv) and schedule in op.schedules else op

    return replace(program, operators=tuple(scheduled(op) for op in program.operators))
