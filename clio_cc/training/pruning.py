"""Which channels to take: the trunk's least important ones per multiply-accumulate saved, or the same share everywhere.

Pruning by importance per cost after Molchanov et al., "Importance Estimation for Neural Network Pruning", CVPR 2019;
the width multiplier after Howard et al., "MobileNets", arXiv 1704.04861.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from clio_cc import graph
from clio_cc.errors import ClioError
from clio_cc.quantization.layers import Float
from clio_cc.training.channels import ChannelGroup, groups_of
from clio_cc.training.rows import Row, Rows, Until, WeightedNode, names_of, placed, squared_weights, walk

FEWEST = 8
"""Channels that pruning leaves in every group, or all if there are fewer."""
STEP = 4
"""Channels that an int8 kernel computes at once: it takes as long for 13 as for 16."""

Importance = Mapping[str, Float]
"""What the network loses with each channel, ``[channels]`` from 0 up, by the name of the group."""


def prune(
    model: ir.Model,
    until: Until,
    share: float,
    importance: Importance | None = None,
    *,
    cut: bool = False,
) -> dict[str, tuple[int, ...]]:
    """Return which channels stay when the trunk loses a share of its multiply-accumulates.

    Groups go down to the next lower multiple of :data:`STEP`, one at a time, where the least importance is lost per
    multiply-accumulate saved; :data:`FEWEST` channels stay in each.

    Args:
        model: The canonical float graph; not changed.
        until: The trunk is what is computed before the tensor of this name, or before any of several; None for all.
        share: What goes at least, from 0 up to below 1.
        importance: Of the groups that :func:`clio_cc.training.channels.channel_groups` returns for the same `until`
            and `cut`; by default :func:`weight_importance`.
        cut: Whether what is cut may lose channels.

    Returns:
        The channels that stay, ascending, by the name of the group, for groups that lose some.

    Raises:
        ClioError: `share` is out of range, nothing can be removed, or less; says why.
    """
    if not 0 <= share < 1:
        raise ClioError(
            f"the share of multiply-accumulates to remove must be from 0 up to below 1, got {share:g}"
        )
    rows = walk(model)
    trunk, fixed = rows.before(until), rows.fixed_by(until, cut)
    groups = [group for group in groups_of(rows, fixed) if group.channels > FEWEST]
    place = f" before {' and '.join(repr(name) for name in names_of(until))}" if until is not None else ""
    if share > 0 and not groups:
        reason = rows.why(fixed, trunk, f"are not more than {FEWEST}")
        raise ClioError(f"no channels can be removed{place}: {reason}")
    scores = _scores(rows, groups, importance)
    least = {name: np.append(0.0, np.cumsum(np.sort(values))) for name, values in scores.items()}
    costs = _Costs([each for each in rows.weighted if each.node in trunk], groups)
    whole = costs.macs()
    while (removed := whole - costs.macs()) < share * whole:
        steps = [step for group in groups if (step := _step(costs, group, least[group.name])) is not None]
        if not steps:
            message = (
                f"of the multiply-accumulates{place} {removed / whole:.1%} can be removed, not {share:.1%}"
            )
            raise ClioError(message, hint=f"at least {FEWEST} channels stay of those tied together")
        step = min(steps, key=lambda step: step.price)
        costs.counts[step.group] = step.count
    return _best(groups, scores, costs.counts)


def thin(model: ir.Model, width: float, importance: Importance | None = None) -> dict[str, tuple[int, ...]]:
    """Return which channels stay when every group of the network keeps a share `width` of them.

    Args:
        model: The canonical float graph; not changed.
        width: Above 0, up to 1; counts are rounded to multiples of :data:`STEP`, and so many stay at least.
        importance: As for :func:`prune`, of all groups; the most important channels stay.

    Returns:
        As :func:`prune`.

    Raises:
        ClioError: `width` is out of range, or nothing can be removed; says why.
    """
    if not 0 < width <= 1:
        raise ClioError(f"the width must be above 0 and at most 1, got {width:g}")
    rows = walk(model)
    groups = [group for group in groups_of(rows) if group.channels > STEP]
    if not groups:
        reason = rows.why({}, rows.before(None), f"are not more than {STEP}")
        raise ClioError(f"no channels can be removed: {reason}")
    counts = {group.name: _rounded(width * group.channels, group.channels) for group in groups}
    return _best(groups, _scores(rows, groups, importance), counts)


def weight_importance(model: ir.Model) -> dict[str, Float]:
    """Return importance without data: the L2 norms of what writes and of what reads a channel, multiplied.

    Depthwise filters between the two are a factor as well; where there are several ways from writers to readers,
    their squares are added. Each group's importance sums up to 1: magnitudes in different layers do not compare.

    Returns:
        ``[channels]`` by the name of the group, for all groups of the network.
    """
    rows = walk(model)
    return _scores(rows, groups_of(rows), None)


def _scores(rows: Rows, groups: Sequence[ChannelGroup], importance: Importance | None) -> dict[str, Float]:
    if importance is not None:
        return {group.name: np.asarray(importance[group.name], np.float64) for group in groups}
    squares: dict[str, Float] = {}
    for each in rows.writers:
        read = squared_weights(each.node, 1)
        for piece, place in placed(each.reads or ()):
            way = piece.gain * piece.per_channel(read[place])
            root = rows.ties.root(piece.strand)
            squares[root] = squares.get(root, np.zeros(piece.channels)) + way
    found: dict[str, Float] = {}
    for group in groups:
        values = np.sqrt(squares.get(rows.ties.root(group.name), np.zeros(group.channels)))
        found[group.name] = np.asarray(values / (float(values.sum()) or 1.0))
    return found


def _rounded(count: float, of: int) -> int:
    return min(of, max(STEP, STEP * math.floor(count / STEP + 0.5)))


def _best(
    groups: Sequence[ChannelGroup], scores: Mapping[str, Float], counts: Mapping[str, int]
) -> dict[str, tuple[int, ...]]:
    """Return the most important channels of groups that lose some, in their own order."""
    found = {}
    for group in groups:
        count = counts[group.name]
        if count < group.channels:
            order = np.argsort(-scores[group.name], kind="stable")
            found[group.name] = tuple(sorted(order[:count].tolist()))
    return found


class _Costs:
    """Multiply-accumulates of nodes by how many channels stay in each group.

    Attributes:
        counts: How many stay, by the name of the group; to be changed.
    """

    def __init__(self, nodes: Sequence[WeightedNode], groups: Sequence[ChannelGroup]) -> None:
        self.counts = {group.name: group.channels for group in groups}
        self._group_of = {tensor: group.name for group in groups for tensor in group.tensors}
        self._nodes: list[tuple[int, tuple[Row, ...]]] = []
        self._nodes_of: dict[str, set[int]] = {}
        for number, each in enumerate(nodes):
            rows = (each.writes,) if each.reads is None else (each.writes, each.reads)
            pairs = math.prod(sum(piece.size for piece in row) for row in rows)
            self._nodes.append((graph.macs(each.node) // pairs, rows))
            for piece in (piece for row in rows for piece in row):
                self._nodes_of.setdefault(self._group_of.get(piece.strand, ""), set()).add(number)

    def macs(self) -> int:
        """Return the sum over all nodes."""
        return sum(self._macs(number, self.counts) for number in range(len(self._nodes)))

    def saved(self, group: str, count: int) -> int:
        """Return what goes if of a group only `count` channels stay."""
        fewer = {**self.counts, group: count}
        return sum(
            self._macs(number, self.counts) - self._macs(number, fewer) for number in self._nodes_of[group]
        )

    def _macs(self, number: int, counts: Mapping[str, int]) -> int:
        each, rows = self._nodes[number]
        return each * math.prod(
            sum(counts.get(self._group_of.get(p.strand, ""), p.channels) * p.span for p in row)
            for row in rows
        )


@dataclass(frozen=True)
class _Step:
    """Fewer channels in a group; `price` is the importance lost per multiply-accumulate saved."""

    group: str
    count: int
    price: float


def _step(costs: _Costs, group: ChannelGroup, least: Float) -> _Step | None:
    """Return a group's next step, None at its end; ``least[n]`` is the importance of the n least important channels."""
    now = costs.counts[group.name]
    count = STEP * ((now - 1) // STEP)
    if count < FEWEST:
        return None
    lost = float(least[group.channels - count] - least[group.channels - now])
    return _Step(group.name, count, lost / costs.saved(group.name, count))
