"""Which partition points a board has no room for: known from the float graph, before anything is quantized."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx_ir as ir

from clio_cc.arena import plan_arena
from clio_cc.band_search import holds
from clio_cc.cut import arena_limit, fit, skeleton
from clio_cc.errors import ClioError
from clio_cc.lower import lower
from clio_cc.memory import table_bytes
from clio_cc.partition import PartitionPoint
from clio_cc.program import Program
from clio_cc.targets import Target


def reasons_too_large(
    model: ir.Model, points: Sequence[PartitionPoint], target: Target
) -> dict[PartitionPoint, str]:
    """Why the board cannot hold what comes before each point; empty where it can.

    The search for bands of rows is not begun anew for each point: those that served the point before are tried first.

    Args:
        model: The float graph after the passes.
        points: In order of execution; the device runs all operators before them.
        target: The board.
    """
    found: dict[PartitionPoint, str] = {}
    bands: tuple[Program, Program] | None = None
    for point in points:
        try:
            program = skeleton(lower(model, [point]))
        except ClioError as error:
            found[point] = error.message
            continue
        banded = _with_bands(program, bands, target) or fit(program, target)
        if banded is not None:
            bands = program, banded
        found[point] = "" if banded is not None else _reason(program, target)
    return found


def why_not_local(model: ir.Model, target: Target) -> str:
    """Why the whole network does not run on the board; empty if it does."""
    try:
        program = skeleton(lower(model))
    except ClioError as error:
        return error.message
    return "" if fit(program, target) is not None else _reason(program, target)


def _with_bands(program: Program, bands: tuple[Program, Program] | None, target: Target) -> Program | None:
    """The program with the bands of one that it begins with, if it fits so."""
    if bands is None:
        return None
    before, banded = bands
    count = len(before.operators)
    if [op.output for op in program.operators[:count]] != [op.output for op in before.operators]:
        return None
    longer = replace(program, operators=(*banded.operators, *program.operators[count:]))
    return longer if holds(longer, arena_limit(longer, target)) else None


def _reason(program: Program, target: Target) -> str:
    tables, limit = table_bytes(program), arena_limit(program, target)
    if limit < 0:
        memory, room = ("RAM", target.ram_bytes) if target.runs_from_ram else ("flash", target.flash_bytes)
        return f"needs {tables} bytes for tables beside code, {target.name} has {int(room.value)} bytes of {memory}"
    arena = plan_arena(program).bytes
    return f"needs {arena} bytes for tensors, too many even in bands of rows: {target.name} has {limit} left for them"
