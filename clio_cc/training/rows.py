"""Where the channels of each layer go in the canonical float graph.

Axis 1 of every tensor is read as a row of *pieces*: channels that one Conv or Gemm wrote (a strand), each `span`
elements wide. Depthwise convolutions and whatever treats channels apart hand a row on, a Reshape to a vector widens
it, Concat puts rows side by side, and where an Add meets two rows their strands are tied for good. Operators that
are not understood, inputs and outputs of the graph fix the strands that they touch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from clio_cc import graph
from clio_cc.errors import ClioError
from clio_cc.quantization.layers import Float
from clio_cc.quantization.support import image_pads
from clio_cc.ties import Ties

Until = str | Collection[str] | None
"""Names of the tensors at the cut or cuts; None for the whole network."""
_REASONS = 3  # that a message lists


@dataclass(frozen=True, eq=False)
class Piece:
    """The channels of a strand, side by side along axis 1 of some tensor.

    Attributes:
        strand: The tensor that a Conv or Gemm wrote them to.
        channels: How many there are.
        span: Elements along the axis for each of them.
        gain: Sum of squares of the weights that made a channel, ``[channels]``; behind a depthwise convolution times
            that of its filters, behind an Add the sum of both.
    """

    strand: str
    channels: int
    span: int
    gain: Float

    @property
    def size(self) -> int:
        """Elements along the axis."""
        return self.channels * self.span

    def per_channel(self, values: Float) -> Float:
        """Return sums over the elements of each channel, ``[channels]``; `values` are ``[size]``."""
        return np.asarray(values.reshape(self.channels, self.span).sum(axis=1))


Row = tuple[Piece, ...]


def placed(row: Row) -> Iterator[tuple[Piece, slice]]:
    """Yield the pieces with where they lie along the axis."""
    start = 0
    for piece in row:
        yield piece, slice(start, start + piece.size)
        start += piece.size


@dataclass(frozen=True, eq=False)
class WeightedNode:
    """A Conv or Gemm; `reads` is None for a depthwise one, whose output has the channels of its input."""

    node: ir.Node
    reads: Row | None
    writes: Row


@dataclass(eq=False)
class Rows:
    """The rows of a graph, as :func:`walk` finds them.

    Attributes:
        model: The canonical float graph.
        rows: The row of each computed tensor.
        ties: Strands that can only lose the same channels, and those that must keep all.
        reasons: Why, for strands that must keep all.
        weighted: Conv and Gemm nodes that are understood, in order of execution.
        passes: Nodes without weights that hand rows on.
    """

    model: ir.Model
    rows: dict[ir.Value, Row] = field(default_factory=dict)
    ties: Ties = field(default_factory=Ties)
    reasons: dict[str, str] = field(default_factory=dict)
    weighted: list[WeightedNode] = field(default_factory=list)
    passes: list[ir.Node] = field(default_factory=list)

    @property
    def writers(self) -> list[WeightedNode]:
        """Nodes that start strands."""
        return [each for each in self.weighted if each.reads is not None]

    def before(self, until: Until) -> set[ir.Node]:
        """Return the nodes that come before the cuts.

        Raises:
            ClioError: there is no tensor of that name.
        """
        if until is None:
            return set(self.model.graph)
        known = {value.name: value for value in self.rows}
        for name in names_of(until):
            if name not in known:
                raise ClioError(f"there is no tensor '{name}' in the model")
        needed, trunk = {known[name] for name in names_of(until)}, set()
        for node in reversed(self.model.graph):
            if not needed.isdisjoint(node.outputs):
                trunk.add(node)
                needed |= set(graph.data_inputs(node))
        return trunk

    def fixed_by(self, until: Until, cut: bool) -> dict[str, str]:
        """Return strands that keep all channels only because of the cuts, and why.

        Args:
            until: The cuts.
            cut: Whether what is cut may lose channels.

        Raises:
            ClioError: there is no tensor of that name.
        """
        trunk = self.before(until)
        behind = [each.writes[0].strand for each in self.writers if each.node not in trunk]
        at_cuts = [row for value, row in self.rows.items() if value.name in names_of(until) and not cut]
        return {
            **dict.fromkeys(behind, "are written behind the cut too"),
            **{piece.strand: "are cut" for row in at_cuts for piece in row},
        }

    def free(self, fixed: Collection[str] = ()) -> list[list[str]]:
        """Return the groups of tied strands that may lose channels, in order; none of them holds one of `fixed`."""
        return [strands for strands in self.ties.free() if set(strands).isdisjoint(fixed)]

    def why(self, fixed: Mapping[str, str], trunk: Collection[ir.Node], otherwise: str = "") -> str:
        """Return for the first writers of the trunk why they must keep all channels."""
        reasons, found = {**self.reasons, **fixed}, []
        group_of = {strand: strands for strands in self.ties.groups() for strand in strands}
        for each in self.writers:
            if each.node in trunk:
                strands = group_of[each.writes[0].strand]
                reason = next((reasons[strand] for strand in strands if strand in reasons), otherwise)
                found.append(f"those of '{each.node.name}' {reason}")
        more = len(found) - _REASONS
        found = [*found[:_REASONS], f"... and {more} more"] if more > 0 else found
        return ", ".join(found) or "there is no Conv and no Gemm"


def walk(model: ir.Model) -> Rows:
    """Return the rows of a canonical float graph."""
    walking = _Walk(Rows(model))
    for value in model.graph.inputs:
        walking.start(value, "are an input of the network")
    for node in model.graph:
        walking.add(node)
    for value, row in walking.found.rows.items():
        if value.is_graph_output():
            walking.fix(row, "are an answer of the network")
        for use in value.uses():
            if use.node.graph is not model.graph:
                walking.fix(row, f"reach {graph.where(use.node)}")
    return walking.found


@dataclass(frozen=True, eq=False)
class _Walk:
    """The walk over the graph, which fills `found`."""

    found: Rows

    def start(self, value: ir.Value, reason: str) -> None:
        """Start a strand that must keep all channels."""
        dims = graph.static_shape(value) or ()
        channels = dims[1] if len(dims) > 1 else 1
        self.found.rows[value] = (Piece(str(value.name), channels, 1, np.ones(channels)),)
        self.fix(self.found.rows[value], reason)

    def fix(self, row: Row, reason: str) -> None:
        for piece in row:
            self.found.ties.fixed.add(piece.strand)
            self.found.ties.root(piece.strand)
            self.found.reasons.setdefault(piece.strand, reason)

    def join(self, first: Row, second: Row, node: ir.Node) -> Row:
        """Tie two rows that meet element by element."""
        if [(piece.channels, piece.span) for piece in first] != [(p.channels, p.span) for p in second]:
            self.fix((*first, *second), f"meet others in {graph.where(node)}")
            return first
        for a, b in zip(first, second, strict=True):
            self.found.ties.join(a.strand, b.strand)
        return tuple(replace(a, gain=a.gain + b.gain) for a, b in zip(first, second, strict=True))

    def add(self, node: ir.Node) -> None:
        rule = _RULES.get(node.op_type) if node.domain == "" and _has_channels(node) else None
        row = rule(self, node) if rule is not None else None
        if row is not None:
            self.found.rows[node.outputs[0]] = row
            return
        for value in graph.data_inputs(node):
            self.fix(self.found.rows.get(value, ()), f"reach {graph.where(node)}")
        for value in node.outputs:
            self.start(value, f"come from {graph.where(node)}")

    # operators: each returns the row of the output, or None where the node is not understood

    def conv(self, node: ir.Node) -> Row | None:
        if not all(value is None or graph.is_constant(value) for value in node.inputs[1:]):
            return None
        source, groups = self.found.rows[graph.required_input(node, 0)], graph.int_attr(node, "group", 1)
        if groups == 1:
            return self.written(node, source)
        if groups != graph.shape(node.inputs[0])[1]:
            return None
        multiplier = graph.shape(node.inputs[1])[0] // groups
        wider = tuple(replace(piece, span=piece.span * multiplier) for piece in source)
        squares = squared_weights(node, 0)
        row = tuple(
            replace(piece, gain=piece.gain * piece.per_channel(squares[place]))
            for piece, place in placed(wider)
        )
        self.found.weighted.append(WeightedNode(node, None, row))
        return row

    def gemm(self, node: ir.Node) -> Row | None:
        if not all(graph.is_constant(value) for value in node.inputs[1:]):
            return None
        if graph.int_attr(node, "transA") or not graph.int_attr(node, "transB"):
            return None
        if len(node.inputs) != 3 or graph.shape(node.inputs[2]) != graph.shape(node.inputs[1])[:1]:
            return None
        return self.written(node, self.found.rows[graph.required_input(node, 0)])

    def written(self, node: ir.Node, source: Row) -> Row:
        strand, gain = str(node.outputs[0].name), squared_weights(node, 0)
        self.found.ties.root(strand)
        row = (Piece(strand, len(gain), 1, gain),)
        self.found.weighted.append(WeightedNode(node, source, row))
        return row

    def arithmetic(self, node: ir.Node) -> Row | None:
        dims, data = graph.shape(node.outputs[0]), graph.data_inputs(node)
        whole = [
            value
            for value in data
            if len(graph.shape(value)) == len(dims) and graph.shape(value)[1] == dims[1]
        ]
        if not whole:
            return None
        row = self.found.rows[whole[0]]
        for value in whole[1:]:
            row = self.join(row, self.found.rows[value], node)
        for value in data:
            if value not in whole:
                self.fix(self.found.rows[value], f"are spread over others in {graph.where(node)}")
        self.found.passes.append(node)
        return row

    def alone(self, node: ir.Node) -> Row | None:
        """Each channel is treated on its own."""
        if len(graph.data_inputs(node)) != 1 or (node.op_type == "Pad" and image_pads(node) is None):
            return None
        self.found.passes.append(node)
        return self.found.rows[graph.required_input(node, 0)]

    def reshape(self, node: ir.Node) -> Row | None:
        source, target = graph.shape(node.inputs[0]), graph.shape(node.outputs[0])
        row, before, after = self.found.rows[graph.required_input(node, 0)], source[1], target[1]
        if source[0] != target[0] or not graph.is_constant(node.inputs[1]):
            return None
        if after % before == 0:  # what follows the axis becomes part of it
            spans = [piece.span * (after // before) for piece in row]
        elif before % after == 0 and all(piece.span % (before // after) == 0 for piece in row):
            spans = [piece.span // (before // after) for piece in row]
        else:
            return None
        self.found.passes.append(node)
        return tuple(replace(piece, span=span) for piece, span in zip(row, spans, strict=True))

    def concat(self, node: ir.Node) -> Row | None:
        data = graph.data_inputs(node)
        axis = graph.int_attr(node, "axis") % len(graph.shape(node.outputs[0]))
        if axis != 1 or len(data) != len(node.inputs):
            return None
        self.found.passes.append(node)
        return tuple(piece for value in data for piece in self.found.rows[value])


_RULES: dict[str, Callable[[_Walk, ir.Node], Row | None]] = {
    **dict.fromkeys(graph.UNARY_ELEMENTWISE, _Walk.alone),
    **dict.fromkeys("MaxPool AveragePool GlobalAveragePool GlobalMaxPool Pad".split(), _Walk.alone),
    **dict.fromkeys(graph.BROADCASTING, _Walk.arithmetic),
    "Conv": _Walk.conv,
    "Gemm": _Walk.gemm,
    "Reshape": _Walk.reshape,
    "Concat": _Walk.concat,
}


def names_of(until: Until) -> Sequence[str]:
    """Return the names one by one."""
    return [until] if isinstance(until, str) else list(until or ())


def squared_weights(node: ir.Node, axis: int) -> Float:
    """Return the sum of squares of a node's weights at each index of an axis."""
    weight = graph.constant(node.inputs[1])
    assert weight is not None
    others = tuple(other for other in range(weight.ndim) if other != axis)
    return np.asarray(np.sum(weight.astype(np.float64) ** 2, axis=others))


def _has_channels(node: ir.Node) -> bool:
    """Return whether the node computes one tensor, and it and what it is computed from have an axis 1 of known size."""
    values = [*graph.data_inputs(node), *node.outputs]
    first = graph.input_at(node, 0)
    if first is None or len(node.outputs) != 1:
        return False
    if graph.is_constant(first) and not graph.is_op(node, *graph.BROADCASTING):
        return False
    return all(len(graph.static_shape(value) or ()) > 1 for value in values)
