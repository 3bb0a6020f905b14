"""Give every node a unique, non-empty name, so that messages, partition points and reports can name it.

    y = Conv(x, w)        →    y: y = Conv(x, w)

A missing name is taken from the first output; a second node of the same name gets `_2` (by position, so
stable across runs).
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from clio_cc import graph


@dataclass(frozen=True)
class NameNodes(ir.passes.InPlacePass):
    """Unique node names."""

    name: str = "name-nodes"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass on the main graph."""
        return ir.passes.PassResult(model, name_nodes(model))


def name_nodes(model: ir.Model) -> bool:
    """Name the nodes; returns whether any name changed."""
    taken: set[str] = set()
    changed = False
    for node in model.graph:
        name = graph.fresh_name(node.name or node.outputs[0].name or node.op_type.lower(), taken)
        taken.add(name)
        if name != node.name:
            node.name = name
            changed = True
    return changed
