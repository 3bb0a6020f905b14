"""The float graph in PyTorch against onnxruntime: every operator, whole networks, parts of them, gradients, refusals."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from digits import CALIBRATION, MODEL
from graph_text import Floats, parse, run
from torch import Tensor

from clio_cc import graph
from clio_cc.batch import any_batch
from clio_cc.calibrate import load_samples
from clio_cc.compiler import front_end
from clio_cc.errors import ClioError
from clio_cc.partition import partition_points
from clio_cc.training.torch_graph import (
    TorchGraph,
    check_trainable,
    trainable_operators,
    with_weights,
)


def image(operators: str, random: str = "", fixed: str = "", rank: int = 4) -> str:
    """A graph of an image, with constants of random contents and such as are spelled out."""
    return f"m (float[1,4,9,8] x{random}) => (float[{','.join('abcd'[:rank])}] y) <{fixed}> {{ {operators} }}"


def flat(operators: str, random: str = "") -> str:
    return f"m (float[1,6] x{random}) => (float[a,b] y) {{ {operators} }}"


WEIGHT, DEPTHWISE = ", float[6,4,3,3] w, float[6] b", ", float[4,1,3,3] w, float[4] b"
CHANNEL = ", float[4,1,1] w"
OPERATORS = {
    "Add": [
        image("y = Add (x, w)", CHANNEL),
        image("y = Add (w, x)", CHANNEL),
        image("a = Relu (x) y = Add (a, x)"),
        flat("y = Add (x, w)", ", float[6] w"),
    ],
    "AveragePool": [
        image("y = AveragePool <kernel_shape: ints = [2, 3], strides: ints = [2, 1]> (x)"),
        image("y = AveragePool <kernel_shape: ints = [3, 3], pads: ints = [1, 0, 0, 2]> (x)"),
        image(
            "y = AveragePool <kernel_shape: ints = [3, 3], pads: ints = [1, 2, 2, 1], strides: ints = [2, 2], "
            "count_include_pad: int = 1> (x)"
        ),
    ],
    "Clip": [
        image("y = Clip (x, l, h)", fixed="float l = {-0.5}, float h = {1.5}"),
        image("y = Clip (x, , h)", fixed="float h = {0.25}"),
        image("y = Clip (x, l)", fixed="float l = {0.25}"),
        image("y = Clip (x)"),
    ],
    "Concat": [
        image("a = Relu (x) y = Concat <axis: int = 1> (a, x, a)"),
        image("a = Relu (x) y = Concat <axis: int = -1> (a, x)"),
        image("a = Relu (x) y = Concat <axis: int = 2> (a, x)"),
    ],
    "Conv": [
        image("y = Conv (x, w)", WEIGHT),
        image("y = Conv <pads: ints = [1, 1, 1, 1], strides: ints = [2, 2]> (x, w, b)", WEIGHT),
        image("y = Conv <pads: ints = [0, 1, 2, 0], strides: ints = [1, 3]> (x, w, b)", WEIGHT),
        image("y = Conv <pads: ints = [1, 0, 1, 0]> (x, w, b)", WEIGHT),
        image("y = Conv <dilations: ints = [2, 1], pads: ints = [2, 1, 2, 1]> (x, w, b)", WEIGHT),
        image("y = Conv <group: int = 4, pads: ints = [1, 1, 1, 1]> (x, w, b)", DEPTHWISE),
        image(
            "y = Conv <group: int = 2, dilations: ints = [1, 2]> (x, w, b)", ", float[6,2,3,2] w, float[6] b"
        ),
        image("y = Conv (x, w, b)", ", float[1,4,1,1] w, float[1] b"),
    ],
    "Div": [
        image("y = Div (x, var)", ", float[4,1,1] var"),
        image("a = Softplus (x) b = Sigmoid (a) y = Div (x, b)"),
    ],
    "Elu": [image("y = Elu (x)"), image("y = Elu <alpha: float = 0.3> (x)")],
    "Gemm": [
        flat("y = Gemm (x, w)", ", float[6,5] w"),
        flat("y = Gemm (x, w, b)", ", float[6,5] w, float[5] b"),
        flat(
            "y = Gemm <transB: int = 1, alpha: float = 0.5, beta: float = 2.0> (x, w, b)",
            ", float[5,6] w, float[1,5] b",
        ),
        flat("y = Gemm <transB: int = 1> (x, w, b)", ", float[1,6] w, float[1] b"),
    ],
    "GlobalAveragePool": [image("y = GlobalAveragePool (x)")],
    "GlobalMaxPool": [image("y = GlobalMaxPool (x)")],
    "HardSigmoid": [
        image("y = HardSigmoid (x)"),
        image("y = HardSigmoid <alpha: float = 0.5, beta: float = 0.1> (x)"),
    ],
    "HardSwish": [image("y = HardSwish (x)")],
    "Identity": [image("y = Identity (x)")],
    "LeakyRelu": [image("y = LeakyRelu (x)"), image("y = LeakyRelu <alpha: float = 0.3> (x)")],
    "LogSoftmax": [flat("y = LogSoftmax (x)"), image("y = LogSoftmax <axis: int = 1> (x)")],
    "MatMul": [
        flat("y = MatMul (x, w)", ", float[6,5] w"),
        image("y = MatMul (x, w)", ", float[8,5] w"),
    ],
    "MaxPool": [
        image("y = MaxPool <kernel_shape: ints = [2, 3], strides: ints = [2, 1]> (x)"),
        image("y = MaxPool <kernel_shape: ints = [3, 3], pads: ints = [1, 0, 0, 2]> (x)"),
        image(
            "y = MaxPool <kernel_shape: ints = [2, 2], dilations: ints = [3, 2], pads: ints = [1, 1, 1, 1]> (x)"
        ),
    ],
    "Mul": [image("y = Mul (x, w)", CHANNEL), image("a = Sigmoid (x) y = Mul (x, a)")],
    "PRelu": [image("y = PRelu (x, w)", CHANNEL), flat("y = PRelu (x, w)", ", float[1] w")],
    "Pad": [
        image("y = Pad (x, p)", fixed="int64[8] p = {0, 0, 1, 0, 0, 0, 2, 3}"),
        image(
            'y = Pad <mode: string = "constant"> (x, p, f)',
            fixed="int64[8] p = {0, 1, 0, 0, 0, 2, 0, 1}, float f = {-1.5}",
        ),
    ],
    "ReduceMax": [
        image("y = ReduceMax (x, a)", fixed="int64[2] a = {2, 3}"),
        image("y = ReduceMax <keepdims: int = 0> (x, a)", fixed="int64[1] a = {1}", rank=3),
    ],
    "ReduceMean": [
        image("y = ReduceMean (x, a)", fixed="int64[2] a = {-1, 2}"),
        image("y = ReduceMean <keepdims: int = 0> (x, a)", fixed="int64[2] a = {2, 3}", rank=2),
    ],
    "ReduceSum": [
        image("y = ReduceSum (x, a)", fixed="int64[1] a = {3}"),
        image("y = ReduceSum <keepdims: int = 0> (x, a)", fixed="int64[1] a = {-2}", rank=3),
    ],
    "Relu": [image("y = Relu (x)")],
    "Reshape": [
        image("y = Reshape (x, s)", fixed="int64[2] s = {1, -1}", rank=2),
        image("y = Reshape (x, s)", fixed="int64[4] s = {0, 2, -1, 4}"),
    ],
    "Selu": [image("y = Selu (x)"), image("y = Selu <alpha: float = 0.5, gamma: float = 2.0> (x)")],
    "Sigmoid": [image("y = Sigmoid (x)")],
    "Softmax": [flat("y = Softmax (x)"), image("y = Softmax <axis: int = 1> (x)")],
    "Softplus": [image("y = Softplus (x)")],
    "Sub": [image("y = Sub (x, w)", CHANNEL), image("y = Sub (w, x)", CHANNEL)],
    "Tanh": [image("y = Tanh (x)")],
    "Transpose": [image("y = Transpose <perm: ints = [0, 2, 3, 1]> (x)")],
}
CASES = [
    pytest.param(text, id=f"{name}{number}")
    for name, texts in OPERATORS.items()
    for number, text in enumerate(texts)
]


def inputs(model: ir.Model, samples: int = 3, seed: int = 0) -> dict[str, Floats]:
    """Several samples, although the graph says one."""
    rng = np.random.default_rng(seed)
    return {
        str(value.name): 2 * rng.standard_normal((samples, *graph.shape(value)[1:])).astype(np.float32)
        for value in model.graph.inputs
    }


def tensors(feeds: Mapping[str, Floats]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(x) for name, x in feeds.items()}


def assert_near(got: Tensor, wanted: Floats, relative: float = 1e-5) -> None:
    found = got.detach().numpy()
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=relative, atol=relative * float(np.abs(wanted).max()))


# --- operators -----------------------------------------------------------------------------------------


def test_every_operator_has_a_case() -> None:
    assert sorted(OPERATORS) == list(trainable_operators())


@pytest.mark.parametrize("text", CASES)
def test_operator(text: str) -> None:
    model = parse(text)
    feeds = inputs(model)
    [wanted] = run(any_batch(model.clone()), feeds)
    assert len(wanted) == 3
    assert_near(TorchGraph(model).run(tensors(feeds), "y"), wanted)


# --- whole networks, and parts of them -----------------------------------------------------------------


@pytest.fixture(scope="module")
def digits() -> ir.Model:
    return front_end(MODEL)


@pytest.fixture(scope="module")
def samples(digits: ir.Model) -> Mapping[str, Floats]:
    return load_samples(digits, CALIBRATION, most=32).inputs


def test_digits(digits: ir.Model, samples: Mapping[str, Floats]) -> None:
    network = TorchGraph(digits)
    [wanted] = run(any_batch(digits.clone()), samples)
    assert_near(network.run(tensors(samples), network.outputs[0]), wanted)


@pytest.mark.parametrize(
    "name", ["resnet8_cifar10", "dscnn_kws", "mobilenetv1_025_vww96", "mobilenetv2_imagenette96"]
)
def test_networks_of_all_kinds(name: str, shared: Path) -> None:
    model = front_end(shared / f"data/models/{name}.onnx")
    network, feeds = TorchGraph(model), inputs(model)
    [wanted] = run(any_batch(model.clone()), feeds)
    with torch.no_grad():
        assert_near(network.run(tensors(feeds), network.outputs[0]), wanted)


def test_going_on_from_a_tensor_is_running_whole(digits: ir.Model, samples: Mapping[str, Floats]) -> None:
    network, feeds = TorchGraph(digits), tensors(samples)
    [output] = network.outputs
    whole = network.run(feeds, output)
    points = partition_points(digits)
    assert len(points) > 3
    for point in points:
        middle = network.run(feeds, point.tensor)
        assert middle.shape[1:] == point.shape[1:]
        torch.testing.assert_close(network.run({point.tensor: middle}, output), whole, rtol=0, atol=0)
        torch.testing.assert_close(network.run({point.tensor: middle}, point.tensor), middle, rtol=0, atol=0)


def test_what_lies_before_given_tensors_is_not_computed() -> None:
    """One of two branches is given: the other is computed from the input."""
    network = TorchGraph(
        parse("m (float[1,6] x) => (float[a,b] y) { p = Relu (x) q = Tanh (p) r = Elu (p) y = Sub (q, r) }")
    )
    x, q = torch.randn(2, 6), torch.randn(2, 6)
    assert torch.equal(network.run({"x": x, "q": q}, "y"), q - x.relu())
    given = {"q": q, "r": x}
    assert torch.equal(network.run(given, "y"), q - x)
    assert list(given) == ["q", "r"]  # the caller's own stays as it was


def test_model_is_not_changed(digits: ir.Model) -> None:
    before = graph.to_bytes(digits)
    network = TorchGraph(digits)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    assert graph.to_bytes(digits) == before


# --- weights -------------------------------------------------------------------------------------------


def names(model: ir.Model) -> tuple[list[str], list[str], list[str]]:
    nodes = list(model.graph)
    return (
        [str(node.name) for node in nodes],
        [str(value.name) for node in nodes for value in node.outputs],
        sorted(map(str, model.graph.initializers)),
    )


def test_weights_go_back_under_their_names(digits: ir.Model, samples: Mapping[str, Floats]) -> None:
    network = TorchGraph(digits)
    same = with_weights(digits, network.trained())
    assert names(same) == names(digits)
    assert graph.to_bytes(same) == graph.to_bytes(digits)


def test_changed_weights_are_those_of_the_model(digits: ir.Model, samples: Mapping[str, Floats]) -> None:
    network = TorchGraph(digits)
    before = graph.to_bytes(digits)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1 + 0.1 * torch.randn_like(parameter))
    changed = with_weights(digits, network.trained())
    assert names(changed) == names(digits)
    assert graph.to_bytes(digits) == before
    [wanted] = run(any_batch(changed.clone()), samples)
    assert_near(network.run(tensors(samples), network.outputs[0]), wanted)


def test_trained_is_a_copy(digits: ir.Model) -> None:
    network = TorchGraph(digits)
    name, value = next(iter(network.trained().items()))
    value[:] = 7
    assert not np.array_equal(network.trained()[name], value)
    assert np.array_equal(network.trained()[name], network.weight(name).detach().numpy())


def test_gradients_reach_every_parameter(digits: ir.Model, samples: Mapping[str, Floats]) -> None:
    network = TorchGraph(digits)
    layers = [node for node in digits.graph if graph.is_op(node, "Conv", "Gemm")]
    weights = {str(graph.required_input(node, place).name) for node in layers for place in (1, 2)}
    assert network.trained().keys() == weights
    network.run(tensors(samples), network.outputs[0]).square().sum().backward()
    for name in network.trained():
        slope = network.weight(name).grad
        assert slope is not None and slope.abs().max() > 0, name


def test_weights_are_trained_and_bounds_are_not() -> None:
    """Layers of one output are trained, too; a number that only scales is not."""
    network = TorchGraph(
        parse(
            "m (float[1,6] x, float[1,6] w, float[1] b, float[6] s, float[6] p) => (float[a,b] y) "
            "<float[1] two = {2.0}, float low = {0.0}> "
            "{ c = Clip (x, low) d = Mul (two, c) e = Add (s, d) f = PRelu (e, p) y = Gemm <transB: int = 1> (f, w, b) }"
        )
    )
    assert list(network.trained()) == ["s", "p", "w", "b"]
    network.run({"x": torch.randn(4, 6)}, "y").sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


class Recorder:
    """A rounding that notes what it is asked for, doubles weights and adds 1 to one tensor."""

    def __init__(self) -> None:
        self.nodes: list[tuple[str, bool]] = []
        self.tensors: list[str] = []

    def weights(self, node: str, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        self.nodes.append((node, bias is None))
        return weight * 2, bias

    def values(self, tensor: str, x: Tensor) -> Tensor:
        self.tensors.append(tensor)
        return x + 1 if tensor == "a" else x


def test_rounding_sees_weights_of_layers_and_all_tensors() -> None:
    model = parse(
        "m (float[1,6] x, float[6,6] w, float[6] b, float[6] s) => (float[a,b] y) "
        "{ a = Gemm <transB: int = 1> (x, w, b) c = Mul (a, s) y = Gemm <transB: int = 1> (c, w) }"
    )
    for place, node in enumerate(model.graph):
        node.name = f"n{place}"
    network, rounding, x = TorchGraph(model), Recorder(), torch.randn(2, 6)
    found = network.run({"x": x}, "y", rounding)
    w, b, s = (network.weight(name) for name in "wbs")
    torch.testing.assert_close(found, (x @ (2 * w).T + b + 1) * s @ (2 * w).T)
    assert rounding.nodes == [("n0", False), ("n2", True)]
    assert rounding.tensors == ["a", "c", "y"]


# --- refusals ------------------------------------------------------------------------------------------

HINT = "compile this network without training, or replace what cannot be trained"
TRANSFORMER = "is an operator of transformers, which cannot be trained here"
APART = "an operator does not treat each sample of a batch on its own: this network cannot be trained"


def refusal(model: ir.Model) -> ClioError:
    with pytest.raises(ClioError) as caught:
        TorchGraph(model)
    return caught.value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            flat("y = LayerNormalization (x, w)", ", float[6] w"),
            f"node 'y' (LayerNormalization): LayerNormalization {TRANSFORMER}",
        ),
        (
            "m (float[1,4,6] x) => (float[a,b,c] y) { t = Transpose <perm: ints = [0, 2, 1]> (x) y = MatMul (x, t) }",
            f"node 'y' (MatMul): MatMul {TRANSFORMER}",
        ),
        (
            image("y = Gather <axis: int = 1> (x, i)", fixed="int64[2] i = {0, 2}"),
            f"node 'y' (Gather): Gather {TRANSFORMER}",
        ),
        (
            "m (float[1,4,6] x, float[1,8,6] w, float[1,8,2] r) => (float[a,b,c,d] y, float[a,b,c] h) "
            "{ y, h = LSTM <hidden_size: int = 2> (x, w, r) }",
            "node 'y' (LSTM): LSTM cannot be trained: it has no counterpart in PyTorch here",
        ),
        (
            flat("y = Erf (x)"),
            "node 'y' (Erf): Erf cannot be trained: it has no counterpart in PyTorch here",
        ),
        (
            "m (float[1,4,9,8] x) => (float[a,b,c,d] y, int64[a,b,c,d] i) "
            "{ y, i = MaxPool <kernel_shape: ints = [2, 2]> (x) }",
            "node 'y' (MaxPool): MaxPool with several outputs cannot be trained",
        ),
        (
            "m (float[1,4,9] x, float[6,4,3] w) => (float[a,b,c] y) { y = Conv (x, w) }",
            "node 'y' (Conv): Conv over a tensor of 2 axes cannot be trained, only over images",
        ),
        (
            "m (float[1,4,9,9,9] x) => (float[a,b,c,d,e] y) { y = GlobalMaxPool (x) }",
            "node 'y' (GlobalMaxPool): GlobalMaxPool over a tensor of 4 axes cannot be trained, only over images",
        ),
        (
            image(
                "y = MaxPool <kernel_shape: ints = [2, 2], strides: ints = [2, 2], ceil_mode: int = 1> (x)"
            ),
            "node 'y' (MaxPool): MaxPool that rounds sizes up cannot be trained",
        ),
        (
            image("y = AveragePool <kernel_shape: ints = [2, 2], dilations: ints = [1, 2]> (x)"),
            "node 'y' (AveragePool): AveragePool with gaps in its window cannot be trained",
        ),
        (
            image('y = Pad <mode: string = "edge"> (x, p)', fixed="int64[8] p = {0, 0, 1, 0, 0, 0, 2, 3}"),
            "node 'y' (Pad): Pad with anything but a constant cannot be trained",
        ),
        (
            flat("a = Erf (x) y = Sign (a)"),
            "node 'a' (Erf): Erf cannot be trained: it has no counterpart in PyTorch here\n"
            "  node 'y' (Sign): Sign cannot be trained: it has no counterpart in PyTorch here",
        ),
    ],
)
def test_refused_operators(text: str, message: str) -> None:
    model = parse(text)
    for node in model.graph:
        node.name = node.outputs[0].name
    error = refusal(model)
    assert (error.message, error.where, error.hint) == (message, "", HINT)


def test_operators_of_other_domains_are_called_by_them() -> None:
    model = parse(flat("y = Relu (x)"))
    model.graph[0].domain, model.graph[0].name = "com.microsoft", "y"
    assert refusal(model).message == (
        "node 'y' (Relu): com.microsoft.Relu cannot be trained: it has no counterpart in PyTorch here"
    )


@pytest.mark.parametrize(
    "text",
    [
        image("y = Softmax <axis: int = 0> (x)"),
        image("y = Transpose <perm: ints = [1, 0, 2, 3]> (x)"),
        image("y = ReduceMean <keepdims: int = 0> (x, a)", fixed="int64[1] a = {0}", rank=3),
        image("y = Reshape (x, s)", fixed="int64[4] s = {2, 2, 9, 8}"),
        image("a = Relu (x) y = Concat <axis: int = 0> (a, x)"),
        image("y = Pad (x, p)", fixed="int64[8] p = {1, 0, 0, 0, 0, 0, 0, 0}"),
    ],
)
def test_operators_that_mix_samples(text: str) -> None:
    error = refusal(parse(text))
    assert (error.message, error.where, error.hint) == (APART, "", "")


def test_transformer(shared: Path) -> None:
    model = front_end(shared / "data/models_structure/transformer_kws.onnx")
    error = refusal(model)
    refused = {line.split("(")[1].split(")")[0] for line in error.message.splitlines()[:10]}
    assert {"LayerNormalization", "MatMul"} <= refused
    assert TRANSFORMER in error.message and error.hint == HINT
    before = graph.to_bytes(model)
    with pytest.raises(ClioError):
        check_trainable(model.clone().graph)
    assert graph.to_bytes(model) == before
