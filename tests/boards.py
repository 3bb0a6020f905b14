"""What tests of whole Programs share: a device project without a model file, and the boards that run it here."""

from __future__ import annotations

from pathlib import Path

from clio_cc import execution
from clio_cc.arena import Arena, plan_arena
from clio_cc.codegen.model import device_sources, vectors_source
from clio_cc.codegen.zones import zones_source
from clio_cc.program import Program
from clio_cc.project import ZONES, device_glue, project_files
from clio_cc.qformat import Int8Array
from clio_cc.targets import HOST, TARGETS, Board, Target


def write_projects(program: Program, folder: Path, arena: Arena | None = None) -> dict[Target, Path]:
    """Generate a program's C once and write the device project of every target, by the plan given or the best."""
    arena = arena or plan_arena(program)
    inputs = execution.random_inputs(program, 1)
    sources = device_sources(program, arena, "Test.")
    sources["test/clio_vectors.c"] = vectors_source(program, inputs, "Test.")
    sources[ZONES] = zones_source(program, arena, "Test.")
    written = {}
    for target in TARGETS:
        glue = device_glue(
            target, model="test", tool="clio-cc test", arena_bytes=arena.bytes, stack_bytes=4096
        )
        project_files(sources, glue).write(folder / target.name)
        written[target] = folder / target.name
    return written


def boards_of(target: Target) -> list[Board]:
    """The boards that run a target's sources here; the host once, with the first target."""
    return [*([HOST] if target is TARGETS[0] else []), target.emulated]


def assert_bit_exact(
    program: Program, inputs: list[Int8Array], folder: Path, extra_flags: tuple[str, ...] = ()
) -> None:
    """Assert that every operator's output on host C, M7, M33 and RV32 equals the reference."""
    for target, project in write_projects(program, folder).items():
        for board in boards_of(target):
            build = folder / "build" / board.name
            result = execution.execute(program, project, board, inputs, build, extra_flags=extra_flags)
            assert result.first_mismatch is None, str(result.first_mismatch)
