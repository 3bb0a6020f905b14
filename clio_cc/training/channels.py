"""Which channels can only be removed together, and the graph without some of them.

Strands of channels that meet in an Add (see :mod:`clio_cc.training.rows`) are one group: removing a channel of it
means the same slice wherever the channel is written, filtered and read.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from clio_cc import graph
from clio_cc.errors import ClioError
from clio_cc.training.rows import Row, Rows, Until, WeightedNode, placed, walk

Kept = Mapping[str, Sequence[int]]
"""Channels that stay, ascending, by the name of their group; of a group that is not listed all stay."""
_Indices = NDArray[np.intp]


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that can only be removed together: channel i at index i of axis 1 of each of the tensors.

    Attributes:
        name: The first of `tensors`.
        channels: How many there are.
        tensors: What the writers write.
        writers: Conv and Gemm nodes whose output axis they are.
        carriers: Depthwise Conv nodes that filter each of them.
        readers: Conv and Gemm nodes whose input axis they are; behind a Flatten a channel is height × width columns.
        passes: Nodes that hand them on: elementwise functions, Add, Mul, pools, Pad, Reshape, Concat.
    """

    name: str
    channels: int
    tensors: tuple[str, ...]
    writers: tuple[str, ...]
    carriers: tuple[str, ...]
    readers: tuple[str, ...]
    passes: tuple[str, ...]


def channel_groups(model: ir.Model, until: Until = None, *, cut: bool = False) -> tuple[ChannelGroup, ...]:
    """Return the groups whose channels may be removed, in order of execution.

    Args:
        model: The canonical float graph; not changed.
        until: Only groups that are written before the tensor of this name, or before any of several: the device's trunk.
        cut: Whether groups that cross the cut itself are among them; their channels are what is sent.

    Raises:
        ClioError: there is no tensor of that name.
    """
    rows = walk(model)
    return groups_of(rows, rows.fixed_by(until, cut))


def groups_of(rows: Rows, fixed: Collection[str] = ()) -> tuple[ChannelGroup, ...]:
    """Return the groups of free strands; as :func:`channel_groups` for a graph walked over already."""
    return tuple(_group(rows, set(strands)) for strands in rows.free(fixed))


def _group(rows: Rows, strands: Collection[str]) -> ChannelGroup:
    def holds(row: Row | None) -> bool:
        return any(piece.strand in strands for piece in row or ())

    def names(nodes: Iterable[WeightedNode]) -> tuple[str, ...]:
        return tuple(str(each.node.name) for each in nodes)

    writers = [each for each in rows.writers if holds(each.writes)]
    tensors = tuple(each.writes[0].strand for each in writers)
    return ChannelGroup(
        name=tensors[0],
        channels=writers[0].writes[0].channels,
        tensors=tensors,
        writers=names(writers),
        carriers=names(each for each in rows.weighted if each.reads is None and holds(each.writes)),
        readers=names(each for each in rows.writers if holds(each.reads)),
        passes=tuple(str(node.name) for node in rows.passes if holds(rows.rows[node.outputs[0]])),
    )


def remove_channels(model: ir.Model, kept: Kept) -> ir.Model:
    """Return the graph without the channels that are not kept: a new canonical graph with the same names.

    Args:
        model: The canonical float graph; not changed.
        kept: As :func:`clio_cc.training.pruning.prune` and ``thin`` return it.

    Raises:
        ClioError: there is no such group, or it has no such channels.
    """
    smaller = model.clone()
    rows = walk(smaller)
    removal = _Removal(rows, _checked(rows, kept))
    # Shapes first: the other two look at them.
    removal.set_shapes()
    removal.slice_weights()
    removal.slice_constants()
    return smaller


def _checked(rows: Rows, kept: Kept) -> dict[str, _Indices]:
    """Return the channels that stay by strand."""
    groups = {group.name: group for group in groups_of(rows)}
    found: dict[str, _Indices] = {}
    for name, indices in kept.items():
        if name not in groups:
            raise ClioError(f"'{name}' is not the name of channels that can be removed")
        channels, chosen = groups[name].channels, np.asarray(indices, np.intp)
        inside = chosen.size > 0 and chosen[0] >= 0 and chosen[-1] < channels
        if not inside or (np.diff(chosen) <= 0).any():
            message = f"the channels of '{name}' that stay must be some of 0 to {channels - 1}, ascending"
            raise ClioError(message)
        found |= dict.fromkeys(groups[name].tensors, chosen)
    return found


@dataclass(frozen=True, eq=False)
class _Removal:
    """One removal from the graph that `rows` were made of, in place; `kept` by strand."""

    rows: Rows
    kept: Mapping[str, _Indices]

    def staying(self, row: Row) -> _Indices | None:
        """Return which elements of axis 1 stay; None for all."""
        if not any(piece.strand in self.kept for piece in row):
            return None
        parts = []
        for piece, place in placed(row):
            chosen = self.kept.get(piece.strand, np.arange(piece.channels))
            parts.append((place.start + chosen[:, None] * piece.span + np.arange(piece.span)).reshape(-1))
        return np.concatenate(parts)

    def set_shapes(self) -> None:
        for value, row in self.rows.rows.items():
            indices = self.staying(row)
            if indices is not None:
                dims = graph.shape(value)
                value.shape = ir.Shape((dims[0], len(indices), *dims[2:]))

    def slice_weights(self) -> None:
        for each in self.rows.weighted:
            node, written = each.node, self.staying(each.writes)
            read = self.staying(each.reads) if each.reads is not None else None
            if written is not None:
                _slice(node, 1, 0, written)
                _slice(node, 2, 0, written)
            if read is not None:
                _slice(node, 1, 1, read)
            if each.reads is None:
                graph.set_attr(node, "group", graph.shape(node.inputs[0])[1])

    def slice_constants(self) -> None:
        """What nodes without weights hold per channel, and the shapes that Reshapes are given."""
        for node in self.rows.passes:
            indices = self.staying(self.rows.rows[node.outputs[0]])
            if indices is None:
                continue
            if graph.is_op(node, "Reshape"):
                _set_constant(node, 1, np.asarray(graph.shape(node.outputs[0]), np.int64))
            elif graph.is_op(node, *graph.BROADCASTING):
                _slice_operands(node, indices)


def _slice_operands(node: ir.Node, indices: _Indices) -> None:
    rank = len(graph.shape(node.outputs[0]))
    for index, value in enumerate(node.inputs):
        if graph.is_constant(value):
            dims = graph.shape(value)
            axis = 1 - (rank - len(dims))
            if axis >= 0 and dims[axis] > 1:
                _slice(node, index, axis, indices)


def _slice(node: ir.Node, index: int, axis: int, indices: _Indices) -> None:
    array = graph.constant(graph.input_at(node, index))
    if array is not None:
        _set_constant(node, index, np.take(array, indices, axis))


def _set_constant(node: ir.Node, index: int, array: graph.Array) -> None:
    """Give a node another constant, under the old one's name unless somebody else reads that."""
    value = graph.required_input(node, index)
    if len(value.uses()) > 1:
        node.replace_input_with(index, graph.add_constant(graph.graph_of(node), str(value.name), array))
        return
    value.const_value = ir.tensor(np.ascontiguousarray(array), name=value.name)
    value.shape = ir.Shape(array.shape)
