"""Partition points: where a network can be cut so that one tensor is all that travels from device to cloud.

An analysis of the float graph after the passes; it changes nothing. See DESIGN §4.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from clio_cc import graph
from clio_cc.errors import ClioError

_RESERVED = frozenset(("input", "local", "auto"))
_LAYOUT = ("Reshape", "Transpose")


@dataclass(frozen=True)
class PartitionPoint:
    """A cut of the network at one tensor.

    Attributes:
        name: Stable, unique name of letters, digits and ``_.-``; ``input`` for sending the raw input.
        tensor: The tensor's name in the float graph.
        shape: Its shape, batch 1 first.
        bytes: Bytes that travel if all of it is sent as int8, batch 1.
        macs_before: Multiply-accumulates on the device's side.
        node_index: Number of nodes on the device's side: ``list(model.graph)[:node_index]``.
        kind: ``raw`` for the graph input, else ``features``.
    """

    name: str
    tensor: str
    shape: tuple[int, ...]
    bytes: int
    macs_before: int
    node_index: int
    kind: str = "features"


@dataclass(frozen=True)
class _Cut:
    """A single-tensor cut before points are chosen: after `node_index` nodes only `value` is alive."""

    value: ir.Value
    node_index: int


def partition_points(model: ir.Model) -> list[PartitionPoint]:
    """All places where one tensor separates what runs before from what runs after, in order of execution.

    A tensor inside a residual or branched block is none by construction, as a second path leads around it. Of
    cuts that differ only by an elementwise function or a layout change one is listed: the last, but before
    any Reshape or Transpose of a tensor with height and width, whose channels are worth keeping apart.

    Args:
        model: The float graph after the passes; its nodes are in topological order.

    Returns:
        The points, ``input`` first (if the model has one input). What would leave nothing for the cloud is no
        point.
    """
    nodes = list(model.graph)
    points: list[PartitionPoint] = []
    taken = set(_RESERVED)
    macs = [0]
    for node in nodes:
        macs.append(macs[-1] + (graph.macs(node) if _has_shapes(node) else 0))
    for group in _groups(list(_cuts(model))):
        cut = _representative(group)
        raw = cut.node_index == 0
        name = "input" if raw else graph.fresh_name(clean_name(_label(cut.value)), taken)
        taken.add(name)
        points.append(
            PartitionPoint(
                name=name,
                tensor=cut.value.name or "",
                shape=graph.shape(cut.value),
                bytes=graph.size(cut.value),
                macs_before=macs[cut.node_index],
                node_index=cut.node_index,
                kind="raw" if raw else "features",
            )
        )
    return points


def find_point(points: Sequence[PartitionPoint], name: str) -> PartitionPoint:
    """The point of that name, or at the tensor of that name.

    Raises:
        ClioError: There is none; suggests the closest name.
    """
    for point in points:
        if name in (point.name, point.tensor):
            return point
    known = [text for point in points for text in (point.name, point.tensor)]
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean '{close[0]}'?" if close else "'clio-cc inspect MODEL' lists the partition points"
    raise ClioError(f"unknown partition point '{name}'", hint=hint)


def clean_name(text: str) -> str:
    """A node's name as letters, digits and ``_.-``.

    Converters join the names of fused nodes by ``;`` and write paths and output numbers: the first name
    counts.
    """
    first = text.split(";")[0].split(":")[0].strip("/")
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", first) or "cut"


def _label(value: ir.Value) -> str:
    node = value.producer()
    return (node.name if node is not None else None) or value.name or ""


def _has_shapes(node: ir.Node) -> bool:
    return all(
        graph.static_shape(value) is not None for value in (*node.inputs, *node.outputs) if value is not None
    )


def _cuts(model: ir.Model) -> Iterator[_Cut]:
    """Every point in the order of nodes where exactly one computed tensor is alive.

    Each node is an ancestor or a descendant of a tensor that all paths cross (a node that is neither would
    lie on a path around it), so whichever topological order the nodes are in, the ancestors come first and
    then only that tensor is alive.
    """
    nodes = list(model.graph)
    position = {node: index for index, node in enumerate(nodes)}
    last_use: dict[ir.Value, int] = {}
    values = [*model.graph.inputs, *(out for node in nodes for out in node.outputs)]
    for value in values:
        readers = [position.get(use.node, len(nodes)) for use in value.uses()]
        # An output is alive to the end; so is what a nested graph reads, whose nodes are not in this list.
        last_use[value] = len(nodes) if value.is_graph_output() else max(readers, default=-1)
    alive = {value for value in model.graph.inputs if last_use[value] >= 0}
    for index in range(len(nodes)):
        if index:
            done = nodes[index - 1]
            alive |= set(done.outputs)
            alive = {value for value in alive if last_use[value] >= index}
        if len(alive) == 1 and _can_travel(only := next(iter(alive))):
            yield _Cut(only, index)


def _can_travel(value: ir.Value) -> bool:
    """Whether the tensor is one sample of numbers in units: float, (1, units, …)."""
    dims = graph.static_shape(value)
    if value.is_graph_output():  # the cloud would have to hand it back
        return False
    return dims is not None and len(dims) > 1 and dims[0] == 1 and value.dtype == ir.DataType.FLOAT


def _groups(cuts: Sequence[_Cut]) -> Iterator[list[_Cut]]:
    """Runs of cuts that are linked by cheap one-input operators."""
    group: list[_Cut] = []
    for cut in cuts:
        if group and not _is_cheap_step(group[-1].value, cut.value):
            yield group
            group = []
        group.append(cut)
    if group:
        yield group


def _is_cheap_step(before: ir.Value, after: ir.Value) -> bool:
    """Whether `after` is an elementwise function or another layout of `before`."""
    node = after.producer()
    if node is None or graph.data_inputs(node) != [before] or node.domain != "":
        return False
    return node.op_type in _LAYOUT or (
        (node.op_type in graph.UNARY_ELEMENTWISE or node.op_type in graph.BROADCASTING)
        and graph.static_shape(before) == graph.static_shape(after)
    )


def _representative(group: Sequence[_Cut]) -> _Cut:
    """The cut that stands for its group; the graph input for the group that starts there."""
    chosen = group[0]
    for cut in group[1:]:
        if chosen.node_index == 0 or (
            graph.is_op(cut.value.producer(), *_LAYOUT) and _has_plane(chosen.value)
        ):
            break
        chosen = cut
    return chosen


def _has_plane(value: ir.Value) -> bool:
    dims = graph.static_shape(value) or ()
    return len(dims) > 2 and any(d != 1 for d in dims[2:])
