"""Constants become initializers, and what depends only on constants is computed now.

    c = Constant <value>            →    initializer c
    y = Mul(initializer, c)         →    initializer y

onnxsim has done most of this already; later passes make new constants, and Constant nodes have no place on a
device.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from clio_cc import graph

logger = logging.getLogger(__name__)

# What the evaluator raises, its own or numpy's, where it has no kernel for a node: the node then simply
# stays.
_REFUSALS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
# Random ones are not functions of their inputs; quantized ones must stay visible to whoever reads the graph.
_KEEP = frozenset(
    (
        "RandomNormal RandomUniform RandomNormalLike RandomUniformLike Bernoulli Multinomial DequantizeLinear"
    ).split()
)


@dataclass(frozen=True)
class FoldConstants(ir.passes.InPlacePass):
    """Compute what is constant, unless the result has more than `most_elements` elements (Expand)."""

    name: str = "fold-constants"
    most_elements: int = 1 << 22

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass on the main graph."""
        opset = model.graph.opset_imports[""]
        return ir.passes.PassResult(
            model, graph.rewrite(model, lambda node: fold(node, opset, self.most_elements))
        )


def fold(node: ir.Node, opset: int, most_elements: int) -> bool:
    """Replace one node with constant inputs by initializers; False if it must stay."""
    if node.domain != "" or node.op_type in _KEEP or any(graph.data_inputs(node)):
        return False
    if any(
        attr.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for attr in node.attributes.values()
    ):
        return False
    if any(out.is_graph_output() for out in node.outputs):  # an output must be computed by a node
        return False
    arrays = _evaluate(node, opset)
    if arrays is None or sum(array.size for array in arrays) > most_elements:
        logger.debug("%s: not folded", graph.where(node))
        return False
    owner = graph.graph_of(node)
    for out, array in zip(node.outputs, arrays, strict=False):
        name, out.name = out.name, None
        out.replace_all_uses_with(graph.add_constant(owner, name or "constant", array))
    owner.remove(node, safe=True)
    return True


def _evaluate(node: ir.Node, opset: int) -> list[graph.Array] | None:
    """Outputs of a node on its constant inputs, None where the reference evaluator cannot compute them."""
    proto = ir.to_proto(node)
    assert isinstance(proto, onnx.NodeProto)
    feeds = {value.name or "": graph.constant(value) for value in node.inputs if value is not None}
    inputs = [onnx.helper.make_value_info(name, onnx.TypeProto()) for name in feeds]
    outputs = [onnx.helper.make_value_info(out.name or "", onnx.TypeProto()) for out in node.outputs]
    model = onnx.helper.make_model(
        onnx.helper.make_graph([proto], "constant", inputs, outputs),
        opset_imports=[onnx.helper.make_opsetid("", opset)],
    )
    try:
        results = ReferenceEvaluator(model).run(None, feeds)
    except _REFUSALS as error:
        logger.debug("%s: %s", graph.where(node), error)
        return None
    return (
        [np.asarray(result) for result in results]
        if all(isinstance(r, np.ndarray | np.generic) for r in results)
        else None
    )
