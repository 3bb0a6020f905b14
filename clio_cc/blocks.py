"""Where all paths of a network cross one tensor, and which of these places lie inside a building block.

The tensors that all paths from an input to an output cross are the dominators of the outputs in the graph of
tensors and operators (Lengauer and Tarjan 1979; here Cooper, Harvey and Kennedy 2001 as networkx has it). They
lie on one chain and divide the network into steps. A step of several operators is branched (a skip connection,
an inception module) and holds no cut by construction. But blocks without a skip are chains too: an inverted
bottleneck that strides (MobileNetV2 §3.3) or a depthwise-separable pair (MobileNet §3.1) has a tensor between
its layers that all paths cross. CLIO (§4.1) cuts "after any layer or blocks" and never within, so steps
are grouped: what belongs to a layer (its activation, a layout change), then the layers of a block.

An analysis of the float graph after the passes; it changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import networkx as nx
import onnx_ir as ir

from clio_cc import graph

LAYOUT = ("Reshape", "Transpose")
_SOURCE, _SINK = "source", "sink"


@dataclass(frozen=True)
class Block:
    """Operators between two tensors that all paths cross.

    Attributes:
        kind: ``layer`` (one operator with its activation), ``residual``, ``bottleneck`` (1x1, k×k, 1x1 without a
            skip), ``separable`` (depthwise and 1x1), ``inception``, ``dense``, ``gate`` (squeeze and excitation),
            or ``branched`` (any other).
        first: The tensor that enters; empty where several do.
        last: The tensor that leaves; empty where several do.
        nodes: Names of its operators in order of execution.
    """

    kind: str
    first: str
    last: str
    nodes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Step:
    """The operators between two neighbors in the chain of cuts; None where no single tensor enters or leaves."""

    nodes: tuple[ir.Node, ...]
    before: ir.Value | None
    after: ir.Value | None

    @cached_property
    def kind(self) -> str:
        """As :class:`Block`, for one step."""
        if len(self.nodes) == 1:
            return "layer"
        join = graph.producer(self.after)
        if graph.is_op(join, "Add", "Sum"):
            return "residual"
        entered = join is not None and self.before in join.inputs
        if graph.is_op(join, "Concat"):
            return "dense" if entered else "inception"
        return "gate" if graph.is_op(join, "Mul") and entered else "branched"


@dataclass(frozen=True, eq=False)
class Group:
    """A block with the values it consists of.

    Attributes:
        kind: As :class:`Block`.
        steps: Its steps in order; at least one, but for an input that no cheap step follows.
        ends: The cuts that are not inside: the result of the last layer in several forms (before and after its
            activation, in several layouts), in order.
    """

    kind: str
    steps: tuple[Step, ...]
    ends: tuple[ir.Value, ...]

    @property
    def nodes(self) -> tuple[ir.Node, ...]:
        """All its operators in order."""
        return tuple(node for step in self.steps for node in step.nodes)

    @property
    def cuts(self) -> tuple[ir.Value, ...]:
        """All its cuts in order, those inside too; the input in the first group."""
        after = _afters(self.steps)
        return (*(end for end in self.ends if end not in after), *after)


def blocks(model: ir.Model) -> list[Block]:
    """The blocks of a float graph after the passes, in order; each operator between in- and outputs is in one."""
    return [
        Block(
            group.kind,
            _name(group.steps[0].before),
            _name(group.steps[-1].after),
            tuple(node.name or "" for node in group.nodes),
        )
        for group in groups(model)
        if group.steps
    ]


def single_cuts(model: ir.Model) -> list[ir.Value]:
    """All tensors that every path from a graph input to a graph output crosses, in order of execution.

    What depends on no input (a constant that is computed) is on no path, nor is what no output depends on. There
    are none if no output depends on an input.
    """
    flow = _flow(model)
    if not nx.has_path(flow, _SOURCE, _SINK):
        return []
    dominator = nx.immediate_dominators(flow, _SOURCE)
    chain, at = [], dominator[_SINK]
    while at != _SOURCE:
        if isinstance(at, ir.Value):
            chain.append(at)
        at = dominator[at]
    return chain[::-1]


def path_nodes(model: ir.Model) -> list[ir.Node]:
    """The operators on a path from a graph input to a graph output, in order of execution."""
    flow = _flow(model)
    both = nx.descendants(flow, _SOURCE) & nx.ancestors(flow, _SINK)
    return [node for node in model.graph if node in both]


def reads(node: ir.Node) -> Iterator[ir.Value]:
    """The values that a node reads, those that graphs in its attributes read included."""
    yield from (value for value in node.inputs if value is not None)
    for attribute in node.attributes.values():
        if attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
            nested = [attribute.value] if attribute.type == ir.AttributeType.GRAPH else attribute.value
            for each in nested:
                yield from each.outputs
                for inner in each:
                    yield from reads(inner)


def steps(model: ir.Model) -> list[Step]:
    """The operators on paths, divided at the cuts.

    Every one of them is an ancestor or a descendant of a cut (one that is neither would lie on a path around
    it), so whichever topological order the nodes are in, a cut's ancestors come first.
    """
    cuts = single_cuts(model)
    rest = path_nodes(model)
    found = []
    before: ir.Value | None = None
    for cut in cuts:
        producer = graph.producer(cut)
        if producer is not None:
            count = rest.index(producer) + 1
            found.append(Step(tuple(rest[:count]), before, cut))
            rest = rest[count:]
        before = cut
    if rest:
        found.append(Step(tuple(rest), before, None))
    return found


def groups(model: ir.Model) -> list[Group]:
    """The steps between the cuts, grouped to blocks; an input that can be a cut begins the first one."""
    head, layers = _layers(steps(model))
    found = [head] if head is not None else []
    index = 0
    while index < len(layers):
        kind, count = _block_at(layers, index)
        members = layers[index : index + count]
        merged = tuple(step for layer in members for step in layer)
        found.append(Group(kind, merged, _afters(members[-1])))
        index += count
    return found


# --- the chain of cuts ----------------------------------------------------------------------------


def _flow(model: ir.Model) -> nx.DiGraph:
    """Tensors and operators, from one source before the inputs to one sink behind the outputs."""
    flow: nx.DiGraph = nx.DiGraph()
    flow.add_nodes_from((_SOURCE, _SINK))
    flow.add_edges_from((_SOURCE, value) for value in model.graph.inputs)
    for node in model.graph:
        flow.add_edges_from((value, node) for value in reads(node))
        flow.add_edges_from((node, value) for value in node.outputs)
    flow.add_edges_from((value, _SINK) for value in model.graph.outputs)
    return flow


# --- layers ---------------------------------------------------------------------------------------

Layer = tuple[Step, ...]
"""A step with the cheap ones that follow it."""


def _layers(steps: Sequence[Step]) -> tuple[Group | None, list[Layer]]:
    """Each step that computes something with the cheap ones behind it; first what belongs to the input."""
    head: list[Step] = []
    layers: list[list[Step]] = []
    for step in steps:
        if not _is_cheap(step):
            layers.append([step])
        else:
            (layers[-1] if layers else head).append(step)
    entry = steps[0].before if steps else None
    first = None if entry is None else Group("layer", tuple(head), (entry, *_afters(head)))
    return first, [tuple(layer) for layer in layers]


def _is_cheap(step: Step) -> bool:
    """Whether the step leaves the tensor as it was but for an elementwise function, a scale, or its layout."""
    if step.before is None or step.after is None:
        return False
    if step.kind == "gate":  # x * sigmoid(x), say; with weights inside it is squeeze and excitation
        return all(node.op_type in graph.UNARY_ELEMENTWISE | graph.BROADCASTING for node in step.nodes)
    node = step.nodes[0]
    if len(step.nodes) > 1 or node.domain != "" or graph.data_inputs(node) != [step.before]:
        return False
    if node.op_type in LAYOUT:
        return True
    if graph.static_shape(step.before) is None or graph.shape(step.before) != graph.static_shape(step.after):
        return False
    elementwise = node.op_type in graph.UNARY_ELEMENTWISE or node.op_type in graph.BROADCASTING
    return elementwise or (_is_depthwise(node) and _taps(node) == 1)


def _afters(steps: Sequence[Step]) -> tuple[ir.Value, ...]:
    return tuple(step.after for step in steps if step.after is not None)


# --- blocks of layers -----------------------------------------------------------------------------


def _block_at(layers: Sequence[Layer], index: int) -> tuple[str, int]:
    """The block that begins at a layer: its kind and how many layers it has."""
    kind = layers[index][0].kind
    if kind == "dense":
        rest = layers[index:]
        return kind, next((i for i, layer in enumerate(rest) if layer[0].kind != "dense"), len(rest))
    if kind == "layer":
        return _bottleneck_at(layers, index) or _separable_at(layers, index) or (kind, 1)
    return kind, 1


def _bottleneck_at(layers: Sequence[Layer], index: int) -> tuple[str, int] | None:
    """1x1 to other channels, k×k that keeps them, 1x1 back: inverted (wide inside, depthwise) or narrow inside."""
    enters = _convolution(layers, index)
    middle, leaves, end = _convolution_and_pointwise(layers, index + 1)
    if enters is None or middle is None or leaves is None or not _is_pointwise(enters):
        return None
    outside, inside, behind = _channels(enters)[0], _channels(enters)[1], _channels(leaves)[1]
    if _channels(middle) != (inside, inside) or _taps(middle) == 1:
        return None
    inverted = inside > max(outside, behind) and _is_depthwise(middle)
    return ("bottleneck", end - index) if inverted or inside < min(outside, behind) else None


def _separable_at(layers: Sequence[Layer], index: int) -> tuple[str, int] | None:
    """Depthwise, then 1x1: one convolution factored into two."""
    depthwise, pointwise, end = _convolution_and_pointwise(layers, index)
    if depthwise is None or pointwise is None or not _is_depthwise(depthwise):
        return None
    return "separable", end - index


def _convolution_and_pointwise(
    layers: Sequence[Layer], index: int
) -> tuple[ir.Node | None, ir.Node | None, int]:
    """A convolution and the 1x1 behind it, perhaps with a gate in between, and the index behind them."""
    first = _convolution(layers, index)
    gated = first is not None and index + 1 < len(layers) and layers[index + 1][0].kind == "gate"
    at = index + (2 if gated else 1)
    second = _convolution(layers, at)
    return first, second if second is not None and _is_pointwise(second) else None, at + 1


def _convolution(layers: Sequence[Layer], index: int) -> ir.Node | None:
    """The Conv that is this layer, if there is one with known shapes."""
    if index >= len(layers) or len(layers[index][0].nodes) != 1:
        return None
    node = layers[index][0].nodes[0]
    known = graph.is_op(node, "Conv") and graph.static_shape(node.inputs[1]) is not None
    return node if known and graph.static_shape(node.inputs[0]) is not None else None


def _channels(node: ir.Node) -> tuple[int, int]:
    return graph.shape(node.inputs[0])[1], graph.shape(node.inputs[1])[0]


def _taps(node: ir.Node) -> int:
    """Elements of a Conv's window."""
    return math.prod(graph.shape(node.inputs[1])[2:])


def _is_pointwise(node: ir.Node) -> bool:
    return _taps(node) == 1 and graph.int_attr(node, "group", 1) == 1


def _is_depthwise(node: ir.Node) -> bool:
    return graph.is_op(node, "Conv") and graph.int_attr(node, "group", 1) == _channels(node)[0] > 1


def _name(value: ir.Value | None) -> str:
    return (value.name or "") if value is not None else ""
