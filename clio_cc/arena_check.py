"""Proof of a memory plan: the program is replayed, and every byte that is read must still be what was written there.

Independent of how clio_cc/arena.py finds plans: what is known here is where everything lies, and from each operator's
:class:`~clio_cc.operators.base.Sweep` in which step it may read and write which byte.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from clio_cc.arena import ALIGNMENT, Arena, scratch_name
from clio_cc.operators.base import Operator, Sweep, Tensor
from clio_cc.operators.movement import WITHOUT_CODE
from clio_cc.program import Program

Bytes = npt.NDArray[np.int64]


class WrongPlanError(AssertionError):
    """The plan breaks the program: an error in the compiler, never in its input."""


def check_arena(program: Program, arena: Arena) -> None:
    """Replay a run through everything and a run to each tap.

    Raises:
        WrongPlanError: an operator reads, or a run leaves, something else than what was written; it names operator, tensor
            and byte.
    """
    everything = range(len(program.operators))
    taps_behind: dict[int, list[str]] = {}
    for number, tap in enumerate(program.taps):
        needed = program.operators_to(number)
        if needed == tuple(everything[: len(needed)]):  # the run through everything begins with it
            taps_behind.setdefault(len(needed), []).append(tap.tensor)
        else:
            _replay(program, arena, needed, {len(needed): [tap.tensor]})
    end = [*taps_behind.get(len(everything), []), *program.lasting]
    _replay(program, arena, everything, {**taps_behind, len(everything): end})


def _replay(program: Program, arena: Arena, run: Iterable[int], left: dict[int, list[str]]) -> None:
    """Replay the operators of `run`; `left` says what must be there to be sent after so many of them."""
    memory = _Memory(arena)
    for tensor in program.inputs:
        memory.write(tensor)
    for tensor in program.inputs:
        memory.check(tensor, "as the caller has written it before the first operator")
    for name in left.get(0, []):
        memory.check(program.tensors[name], "when it is sent")
    for count, index in enumerate(run, start=1):
        _step(program.operators[index], memory)
        for name in left.get(count, []):
            memory.check(program.tensors[name], f"when it is sent after {program.operators[index].name}")


class _Memory:
    """The arena, filled with serial numbers: one for every byte ever written."""

    def __init__(self, arena: Arena) -> None:
        self.bytes: Bytes = np.full(arena.bytes, -1, np.int64)
        self.offsets = arena.offsets
        self.numbers: dict[str, Bytes] = {}
        self._serials: list[tuple[int, str]] = []
        self._serial = 0

    def place(self, name: str, size: int) -> slice:
        """Where something lies."""
        start = self.offsets[name]
        if start < 0 or start + size > len(self.bytes):
            raise WrongPlanError(f"{name} lies at {start}, outside the arena of {len(self.bytes)} bytes")
        return slice(start, start + size)

    def write(self, tensor: Tensor) -> None:
        """Fill a tensor with new numbers."""
        numbers = np.arange(self._serial, self._serial + tensor.bytes, dtype=np.int64)
        self._serials.append((self._serial, tensor.name))
        self._serial += tensor.bytes
        self.numbers[tensor.name] = numbers
        self.bytes[self.place(tensor.name, tensor.bytes)] = numbers

    def take(self, op: Operator) -> None:
        """See that the output of an operator without code is its inputs' bytes; who reads it sees what they are."""
        numbers: list[Any] = [self.numbers[t.name].reshape(1, *t.shape) for t in op.inputs]
        places = [self.place(t.name, t.bytes) for t in op.inputs]
        lie: list[Any] = [
            np.arange(place.start, place.stop).reshape(1, *t.shape)
            for t, place in zip(op.inputs, places, strict=True)
        ]
        self.numbers[op.output.name] = np.asarray(op.evaluate(numbers), np.int64).reshape(-1)
        expected = np.asarray(op.evaluate(lie), np.int64).reshape(-1)
        moved = np.flatnonzero(
            expected != np.arange(len(expected)) + self.place(op.output.name, op.output.bytes).start
        )
        if len(moved):
            raise WrongPlanError(
                f"byte {moved[0]} of {op.output.name} lies elsewhere, though {op.name} moves nothing"
            )

    def spoil(self, name: str, size: int) -> None:
        """Overwrite scratch memory."""
        self.bytes[self.place(name, size)] = -2

    def check(self, tensor: Tensor, when: str, first: int = 0) -> None:
        """See that a tensor is there, from byte `first` on."""
        found = self.bytes[self.place(tensor.name, tensor.bytes)][first:]
        wrong = np.flatnonzero(found != self.numbers[tensor.name][first:])
        if len(wrong):
            byte = first + int(wrong[0])
            raise WrongPlanError(
                f"byte {byte} of {tensor.name} is {self._describe(int(found[wrong[0]]))} {when}"
            )

    def _describe(self, number: int) -> str:
        if number < 0:
            return "scratch" if number == -2 else "not written"
        start, name = next((start, name) for start, name in reversed(self._serials) if start <= number)
        return f"overwritten by byte {number - start} of {name}"


def _step(op: Operator, memory: _Memory) -> None:
    """Replay one operator: its scratch is written first, then inputs are read and the output is written as it sweeps."""
    if isinstance(op, WITHOUT_CODE):
        memory.take(op)
        return
    if op.scratch_bytes:
        _check_scratch(op, memory)
        memory.spoil(scratch_name(op), op.scratch_bytes)
    for index, tensor in enumerate(op.inputs):
        sweep = op.sweep(index)
        first = 0 if sweep is None else int(sweep.reads_from.min())
        memory.check(tensor, f"when {op.name} reads it", first)
        _check_order(op, index, sweep, memory)
    memory.write(op.output)


def _check_scratch(op: Operator, memory: _Memory) -> None:
    scratch = memory.place(scratch_name(op), op.scratch_bytes)
    output = memory.place(op.output.name, op.output.bytes)
    if scratch.start % ALIGNMENT or (scratch.start < output.stop and output.start < scratch.stop):
        raise WrongPlanError(f"scratch of {op.name} lies at {scratch.start}, its output at {output.start}")


def _check_order(op: Operator, index: int, sweep: Sweep | None, memory: _Memory) -> None:
    """See that every byte of an input is read for the last time before the output is written over it."""
    tensor = op.inputs[index]
    source = memory.place(tensor.name, tensor.bytes)
    target = memory.place(op.output.name, op.output.bytes)
    common = np.arange(max(source.start, target.start), min(source.stop, target.stop))
    within = source.start == target.start and source.stop >= target.stop
    if len(common) == 0 or (within and index in op.in_place):
        return
    if sweep is None:
        raise WrongPlanError(
            f"{op.name} writes over byte {common[0] - source.start} of {tensor.name} while it reads"
        )
    # The last step with reads_from <= q may be the last to read byte q; the first with writes_to > p may be the one that
    # writes byte p.
    behind: Bytes = np.minimum.accumulate(sweep.reads_from[::-1])[::-1]
    last_read = np.searchsorted(behind, common - source.start, side="right") - 1
    first_write = np.searchsorted(sweep.writes_to, common - target.start, side="right")
    wrong = np.flatnonzero(first_write <= last_read)
    if len(wrong):
        at = int(common[wrong[0]])
        raise WrongPlanError(
            f"{op.name} writes byte {at - target.start} of {op.output.name} in step {first_write[wrong[0]]}, over byte "
            f"{at - source.start} of {tensor.name}, which it reads up to step {last_read[wrong[0]]}"
        )
