"""What a chain of operators costs in bands of rows: MACs, operators and memory, known without making the program."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from clio_cc.arena import live_bytes
from clio_cc.bands import (
    Chain,
    Rows,
    Share,
    band,
    bands_of,
    part_of,
    replaced,
    rows_read,
    shares_of,
    sliced,
    stacked,
)
from clio_cc.operators.base import Kernel, Operator, Sweep, Tensor
from clio_cc.program import Program
from clio_cc.qformat import Int8Array

Cost = tuple[int, int]
"""MACs beyond the whole program's, and operators."""
_Known = tuple[Operator, int, tuple[Sweep | None, ...]]


class ChainCosts:
    """The chains of one program; what was found out about them is kept.

    Attributes:
        live: Per operator of the program, the bytes needed at once while it runs.
    """

    def __init__(self, program: Program) -> None:
        self.live = live_bytes(program)
        self._program = program
        self._used = last_uses(program)
        self._costs: dict[Chain, Cost] = {}
        self._peaks: dict[Chain, int] = {}
        self._beside: dict[tuple[int, int], int] = {}
        self._outlines: dict[tuple[str, tuple[int, int, int], tuple[int, ...]], _Known] = {}

    def cost(self, chain: Chain) -> Cost:
        """Return what a chain costs."""
        if chain not in self._costs:
            ops = self._program.operators[chain.first : chain.last + 1]
            bands = [shares_of(ops, wanted) for wanted in bands_of(ops[-1].output, chain.rows)]
            macs = sum(
                op.macs // op.output.shape[0] * share.shape[0]
                for shares in bands
                for op, share in zip(ops, shares, strict=True)
            )
            whole, count = sum(op.macs for op in ops), len(bands) * len(ops)
            self._costs[chain] = macs - whole, count
        return self._costs[chain]

    def peak(self, chain: Chain) -> int:
        """Return the most bytes alive in a chain: its own, and what lies there meanwhile for others.

        Sums are rounded up to whole alignments, so that it may be off by one.
        """
        if chain not in self._peaks:
            ops = self._program.operators[chain.first : chain.last + 1]
            pieces = tuple(self._pieces(ops, chain.rows))
            live = live_bytes(self._alone(chain, pieces))
            own = (each for op, each in zip(pieces, live, strict=True) if not isinstance(op, _Between))
            self._peaks[chain] = max(own) + self._others(chain)
        return self._peaks[chain]

    def _others(self, chain: Chain) -> int:
        """Bytes alive all the time that a chain is computed, which it neither reads nor writes."""
        span = chain.first, chain.last
        if span not in self._beside:
            ops = self._program.operators[chain.first : chain.last + 1]
            self._beside[span] = self.live[chain.first] - live_bytes(self._alone(chain, ops))[0]
        return self._beside[span]

    def _pieces(self, ops: Sequence[Operator], rows: int) -> Iterator[Operator]:
        """Outlines of a chain in bands; of many alike in a row only the first and the last two.

        Each reads and writes as many bytes as the one before, so that what is alive rises or falls evenly from one to
        the next; but with the last one, what it reads may be read for the last time.
        """
        numbered = enumerate(shares_of(ops, wanted) for wanted in bands_of(ops[-1].output, rows))
        results = []
        for _, run in groupby(numbered, key=lambda each: [share.shape for share in each[1]]):
            alike = list(run)
            between, last = alike[1:-2], alike[1:][-2:]
            parts = [
                band(ops, shares, f"band {number}", self._outline) for number, shares in [alike[0], *last]
            ]
            if between:
                parts.insert(1, _between(ops, between[0][1], between[-1][1], f"band {between[0][0]}"))
            for part in parts:
                pieces = list(part)
                yield from pieces
                results.append(pieces[-1].output)
        yield stacked(ops[-1], results)

    def _alone(self, chain: Chain, pieces: tuple[Operator, ...]) -> Program:
        """What computes a chain as a program of its own; what is read behind it lasts."""
        ops = self._program.operators[chain.first : chain.last + 1]
        made = {op.output.name for op in ops}
        inputs = {tensor.name: tensor for op in ops for tensor in op.inputs if tensor.name not in made}
        lasting = [name for name in inputs if self._used[name] > chain.last]
        return Program(tuple(inputs.values()), pieces, (*lasting, ops[-1].output.name))

    def _outline(
        self, op: Operator, share: Share, name: str, inputs: tuple[Tensor, ...], output: Tensor
    ) -> Operator:
        key = op.name, share.shape, tuple(tensor.shape[0] for tensor in inputs)
        if key not in self._outlines:
            model = replaced(op, share, name, inputs, output)
            sweeps = tuple(model.sweep(index) for index in range(len(inputs)))
            self._outlines[key] = model, model.scratch_bytes, sweeps
        model, scratch, sweeps = self._outlines[key]
        return _Outline(
            name=name, kind=op.kind, inputs=inputs, output=output, model=model, scratch=scratch, sweeps=sweeps
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class _Outline(Operator):
    """An operator like another, under other names: what planning asks of it is found out once."""

    model: Operator
    scratch: int
    sweeps: tuple[Sweep | None, ...]

    def evaluate(self, inputs: Sequence[Int8Array]) -> Int8Array:
        return self.model.evaluate(inputs)

    def kernel(self) -> Kernel | None:
        return self.model.kernel()

    @property
    def scratch_bytes(self) -> int:
        return self.scratch

    @property
    def in_place(self) -> tuple[int, ...]:
        return self.model.in_place

    def sweep(self, index: int) -> Sweep | None:
        return self.sweeps[index]


@dataclass(frozen=True, eq=False, kw_only=True)
class _Between(Operator):
    """Bands that are left out: only what they read and write counts."""

    def evaluate(self, inputs: Sequence[Int8Array]) -> Int8Array:
        raise NotImplementedError

    def kernel(self) -> None:
        return None

    @property
    def scratch_bytes(self) -> int:
        return 0


def _between(
    ops: Sequence[Operator], first: Sequence[Share], last: Sequence[Share], label: str
) -> Iterator[Operator]:
    """What stands for the bands from one to another."""
    made = {op.output.name for op in ops}
    spans: dict[Tensor, Rows] = {}
    for op, low, high in zip(ops, first, last, strict=True):
        for tensor in op.inputs:
            if tensor.name not in made:
                span = rows_read(op, tensor, low)[0], rows_read(op, tensor, high)[1]
                known = spans.get(tensor, span)
                spans[tensor] = min(span[0], known[0]), max(span[1], known[1])
    y = ops[-1].output
    parts = [
        (tensor, part_of(tensor, rows, f"{label} of {y.name}"), rows[0]) for tensor, rows in spans.items()
    ]
    yield from (sliced(*each) for each in parts)
    output = part_of(y, (first[-1].result[0], last[-1].result[1]), label)
    inputs = tuple(part for _, part, _ in parts)
    yield _Between(name=output.name, kind="Between", inputs=inputs, output=output)


def last_uses(program: Program) -> dict[str, int]:
    """The last operator that reads each tensor, behind the last one where it is an output."""
    last = {tensor.name: index for index, op in enumerate(program.operators) for tensor in op.inputs}
    return last | dict.fromkeys(program.outputs, len(program.operators))
