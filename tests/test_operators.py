"""Every operator family on every board: 200 random shapes each, every output equal to the reference bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import random_operators

from clio_cc import verify
from clio_cc.arena import plan_arena
from clio_cc.codegen.model import device_sources, vectors_source
from clio_cc.program import Program
from clio_cc.project import device_glue, project_files
from clio_cc.targets import HOST, TARGETS, Board, Target

SHAPES = 200
VECTORS = 3  # all -128, all 127, random


def write_project(program: Program, target: Target, folder: Path) -> Path:
    """Write a device project for a program that no ONNX model stands behind."""
    arena = plan_arena(program)
    inputs = verify.random_inputs(program, 1)
    sources = device_sources(program, arena, "Test.")
    vectors = {"test/clio_vectors.c": vectors_source(program, inputs, "Test.")}
    glue = device_glue(target, model="test", tool="clio-cc test", arena_bytes=arena.bytes, stack_bytes=4096)
    project_files(sources, vectors, glue).write(folder)
    return folder


def boards_of(target: Target) -> list[Board]:
    """The boards that run a target's sources here; the host once, with the first target."""
    return [*([HOST] if target is TARGETS[0] else []), target.emulated]


@pytest.mark.parametrize("family", random_operators.FAMILIES)
def test_every_shape_on_every_board(family: str, tmp_path: Path, tool: Callable[[str], str]) -> None:
    program = random_operators.program_of(family, SHAPES)
    assert len(program.operators) == SHAPES
    inputs = verify.random_inputs(program, VECTORS)
    for target in TARGETS:
        project = write_project(program, target, tmp_path / target.name)
        for board in boards_of(target):
            tool(board.compiler.command)
            build = tmp_path / "build" / board.name
            # -O1: what is compared are integers; the networks' tests compile as a user would.
            result = verify.execute(program, project, board, inputs, build, extra_flags=["-O1"])
            assert result.first_mismatch is None, str(result.first_mismatch)


def test_a_wrong_kernel_is_named(tmp_path: Path) -> None:
    """The comparison itself: break one operator's table on the board and see it found, with the element."""
    program = random_operators.program_of("table", 3)
    project = write_project(program, TARGETS[0], tmp_path / "device")
    tables = project / "src/clio_tables.c"
    text = tables.read_text()
    broken = program.operators[1].table.copy()  # type: ignore[attr-defined]
    first = f" {broken[0]}, {broken[1]},"
    assert text.count(first) == 1
    tables.write_text(text.replace(first, f" {broken[0]}, {int(broken[1]) ^ 1},"))
    inputs = [np.full((1, *t.shape), -128, np.int8) for t in program.inputs]
    inputs[1].reshape(-1)[2] = -127
    result = verify.execute(program, project, HOST, inputs, tmp_path / "build")
    found = result.first_mismatch
    assert found is not None
    assert (found.operator, found.name, found.element) == (1, program.operators[1].name, 2)
    assert (found.expected, found.got) == (int(broken[1]), int(broken[1]) ^ 1)
