"""Cuts at several tensors, for networks where every single-tensor cut is expensive: found as minimum cuts.

Where a network branches, no single tensor separates what runs before from what runs after, but a few together
do; in an inception module they can be smaller than the tensors before and behind it, and a network with two
inputs or long skip connections (U-Net) may have no other cut at all. For each operator in a branched block the
smallest set of tensors is sought with that operator on the device: a minimum cut (Hu et al., DADS, INFOCOM 2019)
whose capacities are bytes. A tensor counts once however many operators read it; an operator on the device needs
all that it reads there, which edges of infinite capacity against the flow see to.

Such cuts are listed, not compiled.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import networkx as nx
import onnx_ir as ir

from clio_cc import graph
from clio_cc.blocks import Step, reads, steps
from clio_cc.partition import PartitionPoint, can_travel, partition_points
from clio_cc.point_names import ModulePaths, clean_name

_DEVICE, _CLOUD = "device", "cloud"


@dataclass(frozen=True)
class MultiCut:
    """Several tensors that together separate what runs before from what runs after.

    Attributes:
        name: The names of what writes them, joined by ``+``.
        tensors: Their names in the float graph, in order of execution.
        bytes: Bytes that travel if all of them are sent as int8, batch 1.
        macs_before: Multiply-accumulates on the device's side.
    """

    name: str
    tensors: tuple[str, ...]
    bytes: int
    macs_before: int


def multi_tensor_cuts(model: ir.Model) -> list[MultiCut]:
    """The cuts at two or more tensors that are worth it, in order of the device's share.

    Worth it: no cut at one tensor (the raw input and those inside blocks included) and no other of these sends
    as few bytes with as little work on the device.

    Args:
        model: The float graph after the passes.
    """
    paths = ModulePaths(list(model.graph))
    before, found = 0, []
    for step in steps(model):
        if len(step.nodes) > 1:
            for device in _device_sides(step):
                found.append(_cut(step, device, before, paths))
        before += sum(map(graph.known_macs, step.nodes))
    return _undominated(found, partition_points(model, inside_blocks=True))


def _device_sides(step: Step) -> Iterator[frozenset[ir.Node]]:
    """For each operator that costs something, the device's side of the smallest cut behind it."""
    network = _network(step)
    seen = set()
    for node in step.nodes:
        if graph.known_macs(node) or not any(map(graph.known_macs, step.nodes)):
            side = _smallest(network, node)
            if side and side not in seen:
                seen.add(side)
                yield side


def _smallest(network: nx.DiGraph, node: ir.Node) -> frozenset[ir.Node]:
    """The operators on the device in the smallest cut that has `node` there; of equal ones the one with fewest."""
    forced = network.copy()
    forced.add_edge(_DEVICE, node)
    try:
        # networkx makes the side of the source as large as it can be: against the flow that is the cloud's.
        _, (_, device) = nx.minimum_cut(forced.reverse(copy=False), _CLOUD, _DEVICE)
    except nx.NetworkXUnbounded:  # what it computes cannot travel, or is an output
        return frozenset()
    return frozenset(each for each in device if isinstance(each, ir.Node))


def _network(step: Step) -> nx.DiGraph:
    """Operators and the tensors that they write or that enter; an edge without a capacity cannot be cut."""
    network = nx.DiGraph()
    network.add_nodes_from((_DEVICE, _CLOUD))
    for value, node in _inner_reads(step):
        producer = value.producer() if value is not step.before else None
        network.add_edge(value, node)
        network.add_edge(producer or _DEVICE, value, **_capacity(value))
        if producer is not None:
            network.add_edge(node, producer)
    for node in step.nodes:
        if any(value.is_graph_output() or value is step.after for value in node.outputs):
            network.add_edge(node, _CLOUD)
    return network


def _inner_reads(step: Step) -> Iterator[tuple[ir.Value, ir.Node]]:
    """What the operators of a step read of each other and of what enters, but no constants."""
    inside = set(step.nodes)
    for node in step.nodes:
        for value in reads(node):
            if value is step.before or value.is_graph_input() or value.producer() in inside:
                yield value, node


def _capacity(value: ir.Value) -> dict[str, int]:
    return {"capacity": graph.size(value)} if can_travel(value) else {}


def _cut(step: Step, device: frozenset[ir.Node], macs_before: int, paths: ModulePaths) -> MultiCut:
    crossing = dict.fromkeys(
        value
        for value, node in _inner_reads(step)
        if node not in device and (value is step.before or value.producer() in {None, *device})
    )
    ends = [value.producer() for value in crossing]
    labels = [
        paths.name(end, (end,)) if end is not None else clean_name(value.name or "")
        for value, end in zip(crossing, ends, strict=True)
    ]
    return MultiCut(
        "+".join(labels),
        tuple(value.name or "" for value in crossing),
        sum(graph.size(value) for value in crossing),
        macs_before + sum(graph.known_macs(node) for node in device),
    )


def _undominated(found: Sequence[MultiCut], points: Sequence[PartitionPoint]) -> list[MultiCut]:
    """Those that no point and no other one beats in bytes at the same or less work on the device."""
    kept: list[MultiCut] = []
    for cut in sorted(found, key=lambda cut: (cut.macs_before, cut.bytes)):
        rivals: list[MultiCut | PartitionPoint] = [*points, *kept]
        if not any(r.macs_before <= cut.macs_before and r.bytes <= cut.bytes for r in rivals):
            kept.append(cut)
    return kept
