"""Whose time an operator's time is: the operators of a Program, given back to the layers of the float graph.

Operators are named after the last node that was fused into them, ``Conv+Relu`` after the Relu. Their time is the first
node's, which carries the work. What no layer stands for counts for the operator that reads it: a Transpose between two
layouts, rows cut out for a band. Where nobody reads it, it counts for what it comes from. So the layers' sum is the
operators' sum.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from clio_cc import graph
from clio_cc.operators.base import Operator
from clio_cc.program import Program

_BAND = re.compile(r" band \d+$")  # as clio_cc.bands names the pieces of an operator


@dataclass(frozen=True)
class Attribution:
    """Attributes:
    owners: For every operator of the Program, in order, the row of the profile that its time belongs to.
    fused: Layer → the layer that it is computed with, for those that have no operator of their own.
    computed: Layers that the Program computes, in order; those without an owner and not fused cost nothing.
    """

    owners: tuple[str, ...]
    fused: Mapping[str, str]
    computed: tuple[str, ...]

    @property
    def rows(self) -> tuple[str, ...]:
        """Rows that time is spent in, in order of execution, each once."""
        return tuple(dict.fromkeys(self.owners))

    def sums(self, spent: Sequence[int]) -> dict[str, int]:
        """Add up what was counted per operator, by row."""
        total = dict.fromkeys(self.rows, 0)
        for owner, count in zip(self.owners, spent, strict=True):
            total[owner] += count
        return total


def attribute(
    program: Program, model: ir.Model, encoders: Collection[str] = (), last: Collection[str] = ()
) -> Attribution:
    """Find the layer of every operator.

    Args:
        model: The float graph that the Program was made from.
        encoders: Rows of their own beside the layers, ``<point>/units``.
        last: Layers that the device reaches in any case: the last ones before the partition points.
    """
    nodes = {str(node.name): node for node in model.graph}
    own = [_own_row(op.name, {*nodes, *encoders}) for op in program.operators]
    fused: dict[str, str] = {}
    for op, row in zip(program.operators, own, strict=True):
        if row in nodes:
            first, *others = _fused_nodes(nodes[row], op.kind.count("+"))
            fused.update(dict.fromkeys(others, first))
    owners = [row if row is None else fused.get(row, row) for row in own]
    fallback = next(iter(nodes), "")
    reached = {*own, *last}
    end = max((number for number, name in enumerate(nodes, 1) if name in reached), default=0)
    return Attribution(_filled(program.operators, owners, fallback), fused, tuple(nodes)[:end])


def _own_row(name: str, rows: Collection[str]) -> str | None:
    while name not in rows:
        shorter = _BAND.sub("", name)
        if shorter == name:
            return None
        name = shorter
    return name


def _fused_nodes(last: ir.Node, more: int) -> list[str]:
    """Names of the nodes that end in `last`, from the first on: each is the only reader of the one before it."""
    chain = [last]
    for _ in range(more):
        inputs = graph.data_inputs(chain[0])
        before = graph.producer(inputs[0]) if inputs else None
        if before is None:
            break
        chain.insert(0, before)
    return [str(node.name) for node in chain]


def _filled(operators: Sequence[Operator], owners: Sequence[str | None], fallback: str) -> tuple[str, ...]:
    """Give the operators that no layer stands for to their reader, or else to what they come from."""
    read_by: dict[str, str] = {}
    found = list(owners)
    for index, op in reversed(list(enumerate(operators))):
        owner = found[index] = found[index] or read_by.get(op.output.name)
        if owner is not None:
            read_by.update(
                (tensor.name, owner) for tensor in op.inputs
            )  # the first reader, as the last one is seen first
    made_by: dict[str, str] = {}
    filled = []
    for op, owner in zip(operators, found, strict=True):
        filled.append(owner or made_by.get(op.inputs[0].name, fallback))
        made_by[op.output.name] = filled[-1]
    return tuple(filled)
