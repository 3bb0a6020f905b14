"""What ``clio-cc inspect`` shows: layers with their cost, and the places to cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import onnx_ir as ir

from clio_cc import graph
from clio_cc.partition import partition_points

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

    It is `runnable` if the device can run everything before it; else `reason` names the first layer it cannot.
    """

    name: str
    tensor: str
    shape: tuple[int, ...]
    bytes: int
    macs_before: int
    kind: str
    runnable: bool
    reason: str


@dataclass(frozen=True)
class Inspection:
    """Layers and partition points in order of execution."""

    layers: tuple[Layer, ...]
    partition_points: tuple[Point, ...]

    def to_json(self) -> dict[str, object]:
        """The object that ``inspect --json`` prints (DESIGN §8)."""
        return {
            "layers": [asdict(layer) for layer in self.layers],
            "partition_points": [asdict(point) for point in self.partition_points],
        }


def inspect_model(model: ir.Model, device_supports: DeviceSupports) -> Inspection:
    """Look at a float graph after the passes.

    Args:
        model: The graph.
        device_supports: Says for a node why the device cannot run it, or nothing.
    """
    layers = tuple(_layer(node, device_supports(node)) for node in model.graph)
    points = []
    for point in partition_points(model):
        reason = _first_reason(layers[: point.node_index])
        points.append(
            Point(
                name=point.name,
                tensor=point.tensor,
                shape=point.shape,
                bytes=point.bytes,
                macs_before=point.macs_before,
                kind=point.kind,
                runnable=not reason,
                reason=reason,
            )
        )
    return Inspection(layers, tuple(points))


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


def _first_reason(layers: Sequence[Layer]) -> str:
    stop = next((layer for layer in layers if not layer.device), None)
    return f"layer '{stop.name}' ({stop.op}): {stop.reason}" if stop is not None else ""
