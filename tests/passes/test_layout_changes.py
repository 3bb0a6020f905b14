"""lower-reshapes, move-transposes, lower-means."""

from __future__ import annotations

import pytest
from graph_text import assert_lines, check_passes, ops

from clio_cc import graph
from clio_cc.passes.lower_means import LowerMeans
from clio_cc.passes.lower_reshapes import LowerReshapes, unit_permutation
from clio_cc.passes.move_transposes import MoveTransposes
from clio_cc.passes.name_nodes import NameNodes
from clio_cc.passes.remove_noops import RemoveNoops


@pytest.mark.parametrize(
    ("body", "shape"),
    [
        ("y = Flatten(a)", [1, 12]),
        ("y = Flatten <axis=2> (a)", [3, 4]),
        ("y = Reshape(a, batch)", [1, 12]),
        ("y = Reshape(a, copy)", [1, 3, 4]),
        ("b = Squeeze(a, last)  y = Unsqueeze(b, last)  ", None),
        ("y = Squeeze(a, last)", [1, 3, 4]),
        ("y = Squeeze(a)", [3, 4]),
        ("y = Unsqueeze(a, last)", [1, 3, 4, 1, 1]),
        ("b = Reshape(a, copy)  y = Flatten(b)", [1, 12]),
    ],
)
def test_renamed_dimensions_become_reshape(body: str, shape: list[int] | None) -> None:
    dims = ",".join("abcde"[: len(shape or [1, 3, 4, 1])])
    constants = "<int64[2] batch = {-1,12}, int64[3] copy = {0,-1,4}, int64[1] last = {-1}>"
    model = check_passes(
        f"m (float[1,3,4,1] x) => (float[{dims}] y) {constants} {{ a = Relu(x) {body} }}",
        LowerReshapes(),
        RemoveNoops(),
    )
    if shape is None:
        assert_lines(model, "y = Relu(x)")
        return
    assert ops(model) == "Relu Reshape"
    assert graph.integers(list(model.graph)[-1].inputs[1]) == shape


def test_a_layout_change_that_hides_in_a_reshape() -> None:
    model = check_passes(
        "m (float[1,49,10,1] x) => (float[1,1,49,10] y) <int64[4] s = {-1,1,49,10}> { y = Reshape(x, s) }",
        LowerReshapes(),
    )
    assert_lines(model, "y = Transpose(x) perm=[0, 3, 1, 2]")


@pytest.mark.parametrize(
    ("source", "target", "perm"),
    [
        ((1, 49, 10, 1), (1, 1, 49, 10), [0, 3, 1, 2]),
        ((1, 1, 49, 10), (1, 49, 10, 1), [0, 2, 3, 1]),
        ((1, 64, 1, 1), (1, 1, 1, 64), [0, 2, 3, 1]),
        ((1, 1, 1, 64), (1, 64, 1, 1), [0, 3, 1, 2]),
        ((1, 5, 1, 7), (1, 1, 5, 7), [0, 2, 1, 3]),
        ((1, 4, 4, 2), (1, 2, 4, 4), None),  # moves data
        ((1, 2, 3, 4), (1, 4, 3, 2), None),
        ((1, 12, 1, 1), (1, 3, 4, 1), None),
        ((1, 12), (1, 12, 1, 1), None),
    ],
)
def test_unit_permutation(source: tuple[int, ...], target: tuple[int, ...], perm: list[int] | None) -> None:
    assert unit_permutation(source, target) == perm


NHWC = (
    "<float[3] c = {1,-2,3}, float six = {6}, float zero = {0}, int64[2] plane = "
    "{1,2}, int64[8] pads = {0,1,2,0,0,3,1,0}>"
)


def nhwc(body: str, output: str = "float[1,3,4,5] y") -> str:
    """A model that computes `a` in NCHW, turns it to NHWC `n` and has weights `w` for 3 channels."""
    head = f"m (float[1,3,4,5] x, float[3,3,1,1] w, float[4,5,3] v) => ({output}) {NHWC}"
    return f"{head} {{ a = Conv(x, w) n = Transpose <perm=[0,2,3,1]> (a) {body} }}"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("r = Relu(n)  y = Transpose <perm=[0,3,1,2]> (r)", "Conv Relu"),
        ("r = Clip(n, zero, six)  y = Transpose <perm=[0,3,1,2]> (r)", "Conv Clip"),
        ("r = Add(n, c)  y = Transpose <perm=[0,3,1,2]> (r)", "Conv Add"),
        ("r = Mul(v, n)  y = Transpose <perm=[0,3,1,2]> (r)", "Conv Mul"),
        ("r = Relu(n)  s = Add(r, n)  y = Transpose <perm=[0,3,1,2]> (s)", "Conv Relu Add"),
        ("r = Softmax <axis=3> (n)  y = Transpose <perm=[0,3,1,2]> (r)", "Conv Softmax"),
        ("r = PRelu(n, c)  y = Transpose <perm=[0,3,1,2]> (r)", "Conv PRelu"),
    ],
)
def test_transposes_cancel_across_elementwise_functions(body: str, expected: str) -> None:
    assert ops(check_passes(nhwc(body), NameNodes(), MoveTransposes())) == expected


def test_transposes_cancel_across_concat_and_pad() -> None:
    concat = "r = Relu(n)  s = Concat <axis=3> (r, n)  y = Transpose <perm=[0,3,1,2]> (s)"
    model = check_passes(nhwc(concat, "float[1,6,4,5] y"), NameNodes(), MoveTransposes())
    assert ops(model) == "Conv Relu Concat"
    pad = "r = Pad(n, pads)  y = Transpose <perm=[0,3,1,2]> (r)"
    model = check_passes(nhwc(pad, "float[1,3,8,8] y"), NameNodes(), MoveTransposes())
    assert ops(model) == "Conv Pad"


def test_a_mean_over_the_plane_loses_its_transpose() -> None:
    model = check_passes(
        nhwc("y = ReduceMean <keepdims=0> (n, plane)", "float[1,3] y"),
        NameNodes(),
        MoveTransposes(),
        LowerMeans(),
    )
    assert ops(model) == "Conv GlobalAveragePool Reshape"
    kept = "r = ReduceMean (n, plane)  y = Transpose <perm=[0,3,1,2]> (r)"
    model = check_passes(nhwc(kept, "float[1,3,1,1] y"), NameNodes(), MoveTransposes(), LowerMeans())
    assert ops(model) == "Conv GlobalAveragePool"


def test_a_layout_change_ends_at_the_output() -> None:
    model = check_passes(nhwc("y = Relu(n)", "float[1,4,5,3] y"), NameNodes(), MoveTransposes())
    assert ops(model) == "Conv Relu Transpose"
    assert model.graph.outputs[0].name == "y"


def test_different_layouts_do_not_move() -> None:
    text = """
        m (float[1,4,4,4] x, float[4,4,1,1] w) => (float[1,4,4,4] y) {
            a = Conv(x, w)
            n = Transpose <perm=[0,2,3,1]> (a)
            b = Conv(x, w)
            q = Transpose <perm=[0,3,2,1]> (b)
            y = Add(n, q)
        }
    """
    model = check_passes(text, NameNodes(), MoveTransposes())
    assert ops(model) == "Conv Transpose Conv Transpose Add"


def test_a_transpose_of_an_input_stays_first() -> None:
    text = (
        "m (float[1,4,5,3] x, float[2,3,1,1] w) => (float[1,2,4,5] y)"
        "{ ['t'] t = Transpose <perm=[0,3,1,2]> (x)  ['r'] r = Relu(t)  ['y'] y = Conv(r, w) }"
    ).replace("'", '"')
    check_passes(text, MoveTransposes(), modified=False)


def test_what_belongs_to_an_input_goes_up_to_it() -> None:
    model = check_passes(
        "m (float[1,4,5,3] x, float[2,3,1,1] w, float[3] c) => (float[1,2,4,5] y)"
        "{ s = Mul(x, c)  r = Abs(s)  t = Transpose <perm=[0,3,1,2]> (r)  y = Conv(t, w) }",
        NameNodes(),
        MoveTransposes(),
    )
    assert ops(model) == "Transpose Mul Abs Conv"
    assert graph.static_shape(list(model.graph)[1].inputs[1]) == (1, 3, 1, 1)


def test_reshape_takes_a_transpose_that_moves_no_data() -> None:
    model = check_passes(
        "m (float[1,3,4,5] x) => (float[1,3] y) <int64[2] s = {1,3}>"
        "{ a = GlobalAveragePool(x)  n = Transpose <perm=[0,2,3,1]> (a)  y = Reshape(n, s) }",
        MoveTransposes(),
    )
    assert_lines(model, "a = GlobalAveragePool(x)\ny = Reshape(a, s)")


def test_reshape_of_a_turned_plane_keeps_the_transpose() -> None:
    text = (
        "m (float[1,3,4,5] x) => (float[1,60] y) <int64[2] s = {1,60}> { a = Relu(x) n = "
        "Transpose <perm=[0,2,3,1]> (a) y = Reshape(n, s) }"
    )
    model = check_passes(text, NameNodes(), MoveTransposes())
    assert "Transpose" in ops(model)


@pytest.mark.parametrize(
    ("body", "output", "expected"),
    [
        ("y = ReduceMean(x, plane)", "float[1,3,1,1] y", "GlobalAveragePool"),
        ("y = ReduceMean <keepdims=0> (x, back)", "float[1,3] y", "GlobalAveragePool Reshape"),
        ("y = AveragePool <kernel_shape=[4,5]> (x)", "float[1,3,1,1] y", "GlobalAveragePool"),
    ],
)
def test_means_over_the_plane(body: str, output: str, expected: str) -> None:
    text = (
        f"m (float[1,3,4,5] x) => ({output}) <int64[2] plane = {{2,3}}, int64[2] back = "
        f"{{-1,-2}}> {{ {body} }}"
    )
    assert ops(check_passes(text, LowerMeans())) == expected


@pytest.mark.parametrize(
    "body",
    [
        "y = ReduceMean(x, channels)",
        "y = AveragePool <kernel_shape=[4,4]> (x)",
        "y = AveragePool <kernel_shape=[4,5], pads=[1,0,0,0], strides=[2,1]> (x)",
    ],
)
def test_other_means_stay(body: str) -> None:
    text = f"m (float[1,3,4,5] x) => (float[a,b,c,d] y) <int64[1] channels = {{1}}> {{ {body} }}"
    check_passes(text, LowerMeans(), modified=False)
