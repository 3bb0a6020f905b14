"""The static memory plan: every tensor and scratch buffer of a Program gets a fixed place in one arena."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from clio_cc.operators.base import Operator, Tensor
from clio_cc.operators.movement import Reshape, RowSlice, RowStack
from clio_cc.program import Program

ALIGNMENT = 8  # scratch buffers are read by double words


@dataclass(frozen=True)
class Buffer:
    """Bytes that must stay untouched from operator `first` to operator `last`, both included (-1: before the first).

    Attributes:
        tensors: Name of each tensor that lies in it, at some time, and its offset there.
    """

    tensors: tuple[tuple[str, int], ...]
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
    offsets = {name: place + offset for buffer, place in places.items() for name, offset in buffer.tensors}
    live = _live(buffers, len(program.operators))
    worst = max(range(len(live)), key=lambda i: live[i], default=0)
    names = [op.name for op in program.operators]
    return Arena(
        _extent(places), offsets, tuple(buffers), max(live, default=0), names[worst] if names else ""
    )


def live_bytes(program: Program) -> list[int]:
    """Return, for every operator, the bytes alive while it runs: no plan can do with less than the largest."""
    return _live(_buffers(program), len(program.operators))


def _live(buffers: Sequence[Buffer], operators: int) -> list[int]:
    live = [0] * operators
    for buffer in buffers:
        for index in range(max(buffer.first, 0), min(buffer.last + 1, operators)):
            live[index] += _aligned(buffer.bytes)
    return live


def _extent(places: dict[Buffer, int]) -> int:
    return max((offset + _aligned(buffer.bytes) for buffer, offset in places.items()), default=0)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _place(buffers: Sequence[Buffer]) -> dict[Buffer, int]:
    """Put each buffer into the lowest gap between those already placed that are alive with it."""
    places: dict[Buffer, int] = {}
    spans: list[
        tuple[int, int, int, int]
    ] = []  # start, end, first, last: hashing buffers would take most of the time
    for buffer in buffers:
        size, offset, first, last = _aligned(buffer.bytes), 0, buffer.first, buffer.last
        for start, end, _, _ in sorted(span for span in spans if span[2] <= last and first <= span[3]):
            if offset + size <= start:
                break
            offset = max(offset, end)
        places[buffer] = offset
        spans.append((offset, offset + size, first, last))
    return places


@dataclass
class _Group:
    """A buffer in the making."""

    tensors: list[tuple[str, int]]
    bytes: int
    first: int
    last: int


def _buffers(program: Program) -> list[Buffer]:
    """Group tensors that share bytes (reshapes, slices, stacks, in-place operators), and find how long each group lives."""
    last_use = {t.name: i for i, op in enumerate(program.operators) for t in op.inputs}
    last_use |= dict.fromkeys(program.lasting, len(program.operators))
    stacks = _stack_places(program)
    groups: list[_Group] = []
    home: dict[str, tuple[_Group, int]] = {}

    def put(name: str, group: _Group, offset: int, last: int) -> None:
        home[name] = (group, offset)
        group.tensors.append((name, offset))
        group.last = max(group.last, last)

    def open_group(size: int, first: int) -> _Group:
        groups.append(_Group([], size, first, first))
        return groups[-1]

    for tensor in program.inputs:
        put(tensor.name, open_group(tensor.bytes, -1), 0, last_use.get(tensor.name, -1))
    for index, op in enumerate(program.operators):
        name, last = op.output.name, last_use.get(op.output.name, index)
        if op.scratch_bytes:
            put(scratch_name(op), open_group(op.scratch_bytes, index), 0, index)
        if name in stacks:
            whole, offset = stacks[name]
            if whole.name not in home:
                put(whole.name, open_group(whole.bytes, index), 0, last_use.get(whole.name, index))
            put(name, home[whole.name][0], offset, last)
        elif isinstance(op, RowStack):
            group, offset = home[name]
            group.last = max(group.last, last)
        elif (shared := _shared(op, index, home)) is not None:
            put(name, *shared, last)
        else:
            put(name, open_group(op.output.bytes, index), 0, last)
    return [Buffer(tuple(g.tensors), g.bytes, g.first, g.last) for g in groups]


def _stack_places(program: Program) -> dict[str, tuple[Tensor, int]]:
    """For every tensor that a RowStack takes: the stack's output, and where in it the tensor lies."""
    places = {}
    for op in program.operators:
        offset = 0
        for tensor in op.inputs if isinstance(op, RowStack) else ():
            places[tensor.name] = (op.output, offset)
            offset += tensor.bytes
    return places


def _shared(op: Operator, index: int, home: dict[str, tuple[_Group, int]]) -> tuple[_Group, int] | None:
    """Return the bytes that the output takes over from an input, if any.

    A reshape or slice always shares. An in-place operator may only overwrite bytes that nobody reads after it.
    """
    if isinstance(op, Reshape):
        return home[op.inputs[0].name]
    if isinstance(op, RowSlice):
        group, offset = home[op.inputs[0].name]
        row_bytes = op.output.bytes // op.output.shape[0]
        return group, offset + op.first * row_bytes
    for i in op.in_place:
        tensor = op.inputs[i]
        group, offset = home[tensor.name]
        if tensor.bytes == op.output.bytes and group.last == index:
            return group, offset
    return None
