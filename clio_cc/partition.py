"""Partition points: where a network can be cut so that one tensor is all that travels from device to cloud.

An analysis of the float graph after the passes; it changes nothing. See DESIGN §4 and :mod:`clio_cc.blocks`.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from clio_cc import graph
from clio_cc.blocks import LAYOUT, Group, groups
from clio_cc.errors import ClioError
from clio_cc.point_names import ModulePaths, clean_name

__all__ = ["PartitionPoint", "can_travel", "clean_name", "find_point", "partition_points"]

_RESERVED = frozenset(("input", "local", "auto", "jpeg"))  # what else stands where a point's name does


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
        block: Kind of the block that ends here or, if `inside`, that is cut; see :class:`clio_cc.blocks.Block`.
        inside: Whether it is one of those that only ``inside_blocks`` lists.
    """

    name: str
    tensor: str
    shape: tuple[int, ...]
    bytes: int
    macs_before: int
    node_index: int
    kind: str = "features"
    block: str = "layer"
    inside: bool = False


@dataclass(frozen=True, eq=False)
class _Cut:
    """A tensor that all paths cross, in its group; `inside` as in :class:`PartitionPoint`."""

    value: ir.Value
    group: Group
    inside: bool


def partition_points(model: ir.Model, inside_blocks: bool = False) -> list[PartitionPoint]:
    """Places where one tensor separates what runs before from what runs after, in order of execution.

    There is one at the end of each block. A block may be a residual one, a single layer with its activation, or
    a chain that people draw as one: an inverted bottleneck, a depthwise and a 1x1 convolution (the depthwise one
    alone mixes no channels and costs next to nothing). Of the last layer's result before and after elementwise
    functions and layout changes one form is chosen: the last, but before any Reshape or Transpose of a tensor
    with height and width, whose channels are worth keeping apart.

    Args:
        model: The float graph after the passes; its nodes are in topological order.
        inside_blocks: List every single-tensor cut. Points have the same names either way.

    Returns:
        The points, ``input`` first (if the model has one input). What would leave nothing for the cloud is no
        point.
    """
    nodes = list(model.graph)
    position = {node: index for index, node in enumerate(nodes)}
    macs = [0]
    for node in nodes:
        macs.append(macs[-1] + (graph.known_macs(node)))
    cuts = [cut for group in groups(model) for cut in _cuts(group)]
    names = _names(cuts, ModulePaths(nodes))
    points = []
    for cut in cuts:
        if cut.inside and not inside_blocks:
            continue
        producer = cut.value.producer()
        index = position[producer] + 1 if producer is not None else 0
        points.append(
            PartitionPoint(
                name=names[cut.value],
                tensor=cut.value.name or "",
                shape=graph.shape(cut.value),
                bytes=graph.size(cut.value),
                macs_before=macs[index],
                node_index=index,
                kind="features" if index else "raw",
                block=cut.group.kind,
                inside=cut.inside,
            )
        )
    return points


def find_point(points: Sequence[PartitionPoint], name: str) -> PartitionPoint:
    """The point of that name, or at the tensor of that name.

    Raises:
        ClioError: There is none; suggests the closest name.
    """
    found = {**{point.tensor: point for point in points}, **{point.name: point for point in points}}
    if name in found:
        return found[name]
    known = [text for point in points for text in (point.name, point.tensor)]
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean '{close[0]}'?" if close else "'clio-cc inspect MODEL' lists the partition points"
    raise ClioError(f"unknown partition point '{name}'", hint=hint)


def can_travel(value: ir.Value) -> bool:
    """Whether the tensor is one sample of numbers in units: float, (1, units, …)."""
    dims = graph.static_shape(value)
    if value.is_graph_output():  # the cloud would have to hand it back
        return False
    return dims is not None and len(dims) > 1 and dims[0] == 1 and value.dtype == ir.DataType.FLOAT


def _cuts(group: Group) -> list[_Cut]:
    """The cuts of a group in order of execution; at most one is not inside."""
    chosen = _representative([value for value in group.ends if can_travel(value)])
    return [_Cut(value, group, value is not chosen) for value in group.cuts if can_travel(value)]


def _representative(ends: Sequence[ir.Value]) -> ir.Value | None:
    """The cut that stands for the end of its block; the graph input where that is one of the forms."""
    if not ends:
        return None
    chosen = ends[0]
    for value in ends[1:]:
        if chosen.producer() is None or (graph.is_op(value.producer(), *LAYOUT) and _has_plane(chosen)):
            break
        chosen = value
    return chosen


def _has_plane(value: ir.Value) -> bool:
    dims = graph.static_shape(value) or ()
    return len(dims) > 2 and any(d != 1 for d in dims[2:])


def _names(cuts: Sequence[_Cut], paths: ModulePaths) -> dict[ir.Value, str]:
    """Names for all cuts; those at ends of blocks are named first, so that they get the plain ones."""
    names: dict[ir.Value, str] = {}
    taken = set(_RESERVED)
    steps = {step.after: step for cut in cuts for step in cut.group.steps}
    for cut in sorted(cuts, key=lambda cut: cut.inside):
        end = cut.value.producer()
        if end is None:
            names[cut.value] = "input"
            continue
        nodes = steps[cut.value].nodes if cut.inside else cut.group.nodes
        names[cut.value] = graph.fresh_name(paths.name(end, nodes), taken)
        taken.add(names[cut.value])
    return names
