"""Red zones: an operator that writes where it must not, and a plan that lets it, are found on every board."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import random_operators
from boards import boards_of, write_projects

from clio_cc import execution
from clio_cc.arena import Arena, plan_arena
from clio_cc.codegen.zones import Zones, zones, zones_source
from clio_cc.operators.base import Operator, Tensor
from clio_cc.operators.conv import Conv
from clio_cc.operators.movement import Reshape, RowSlice, RowStack
from clio_cc.operators.table import Table
from clio_cc.program import Program, Tap
from clio_cc.project import ZONES
from clio_cc.qformat import Requantize
from clio_cc.targets import TARGETS, Target

Tool = Callable[[str], str]

CODE = np.arange(-128, 128)[::-1].astype(np.int8)


def table(x: Tensor, name: str) -> Operator:
    return Table(name=name, kind="Neg", inputs=(x,), output=replace(x, name=name), table=CODE)


def conv(x: Tensor, name: str, cout: int) -> Operator:
    channels = x.shape[-1]
    rng = np.random.default_rng(0)
    return Conv(
        name=name, kind="Conv", inputs=(x,), output=Tensor(name, (*x.shape[:2], cout), 1.0),
        weight=rng.integers(-128, 128, (cout, 1, 1, channels)).astype(np.int8),
        bias=np.zeros(cout, np.int32), requantize=Requantize(np.full(cout, 8)),
    )  # fmt: skip


def chain() -> Program:
    """x → a → b, and b beside x → c: x is needed to the end."""
    x = Tensor("x", (4, 4, 4), 1.0)
    a = conv(x, "a", 8)
    b = conv(a.output, "b", 4)
    c = table(x, "c")
    return Program((x,), (a, b, c), ("b", "c"))


def test_what_is_alive_around_each_operator() -> None:
    program = chain()
    offsets = {"x": 0, "a": 64, "b": 64, "c": 0, "a#scratch": 192, "b#scratch": 192}
    found = zones(program, Arena(256, offsets, (), 0, ""))
    scratch = [op.scratch_bytes for op in program.operators]
    assert found == [
        Zones(((0, 64),), ((64, 192 + scratch[0]),)),
        Zones(((0, 192),), ((64, 128), (192, 192 + scratch[1]))),
        Zones(((0, 128),), ((0, 64),)),
    ]


def test_bands_die_row_by_row() -> None:
    x = Tensor("x", (4, 1, 8), 1.0)
    halves = [Tensor(f"x{i}", (2, 1, 8), 1.0) for i in range(2)]
    operators: list[Operator] = []
    for i, half in enumerate(halves):
        operators += [
            RowSlice(name=half.name, kind="RowSlice", inputs=(x,), output=half, first=2 * i),
            table(half, f"y{i}"),
        ]
    y = Tensor("y", (4, 1, 8), 1.0)
    parts = tuple(op.output for op in operators[1::2])
    operators.append(RowStack(name="y", kind="RowStack", inputs=parts, output=y))
    program = Program((x,), tuple(operators), ("y",))
    offsets = {"x": 8, "x0": 8, "x1": 24, "y0": 0, "y1": 16, "y": 0}
    assert zones(program, Arena(40, offsets, (), 0, "")) == [
        Zones(((8, 40),), ()),
        Zones(((8, 40),), ((0, 16),)),
        Zones(((0, 16), (24, 40)), ()),
        Zones(((0, 16), (24, 40)), ((16, 32),)),
        Zones(((0, 32),), ()),
    ]


def test_a_byte_that_is_read_later_is_not_open_in_a_wrong_plan() -> None:
    offsets = {"x": 0, "a": 60, "b": 256, "c": 320, "a#scratch": 512, "b#scratch": 512}
    first = zones(chain(), Arena(1024, offsets, (), 0, ""))[0]
    assert first.open[0] == (64, 188)


@pytest.fixture(params=TARGETS, ids=lambda target: str(target.name))
def target(request: pytest.FixtureRequest, tool: Tool) -> Target:
    found: Target = request.param
    tool(found.emulated.compiler.command)
    tool(found.emulated.qemu[0])
    return found


def between_zones(
    program: Program, folder: Path, target: Target, arena: Arena | None = None
) -> list[execution.ZoneRun]:
    """The runs of two inputs on a target's boards."""
    projects = write_projects(program, folder, arena)
    inputs = execution.random_inputs(program, 3)
    inputs = [batch[1:] for batch in inputs]
    return [
        execution.run_between_zones(program, projects[target], board, inputs, folder / "build" / board.name)
        for board in boards_of(target)
    ]


def test_every_family_keeps_to_its_zones(target: Target, tmp_path: Path) -> None:
    for run in between_zones(random_operators.every_family(2), tmp_path, target):
        assert (run.inputs, run.trespasses, run.wrong) == (2, (), ())


def test_a_reshape_that_is_sent_is_alive_when_its_run_ends(target: Target, tmp_path: Path) -> None:
    x = Tensor("x", (4, 4, 4), 1.0)
    a = conv(x, "a", 4)
    b = conv(a.output, "b", 4)
    flat = Reshape(name="flat", kind="Reshape", inputs=(a.output,), output=Tensor("flat", (64,), 1.0))
    c = conv(b.output, "c", 4)
    program = Program((x,), (a, b, flat, c), ("flat", "c"), (Tap("flat", "flat", 64, 1),))
    for run in between_zones(program, tmp_path, target):
        assert (run.trespasses, run.wrong) == ((), ())


def test_a_chain_keeps_to_its_zones(target: Target, tmp_path: Path) -> None:
    for run in between_zones(chain(), tmp_path, target):
        assert (run.trespasses, run.wrong) == ((), ())


def test_a_plan_that_lets_an_output_lie_over_what_is_read_later(target: Target, tmp_path: Path) -> None:
    program = chain()
    arena = plan_arena(program)
    x = arena.offsets["x"]
    assert arena.offsets["c"] == x
    wrong = replace(arena, offsets={**arena.offsets, "b": x})
    for run in between_zones(program, tmp_path, target, wrong):
        assert [str(trespass) for trespass in run.trespasses] == [
            f"{run.board}: operator {op} changes the arena at offset {x}, which is not its to write"
            for op in ("1 'b' (Conv)", "2 'c' (Neg)")
        ]
        assert run.wrong == (2,)


def test_an_operator_that_needs_what_is_dead(target: Target, tmp_path: Path) -> None:
    """Zones of a program that does not read x again: x is overwritten, and the operator that does goes wrong."""
    program = chain()
    arena = plan_arena(program)
    project = write_projects(program, tmp_path, arena)[target]
    a, b, _ = program.operators
    other = replace(program, operators=(a, b, table(b.output, "c")), outputs=("c",))
    (project / ZONES).write_text(zones_source(other, arena, "Test."))
    for board in boards_of(target):
        inputs = execution.random_inputs(program, 1)
        run = execution.run_between_zones(program, project, board, inputs, tmp_path / board.name)
        assert run.wrong == (2,)


@pytest.mark.parametrize("where", ["in front of", "behind"])
def test_a_kernel_that_writes_one_byte_too_far(target: Target, tmp_path: Path, where: str) -> None:
    """Into the guard in front of the arena, and behind it."""
    x = Tensor("x", (4, 4, 4), 1.0)
    program = Program((x,), (table(x, "c"),), ("c",))
    project = write_projects(program, tmp_path)[target]
    kernels = project / "src/clio_kernels.c"
    text = kernels.read_text()
    index = "-1" if where == "in front of" else "64"
    end = text.rindex("}")
    kernels.write_text(f"{text[:end]}  p2_ptr[{index}] = -1;\n{text[end:]}")
    inputs = execution.random_inputs(program, 1)
    for board in boards_of(target):
        run = execution.run_between_zones(program, project, board, inputs, tmp_path / board.name)
        assert [(each.operator, each.name, each.offset) for each in run.trespasses] == [(0, "c", int(index))]
        assert run.wrong == ()
