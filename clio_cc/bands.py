"""Less RAM by bands of rows: some operators in a row compute a few rows of their result at a time.

An inverted bottleneck widens its image many times over and narrows it again; the wide tensors decide how much RAM a network
needs. Cut into bands, only some rows of them exist at a time:

    x ── expand ── depthwise ── project ── y        x ── rows ── expand ── depthwise ── project ──┐
                                               →    x ── rows ── expand ── depthwise ── project ──┴ y

Slices and stacks of rows cost nothing: they are places in the arena. Rows that two bands need are computed twice, bit
for bit the same, so the price is instructions. The idea is that of patch-based inference (MCUNetV2, arXiv 2110.15352,
section 3.1). Which operators, and how many rows, is for :mod:`clio_cc.band_search` to say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from clio_cc.operators.base import Operator, Tensor
from clio_cc.operators.conv import Conv
from clio_cc.operators.elementwise import Elementwise
from clio_cc.operators.movement import Concat, RowSlice, RowStack
from clio_cc.operators.pool import Pool
from clio_cc.operators.table import Table
from clio_cc.program import Program

Rows = tuple[int, int]  # first, and one behind the last


@dataclass(frozen=True, order=True)
class Chain:
    """Operators `first` to `last` (included) of a program, to be computed in bands of `rows` output rows."""

    first: int
    last: int
    rows: int


@dataclass(frozen=True)
class Share:
    """What one operator does for one band.

    Attributes:
        result: Rows of its result.
        above: Padding above them, for a Conv or Pool.
        below: Padding below them.
    """

    result: Rows
    above: int = 0
    below: int = 0

    @property
    def shape(self) -> tuple[int, int, int]:
        """Rows of the result, padding above and below: of equal ones the kernels are equal."""
        return self.result[1] - self.result[0], self.above, self.below


Piece = Callable[[Operator, Share, str, tuple[Tensor, ...], Tensor], Operator]
"""Makes the operator for one band, from the whole one: its share, name, inputs and output."""


def by_rows(op: Operator) -> bool:
    """Whether some rows of the result can be computed from some rows of the inputs."""
    if len(op.output.shape) != 3 or op.output.shape[0] == 1:
        return False
    if isinstance(op, Conv | Pool):  # a band must not lie in the padding alone
        return max(op.pads[0], op.pads[2]) < _reach(op)
    if isinstance(op, Concat):
        return op.axis > 0
    return isinstance(op, Table | Elementwise)


def in_bands(program: Program, *chains: Chain) -> Program:
    """Return the program with each of some chains, which have no operator in common, computed in bands."""
    operators: list[Operator] = []
    end = 0
    for chain in sorted(chains):
        operators += program.operators[end : chain.first]
        operators += banded(program.operators[chain.first : chain.last + 1], chain.rows, replaced)
        end = chain.last + 1
    return replace(program, operators=(*operators, *program.operators[end:]))


def banded(ops: Sequence[Operator], rows: int, piece: Piece) -> Iterator[Operator]:
    """The operators that compute the last one's result in bands of `rows` rows, and stack them."""
    results = []
    for number, wanted in enumerate(bands_of(ops[-1].output, rows)):
        pieces = list(band(ops, shares_of(ops, wanted), f"band {number}", piece))
        yield from pieces
        results.append(pieces[-1].output)
    yield stacked(ops[-1], results)


def bands_of(image: Tensor, rows: int) -> list[Rows]:
    """Return the bands of `rows` rows, the last one of what is left."""
    height = image.shape[0]
    return [(start, min(start + rows, height)) for start in range(0, height, rows)]


def band(ops: Sequence[Operator], shares: Sequence[Share], label: str, piece: Piece) -> Iterator[Operator]:
    """The operators of one band, behind slices of what they read; `label` makes their names unique."""
    made = _Band(label, piece)
    for op, share in zip(ops, shares, strict=True):
        yield from made.compute(op, share)


def sliced(source: Tensor, part: Tensor, first: int) -> RowSlice:
    """The operator that gives the rows of `source` from `first` on the name of `part`."""
    return RowSlice(name=part.name, kind="RowSlice", inputs=(source,), output=part, first=first)


def stacked(op: Operator, results: Sequence[Tensor]) -> RowStack:
    """The operator that makes the result of another from its bands."""
    return RowStack(name=op.name, kind="RowStack", inputs=tuple(results), output=op.output)


def shares_of(ops: Sequence[Operator], wanted: Rows) -> list[Share]:
    """Return what each operator does where some rows of the last one's result are wanted."""
    needed = {ops[-1].output.name: wanted}
    shares = []
    for op in reversed(ops):
        shares.append(_share(op, needed[op.output.name]))
        for tensor in op.inputs:
            low, high = rows_read(op, tensor, shares[-1])
            known = needed.get(tensor.name, (low, high))
            needed[tensor.name] = min(low, known[0]), max(high, known[1])
    return shares[::-1]


@dataclass
class _Band:
    """One band in the making: for every tensor there is something of, what there is and which rows of the whole."""

    label: str
    piece: Piece
    made: dict[str, tuple[Tensor, Rows]] = field(default_factory=dict)
    views: dict[tuple[str, Rows], Tensor] = field(default_factory=dict)

    def compute(self, op: Operator, share: Share) -> Iterator[Operator]:
        """The operator's piece, behind slices of what it reads."""
        inputs = []
        for tensor in op.inputs:
            source, there = self.made.get(tensor.name, (tensor, (0, tensor.shape[0])))
            rows = rows_read(op, tensor, share)
            key = tensor.name, rows
            if rows == there:
                self.views[key] = source
            elif key not in self.views:
                part = part_of(tensor, rows, f"{self.label} of {op.output.name}")
                view = sliced(source, part, rows[0] - there[0])
                self.views[key] = view.output
                yield view
            inputs.append(self.views[key])
        output = part_of(op.output, share.result, self.label)
        yield self.piece(op, share, f"{op.name} {self.label}", tuple(inputs), output)
        self.made[op.output.name] = output, share.result


def replaced(op: Operator, share: Share, name: str, inputs: tuple[Tensor, ...], output: Tensor) -> Operator:
    """A :data:`Piece` that is the operator itself, for fewer rows."""
    if isinstance(op, Conv | Pool):
        pads = (share.above, op.pads[1], share.below, op.pads[3])
        return replace(op, name=name, inputs=inputs, output=output, pads=pads)
    return replace(op, name=name, inputs=inputs, output=output)


def _share(op: Operator, wanted: Rows) -> Share:
    if not isinstance(op, Conv | Pool):
        return Share(wanted)
    low, high = _window(op, wanted)
    return Share(wanted, max(0, -low), max(0, high - op.inputs[0].shape[0]))


def rows_read(op: Operator, tensor: Tensor, share: Share) -> Rows:
    """Return the rows of an input that an operator needs for its share."""
    height = tensor.shape[0]
    if isinstance(op, Conv | Pool):
        low, high = _window(op, share.result)
        return max(low, 0), min(high, height)
    if isinstance(op, Elementwise) and tensor.shape != op.output.shape:
        return 0, height  # one value per channel: no image
    return share.result


def _window(op: Conv | Pool, wanted: Rows) -> Rows:
    """The input rows behind some output rows, padding included."""
    low = wanted[0] * op.stride[0] - op.pads[0]
    return low, (wanted[1] - 1) * op.stride[0] - op.pads[0] + _reach(op)


def _reach(op: Conv | Pool) -> int:
    """Input rows from the first to the last tap of a filter."""
    taps = op.weight.shape[1] if isinstance(op, Conv) else op.window[0]
    return op.dilation[0] * (taps - 1) + 1


def part_of(tensor: Tensor, rows: Rows, label: str) -> Tensor:
    """Some rows of a tensor, as one of its own."""
    return Tensor(f"{tensor.name} {label}", (rows[1] - rows[0], *tensor.shape[1:]), tensor.scale)
