"""``test/clio_zones.c``: what is alive in the arena around every operator, for the test firmware's red zones.

Found by following every byte from where it is written to where it is read last; the planner's lifetimes have no part in it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from clio_cc.arena import Arena, scratch_name
from clio_cc.codegen.emit import Emitter
from clio_cc.operators.base import Operator
from clio_cc.operators.movement import WITHOUT_CODE
from clio_cc.program import Program

GUARD_BYTES = 64
"""In front of the arena and behind it."""

Interval = tuple[int, int]
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Zones:
    """Intervals of the arena, sorted, apart from each other: first byte, and one behind the last.

    Attributes:
        alive: Before the operator they hold what it or a later one reads.
        open: The operator may write there: its output and scratch, unless something that is read later lies there.
    """

    alive: tuple[Interval, ...]
    open: tuple[Interval, ...]


@dataclass
class _Written:
    """Bytes that one operator has written: where they lie, and the operator that reads each last (-1: none)."""

    by: int
    start: int
    last: Numbers


def zones(program: Program, arena: Arena) -> list[Zones]:
    """Return those of each operator, in a run through everything."""
    written = _follow(program, arena)
    found = []
    for index, op in enumerate(program.operators):
        alive, kept = np.zeros((2, arena.bytes), bool)
        for each in written:
            if each.by < index:
                place = slice(each.start, each.start + len(each.last))
                alive[place] |= each.last >= index
                kept[place] |= each.last > index
        may = np.zeros(arena.bytes, bool)
        for start, size in _writes(op, arena):
            may[start : start + size] = True
        found.append(Zones(_intervals(alive), _intervals(may & ~kept)))
    return found


def _follow(program: Program, arena: Arena) -> list[_Written]:
    """Every tensor that is written, inputs first, with the last reader of each of its bytes."""
    written: list[_Written] = []
    sent = {tap.tensor for tap in program.taps}
    where: dict[
        str, tuple[Numbers, Numbers]
    ] = {}  # tensor → for each byte: which entry of `written`, which byte of it

    def write(name: str, size: int, by: int) -> None:
        where[name] = np.full(size, len(written)), np.arange(size)
        written.append(_Written(by, arena.offsets[name], np.full(size, -1)))

    def read(name: str, by: int, first: int = 0) -> None:
        entries, at = (values[first:] for values in where[name])
        for entry in np.unique(entries):
            written[entry].last[at[entries == entry]] = by

    for tensor in program.inputs:
        write(tensor.name, tensor.bytes, -1)
    for index, op in enumerate(program.operators):
        if isinstance(op, WITHOUT_CODE):
            moved = [_move(op, [where[t.name][part] for t in op.inputs]) for part in (0, 1)]
            where[op.output.name] = moved[0], moved[1]
            if op.output.name in sent:  # a run may end here, and all of it must be there
                read(op.output.name, index)
            continue
        for i, tensor in enumerate(op.inputs):
            sweep = op.sweep(i)
            read(tensor.name, index, 0 if sweep is None else sweep.first_read)
        write(op.output.name, op.output.bytes, index)
    for name in program.lasting:
        read(name, len(program.operators))
    return written


def _move(op: Operator, inputs: list[Numbers]) -> Numbers:
    shaped: list[Any] = [values.reshape(1, *t.shape) for values, t in zip(inputs, op.inputs, strict=True)]
    return np.asarray(op.evaluate(shaped), np.int64).reshape(-1)


def _writes(op: Operator, arena: Arena) -> Iterator[tuple[int, int]]:
    """Where an operator writes, and how many bytes."""
    if isinstance(op, WITHOUT_CODE):
        return
    yield arena.offsets[op.output.name], op.output.bytes
    if op.scratch_bytes:
        yield arena.offsets[scratch_name(op)], op.scratch_bytes


def _intervals(marked: npt.NDArray[np.bool_]) -> tuple[Interval, ...]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], marked, [False]]).astype(np.int8)))
    return tuple((int(start), int(end)) for start, end in edges.reshape(-1, 2))


def _pieces(each: Zones, end: int) -> tuple[list[Interval], list[Interval]]:
    """The dead and the closed pieces from 0 to `end`; closed ones are wholly dead or wholly alive."""
    alive, opened = (_edges(intervals, end) for intervals in (each.alive, each.open))
    cuts = sorted({*alive, *opened})
    small = list(pairwise(cuts))
    return (
        [piece for piece in pairwise(alive) if not _within(piece, alive)],
        [piece for piece in small if not _within(piece, opened)],
    )


def _edges(intervals: tuple[Interval, ...], end: int) -> list[int]:
    return [0, *(edge + GUARD_BYTES for interval in intervals for edge in interval), end]


def _within(piece: Interval, edges: list[int]) -> bool:
    """Between an odd edge and the next: in one of the intervals that the edges are of."""
    return bisect_right(edges, piece[0]) % 2 == 0


def zones_source(program: Program, arena: Arena, front_matter: str) -> str:
    """Return the text: per operator where the dead pieces of the arena begin and end, then those that it must not write.

    All count from the beginning of the guard in front of the arena, and cover both guards.
    """
    end = arena.bytes + 2 * GUARD_BYTES
    edges: list[int] = []
    starts = [0]
    for each in zones(program, arena):
        for pieces in _pieces(each, end):
            edges += [edge for piece in pieces for edge in piece]
            starts.append(len(edges))
    most = max((behind - start for start, behind in pairwise(starts)), default=2) // 2
    out = Emitter()
    out.comment(
        f"{front_matter}\nRed zones: for every operator beginning and end of each piece of the arena that is dead\n"
        "before it, then of each that it must not write; clio_zone_at[2 * op] and [2 * op + 1] say where they begin."
    )
    out.lines("#include <stdint.h>\n")
    for declaration in (
        "const uint32_t clio_zone_at[]",
        "const uint32_t clio_zone_edges[]",
        "uint32_t clio_zone_hashes[]",
    ):
        out.line(f"extern {declaration};")
    out.line()
    out.array(f"const uint32_t clio_zone_at[{len(starts)}]", np.array(starts, np.uint32))
    out.array(f"const uint32_t clio_zone_edges[{max(1, len(edges))}]", np.array(edges or [0], np.uint32))
    out.line(f"uint32_t clio_zone_hashes[{most}];")
    return out.text()
