"""Operators' time given back to layers: fused ones, vanished ones, those that no layer stands for, bands of rows."""

from __future__ import annotations

import numpy as np
from graph_text import parse
from hypothesis import given
from hypothesis import strategies as st
from test_bands import random_chain

from clio_cc.attribution import Attribution, attribute
from clio_cc.bands import Chain, in_bands
from clio_cc.lower import lower
from clio_cc.operators.base import Operator, Tensor
from clio_cc.operators.movement import Reshape
from clio_cc.passes.runner import run_passes
from clio_cc.program import Program


def op(name: str, kind: str, reads: str, writes: str) -> Operator:
    """An operator by its names; only names count here."""
    return Reshape(name=name, kind=kind, inputs=(Tensor(reads, (1,), 1.0),), output=Tensor(writes, (1,), 1.0))


def program(*operators: Operator) -> Program:
    first = operators[0].inputs[0]
    return Program((first,), operators, (operators[-1].output.name,))


GRAPH = parse("""m (float[1,4,8,8] x, float[4,4,1,1] w1, float[4,4,1,1] w2) => (float[1,4,8,8] y) {
  a = Conv (x, w1)
  b = Relu (a)
  c = Clip (b)
  d = Conv (c, w2)
  e = Relu (d)
  f = Transpose <perm = [0, 1, 3, 2]> (e)
  y = Sigmoid (f)
}""")
for node, name in zip(
    GRAPH.graph, ("conv1", "relu1", "clip1", "conv2", "relu2", "turn", "last"), strict=True
):
    node.name = name


def test_fused_nodes_count_for_the_first() -> None:
    found = attribute(
        program(op("clip1", "Conv+Relu+Clip", "x", "c"), op("relu2", "Conv+Relu", "c", "e")), GRAPH
    )
    assert found.owners == ("conv1", "conv2")
    assert found.fused == {"relu1": "conv1", "clip1": "conv1", "relu2": "conv2"}
    assert found.computed == ("conv1", "relu1", "clip1", "conv2", "relu2")
    assert found.sums([100, 20]) == {"conv1": 100, "conv2": 20}


def test_what_is_fused_elsewhere_is_not_fused_here() -> None:
    """A point behind conv1 keeps its Relu apart."""
    found = attribute(program(op("conv1", "Conv", "x", "a"), op("clip1", "Relu+Clip", "a", "c")), GRAPH)
    assert found.owners == ("conv1", "relu1") and found.fused == {"clip1": "relu1"}


def test_operators_without_a_layer_count_for_their_reader() -> None:
    found = attribute(
        program(
            op("x_as_231", "Transpose", "x", "x_as_231"),
            op("x_as_231_again", "Reshape", "x_as_231", "x_again"),
            op("relu2", "Conv+Relu", "x_again", "e"),
            op("p/units", "Conv", "e", "units"),
            op("e_as_123", "Transpose", "e", "out"),
        ),
        GRAPH,
        encoders=["p/units"],
        last=["relu2", "turn"],
    )
    # The last one is an output that nobody reads: it counts for what it comes from.
    assert found.owners == ("conv2", "conv2", "conv2", "p/units", "conv2")
    assert found.rows == ("conv2", "p/units")
    assert found.computed[-1] == "turn"


def test_pieces_of_bands_count_for_their_layer() -> None:
    found = attribute(
        program(
            op("x band 0 of e", "RowSlice", "x", "x band 0 of e"),
            op("clip1 band 0", "Conv+Relu+Clip", "x band 0 of e", "c band 0"),
            op("relu2 band 0", "Conv+Relu", "c band 0", "e band 0"),
            op("relu2 band 1 band 0", "Conv+Relu", "e band 0", "e band 1"),
            op("relu2", "RowStack", "e band 1", "e"),
            op("p/units band 3", "Conv", "e", "units"),
        ),
        GRAPH,
        encoders=["p/units"],
    )
    assert found.owners == ("conv1", "conv1", "conv2", "conv2", "conv2", "p/units")
    assert found.fused == {"relu1": "conv1", "clip1": "conv1", "relu2": "conv2"}


def test_a_lowered_network() -> None:
    """A layout turned for a Reshape, a Relu behind its Conv, functions in one table: names as the compiler makes them."""
    graph = parse("""m (float[1,3,8,8] x, float[4,3,3,3] w1, float[4] b1, float[4,4,1,1] w2) => (float[1,256] y) {
      shape = Constant <value = int64[2] {1, 256}> ()
      c = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
      r = Relu (c)
      d = Conv (r, w2)
      s = Sigmoid (d)
      t = Tanh (s)
      y = Reshape (t, shape)
    }""")
    run_passes(graph)
    layers = lower(graph).layers
    found = attribute(program(*(op(e.name, e.kind, e.inputs[0], e.output) for e in layers)), graph)
    kinds = {str(node.name): node.op_type for node in graph.graph}
    pairs = [(layer.kind, kinds[owner]) for layer, owner in zip(layers, found.owners, strict=True)]
    assert pairs == [
        ("Conv+Relu", "Conv"),
        ("Conv", "Conv"),
        ("Sigmoid+Tanh", "Sigmoid"),
        ("Transpose", "Reshape"),
        ("Reshape", "Reshape"),
    ]
    assert [(kinds[a], kinds[b]) for a, b in found.fused.items()] == [("Relu", "Conv"), ("Tanh", "Sigmoid")]
    assert found.computed == tuple(kinds)


def test_a_program_that_no_layer_stands_for() -> None:
    assert attribute(program(op("x_as_1", "Reshape", "x", "x_as_1")), GRAPH).owners == ("conv1",)
    assert attribute(Program((), (), ()), GRAPH) == Attribution((), {}, ())


@given(st.integers(0, 10**6), st.data())
def test_the_rows_sum_is_the_operators_sum(seed: int, data: st.DataObject) -> None:
    """Random chains in bands, spent a random amount each; every layer has its own work and nothing is lost."""
    whole = random_chain(seed, data.draw(st.integers(2, 5)))
    body = " ".join(f"t{i} = Relu (t{i - 1})" for i in range(len(whole.operators)))
    graph = parse(
        f"m (float[1] x) => (float[1] t{len(whole.operators) - 1}) {{ {body} }}".replace("t-1", "x")
    )
    for node, operator in zip(graph.graph, whole.operators, strict=True):
        node.name = operator.name
    first = data.draw(st.integers(0, len(whole.operators) - 2))
    last = data.draw(st.integers(first + 1, len(whole.operators) - 1))
    cut = in_bands(whole, Chain(first, last, data.draw(st.integers(1, 32))))
    found = attribute(cut, graph)
    spent = np.random.default_rng(seed).integers(0, 10**9, len(cut.operators)).tolist()
    sums = found.sums(spent)
    assert sum(sums.values()) == sum(spent)
    assert list(sums) == [operator.name for operator in whole.operators]
    by_name = {operator.name: 0 for operator in whole.operators}
    for operator, count in zip(cut.operators, spent, strict=True):
        if operator.kind not in ("RowSlice", "RowStack"):
            by_name[operator.name.split(" band ")[0]] += count
    assert all(sums[name] >= by_name[name] for name in by_name)
