"""Which operators to compute in bands of rows, and in how many: for a limit, or for the smallest arena.

Chains of operators that are computed in bands have no operator in common, and what one chain needs does not depend on
the others: tensors between chains exist whole. So the best set of chains for a limit is a shortest path along the
operators, each step one operator that fits as it is or one chain that fits in bands, its length the instructions that
it adds. What is alive is counted by :func:`clio_cc.arena.live_bytes`, on one chain at a time and with outlines for
operators; where the arena comes out larger, as its places leave gaps, the search goes on below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

from clio_cc.arena import ALIGNMENT, live_bytes, plan_arena
from clio_cc.band_costs import ChainCosts, Cost, last_uses
from clio_cc.bands import Chain, by_rows, in_bands
from clio_cc.operators.base import Tensor
from clio_cc.program import Program

LONGEST_CHAIN = 12
MOST_EXTRA_MACS = 0.25
"""Share of its MACs that a network may compute a second time for the smallest arena."""
NEARLY = 20
"""An arena larger by one part in so many is as good, if it takes fewer MACs."""
FEW_PLANS, MOST_PLANS = 4, 8
"""Made in full before a search gives up: the arena almost always takes what is alive at most, and no more."""

_FAR = 1 << 60
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


@dataclass(frozen=True, eq=False)
class _Made:
    """A program in the bands of a path; `left` are the bytes for its arena, and `peak` is what is alive at most."""

    path: Path
    program: Program
    left: int
    peak: int

    @cached_property
    def arena(self) -> int:
        """Bytes of its arena."""
        return plan_arena(self.program).bytes

    @property
    def rank(self) -> tuple[int, int, int]:
        """What to minimize: bytes beyond those that are left, MACs, operators."""
        return self.arena - self.left, self.program.macs, len(self.program.operators)

    def fits(self, most: int) -> bool:
        """The arena has at most so many bytes, and no more than are left."""
        limit = min(self.left, most)
        return self.peak <= limit + ALIGNMENT and self.arena <= limit


class BandSearch:
    """The search for one program and the room that there is; what was found out is kept."""

    def __init__(self, program: Program, room: Room) -> None:
        self._program = program
        self._room = room
        self._costs = ChainCosts(program)
        self._live = self._costs.live
        self._lasts = _lasts(program)
        self._chains: dict[tuple[int, int], list[Chain]] = {}
        self._made: dict[tuple[Chain, ...], _Made] = {}
        ends = [max(lasts, default=first - 1) for first, lasts in enumerate(self._lasts)]
        in_chains = {index for first, last in enumerate(ends) for index in range(first, last + 1)}
        self._floor = max((live for i, live in enumerate(self._live) if i not in in_chains), default=0)

    def fitting(self) -> Program | None:
        """Return the program in bands as far as it takes to fit, for the fewest MACs and operators; None if it does not."""
        found = self._within(_FAR, MOST_PLANS)
        if found is not None:
            return found.program
        # What is alive has room enough: gaps and code have not.
        return None if self.lowest(self._room(self._program)) is None else self.smallest()

    def smallest(self) -> Program | None:
        """Return the program in the bands that leave the most room; None if it does not fit.

        They add at most `MOST_EXTRA_MACS`, unless it only fits with more. Of several that leave nearly as much room
        (`NEARLY`), one with the fewest MACs.
        """
        most_macs = int(self._program.macs * MOST_EXTRA_MACS)
        paths = sorted(self._descend(most_macs), key=self._peak_of)[:FEW_PLANS]
        found = [
            each for each in (self._within(_FAR, MOST_PLANS), *map(self._make, paths)) if each is not None
        ]
        best = min((each for each in found if each.fits(_FAR)), key=lambda each: each.rank, default=None)
        if best is None:
            return None
        for _ in range(FEW_PLANS):  # gaps between places: the lowest peak need not have the smallest arena
            others = [path for path in self._neighbors(best.path) if path.cost[0] <= most_macs]
            others = [path for path in others if self._peak_of(path) < best.arena]
            made = map(self._make, sorted(others, key=self._peak_of)[:FEW_PLANS])
            smaller = min((best, *made), key=lambda each: each.rank)
            if smaller is best:
                break
            best = smaller
        slack = best.arena // NEARLY
        cheaper = self._within(best.arena + slack, FEW_PLANS)
        if (
            cheaper is not None
            and cheaper.rank[0] <= best.rank[0] + slack
            and cheaper.path.cost <= best.path.cost
        ):
            return cheaper.program
        return best.program

    def _neighbors(self, path: Path) -> Iterator[Path]:
        """The paths with other rows in one of the chains."""
        for place, chain in enumerate(path.chains):
            for rows in _heights(self._program.operators[chain.last].output):
                chains = [
                    *path.chains[:place],
                    Chain(chain.first, chain.last, rows),
                    *path.chains[place + 1 :],
                ]
                found = Path()
                for each in chains:
                    found = found.to(each, self._costs.cost(each))
                yield found

    def _within(self, most: int, plans: int) -> _Made | None:
        """The cheapest that fits into so many bytes; None if none of a few plans does."""
        made = self._make(Path())
        for _ in range(plans):
            if made.fits(most):
                return made
            # With bands there is more code than before, and less room.
            path = self.lowest(min(most, made.left, made.peak - 1))
            if path is None:
                return None
            made = self._make(path)
        return made if made.fits(most) else None

    def _make(self, path: Path) -> _Made:
        if path.chains not in self._made:
            program = in_bands(self._program, *path.chains) if path.chains else self._program
            self._made[path.chains] = _Made(path, program, self._room(program), self._peak_of(path))
        return self._made[path.chains]

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
