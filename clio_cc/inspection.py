"""What ``clio-cc inspect`` shows: layers with their cost, and the places to cut."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import onnx_ir as ir

from clio_cc import graph
from clio_cc.blocks import reads
from clio_cc.partition import PartitionPoint, partition_points

if TYPE_CHECKING:
    from clio_cc.targets import Target

DeviceSupports = Callable[[ir.Node], str]
"""Why the device cannot run a node, as a phrase for people; empty if it can."""


@dataclass(frozen=True)
class Layer:
    """One node.

    Attributes:
        name: The node's name.
        op: ONNX operator.
        shape: Shape of the first output; dimensions that are not known are -1.
        macs: Multiply-accumulates of one inference.
        weight_bytes: Flash for its constants (int8 weights, int32 bias).
        output_bytes: int8 bytes of its outputs, batch 1.
        device: Whether the device can run it.
        reason: Why not; empty if it can.
    """

    name: str
    op: str
    shape: tuple[int, ...]
    macs: int
    weight_bytes: int
    output_bytes: int
    device: bool
    reason: str


@dataclass(frozen=True)
class Point:
    """One partition point, as :class:`clio_cc.partition.PartitionPoint`.

    It is `runnable` if the device can run everything before it and, where a board is known, hold it; else `reason`
    says which layer it cannot run, or what there is no room for.
    """

    name: str
    tensor: str
    shape: tuple[int, ...]
    bytes: int
    macs_before: int
    kind: str
    block: str
    inside: bool
    runnable: bool
    reason: str


@dataclass(frozen=True)
class Several:
    """A cut at several tensors, as :class:`clio_cc.multicut.MultiCut`."""

    name: str
    tensors: tuple[str, ...]
    bytes: int
    macs_before: int
    runnable: bool = False
    reason: str = "clio-cc compiles cuts at one tensor only"


@dataclass(frozen=True)
class Inspection:
    """Layers and partition points in order of execution; `multi_tensor_cuts` is None where nobody asked."""

    layers: tuple[Layer, ...]
    partition_points: tuple[Point, ...]
    multi_tensor_cuts: tuple[Several, ...] | None = None

    def to_json(self) -> dict[str, object]:
        """The object that ``inspect --json`` prints (DESIGN §8)."""
        found: dict[str, object] = {
            "layers": [asdict(layer) for layer in self.layers],
            "partition_points": [asdict(point) for point in self.partition_points],
        }
        if self.multi_tensor_cuts is not None:
            found["multi_tensor_cuts"] = [asdict(cut) for cut in self.multi_tensor_cuts]
        return found


def inspect_model(
    model: ir.Model,
    device_supports: DeviceSupports,
    *,
    target: Target | None = None,
    inside_blocks: bool = False,
    multi: bool = False,
) -> Inspection:
    """Look at a float graph after the passes.

    Args:
        model: The graph.
        device_supports: Says for a node why the device cannot run it, or nothing.
        target: The board that must hold what comes before a point; None to judge by operators alone.
        inside_blocks: List points inside blocks too.
        multi: List cuts at several tensors.
    """
    from clio_cc.holding import reasons_too_large
    from clio_cc.multicut import multi_tensor_cuts

    reasons = {node: device_supports(node) for node in model.graph}
    layers = tuple(_layer(node, reason) for node, reason in reasons.items())
    tensors = {out.name: out for node in model.graph for out in node.outputs}
    found = partition_points(model, inside_blocks)
    stops = {point: _first_reason(_needed(tensors.get(point.tensor)), reasons) for point in found}
    if target is not None:
        runnable = [point for point in found if not stops[point] and point.kind != "raw"]
        stops |= reasons_too_large(model, runnable, target)
    points = tuple(_point(point, stops[point]) for point in found)
    cuts = None
    if multi:
        cuts = tuple(Several(c.name, c.tensors, c.bytes, c.macs_before) for c in multi_tensor_cuts(model))
    return Inspection(layers, points, cuts)


def _layer(node: ir.Node, reason: str) -> Layer:
    outputs = [out for out in node.outputs if out.name]
    known = all(
        graph.static_shape(value) is not None for value in (*node.inputs, *outputs) if value is not None
    )
    dims = node.outputs[0].shape
    return Layer(
        name=node.name or "",
        op=node.op_type,
        shape=tuple(d if isinstance(d, int) else -1 for d in dims) if dims is not None else (),
        macs=graph.macs(node) if known else 0,
        weight_bytes=graph.weight_bytes(node) if known else 0,
        output_bytes=sum(graph.size(out) for out in outputs) if known else 0,
        device=not reason,
        reason=reason,
    )


def _point(point: PartitionPoint, reason: str) -> Point:
    return Point(
        name=point.name,
        tensor=point.tensor,
        shape=point.shape,
        bytes=point.bytes,
        macs_before=point.macs_before,
        kind=point.kind,
        block=point.block,
        inside=point.inside,
        runnable=not reason,
        reason=reason,
    )


def _needed(value: ir.Value | None) -> set[ir.Node]:
    """All nodes that compute a tensor; none for a graph input."""
    found: set[ir.Node] = set()
    waiting = [value]
    while waiting:
        node = graph.producer(waiting.pop())
        if node is not None and node not in found:
            found.add(node)
            waiting.extend(reads(node))
    return found


def _first_reason(needed: Container[ir.Node], reasons: Mapping[ir.Node, str]) -> str:
    """Why the device cannot run the first of the needed nodes that it cannot run."""
    stop = next((node for node, reason in reasons.items() if reason and node in needed), None)
    return f"layer '{stop.name}' ({stop.op_type}): {reasons[stop]}" if stop is not None else ""
