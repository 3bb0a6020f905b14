"""Less RAM by bands of rows: a chain of operators computes a few rows of its result at a time.

An inverted bottleneck widens its image many times over and narrows it again; the wide tensors decide how much RAM a network
needs. Cut into bands, only some rows of them exist at a time:

    x ── expand ── depthwise ── project ── y        x ── rows ── expand ── depthwise ── project ──┐
                                               →    x ── rows ── expand ── depthwise ── project ──┴ y

Slices and stacks of rows cost nothing: they are places in the arena. Rows that two bands need are computed twice, bit
for bit the same, so the price is instructions. The idea is that of patch-based inference (MCUNetV2, arXiv 2110.15352,
section 3.1).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from clio_cc.arena import Arena, live_bytes, plan_arena
from clio_cc.operators.base import Operator, Tensor
from clio_cc.operators.conv import Conv
from clio_cc.operators.movement import RowSlice, RowStack
from clio_cc.operators.pool import Pool
from clio_cc.operators.table import Table
from clio_cc.program import Program

LONGEST_CHAIN = 9
BAND_ROWS = (32, 16, 8, 4, 2, 1)
MOST_STEPS = 60  # of the search; it found every plan that it found at all within 20

Rows = tuple[int, int]  # first, and one behind the last


@dataclass(frozen=True)
class Chain:
    """Operators `first` to `last` (included) of a program, to be computed in bands of `rows` output rows."""

    first: int
    last: int
    rows: int


def shrink(program: Program, limit: int) -> Program | None:
    """Return the program, cut into as few bands as it takes for its arena to have at most `limit` bytes; None if none do.

    A depth-first search: each step looks at the operator where most bytes are alive and tries the chains through it that
    bring all their own operators below the limit, those with the fewest extra MACs first.
    """
    return _search(program, limit, [MOST_STEPS])


def _search(program: Program, limit: int, steps: list[int]) -> Program | None:
    arena = plan_arena(program)
    if arena.bytes <= limit:
        return program
    if steps[0] == 0:
        return None
    steps[0] -= 1
    best: dict[tuple[int, int], tuple[tuple[int, int], Chain]] = {}
    for chain in _chains(program, arena):
        rank, span = _rank(program, chain, limit), (chain.first, chain.last)
        if rank is not None and (span not in best or rank < best[span][0]):
            best[span] = (rank, chain)
    for _, chain in sorted(best.values(), key=lambda pair: pair[0]):
        found = _search(in_bands(program, chain), limit, steps)
        if found is not None:
            return found
    return None


def _rank(program: Program, chain: Chain, limit: int) -> tuple[int, int] | None:
    """What to minimize, MACs and then bytes; None where the chain's own operators stay over the limit."""
    banded = in_bands(program, chain)
    behind = len(banded.operators) - (len(program.operators) - chain.last - 1)
    peak = max(live_bytes(banded)[chain.first : behind])
    return None if peak > limit else (banded.macs, peak)


def _chains(program: Program, arena: Arena) -> Iterator[Chain]:
    """Chains through the worst operator: each but the last result is read by the next operator alone."""
    ops, linked = program.operators, _links(program)
    worst = next(i for i, op in enumerate(ops) if op.name == arena.worst)
    first = worst
    while first >= 0 and worst - first < LONGEST_CHAIN:
        last = max(first, worst)
        while last < len(ops) and last - first < LONGEST_CHAIN:
            if last > first:
                yield from (
                    Chain(first, last, rows) for rows in BAND_ROWS if rows < ops[last].output.shape[0]
                )
            if not linked[last]:
                break
            last += 1
        if first == 0 or not linked[first - 1]:
            break
        first -= 1


def _links(program: Program) -> list[bool]:
    """For every operator: the next one, and nothing else, reads its result, and both can work by rows."""
    readers: dict[str, int] = dict.fromkeys(program.outputs, 1)
    for op in program.operators:
        for tensor in op.inputs:
            readers[tensor.name] = readers.get(tensor.name, 0) + 1
    pairs = zip(program.operators, program.operators[1:], strict=False)
    found = [
        _by_rows(op)
        and _by_rows(after)
        and after.inputs[0].name == op.output.name
        and readers[op.output.name] == 1
        for op, after in pairs
    ]
    return [*found, False]


def _by_rows(op: Operator) -> bool:
    """Whether some rows of the result can be computed from some rows of the first input."""
    if len(op.output.shape) != 3 or op.output.shape[0] == 1:
        return False
    if isinstance(op, Conv | Pool):  # a band must not lie in the padding alone
        return max(op.pads[0], op.pads[2]) < _reach(op)
    return isinstance(op, Table)


def in_bands(program: Program, chain: Chain) -> Program:
    """Return the program with the chain computed in bands."""
    ops = program.operators[chain.first : chain.last + 1]
    height = ops[-1].output.shape[0]
    made: list[Operator] = []
    results = []
    for number, start in enumerate(range(0, height, chain.rows)):
        band = list(_band(ops, (start, min(start + chain.rows, height)), f"band {number}"))
        made += band
        results.append(band[-1].output)
    last = ops[-1]
    made.append(RowStack(name=last.name, kind="RowStack", inputs=tuple(results), output=last.output))
    operators = (*program.operators[: chain.first], *made, *program.operators[chain.last + 1 :])
    return replace(program, operators=operators)


def _band(ops: Sequence[Operator], wanted: Rows, label: str) -> Iterator[Operator]:
    """The operators that compute some rows of a chain's result, a slice of its input first; `label` makes names unique."""
    rows = [wanted]
    for op in reversed(ops):
        rows.append(_needed(op, rows[-1])[0])
    rows.reverse()
    source = ops[0].inputs[0]
    x = _part(source, rows[0], f"{label} of {ops[-1].output.name}")
    yield RowSlice(name=x.name, kind="RowSlice", inputs=(source,), output=x, first=rows[0][0])
    for op, result in zip(ops, rows[1:], strict=True):
        y = _part(op.output, result, label)
        name = f"{op.name} {label}"
        if isinstance(op, Conv | Pool):
            above, below = _needed(op, result)[1]
            pads = (above, op.pads[1], below, op.pads[3])
            yield replace(op, name=name, inputs=(x,), output=y, pads=pads)
        else:
            yield replace(op, name=name, inputs=(x,), output=y)
        x = y


def _needed(op: Operator, wanted: Rows) -> tuple[Rows, Rows]:
    """Return the input rows behind some output rows, and the padding above and below that they still need."""
    if not isinstance(op, Conv | Pool):
        return wanted, (0, 0)
    low = wanted[0] * op.stride[0] - op.pads[0]
    high = (wanted[1] - 1) * op.stride[0] - op.pads[0] + _reach(op)
    height = op.inputs[0].shape[0]
    first, behind = max(low, 0), min(high, height)
    return (first, behind), (first - low, high - behind)


def _reach(op: Conv | Pool) -> int:
    """Input rows from the first to the last tap of a filter."""
    taps = op.weight.shape[1] if isinstance(op, Conv) else op.window[0]
    return op.dilation[0] * (taps - 1) + 1


def _part(tensor: Tensor, rows: Rows, label: str) -> Tensor:
    return Tensor(f"{tensor.name} {label}", (rows[1] - rows[0], *tensor.shape[1:]), tensor.scale)
