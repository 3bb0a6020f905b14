"""The static memory plan: every tensor and scratch buffer of a Program gets a fixed place in one arena."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from clio_cc.operators.base import Operator
from clio_cc.program import Program

ALIGNMENT = 8  # scratch buffers are read by double words


@dataclass(frozen=True)
class Buffer:
    """Bytes that must stay untouched from operator `first` to operator `last`, both included (-1: before the first).

    Attributes:
        tensors: Names of the tensors that lie in it, one after the other in time.
    """

    tensors: tuple[str, ...]
    bytes: int
    first: int
    last: int

    def overlaps(self, other: Buffer) -> bool:
        """Both are alive at some time."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class Arena:
    """Where everything lies.

    Attributes:
        bytes: Size of the arena.
        offsets: Tensor name → byte offset; an operator's scratch is under :func:`scratch_name`.
        buffers: What was placed, with lifetimes, in order of their first use.
        live_bytes: Sum of live buffers at its worst: no plan with the same in-place decisions can be smaller.
        worst: Name of the operator at which that is reached.
    """

    bytes: int
    offsets: dict[str, int]
    buffers: tuple[Buffer, ...]
    live_bytes: int
    worst: str


def scratch_name(op: Operator) -> str:
    """Return the name under which an operator's scratch buffer is planned."""
    return f"{op.output.name}#scratch"


def plan_arena(program: Program) -> Arena:
    """Return the smallest of a few greedy placements; the same program always gives the same plan."""
    buffers = _buffers(program)
    orders: list[Callable[[Buffer], tuple[int, ...]]] = [
        lambda b: (-b.bytes, b.first),
        lambda b: (-(b.last - b.first), -b.bytes, b.first),
        lambda b: (b.first, -b.bytes),
        lambda b: (-b.bytes * (b.last - b.first + 1), b.first),
    ]
    places = min((_place(sorted(buffers, key=order)) for order in orders), key=_extent)
    offsets = {name: offset for buffer, offset in places.items() for name in buffer.tensors}
    live = [
        sum(_aligned(b.bytes) for b in buffers if b.first <= i <= b.last)
        for i in range(len(program.operators))
    ]
    worst = max(range(len(live)), key=lambda i: live[i], default=0)
    names = [op.name for op in program.operators]
    return Arena(
        _extent(places), offsets, tuple(buffers), max(live, default=0), names[worst] if names else ""
    )


def _extent(places: dict[Buffer, int]) -> int:
    return max((offset + _aligned(buffer.bytes) for buffer, offset in places.items()), default=0)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _place(buffers: Sequence[Buffer]) -> dict[Buffer, int]:
    """Put each buffer into the lowest gap between those already placed that are alive with it."""
    places: dict[Buffer, int] = {}
    for buffer in buffers:
        taken = sorted((places[b], places[b] + _aligned(b.bytes)) for b in places if b.overlaps(buffer))
        offset = 0
        for start, end in taken:
            if offset + _aligned(buffer.bytes) <= start:
                break
            offset = max(offset, end)
        places[buffer] = offset
    return places


def _buffers(program: Program) -> list[Buffer]:
    """Group tensors that share bytes (reshapes, in-place operators), and find how long each group lives."""
    end = len(program.operators)
    last_use = {t.name: i for i, op in enumerate(program.operators) for t in op.inputs}
    last_use |= dict.fromkeys(program.outputs, end)
    groups: list[list[str]] = []
    sizes, firsts, lasts = [], [], []
    group_of: dict[str, int] = {}

    def open_group(name: str, size: int, first: int, last: int) -> None:
        group_of[name] = len(groups)
        groups.append([name])
        sizes.append(size)
        firsts.append(first)
        lasts.append(last)

    for tensor in program.inputs:
        open_group(tensor.name, tensor.bytes, -1, last_use.get(tensor.name, -1))
    for index, op in enumerate(program.operators):
        kernel = op.kernel()
        if kernel is not None and kernel.scratch_bytes:
            open_group(scratch_name(op), kernel.scratch_bytes, index, index)
        last = last_use.get(op.output.name, index)
        shared = _shared_group(op, kernel is None, index, group_of, lasts)
        if shared is None:
            open_group(op.output.name, op.output.bytes, index, last)
        else:
            groups[shared].append(op.output.name)
            group_of[op.output.name] = shared
            lasts[shared] = max(lasts[shared], last)
    parts = zip(groups, sizes, firsts, lasts, strict=True)
    return [Buffer(tuple(names), size, first, last) for names, size, first, last in parts]


def _shared_group(
    op: Operator, alias: bool, index: int, group_of: dict[str, int], lasts: list[int]
) -> int | None:
    """Return the group whose bytes the output takes over, if any.

    A reshape always shares. An in-place operator may only overwrite bytes that nobody reads after it.
    """
    if alias:
        return group_of[op.inputs[0].name]
    for i in op.in_place:
        tensor = op.inputs[i]
        group = group_of[tensor.name]
        if tensor.bytes == op.output.bytes and lasts[group] == index:
            return group
    return None
