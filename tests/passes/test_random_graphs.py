"""Random graphs: whatever the mix, the function stays and every pass keeps its contract."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import numpy as np
import onnx
import onnx_ir as ir
from graph_text import assert_close, random_feeds, run
from hypothesis import given, settings
from onnx import TensorProto, helper, numpy_helper

from clio_cc import graph
from clio_cc.cloud import tail_model
from clio_cc.partition import partition_points
from clio_cc.passes.runner import run_passes

Dims = tuple[int, ...]
LAYOUTS = ([0, 2, 3, 1], [0, 3, 1, 2], [0, 1, 3, 2])


class Maker:
    """Grows a graph of 4-D tensors, one random operator at a time."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.rng = np.random.default_rng(draw(st.integers(0, 99)))
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.tensors: list[tuple[str, Dims]] = []

    def constant(self, array: np.ndarray[tuple[int, ...], np.dtype[np.float32 | np.int64]]) -> str:
        name = f"c{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def random(self, *dims: int) -> str:
        return self.constant(self.rng.standard_normal(dims).astype(np.float32))

    def add(self, op: str, inputs: list[str], dims: Dims, **attributes: Any) -> None:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], **attributes))
        self.tensors.append((name, dims))

    def step(self) -> None:
        """One operator on one of the last tensors."""
        x, dims = self.tensors[self.draw(st.integers(max(0, len(self.tensors) - 3), len(self.tensors) - 1))]
        steps: tuple[Callable[[str, Dims], None], ...] = (
            self.unary,
            self.binary,
            self.scale,
            self.layout,
            self.layout,
            self.conv,
            self.batchnorm,
            self.pad,
            self.pool,
            self.joined,
            self.renamed,
        )
        self.draw(st.sampled_from(steps))(x, dims)

    def unary(self, x: str, dims: Dims) -> None:
        op = self.draw(
            st.sampled_from(["Relu", "Sigmoid", "HardSwish", "Identity", "Clip", "Dropout", "Softmax"])
        )
        limits = [self.constant(np.asarray(v, np.float32)) for v in (0.0, 0.5)] if op == "Clip" else []
        self.add(
            op, [x, *limits], dims, **({"axis": self.draw(st.integers(-3, 3))} if op == "Softmax" else {})
        )

    def binary(self, x: str, dims: Dims) -> None:
        partners = [name for name, other in self.tensors if other == dims]
        self.add(
            self.draw(st.sampled_from(["Add", "Mul", "Sum", "Sub"])),
            [x, self.draw(st.sampled_from(partners))],
            dims,
        )

    def scale(self, x: str, dims: Dims) -> None:
        shape = self.draw(st.sampled_from([(), (1,), (dims[3],), (dims[1], 1, 1), (1, dims[1], 1, 1), dims]))
        operands = [x, self.random(*shape)]
        op = self.draw(st.sampled_from(["Add", "Mul", "Sub", "Div"]))
        self.add(op, operands[::-1] if op in ("Add", "Mul") and self.draw(st.booleans()) else operands, dims)

    def layout(self, x: str, dims: Dims) -> None:
        perm = self.draw(st.sampled_from(LAYOUTS))
        self.add("Transpose", [x], tuple(dims[axis] for axis in perm), perm=perm)

    def conv(self, x: str, dims: Dims) -> None:
        depthwise, pad = self.draw(st.booleans()), self.draw(st.integers(0, 1))
        kernel = 1 if min(dims[2:]) < 3 else self.draw(st.sampled_from([1, 3]))
        rows = dims[1] if depthwise else 2
        out = tuple(size + 2 * pad - kernel + 1 for size in dims[2:])
        weights = self.random(rows, 1 if depthwise else dims[1], kernel, kernel)
        self.add("Conv", [x, weights], (1, rows, *out), group=dims[1] if depthwise else 1, pads=[pad] * 4)

    def batchnorm(self, x: str, dims: Dims) -> None:
        variance = self.constant(self.rng.uniform(0.5, 2, dims[1]).astype(np.float32))
        self.add("BatchNormalization", [x, *(self.random(dims[1]) for _ in range(3)), variance], dims)

    def pad(self, x: str, dims: Dims) -> None:
        pads = np.asarray([0, 0, 0, 1, 0, 0, 1, 1], np.int64)
        self.add("Pad", [x, self.constant(pads)], (*dims[:2], dims[2] + 1, dims[3] + 2))

    def pool(self, x: str, dims: Dims) -> None:
        op = self.draw(st.sampled_from(["MaxPool", "AveragePool"]))
        ceil = self.draw(st.integers(0, 1))
        if min(dims[2:]) < 2:
            return
        out = tuple((size - 2 + ceil) // 2 + 1 for size in dims[2:])
        self.add(op, [x], (*dims[:2], *out), kernel_shape=[2, 2], strides=[2, 2], ceil_mode=ceil)

    def joined(self, x: str, dims: Dims) -> None:
        axis = self.draw(st.integers(1, 3))
        wide = tuple(size * 2 if index == axis else size for index, size in enumerate(dims))
        if max(wide) < 17:
            self.add("Concat", [x, x], wide, axis=axis - 4 if self.draw(st.booleans()) else axis)

    def renamed(self, x: str, dims: Dims) -> None:
        target = self.draw(
            st.sampled_from([(1, dims[1] * dims[2], dims[3], 1), (1, 1, dims[1], dims[2] * dims[3])])
        )
        self.add("Reshape", [x, self.constant(np.asarray([-1, *target[1:]], np.int64))], target)


@st.composite
def models(draw: st.DrawFn) -> ir.Model:
    """A model of up to 12 operators with one 4-D input and one output."""
    maker = Maker(draw)
    maker.tensors.append(
        ("x", (1, draw(st.integers(1, 4)), draw(st.integers(2, 6)), draw(st.integers(2, 6))))
    )
    for _ in range(draw(st.integers(2, 12))):
        maker.step()
    if not maker.nodes:
        maker.unary(*maker.tensors[0])
    x, (y, _) = maker.tensors[0], maker.tensors[-1]
    inputs = [helper.make_tensor_value_info(x[0], TensorProto.FLOAT, x[1])]
    outputs = [helper.make_tensor_value_info(y, TensorProto.FLOAT, [None] * 4)]
    body = helper.make_graph(maker.nodes, "random", inputs, outputs, maker.weights)
    proto = helper.make_model(body, ir_version=10, opset_imports=[helper.make_opsetid("", 21)])
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True))
    graph.remove_unused(model)
    return model


@settings(max_examples=60)
@given(models())
def test_the_function_stays(model: ir.Model) -> None:
    feeds = random_feeds(model)
    wanted = run(graph.to_bytes(model), feeds)
    run_passes(model, check=True)
    assert_close(run(graph.to_bytes(model), feeds), wanted)


@settings(max_examples=20)
@given(models())
def test_cut_anywhere(model: ir.Model) -> None:
    run_passes(model)
    feeds = random_feeds(model)
    wanted = run(graph.to_bytes(model), feeds)
    for point in partition_points(model):
        head = graph.extract(model, ["x"], [point.tensor]) if point.node_index else None
        units = run(graph.to_bytes(head), feeds)[0] if head is not None else feeds["x"]
        proto = tail_model(model, point)
        assert_close(run(proto, {"units": units}), wanted)
        if proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param:
            both = run(proto, {"units": np.concatenate([units * np.float32(0.5), units])})[0]
            assert_close([both[len(both) // 2 :]], wanted)
