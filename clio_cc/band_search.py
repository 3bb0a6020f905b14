"""Which operators to compute in bands of rows, and in how many: for a limit, or for the smallest arena.

Chains of operators that are computed in bands have no operator in common, and what one chain needs does not depend on
the others: tensors between chains exist whole. So the best set of chains for a limit is a shortest path along the
operators, each step one operator that fits as it is or one chain that fits in bands, its length the instructions that
it adds. What is alive is counted by :func:`clio_cc.arena.live_bytes`, on one chain at a time and with outlines for
operators; where the arena comes out larger, as its places leave gaps, the search goes on below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from clio_cc.arena import live_bytes, plan_arena
from clio_cc.band_costs import ChainCosts, Cost, last_uses
from clio_cc.bands import Chain, by_rows, in_bands
from clio_cc.operators.base import Tensor
from clio_cc.program import Program

LONGEST_CHAIN = 12
MOST_EXTRA_MACS = 0.25
"""Share of its MACs that a network may compute a second time for the smallest arena."""
MOST_PLANS = 8
"""Made in full before a search gives up: the arena almost always takes what is alive at most, and no more."""

Room = Callable[[Program], int]
"""Bytes that are left for the arena beside a program's code and tables."""


@dataclass(frozen=True)
class Path:
    """Disjoint chains, and what they cost together."""

    cost: Cost = (0, 0)
    chains: tuple[Chain, ...] = ()

    def to(self, chain: Chain, cost: Cost) -> Path:
        """The path with one chain more."""
        return Path((self.cost[0] + cost[0], self.cost[1] + cost[1]), (*self.chains, chain))


class BandSearch:
    """The search for one program; what was found out about its chains is kept."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._costs = ChainCosts(program)
        self._live = self._costs.live
        self._lasts = _lasts(program)
        self._chains: dict[tuple[int, int], list[Chain]] = {}
        ends = [max(lasts, default=first - 1) for first, lasts in enumerate(self._lasts)]
        in_chains = {index for first, last in enumerate(ends) for index in range(first, last + 1)}
        self._floor = max((live for i, live in enumerate(self._live) if i not in in_chains), default=0)

    def fitting(self, room: Room) -> Program | None:
        """Return the program in bands as far as it takes to fit, for the fewest MACs and operators; None if it does not."""
        made, most = self._program, max(self._live, default=0)
        for _ in range(MOST_PLANS):
            left = room(made)
            if holds(made, left):
                return made
            path = self.lowest(
                min(left, most - 1)
            )  # with bands there is more code than before, and less room
            if path is None:
                return None
            made, most = in_bands(self._program, *path.chains), self._peak_of(path)
        return None

    def smallest(self, room: Room) -> Program | None:
        """Return the program in the bands that leave the most room; None if it does not fit.

        They add at most `MOST_EXTRA_MACS`, unless it only fits with more. Of several that leave as much room, one with
        the fewest MACs.
        """
        paths = {
            self._peak_of(path): path for path in self._descend(int(self._program.macs * MOST_EXTRA_MACS))
        }
        lowest = [in_bands(self._program, *paths[peak].chains) for peak in sorted(paths)[:MOST_PLANS]]
        best = _least(filter(None, [self.fitting(room), *lowest]), room)
        if best is None:
            return None
        arena = plan_arena(best).bytes
        cheaper = self.fitting(lambda made: min(arena, room(made)))
        return _least(filter(None, [best, cheaper]), room)

    def lowest(self, limit: int) -> Path | None:
        """Return the chains that bring everything below a limit for the least cost; None if none do."""
        if limit < self._floor:
            return None
        best: list[Path | None] = [None] * (len(self._live) + 1)
        best[0] = Path()
        for first, here in enumerate(best[:-1]):
            here = best[first]
            if here is None:
                continue
            for end, path in self._steps(here, first, limit):
                known = best[end]
                if known is None or path.cost < known.cost:
                    best[end] = path
        return best[-1]

    def _steps(self, here: Path, first: int, limit: int) -> Iterator[tuple[int, Path]]:
        """Where one operator as it is, or one chain, leads to."""
        if self._live[first] <= limit:
            yield first + 1, here
        for last in self._lasts[first]:
            if max(self._live[first : last + 1]) > limit:
                chain = self._cheapest(first, last, limit)
                if chain is not None:
                    yield last + 1, here.to(chain, self._costs.cost(chain))

    def _cheapest(self, first: int, last: int, limit: int) -> Chain | None:
        """The chain of these operators that stays below the limit for the least cost, whatever the rows of a band."""
        peak = self._costs.peak
        if peak(Chain(first, last, 1)) > limit:  # what single rows do not bring, more at a time hardly do
            return None
        if (first, last) not in self._chains:
            heights = _heights(self._program.operators[last].output)
            self._chains[first, last] = sorted(
                (Chain(first, last, rows) for rows in heights), key=self._costs.cost
            )
        return next(chain for chain in self._chains[first, last] if peak(chain) <= limit)

    def _peak_of(self, path: Path) -> int:
        """Return the most bytes that are alive at once."""
        inside = {index for chain in path.chains for index in range(chain.first, chain.last + 1)}
        whole = (live for index, live in enumerate(self._live) if index not in inside)
        return max([*whole, *map(self._costs.peak, path.chains)], default=0)

    def _descend(self, most: int) -> Iterator[Path]:
        """Yield paths of at most so many MACs more, each with a lower peak than the one before, by bisection."""
        low = self._floor
        high = max(self._live, default=0)
        while low < high:
            middle = (low + high) // 2
            path = self.lowest(middle)
            if path is None or path.cost[0] > most:
                low = middle + 1
            else:
                high = self._peak_of(path)
                yield path


def holds(program: Program, limit: int) -> bool:
    """Whether an arena of so many bytes is enough; without a long search where a short one finds it."""
    if max(live_bytes(program), default=0) > limit:
        return False
    return plan_arena(program, 0).bytes <= limit or plan_arena(program).bytes <= limit


def _least(programs: Iterable[Program], room: Room) -> Program | None:
    """The program that leaves the most room, then with the fewest MACs and operators; None if there is room for none."""
    ranks = [(plan_arena(made).bytes - room(made), made.macs, len(made.operators), made) for made in programs]
    least = min(ranks, key=lambda rank: rank[:3], default=None)
    return None if least is None or least[0] > 0 else least[3]


def _lasts(program: Program) -> list[list[int]]:
    """For every operator, the last ones of the chains that begin with it: nothing in their middle is read outside."""
    ops, used = program.operators, last_uses(program)
    found: list[list[int]] = []
    for first in range(len(ops)):
        lasts, needed = [], first
        for last in range(first, min(first + LONGEST_CHAIN, len(ops))):
            if not by_rows(ops[last]):
                break
            if last > first and needed <= last:
                lasts.append(last)
            needed = max(needed, used.get(ops[last].output.name, len(ops)))
        found.append(lasts)
    return found


def _heights(image: Tensor) -> list[int]:
    """Rows that an image can be cut into, in 2, 3 … bands of the same height as far as possible, most first."""
    height = image.shape[0]
    return sorted({-(-height // bands) for bands in range(2, height + 1)}, reverse=True)
