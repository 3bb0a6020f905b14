"""Every operator family on every board: 200 random shapes each, every output equal to the reference bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import random_operators
from boards import assert_bit_exact, write_projects

from clio_cc import execution
from clio_cc.targets import HOST, TARGETS

SHAPES = 200
VECTORS = 3  # all -128, all 127, random


@pytest.mark.parametrize("family", random_operators.FAMILIES)
def test_every_shape_on_every_board(family: str, tmp_path: Path, tool: Callable[[str], str]) -> None:
    program = random_operators.program_of(family, SHAPES)
    assert len(program.operators) == SHAPES
    for target in TARGETS:
        tool(target.emulated.compiler.command)
        tool(target.emulated.qemu[0])
    # -O1: what is compared are integers; the networks' tests compile as a user would.
    assert_bit_exact(program, execution.random_inputs(program, VECTORS), tmp_path, ("-O1",))


def test_a_wrong_kernel_is_named(tmp_path: Path) -> None:
    """The comparison itself: break one operator's table on the board and see it found, with the element."""
    program = random_operators.program_of("table", 3)
    project = write_projects(program, tmp_path / "device")[TARGETS[0]]
    tables = project / "src/clio_tables.c"
    text = tables.read_text()
    broken = program.operators[1].table.copy()  # type: ignore[attr-defined]
    first = f" {broken[0]}, {broken[1]},"
    assert text.count(first) == 1
    tables.write_text(text.replace(first, f" {broken[0]}, {int(broken[1]) ^ 1},"))
    inputs = [np.full((1, *t.shape), -128, np.int8) for t in program.inputs]
    inputs[1].reshape(-1)[2] = -127
    result = execution.execute(program, project, HOST, inputs, tmp_path / "build")
    found = result.first_mismatch
    assert found is not None
    assert (found.operator, found.name, found.element) == (1, program.operators[1].name, 2)
    assert (found.expected, found.got) == (int(broken[1]), int(broken[1]) ^ 1)
