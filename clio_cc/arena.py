"""The static memory plan: every tensor and scratch buffer of a Program gets a fixed place in one arena.

Buffers that are needed at the same time may still lie over each other in part: a kernel reads its input and writes its
output from front to back, more or less (:class:`clio_cc.operators.base.Sweep`), and bands of rows come and go one after the
other. So what a buffer needs at a time is an interval, from the first byte still to be read to the last one written; it
shrinks from below and grows upwards. Of two buffers one must lie above the other at all times, and how far above follows
from the two intervals:

    lead(A, B) = max over time of (end of what has been written of B) - (first byte of A that is still needed)
    offset(A) >= offset(B) + lead(A, B)    or    offset(B) >= offset(A) + lead(B, A)

The idea is that of diagonal memory optimization (arXiv 2010.01668), carried from one operator's tensors to whole lifetimes.
clio_cc/arena_check.py proves each plan without these formulas.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from clio_cc.operators.base import Operator, Sweep, Tensor
from clio_cc.operators.movement import WITHOUT_CODE, Reshape, RowSlice, RowStack
from clio_cc.program import Program

ALIGNMENT = 8  # scratch buffers are read by double words
SEARCH_STEPS = 400
_SEARCHED = 20_000  # buffers placed in one search at most: large programs get fewer steps
_FAR = 1 << 40


@dataclass(frozen=True)
class Buffer:
    """Bytes that are needed, some or all of them, from operator `first` to operator `last`, both included.

    Attributes:
        tensors: Name of each tensor that lies in it, at some time, and its offset there.
        bytes: Size.
        first: -1 for before the first operator.
        last: Number of operators for after the last one.
    """

    tensors: tuple[tuple[str, int], ...]
    bytes: int
    first: int
    last: int


@dataclass(frozen=True)
class Arena:
    """Where everything lies.

    Attributes:
        bytes: Size of the arena.
        offsets: Tensor name → byte offset; an operator's scratch is under :func:`scratch_name`.
        buffers: What was placed, with lifetimes, in order of their first use.
        live_bytes: Bytes needed at once at the worst: no plan with the same in-place decisions can be smaller.
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


def plan_arena(program: Program, steps: int = SEARCH_STEPS) -> Arena:
    """Return the smallest of a few greedy placements, and of others near it; the same program always gives the same plan.

    Args:
        program: What to place.
        steps: Most placements to try besides the greedy ones; 0 where many programs are compared.
    """
    needs = _Needs(program)
    live = needs.live
    bound = max(live, default=0)
    places = _Placement(needs).best(steps)
    offsets = {
        name: place + offset
        for group, place in zip(needs.groups, places, strict=True)
        for name, offset in group.tensors
    }
    worst = max(range(len(live)), key=lambda i: live[i], default=0)
    names = [op.name for op in program.operators]
    buffers = tuple(Buffer(tuple(g.tensors), g.bytes, g.first, g.last) for g in needs.groups)
    size = max((place + _aligned(g.bytes) for g, place in zip(needs.groups, places, strict=True)), default=0)
    return Arena(size, offsets, buffers, bound, names[worst] if names else "")


def live_bytes(program: Program) -> list[int]:
    """Return, for every operator, the bytes needed at once while it runs: no plan can do with less than the largest."""
    return _Needs(program).live


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


@dataclass(eq=False)
class _Group:
    """A buffer in the making: tensors that share bytes, when they are read and written, how long they live.

    Attributes:
        number: In order of first use.
        reads: (operator, first byte read), by operator; at the end for outputs that last.
        written: End of what has been written so far.
    """

    number: int
    bytes: int
    first: int
    last: int
    tensors: list[tuple[str, int]] = field(default_factory=list)
    reads: list[tuple[int, int]] = field(default_factory=list)
    written: int = 0

    def needed_from(self, index: int) -> int:
        """First byte that is still read at operator `index` or later; the end if none is.

        `index` never falls from call to call: what has been read is forgotten.
        """
        while self.reads and self.reads[0][0] < index:
            self.reads.pop(0)
        return min((start for _, start in self.reads), default=self.bytes)

    def needed_at(self, index: int) -> int:
        """Bytes that must not be touched at operator `index`."""
        return max(0, self.written - self.needed_from(index))


class _Needs:
    """What a Program needs of its memory.

    Attributes:
        groups: The buffers, in order of first use.
        leads: (A, B) → bytes by which A must begin behind B's beginning if it is to lie above B, in whole alignments; both
            ways for every two buffers that are needed at a common time.
        live: Per operator, the bytes needed at once.
    """

    def __init__(self, program: Program) -> None:
        self.groups: list[_Group] = []
        self.leads: dict[tuple[int, int], int] = {}
        self.live: list[int] = []
        self._home: dict[str, tuple[_Group, int]] = {}
        self._group(program)
        for name in program.lasting:
            group, offset = self._home[name]
            group.reads.append((len(program.operators), offset))
        self._replay(program)

    def _group(self, program: Program) -> None:
        """Group tensors that share bytes (reshapes, slices, stacks, in-place operators); note when each is read."""
        last_use = {t.name: i for i, op in enumerate(program.operators) for t in op.inputs}
        last_use |= dict.fromkeys(program.lasting, len(program.operators))
        stacks, sent = _stack_places(program), {tap.tensor for tap in program.taps}
        for tensor in program.inputs:
            self._put(tensor.name, self._open(tensor.bytes, -1), 0, last_use.get(tensor.name, -1))
        for index, op in enumerate(program.operators):
            name, last = op.output.name, last_use.get(op.output.name, index)
            self._read(index, op)
            if op.scratch_bytes:
                self._put(scratch_name(op), self._open(op.scratch_bytes, index), 0, index)
                self.groups[-1].reads.append((index, 0))
            if name in stacks:
                whole, offset = stacks[name]
                if whole.name not in self._home:
                    self._put(whole.name, self._open(whole.bytes, index), 0, last_use.get(whole.name, index))
                self._put(name, self._home[whole.name][0], offset, last)
            elif isinstance(op, RowStack):
                group, offset = self._home[name]
                group.last = max(group.last, last)
            elif (shared := _shared(op, index, self._home)) is not None:
                self._put(name, *shared, last)
            else:
                self._put(name, self._open(op.output.bytes, index), 0, last)
            if name in sent:  # a run may end here, and all of it must be there
                group, offset = self._home[name]
                group.reads.append((index, offset))

    def _open(self, size: int, first: int) -> _Group:
        self.groups.append(_Group(len(self.groups), size, first, first))
        return self.groups[-1]

    def _put(self, name: str, group: _Group, offset: int, last: int) -> None:
        self._home[name] = (group, offset)
        group.tensors.append((name, offset))
        group.last = max(group.last, last)

    def _read(self, index: int, op: Operator) -> None:
        if isinstance(op, WITHOUT_CODE):  # these bytes are read by what reads the result, when it does
            return
        for i, tensor in enumerate(op.inputs):
            group, offset = self._home[tensor.name]
            sweep = op.sweep(i)
            group.reads.append((index, offset + (0 if sweep is None else sweep.first_read)))

    def _replay(self, program: Program) -> None:
        """Go through the operators with what is needed at each, and find leads and live bytes."""
        opening: dict[int, list[_Group]] = {}
        for group in self.groups:
            opening.setdefault(group.first, []).append(group)
        alive = opening.get(-1, [])
        for group in alive:
            group.written = group.bytes
        for group in alive:
            self._keep_apart(-1, group, 0, alive)
        for index, op in enumerate(program.operators):
            alive = [group for group in alive if group.last >= index] + opening.get(index, [])
            self.live.append(_aligned(self._step(index, op, alive)))

    def _step(self, index: int, op: Operator, alive: Sequence[_Group]) -> int:
        """Replay one operator; return the bytes needed at once while it runs."""
        if isinstance(op, WITHOUT_CODE):
            return sum(group.needed_at(index) for group in alive)
        if op.scratch_bytes:
            scratch = self._home[scratch_name(op)][0]
            scratch.written = scratch.bytes
            self._keep_apart(index, scratch, 0, alive)
        target, place = self._home[op.output.name]
        sources = self._sources(op, target)
        before, start = target.written, min(place, target.needed_from(index))
        target.written = max(before, place + op.output.bytes)
        rest = [group for group in alive if group is not target and group not in sources]
        self._keep_apart(index, target, start, rest)
        leads = {}
        for group, slots in sources.items():
            whole = target.written - group.needed_from(index)
            leads[group] = max(
                whole if sweep is None
                else max(place + sweep.lead - offset, before - offset - sweep.first_read if before else -_FAR)
                for offset, sweep in slots
            )  # fmt: skip
            self._lift(target, group, group.written - start)
        at_once = max(0, before - start) + sum(group.needed_at(index) for group in sources)
        after = {group: group.needed_at(index + 1) for group in sources}
        kept = sum(after.values())
        at_once = max(at_once, target.written - start + kept)
        for group, lead in leads.items():
            at_once = max(at_once, group.written + lead - start + kept - after[group])
            still = target.written - group.needed_from(index + 1) if group.last > index else -_FAR
            self._lift(group, target, max(lead, still))
        return at_once + sum(group.needed_at(index) for group in rest)

    def _sources(self, op: Operator, target: _Group) -> dict[_Group, list[tuple[int, Sweep | None]]]:
        """The buffers that an operator reads, other than the one it writes: where its inputs lie in each, and its sweeps."""
        found: dict[_Group, list[tuple[int, Sweep | None]]] = {}
        for i, tensor in enumerate(op.inputs):
            group, offset = self._home[tensor.name]
            if group is not target:
                found.setdefault(group, []).append((offset, op.sweep(i)))
        return found

    def _keep_apart(self, index: int, written: _Group, start: int, others: Sequence[_Group]) -> None:
        """Note the leads between a buffer that operator `index` writes, from byte `start` on, and others."""
        for other in others:
            if other is not written:
                self._lift(other, written, written.written - other.needed_from(index))
                self._lift(written, other, other.written - start)

    def _lift(self, above: _Group, below: _Group, lead: int) -> None:
        pair = above.number, below.number
        self.leads[pair] = max(_aligned(lead), self.leads.get(pair, -_FAR))


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
        if tensor.bytes >= op.output.bytes and group.last == index:
            return group, offset
    return None


class _Placement:
    """Finds offsets for buffers, one after the other: each into the lowest place that those before leave it."""

    def __init__(self, needs: _Needs) -> None:
        self._groups = needs.groups
        self._live = needs.live
        self._sizes = [_aligned(group.bytes) for group in needs.groups]
        # Per buffer: (other, how far below the other's place it has to begin, how far above) for all needed with it.
        self._apart: list[list[tuple[int, int, int]]] = [[] for _ in needs.groups]
        for (above, below), lead in needs.leads.items():
            self._apart[above].append((below, needs.leads[below, above], lead))

    def best(self, steps: int) -> list[int]:
        """Return the offsets that reach least high: of greedy orders, then of a walk from the best one.

        A step of the walk moves one buffer to another place in the order, mostly one that ends at the top, and stays there
        unless that is worse. It ends where nothing can be lower, or after `steps` steps.
        """
        numbers, bound = range(len(self._groups)), max(self._live, default=0)
        order = min(
            (sorted(numbers, key=key) for key in self._keys()),
            key=lambda each: self._height(self._place(each)),
        )
        places = self._place(order)
        best, height = places, self._height(places)
        rng = random.Random(len(order))
        for _ in range(min(steps, _SEARCHED // max(1, len(order)))):
            if height <= bound:
                break
            moved = self._neighbor(order, places, rng)
            tried = self._place(moved)
            if self._height(tried) <= self._height(places):
                order, places = moved, tried
            if self._height(places) < height:
                best, height = places, self._height(places)
        return best

    def _neighbor(self, order: Sequence[int], places: Sequence[int], rng: random.Random) -> list[int]:
        height = self._height(places)
        top = [i for i in order if places[i] + self._sizes[i] == height]
        moved = list(order)
        chosen = rng.choice(top if rng.random() < 0.5 else moved)
        moved.remove(chosen)
        moved.insert(rng.randrange(len(order)), chosen)
        return moved

    def _keys(self) -> list[Callable[[int], tuple[int, ...]]]:
        sizes, groups = self._sizes, self._groups
        lives = [group.last - group.first + 1 for group in groups]
        peaks = [max(self._live[max(g.first, 0) : g.last + 1], default=0) for g in groups]
        return [
            # What is needed where most is; the output first, above which its input may then lie.
            lambda i: (-peaks[i], -groups[i].last, -sizes[i]),
            lambda i: (-groups[i].last, -sizes[i]),
            lambda i: (-sizes[i], -groups[i].first),
            lambda i: (-sizes[i] * lives[i], groups[i].first),
            lambda i: (groups[i].first, -sizes[i]),
        ]

    def _place(self, order: Sequence[int]) -> list[int]:
        places = [-1] * len(order)
        for number in order:
            taken = []
            for other, below, above in self._apart[number]:
                place = places[other]
                if place >= 0 and below + above > 0:
                    taken.append((place - below, place + above))
            taken.sort()
            lowest = 0
            for start, end in taken:
                if lowest <= start:
                    break
                if end > lowest:
                    lowest = end
            places[number] = lowest
        return places

    def _height(self, places: Sequence[int]) -> int:
        return max((place + size for place, size in zip(places, self._sizes, strict=True)), default=0)
