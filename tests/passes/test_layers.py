"""canonicalize-windows, fold-pad, convert-to-gemm, lower-batchnorm, fold-scale-bias,
convert-scale-to-depthwise.
"""

from __future__ import annotations

import onnx_ir as ir
import pytest
from graph_text import assert_lines, check_passes, ops

from clio_cc import graph
from clio_cc.passes.canonicalize_windows import CanonicalizeWindows
from clio_cc.passes.convert_scale_to_depthwise import ConvertScaleToDepthwise
from clio_cc.passes.convert_to_gemm import ConvertToGemm
from clio_cc.passes.fold_pad import FoldPad
from clio_cc.passes.fold_scale_bias import FoldScaleBias
from clio_cc.passes.lower_batchnorm import LowerBatchnorm
from clio_cc.passes.name_nodes import NameNodes

CANONICAL = (NameNodes(), CanonicalizeWindows())
LAYERS = (NameNodes(), CanonicalizeWindows(), ConvertToGemm(), LowerBatchnorm(), FoldScaleBias())


def node(model: ir.Model, op_type: str) -> ir.Node:
    return next(node for node in model.graph if node.op_type == op_type)


# --- canonicalize-windows -------------------------------------------------------------------------


def test_conv_says_everything() -> None:
    model = check_passes(
        ("m (float[1,2,5,7] x, float[3,2,3,1] w) => (float[1,3,3,7] y) { y = Conv(x, w) }"), *CANONICAL
    )
    assert_lines(
        model,
        (
            "y = Conv(x, w, y_bias) dilations=[1, 1], group=1, kernel_shape=[3, 1], pads=[0, "
            "0, 0, 0], strides=[1, 1]"
        ),
    )


@pytest.mark.parametrize(
    ("attributes", "pads"),
    [
        ('auto_pad="SAME_UPPER", strides=[2,2]', (0, 1, 1, 1)),
        ('auto_pad="SAME_LOWER", strides=[2,2]', (1, 1, 0, 1)),
        ('auto_pad="VALID"', (0, 0, 0, 0)),
        ("pads=[1,0,2,1]", (1, 0, 2, 1)),
    ],
)
def test_auto_pad_is_resolved(attributes: str, pads: tuple[int, ...]) -> None:
    text = (
        f"m (float[1,2,6,7] x, float[3,2,3,3] w) => (float[1,3,a,b] y) {{ y = Conv <{attributes}> (x, w) }}"
    )
    conv = node(check_passes(text, *CANONICAL), "Conv")
    assert graph.ints_attr(conv, "pads") == pads
    assert "auto_pad" not in conv.attributes


@pytest.mark.parametrize(
    ("op", "attributes", "pads", "ceil"),
    [
        ("MaxPool", "kernel_shape=[3,3], strides=[2,2], ceil_mode=1", (0, 0, 1, 0), 0),
        ("AveragePool", "kernel_shape=[3,3], strides=[2,2], ceil_mode=1", (0, 0, 1, 0), 0),
        ("AveragePool", "kernel_shape=[2,2], strides=[1,1], ceil_mode=1", (0, 0, 0, 0), 0),
        ("AveragePool", 'kernel_shape=[3,3], strides=[2,2], auto_pad="SAME_UPPER"', (0, 1, 1, 1), 0),
    ],
)
def test_pools(op: str, attributes: str, pads: tuple[int, ...], ceil: int) -> None:
    text = f"m (float[1,2,6,7] x) => (float[1,2,a,b] y) {{ y = {op} <{attributes}> (x) }}"
    pool = node(check_passes(text, *CANONICAL), op)
    assert graph.ints_attr(pool, "pads") == pads
    assert graph.int_attr(pool, "ceil_mode", -1) == ceil


def test_ceil_mode_that_counts_padding_stays() -> None:
    attributes = "kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1], count_include_pad=1, ceil_mode=1"
    text = f"m (float[1,2,6,7] x) => (float[1,2,a,b] y) {{ y = AveragePool <{attributes}> (x) }}"
    assert graph.int_attr(node(check_passes(text, *CANONICAL), "AveragePool"), "ceil_mode") == 1


def test_padding_that_is_not_there_is_not_counted() -> None:
    text = (
        "m (float[1,2,6,7] x) => (float[1,2,a,b] y) { y = AveragePool "
        "<kernel_shape=[2,2], count_include_pad=1> (x) }"
    )
    assert graph.int_attr(node(check_passes(text, *CANONICAL), "AveragePool"), "count_include_pad", -1) == 0


# --- fold-pad -------------------------------------------------------------------------------------

PADS = (
    "<int64[8] pads = {0,0,1,0,0,0,2,1}, int64[4] plane = {1,0,2,1}, int64[2] axes = {2,-1}, "
    "float low = {-3.4028235e38}, float zero = {0}, float one = {1}, int64[8] deep = {0,1,0,0,0,0,0,0}, "
    "int64[8] crop = {0,0,-1,0,0,0,0,0}>"
)


@pytest.mark.parametrize(
    ("body", "pads"),
    [
        ("p = Pad(x, pads)  y = Conv(p, w)", (1, 0, 2, 1)),
        ("p = Pad(x, pads, zero)  y = Conv(p, w)", (1, 0, 2, 1)),
        ("p = Pad(x, plane, zero, axes)  y = Conv <pads=[1,1,0,0]> (p, w)", (2, 1, 2, 1)),
        ("p = Pad(x, pads)  y = AveragePool <kernel_shape=[3,3]> (p)", (1, 0, 2, 1)),
        ("p = Pad(x, pads, low)  y = MaxPool <kernel_shape=[3,3]> (p)", (1, 0, 2, 1)),
        ("r = Relu(x)  p = Pad(r, pads)  y = MaxPool <kernel_shape=[3,3]> (p)", (1, 0, 2, 1)),
    ],
)
def test_pad_is_folded(body: str, pads: tuple[int, ...]) -> None:
    text = f"m (float[1,2,6,7] x, float[2,2,3,3] w) => (float[1,2,a,b] y) {PADS} {{ {body} }}"
    model = check_passes(text, *CANONICAL, FoldPad())
    assert "Pad" not in ops(model).split()
    assert graph.ints_attr(list(model.graph)[-1], "pads") == pads


@pytest.mark.parametrize(
    "body",
    [
        "p = Pad(x, pads, one)  y = Conv(p, w)",  # not zeros
        'p = Pad <mode="reflect"> (x, pads)  y = Conv(p, w)',
        "p = Pad(x, crop)  y = Conv(p, w)",
        "p = Pad(x, deep)  y = MaxPool <kernel_shape=[3,3]> (p)",  # channels
        "p = Pad(x, pads)  y = MaxPool <kernel_shape=[3,3]> (p)",  # zeros may win over negative numbers
        "p = Pad(x, pads)  y = AveragePool <kernel_shape=[2,2]> (p)",  # a window would see padding only
        "p = Pad(x, pads)  y = AveragePool <kernel_shape=[3,3], pads=[0,0,1,1]> (p)",  # some padding counts
    ],
)
def test_pad_stays_where_folding_is_not_exact(body: str) -> None:
    text = f"m (float[1,2,6,7] x, float[2,2,3,3] w) => (float[1,c,a,b] y) {PADS} {{ {body} }}"
    assert "Pad" in ops(check_passes(text, *CANONICAL, FoldPad())).split()


# --- convert-to-gemm ------------------------------------------------------------------------------

GEMM = "alpha=1.0, beta=1.0, transA=0, transB=1"


@pytest.mark.parametrize(
    "body",
    [
        "y = MatMul(x, w)",
        "a = MatMul(x, w)  y = Add(a, b)",
        "a = MatMul(x, w)  y = Add(b, a)",
        "y = Gemm(x, w, b)",
        "y = Gemm <transB=1> (x, v, b)",
        "y = Gemm <alpha=0.5, beta=2.0> (x, w, b)",
        "y = Gemm <alpha=0.5> (x, w)",
        "y = Gemm <beta=2.0> (x, w, row)",
        "y = Gemm(x, w, one)",
        "a = Gemm(x, w)  y = Mul(a, b)",
        "a = Mul(x, k)  y = MatMul(a, w)",
        "a = Add(x, k)  y = MatMul(a, w)",
    ],
)
def test_fully_connected_layers_have_one_form(body: str) -> None:
    declared = (
        "float[1,4] x, float[4,3] w, float[3,4] v, float[3] b, float[1,3] row, float[1] one, float[4] k"
    )
    model = check_passes(f"m ({declared}) => (float[1,3] y) {{ {body} }}", *LAYERS)
    gemm = node(model, "Gemm")
    assert ops(model) == "Gemm"
    assert [graph.static_shape(value) for value in gemm.inputs] == [(1, 4), (3, 4), (3,)]
    assert {name: attr.value for name, attr in gemm.attributes.items()} == {
        "alpha": 1.0,
        "beta": 1.0,
        "transA": 0,
        "transB": 1,
    }


@pytest.mark.parametrize(
    "body",
    [
        "y = MatMul(x3, w)",
        "y = MatMul(x, x2)",
        "y = Gemm <transA=1> (x2, w)",
        "a = Relu(x)  y = Gemm(x, w, a)",
    ],
)
def test_what_is_no_layer_stays(body: str) -> None:
    declared = "float[1,4] x, float[4,4] x2, float[1,5,4] x3, float[4,4] w"
    text = f"m ({declared}) => (float[a,b] y) {{ {body} }}"
    rank = "[a,b,c]" if "x3, w" in body else "[a,b]"
    check_passes(text.replace("[a,b]", rank), ConvertToGemm(), modified=False)


# --- lower-batchnorm, fold-scale-bias, convert-scale-to-depthwise ---------------------------------

DECLARED = (
    "float[1,4,5,6] x, float[4,4,3,3] w, float[4,1,3,3] dw, float[4,2,1,1] gw, float[4] b, float[4] s, "
    "float[4] o, float[4] mu, float[4] var, float[4,1,1] c, float[1,4,1,1] d, float[1] k, float[4,5,6] full"
)


@pytest.mark.parametrize(
    "body",
    [
        "a = Conv(x, w)  y = BatchNormalization(a, s, o, mu, var)",
        "a = Conv(x, w, b)  y = BatchNormalization <epsilon=0.01> (a, s, o, mu, var)",
        "a = Conv <group=4> (x, dw, b)  y = BatchNormalization(a, s, o, mu, var)",
        "a = Conv(x, w)  e = BatchNormalization(a, s, o, mu, var)  f = Mul(e, c)  y = Add(f, d)",
        "a = Conv(x, w)  e = Add(a, c)  y = BatchNormalization(e, s, o, mu, var)",
        "a = Conv(x, w)  y = Mul(k, a)",
        "a = Conv(x, w)  y = Add(a, k)",
        "a = Mul(x, k)  y = Conv <pads=[1,1,1,1]> (a, w)",
        "a = Mul(c, x)  y = Conv <pads=[1,1,1,1]> (a, w)",
        "a = Mul(x, d)  y = Conv <group=4> (a, dw)",
        "a = Mul(x, d)  y = Conv <group=2> (a, gw)",
        "a = BatchNormalization(x, s, o, mu, var)  y = Conv(a, w)",
        "a = BatchNormalization(x, s, o, mu, var)  y = Conv <group=2> (a, gw)",
    ],
)
def test_scale_and_bias_are_folded(body: str) -> None:
    model = check_passes(f"m ({DECLARED}) => (float[1,4,e,f] y) {{ {body} }}", *LAYERS)
    assert ops(model) == "Conv"
    assert model.graph[0].outputs[0].name == "y"


def test_batchnorm_behind_gemm() -> None:
    declared = "float[1,5] x, float[4,5] w, float[4] s, float[4] o, float[4] mu, float[4] var"
    body = "a = Gemm <transB=1> (x, w)  y = BatchNormalization(a, s, o, mu, var)"
    assert ops(check_passes(f"m ({declared}) => (float[1,4] y) {{ {body} }}", *LAYERS)) == "Gemm"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("a = BatchNormalization(x, s, o, mu, var)  y = Conv <pads=[1,1,1,1]> (a, w)", "Add Conv"),  # padding
        ("a = Conv(x, w)  e = Mul(a, k)  y = Add(e, a)", "Conv Mul Add"),  # the Conv is read twice
        ("a = Conv <pads=[1,1,1,1]> (x, w)  y = Add(a, full)", "Conv Add"),  # not per channel
    ],
)
def test_what_cannot_be_folded_stays(body: str, expected: str) -> None:
    model = check_passes(f"m ({DECLARED}) => (float[1,4,e,f] y) {{ {body} }}", *LAYERS)
    assert ops(model).replace("Mul Add Conv", "Add Conv") == expected


def test_batchnorm_alone_becomes_depthwise() -> None:
    body = "a = Relu(x)  e = BatchNormalization(a, s, o, mu, var)  y = Relu(e)"
    model = check_passes(
        (f"m ({DECLARED}) => (float[1,4,5,6] y) {{ {body} }}"), *LAYERS, ConvertScaleToDepthwise()
    )
    assert ops(model) == "Relu Conv Relu"
    conv = node(model, "Conv")
    assert graph.int_attr(conv, "group") == 4
    assert [graph.static_shape(value) for value in conv.inputs] == [(1, 4, 5, 6), (4, 1, 1, 1), (4,)]


def test_batchnorm_of_one_channel_becomes_a_conv() -> None:
    declared = "float[1,1,5,6] x, float[1] s, float[1] o, float[1] mu, float[1] var"
    text = f"m ({declared}) => (float[1,1,5,6] y) {{ y = BatchNormalization(x, s, o, mu, var) }}"
    assert ops(check_passes(text, *LAYERS, ConvertScaleToDepthwise())) == "Conv"


@pytest.mark.parametrize(
    ("declared", "body", "expected"),
    [
        ("float[1,4] x, float[4] b", "a = BatchNormalization(x, b, b, b, var)  y = Relu(a)", "Mul Add Relu"),
        ("float[1,4,2,2] x, float[1] b", "a = Mul(x, b)  y = Add(a, b)", "Mul Add"),  # two scalars
    ],
)
def test_scales_that_stay(declared: str, body: str, expected: str) -> None:
    rank = "1,4" if "[1,4] x" in declared else "1,4,2,2"
    model = check_passes(
        f"m ({declared}, float[4] var) => (float[{rank}] y) {{ {body} }}", *LAYERS, ConvertScaleToDepthwise()
    )
    assert ops(model) == expected
