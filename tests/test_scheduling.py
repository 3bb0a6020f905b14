"""Costs of schedules, and the choice by them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from boards import assert_bit_exact

from clio_cc import execution, scheduling
from clio_cc.arena import plan_arena
from clio_cc.bands import Chain, in_bands
from clio_cc.codegen.model import bind
from clio_cc.costs import Costs, Shape, costs_of, fit_model, work
from clio_cc.operators.base import Tensor
from clio_cc.operators.conv import FAMILIES, Conv
from clio_cc.operators.schedule import Schedule
from clio_cc.program import Program
from clio_cc.qformat import Requantize
from clio_cc.scheduling import SPENT_BYTES, choose_schedules, side_by_side, with_schedules
from clio_cc.targets import TARGETS, Target


def conv(name: str, x: Tensor, cout: int, k: int = 3, groups: int = 1) -> Conv:
    height, width, channels = x.shape
    rng = np.random.default_rng(len(name))
    return Conv(
        name=name,
        kind="Conv",
        inputs=(x,),
        output=Tensor(name, (height, width, cout), 1.0),
        weight=rng.integers(-128, 128, (cout, k, k, channels // groups)).astype(np.int8),
        bias=rng.integers(-1000, 1000, cout).astype(np.int32),
        requantize=Requantize(np.full(cout, 9), None, 0, 127),
        pads=(k // 2,) * 4,
        groups=groups,
    )


def network() -> Program:
    """Two equal convolutions, a depthwise, a 1x1."""
    x = Tensor("x", (12, 12, 16), 1.0)
    operators: list[Conv] = []
    for name, k, groups in (("a", 3, 1), ("b", 3, 1), ("c", 3, 16), ("d", 1, 1)):
        operators.append(conv(name, operators[-1].output if operators else x, 16, k, groups))
    return Program((x,), tuple(operators), (operators[-1].output.name,))


def every_cost(program: Program, cheapest: int) -> Costs:
    """Costs that make schedule number `cheapest` (counted from the end if negative) of every operator the best."""
    measured: dict[Shape, dict[str, int]] = {}
    for op in program.operators:
        if not isinstance(op, Conv):
            continue
        order = sorted(range(len(op.schedules)), key=lambda i: i != cheapest % len(op.schedules))
        measured[Shape.of(op)] = {str(op.schedules[i]): 1000 + rank for rank, i in enumerate(order)}
    return Costs(measured)


@pytest.fixture
def costs(monkeypatch: pytest.MonkeyPatch) -> dict[str, Costs]:
    held: dict[str, Costs] = {}
    monkeypatch.setattr(scheduling, "costs_of", lambda target: held["costs"])
    return held


def schedules(program: Program) -> list[str]:
    return [str(op.scheduled) for op in program.operators if isinstance(op, Conv)]


def bound(program: Program, optimize: str) -> int:
    """The most bytes that schedules may come to."""
    least = min(plan_arena(way).bytes for way in every_way(program))
    return least if optimize == "ram" else max(least + SPENT_BYTES, side_by_side(program))


@pytest.mark.parametrize("cheapest", range(4))
def test_the_cheapest_is_taken_where_memory_allows(costs: dict[str, Costs], cheapest: int) -> None:
    program = network()
    costs["costs"] = every_cost(program, cheapest)
    found = schedules(choose_schedules(program, TARGETS[0], "latency"))
    wanted = every_way(program)[cheapest]
    if plan_arena(wanted).bytes <= bound(program, "latency"):
        assert found == schedules(wanted)
    else:
        assert found != schedules(wanted)


def every_way(program: Program) -> list[Program]:
    """All operators with their first, second … schedule."""
    most = max(len(op.schedules) for op in program.operators)
    return [
        with_schedules(
            program,
            {
                Shape.of(op): op.schedules[i % len(op.schedules)]
                for op in program.operators
                if isinstance(op, Conv)
            },
        )
        for i in range(most)
    ]


@pytest.mark.parametrize("optimize", ["latency", "ram"])
@pytest.mark.parametrize("cheapest", range(4))
def test_the_arena_stays_within_its_bounds(costs: dict[str, Costs], optimize: str, cheapest: int) -> None:
    program = network()
    costs["costs"] = every_cost(program, cheapest)
    assert plan_arena(choose_schedules(program, TARGETS[0], optimize)).bytes <= bound(program, optimize)
    tight = choose_schedules(program, TARGETS[0], optimize, limit=1)
    assert plan_arena(tight).bytes <= bound(program, "ram")


def test_memory_is_spent_where_it_gains(costs: dict[str, Costs]) -> None:
    program = network()
    costs["costs"] = every_cost(program, 1)
    latency, ram = (choose_schedules(program, TARGETS[0], each) for each in ("latency", "ram"))
    assert plan_arena(ram).bytes < plan_arena(latency).bytes
    assert schedules(ram) != schedules(latency)


def test_tensors_side_by_side() -> None:
    program = network()
    assert side_by_side(program) == 2 * 12 * 12 * 16
    assert plan_arena(program).bytes < side_by_side(program)


def test_equal_shapes_get_equal_schedules(costs: dict[str, Costs]) -> None:
    program = network()
    for cheapest in range(4):
        costs["costs"] = every_cost(program, cheapest)
        a, b, *_ = schedules(choose_schedules(program, TARGETS[0], "ram"))
        assert a == b


def test_bands_of_a_layer_share_their_weights(costs: dict[str, Costs]) -> None:
    program = in_bands(network(), Chain(0, 3, 5))
    one, other = (every_cost(program, cheapest).measured for cheapest in (0, 1))
    turns = [one, other]  # what is best for one band is not for the next
    costs["costs"] = Costs({shape: turns[i % 2][shape] for i, shape in enumerate(one)})
    stored = [
        name for name in bind(choose_schedules(program, TARGETS[0], "latency")).tables if "weight" in name
    ]
    assert len(stored) == len({op.weight.tobytes() for op in program.operators if isinstance(op, Conv)})


def test_without_costs_the_default_is_taken(costs: dict[str, Costs]) -> None:
    program = network()
    costs["costs"] = Costs()
    found = choose_schedules(program, TARGETS[0], "latency")
    assert schedules(found) == [str(op.schedules[0]) for op in program.operators]


def test_costs_as_text_and_back() -> None:
    program = network()
    costs = Costs(every_cost(program, 1).measured, {"matmul 3x2": (0.5, -1e-3, 0, 0, 0, 0, 0, 12.0)})
    again = Costs.from_json(costs.to_json())
    assert (again.measured, again.model) == (costs.measured, costs.model)
    assert again.to_json() == costs.to_json()


def test_measured_comes_before_the_model() -> None:
    op = network().operators[0]
    assert isinstance(op, Conv)
    schedule = op.schedules[0]
    name, counts = work(op, schedule)
    model = {name: (0.0,) * (len(counts) - 1) + (7.0,)}
    assert Costs({}, model).instructions(op, schedule) == 7
    assert Costs({Shape.of(op): {str(schedule): 5}}, model).instructions(op, schedule) == 5
    assert Costs({}, {}).instructions(op, schedule) is None


@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_finds_what_is_linear(family: str) -> None:
    rng = np.random.default_rng(3)
    truth = np.array([0.8, 9, 1.5, 20, 0.5, 11, 150])
    measured: list[tuple[Conv, Schedule, int]] = []
    while len(measured) < 60:
        (height, width), (cin, cout) = (
            map(int, rng.integers(3, 20, 2)),
            (4 * int(c) for c in rng.integers(1, 9, 2)),
        )
        depthwise = family in ("depthwise", "planar")
        op = conv(
            "t",
            Tensor("x", (height, width, cin), 1.0),
            cin if depthwise else cout,
            3,
            cin if depthwise else 1,
        )
        for schedule in op.schedules:
            if schedule.kernel == family:
                counts = work(op, schedule)[1]
                measured.append((op, schedule, int(counts @ truth[: len(counts)])))
    costs = Costs({}, fit_model(measured[:40]))
    for op, schedule, count in measured[40:]:
        found = costs.modelled(op, schedule)
        if found is not None:  # a tile that was not among the first
            assert found == pytest.approx(count, rel=0.02)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_every_board_ships_costs_of_every_schedule(target: Target) -> None:
    costs = costs_of(target)
    assert len(costs.measured) > 40
    for op in network().operators:
        assert isinstance(op, Conv)
        for schedule in op.schedules:
            assert work(op, schedule)[0] in costs.model, f"{schedule}: run python benchmarks/tuning.py"


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_the_models_take_no_instructions_away(target: Target) -> None:
    model = costs_of(target).model
    assert model
    assert all(min(coefficients) >= 0 for coefficients in model.values())


def test_a_mixed_program_gets_schedules_that_its_operators_have(costs: dict[str, Costs]) -> None:
    program = network()
    costs["costs"] = every_cost(program, 1)
    multiplied = Requantize(np.full(16, 40), np.full(16, 2**30), 0, 127)
    second = program.operators[1]
    assert isinstance(second, Conv)
    operators = (program.operators[0], replace(second, requantize=multiplied), *program.operators[2:])
    mixed = choose_schedules(replace(program, operators=operators), TARGETS[0], "latency")
    for op in mixed.operators:
        assert isinstance(op, Conv)
        assert op.scheduled in op.schedules
    assert schedules(mixed)[:2] == ["wide 2x16", "matmul 3x2"]


def test_every_way_is_bit_exact(tmp_path: Path) -> None:
    for i, program in enumerate(every_way(network())):
        named = replace(program, operators=program.operators)
        assert_bit_exact(named, execution.random_inputs(named, 2), tmp_path / str(i))
