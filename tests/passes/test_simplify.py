"""name-nodes, fold-constants, remove-noops, normalize-arithmetic, normalize-clip, fuse-activations."""

from __future__ import annotations

import numpy as np
import pytest
from graph_text import assert_lines, check_passes, ops, parse

from clio_cc import graph
from clio_cc.passes.fold_constants import FoldConstants
from clio_cc.passes.fuse_activations import FuseActivations
from clio_cc.passes.name_nodes import NameNodes
from clio_cc.passes.normalize_arithmetic import NormalizeArithmetic
from clio_cc.passes.normalize_clip import NormalizeClip
from clio_cc.passes.remove_noops import RemoveNoops


def test_names_come_from_outputs_and_are_unique() -> None:
    model = parse(
        'm (float[1,4] x) => (float[1,4] y) { a = Relu(x)  ["same"] b = Abs(a)  ["same"] y = Neg(b) }'
    )
    assert NameNodes()(model).modified
    assert [node.name for node in model.graph] == ["a", "same", "same_2"]


def test_names_that_are_fine_stay() -> None:
    check_passes(
        ('m (float[1,4] x) => (float[1,4] y) { ["one"] a = Relu(x)  ["two"] y = Neg(a) }'),
        NameNodes(),
        modified=False,
    )


def test_constants_become_initializers_and_are_computed() -> None:
    model = check_passes(
        "m (float[1,4] x, float[4] w) => (float[1,4] y)"
        "{ c = Constant <value = float[4] {1,2,3,4}> ()  s = Mul(w, c)  i = Identity(s)  y = Add(x, i) }",
        FoldConstants(),
    )
    assert_lines(model, "y = Add(x, i)")
    assert list(model.graph.initializers) == ["i"]


def test_constant_folding_is_bounded() -> None:
    text = (
        "m (float[1,4] x) => (float[2,4] y) <int64[2] s = {2,4}, float[1,4] c = "
        "{1,2,3,4}> { e = Expand(c, s) y = Add(x, e) }"
    )
    check_passes(text, FoldConstants(most_elements=7), modified=False)
    check_passes(text, FoldConstants(most_elements=8))


def test_random_constants_are_not_folded() -> None:
    text = (
        "m (float[1,4] x) => (float[1,4] y) { r = RandomUniform <shape=[1,4], low=0.0, "
        "high=0.0> () y = Add(x, r) }"
    )
    check_passes(text, FoldConstants(), modified=False)


@pytest.mark.parametrize(
    "body",
    [
        "a = Relu(x)  b = Identity(a)  y = Neg(b)",
        "a = Relu(x)  b, mask = Dropout(a)  y = Neg(b)",
        "a = Relu(x)  b = Reshape(a, same)  y = Neg(b)",
        "a = Relu(x)  b = Expand(a, same)  y = Neg(b)",
        "a = Relu(x)  b = Transpose <perm=[0,1,2,3]> (a)  y = Neg(b)",
        "a = Relu(x)  b = Cast <to=1> (a)  y = Neg(b)",
        "a = Relu(x)  b = Pad(a, zeros)  y = Neg(b)",
        "a = Relu(x)  b = Slice(a, start, end)  y = Neg(b)",
        "a = Relu(x)  b = Concat <axis=1> (a)  y = Neg(b)",
        "a = Relu(x)  b = MaxPool <kernel_shape=[1,1], strides=[1,1]> (a)  y = Neg(b)",
        "a = Relu(x)  b = Add(zero, a)  y = Neg(b)",
        "a = Relu(x)  b = Mul(a, one)  y = Neg(b)",
        "a = Relu(x)  b = Relu(a)  y = Neg(b)",
    ],
)
def test_noops_are_removed(body: str) -> None:
    constants = (
        "<int64[4] same = {1,2,3,4}, int64[8] zeros = {0,0,0,0,0,0,0,0}, int64[4] start = {0,0,0,0}, "
        "int64[4] end = {9,9,9,9}, float zero = {0}, float[1] one = {1}>"
    )
    model = check_passes(
        (f"m (float[1,2,3,4] x) => (float[1,2,3,4] y) {constants} {{ {body} }}"), RemoveNoops()
    )
    assert_lines(model, "a = Relu(x)\ny = Neg(a)")


@pytest.mark.parametrize(
    "body",
    [
        "a = Reshape(x, other)  y = Neg(a)",  # another shape
        "a = Transpose <perm=[0,1,3,2]> (x)  y = Neg(a)",
        "a = Slice(x, last, before, axis, back)  y = Neg(a)",  # the same shape, backwards
        "a = Add(x, wide)  y = Neg(a)",  # zeros, but they make it larger
        "y = Identity(x)",  # both names are the caller's
    ],
)
def test_what_is_not_a_noop_stays(body: str) -> None:
    constants = (
        "<int64[4] other = {1,3,2,2}, int64[1] last = {-1}, int64[1] before = {-9}, int64[1] axis = {3}, "
        "int64[1] back = {-1}, float[2,1,1,1] wide = {0,0}>"
    )
    check_passes(
        (f"m (float[1,2,3,2] x) => (float[n,a,b,c] y) {constants} {{ {body} }}"),
        RemoveNoops(),
        modified=False,
    )


def test_the_name_of_an_output_is_kept() -> None:
    model = check_passes("m (float[1,4] x) => (float[1,4] y) { a = Relu(x)  y = Identity(a) }", RemoveNoops())
    assert_lines(model, "y = Relu(x)")


def test_two_names_for_one_output_stay() -> None:
    text = "m (float[1,4] x) => (float[1,4] a, float[1,4] y) { a = Relu(x)  y = Identity(a) }"
    check_passes(text, RemoveNoops(), modified=False)


def test_arithmetic_has_one_spelling() -> None:
    model = check_passes(
        "m (float[1,4] x, float[1,4] x2) => (float[1,4] y) <float[4] c = {1,2,4,8}>"
        "{ a = Sub(x, c)  b = Div(a, c)  d = Sum(a, b, x2)  y = Softmax(d) }",
        NormalizeArithmetic(),
    )
    assert_lines(
        model,
        """
        a = Add(x, c_negated)
        b = Mul(a, c_inverse)
        _sum = Add(a, b)
        d = Add(_sum, x2)
        y = Softmax(d) axis=1
        """,
    )


def test_arithmetic_that_has_no_other_spelling_stays() -> None:
    text = (
        "m (float[1,4] x, float[1,4] x2) => (float[1,4] y) <float z = {0}> { a = Sub(x, "
        "x2) b = Div(z, a) y = Div(b, x2) }"
    )
    check_passes(text, NormalizeArithmetic(), modified=False)


def test_transpose_says_its_order() -> None:
    model = check_passes("m (float[1,2,3] x) => (float[3,2,1] y) { y = Transpose(x) }", NormalizeArithmetic())
    assert_lines(model, "y = Transpose(x) perm=[2, 1, 0]")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("y = Max(x, zero)", "y = Relu(x)"),
        ("y = Max(zero, x)", "y = Relu(x)"),
        ("y = Clip(x, zero)", "y = Relu(x)"),
        ("y = Clip(x, zero, huge)", "y = Relu(x)"),
        ("a = Max(x, zero)  y = Min(a, six)", "y = Clip(x, y_min, y_max)"),
        ("a = Relu(x)  y = Clip(a, zero, six)", "y = Clip(x, y_min, y_max)"),
        ("a = Clip(x, zero, six)  y = Relu(a)", "y = Clip(x, y_min, y_max)"),
        ("y = Clip(x, vector, six)", "y = Clip(x, y_min, y_max)"),
        ("a = Neg(x)  b = Clip(a)  y = Abs(b)", "a = Neg(x)\ny = Abs(a)"),
    ],
)
def test_limits_have_one_form(body: str, expected: str) -> None:
    constants = (
        "<float zero = {0}, float six = {6}, float huge = {3.4028234663852886e38}, float[1] vector = {0}>"
    )
    model = check_passes(
        f"m (float[1,4] x) => (float[1,4] y) {constants} {{ {body} }}", NameNodes(), NormalizeClip()
    )
    assert_lines(model, expected)
    for node in model.graph:
        if node.op_type == "Clip":
            assert [graph.static_shape(value) for value in node.inputs[1:]] == [(), ()]
            assert [graph.scalar(value) for value in node.inputs[1:]] == [0.0, 6.0]


def test_limits_that_others_read_are_not_merged() -> None:
    text = (
        "m (float[1,4] x) => (float[1,4] y) <float z = {0}, float s = {6}> { a = Relu(x) "
        "b = Clip(a, z, s) y = Sub(a, b) }"
    )
    model = check_passes(text, NormalizeClip(), modified=False)
    assert ops(model) == "Relu Clip Sub"


def test_integers_are_left_alone() -> None:
    text = (
        "m (float[1,4] x) => (float[1,4] y) <int32 z = {0}> { a = Cast<to=6>(x) b = "
        "Max(a, z) y = Cast<to=1>(b) }"
    )
    check_passes(text, NormalizeClip(), modified=False)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("a = Add(x, three)  b = Clip(a, zero, six)  y = Div(b, six)", "HardSigmoid"),
        ("a = Add(three, x)  b = Clip(a, zero, six)  c = Mul(x, b)  y = Div(c, six)", "HardSwish"),
        ("a = Add(x, three)  b = Clip(a, zero, six)  c = Div(b, six)  y = Mul(c, x)", "HardSwish"),
        ("a = HardSigmoid <alpha=0.16666667, beta=0.5> (x)  y = Mul(x, a)", "HardSwish"),
        ("a = Div(x, root)  b = Erf(a)  c = Add(b, one)  d = Mul(x, c)  y = Mul(d, half)", "Gelu"),
        ("h = Mul(x, half)  a = Div(x, root)  b = Erf(a)  c = Add(one, b)  y = Mul(h, c)", "Gelu"),
    ],
)
def test_activations_are_put_together(body: str, expected: str) -> None:
    constants = (
        "<float zero = {0}, float one = {1}, float half = {0.5}, float root = "
        "{1.41421356}, float three = {3}, float six = {6}>"
    )
    model = check_passes(
        f"m (float[1,4] x) => (float[1,4] y) {constants} {{ {body} }}",
        NormalizeArithmetic(),
        FuseActivations(),
    )
    assert ops(model) == expected


@pytest.mark.parametrize(
    "body",
    [
        "a = HardSigmoid (x)  y = Mul(x, a)",  # alpha is 0.2 by default
        "a = Add(x, three)  b = Clip(a, zero, six)  c = Mul(x2, b)  y = Mul(c, sixth)",  # of another tensor
        "a = Sigmoid(x)  b = Mul(x, a)  y = Mul(b, sixth)",
    ],
)
def test_what_only_looks_like_an_activation_stays(body: str) -> None:
    constants = (
        f"<float zero = {{0}}, float three = {{3}}, float six = {{6}}, float sixth = {{{np.float32(1 / 6)}}}>"
    )
    text = (
        f"m (float[1,4] x, float[1,4] x2) => (float[1,4] y, float[1,4] z) {constants} {{ "
        f"{body} z = Neg(x2) }}"
    )
    check_passes(text, FuseActivations(), modified=False)
