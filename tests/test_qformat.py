"""The device's arithmetic against exact integers and fractions."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clio_cc.operators.base import Tensor
from clio_cc.operators.conv import Conv
from clio_cc.operators.elementwise import MULTIPLIER_BITS, Add, rescale_terms
from clio_cc.operators.pool import AveragePool, rescale_ratio
from clio_cc.qformat import (
    INT32_MAX,
    MAX_SHIFT,
    MULSHIFT_MAX,
    MULSHIFT_MIN,
    Requantize,
    check_accumulator,
    describe_scale,
    fraction_bits,
    quantize,
    requantize_by_multiplier,
    requantize_by_shift,
)

int32 = st.integers(-(2**31), 2**31 - 1)
clamps = st.tuples(st.integers(-128, 127), st.integers(-128, 127)).map(sorted)
powers = st.integers(-20, 20).map(lambda n: 2.0**n)
scales = st.floats(1e-6, 1e6)


def half_up(value: Fraction) -> int:
    """The nearest integer, halves towards plus infinity."""
    return math.floor(value + Fraction(1, 2))


def apply(requantize: Requantize, acc: int) -> int:
    return int(requantize.apply(np.array([acc], np.int32))[0])


# --- requantize -----------------------------------------------------------------------------------


@given(acc=int32, shift=st.integers(0, MAX_SHIFT), clamp=clamps)
def test_shift_is_exact_division_halves_up(acc: int, shift: int, clamp: list[int]) -> None:
    rounding = 2 ** (shift - 1) if shift else 0
    acc = min(acc, INT32_MAX - rounding)  # what the accumulator bound guarantees
    expected = half_up(Fraction(acc, 2**shift))
    assert apply(Requantize(np.array([shift]), None, *clamp), acc) == min(max(expected, clamp[0]), clamp[1])


@given(
    acc=int32,
    shift=st.integers(MULSHIFT_MIN, MULSHIFT_MAX),
    multiplier=st.integers(0, INT32_MAX),
    clamp=clamps,
)
def test_multiplier_and_shift_are_exact(acc: int, shift: int, multiplier: int, clamp: list[int]) -> None:
    expected = half_up(Fraction(acc * multiplier, 2**shift))
    requantize = Requantize(np.array([shift]), np.array([multiplier]), *clamp)
    assert apply(requantize, acc) == min(max(expected, clamp[0]), clamp[1])


@pytest.mark.parametrize("acc", [-24, -12, -9, -8, -7, 0, 7, 8, 9, 24])
def test_halves_go_up(acc: int) -> None:
    # Sixteenths: -8/16 is -1/2 and becomes 0, 8/16 becomes 1, -24/16 becomes -1.
    expected = {-24: -1, -12: -1, -9: -1, -8: 0, -7: 0, 0: 0, 7: 0, 8: 1, 9: 1, 24: 2}[acc]
    assert apply(Requantize(np.array([4])), acc) == expected
    assert apply(Requantize(np.array([33]), np.array([2**29])), acc) == expected


@pytest.mark.parametrize("multiplier", [None, np.array([INT32_MAX])])
def test_saturation(multiplier: np.ndarray[tuple[int, ...], np.dtype[np.integer]] | None) -> None:
    shift = np.array([0 if multiplier is None else 33])
    assert apply(Requantize(shift, multiplier), INT32_MAX) == 127
    assert apply(Requantize(shift, multiplier), -(2**31)) == -128
    assert apply(Requantize(shift, multiplier, 0, 96), INT32_MAX) == 96
    assert apply(Requantize(shift, multiplier, 0, 96), -(2**31)) == 0


@given(exponents=st.lists(st.integers(0, MAX_SHIFT), min_size=1, max_size=5))
def test_by_shift_takes_powers_of_two_as_they_are(exponents: list[int]) -> None:
    assert requantize_by_shift(np.array([2.0**-n for n in exponents])).shift.tolist() == exponents


@given(scale=st.floats(2.0**-30, 0.25, exclude_max=True))
def test_by_multiplier_is_the_nearest_of_31_bits(scale: float) -> None:
    made = requantize_by_multiplier(np.array([scale]))
    assert made.multiplier is not None
    value = Fraction(int(made.multiplier[0]), 2 ** int(made.shift[0]))
    assert abs(value / Fraction(scale) - 1) <= Fraction(1, 2**31)


@given(scale=st.floats(1e-30, 2.0**-30))
def test_vanishing_multipliers_lose_bits_but_stay_in_range(scale: float) -> None:
    made = requantize_by_multiplier(np.array([scale]))
    assert made.multiplier is not None
    assert abs(Fraction(int(made.multiplier[0]), 2 ** int(made.shift[0])) - Fraction(scale)) < Fraction(
        1, 2**61
    )


@pytest.mark.parametrize(
    ("shift", "multiplier", "clamp", "message"),
    [
        (31, None, (-128, 127), "shift must be in [0, 30], got 31..31"),
        (-1, None, (-128, 127), "shift must be in [0, 30], got -1..-1"),
        (32, 1, (-128, 127), "shift must be in [33, 62], got 32..32"),
        (63, 1, (-128, 127), "shift must be in [33, 62], got 63..63"),
        (40, -1, (-128, 127), "multiplier must be a non-negative int32"),
        (40, 2**31, (-128, 127), "multiplier must be a non-negative int32"),
        (4, None, (0, 128), "clamp [0, 128] is not within int8"),
        (4, None, (5, 4), "clamp [5, 4] is not within int8"),
    ],
)
def test_refused(shift: int, multiplier: int | None, clamp: tuple[int, int], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        Requantize(np.array([shift]), None if multiplier is None else np.array([multiplier]), *clamp)
    assert str(caught.value) == message


def test_builders_refuse() -> None:
    with pytest.raises(ValueError, match=r"^a shift needs scales that are powers of two$"):
        requantize_by_shift(np.array([0.5, 0.3]))
    with pytest.raises(ValueError, match=r"^shift must be in \[0, 30\], got -1\.\.-1$"):
        requantize_by_shift(np.array([2.0]))
    with pytest.raises(ValueError, match=r"^shift must be in \[33, 62\], got 32\.\.32$"):
        requantize_by_multiplier(np.array([0.25]))


# --- quantize -------------------------------------------------------------------------------------


@given(value=st.floats(-200, 200), scale=st.one_of(powers, scales))
def test_quantize_is_within_half_a_step_or_saturates(value: float, scale: float) -> None:
    real = value * scale
    q = int(quantize(np.array([real]), scale)[0])
    steps = Fraction(real) / Fraction(scale)
    if -128 <= steps <= 127:
        assert abs(q - steps) <= Fraction(1, 2) + Fraction(1, 2**40)
    else:
        assert q == (127 if steps > 0 else -128)


@given(q=st.integers(-128, 127), scale=st.one_of(powers, scales))
def test_quantize_gives_representable_values_back(q: int, scale: float) -> None:
    assert int(quantize(np.array([q * scale]), scale)[0]) == q


def test_quantize_halves_go_up() -> None:
    values = np.array([-1.5, -0.5, 0.5, 1.5, 126.5, 127.5, -128.5, -129.0, 1e9, -1e9])
    assert quantize(values, 1.0).tolist() == [-1, 0, 1, 2, 127, 127, -128, -128, 127, -128]


def test_formats_in_words() -> None:
    assert [fraction_bits(scale) for scale in (1.0, 0.5, 2.0, 0.3, 2.0**-20)] == [0, 1, -1, None, 20]
    assert describe_scale(0.0625) == "Q3.4"
    assert describe_scale(2.0**-9) == "Q-2.9"
    assert describe_scale(0.0123) == "scale 0.0123"


# --- accumulators ---------------------------------------------------------------------------------


@st.composite
def gemms(draw: st.DrawFn) -> Conv:
    outputs, features = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    int8s = st.integers(-128, 127)
    weight = draw(st.lists(int8s, min_size=outputs * features, max_size=outputs * features))
    bias = draw(st.lists(st.integers(-(2**20), 2**20), min_size=outputs, max_size=outputs))
    return Conv(
        name="gemm",
        kind="Gemm",
        inputs=(Tensor("x", (features,), 1.0),),
        output=Tensor("y", (outputs,), 1.0),
        weight=np.array(weight, np.int8).reshape(outputs, 1, 1, features),
        bias=np.array(bias, np.int32),
        requantize=Requantize(
            np.array(draw(st.lists(st.integers(0, 20), min_size=outputs, max_size=outputs)))
        ),
    )


@given(op=gemms(), seed=st.integers(0, 2**32))
def test_no_input_leaves_the_bound(op: Conv, seed: int) -> None:
    features = op.inputs[0].bytes
    x = np.random.default_rng(seed).choice([-128, -127, 0, 127], (50, features)).astype(np.int8)
    acc = op.accumulate(x).reshape(50, -1).astype(np.int64)
    assert (np.abs(acc + op.requantize.rounding) <= op.accumulator_bound()).all()


@given(op=gemms())
def test_the_bound_is_attained(op: Conv) -> None:
    """Where all weights are of the bias's opposite sign or zero, -128 everywhere reaches it exactly."""
    signed = -np.abs(op.weight.astype(np.int16)).clip(0, 127).astype(np.int8)
    op = Conv(**{**vars(op), "weight": signed, "bias": np.abs(op.bias)})
    x = np.full((1, op.inputs[0].bytes), -128, np.int8)
    acc = op.accumulate(x).reshape(-1).astype(np.int64)
    assert (acc + op.requantize.rounding == op.accumulator_bound()).all()


def test_an_accumulator_that_could_overflow_is_refused() -> None:
    def gemm(bias: int) -> Conv:
        return Conv(
            name="fc",
            kind="Gemm",
            inputs=(Tensor("x", (2,), 1.0),),
            output=Tensor("y", (1,), 1.0),
            weight=np.full((1, 1, 1, 2), -128, np.int8),
            bias=np.array([bias], np.int32),
            requantize=Requantize(np.array([7])),
        )

    room = INT32_MAX - 2 * 128 * 128 - 64
    worst = gemm(room).accumulate(np.full((1, 2), -128, np.int8)).astype(np.int64) + 64
    assert worst.tolist() == [[[[INT32_MAX]]]]
    with pytest.raises(OverflowError) as caught:
        gemm(room + 1)
    assert str(caught.value) == "fc: the accumulator can reach 2147483648, beyond int32"
    check_accumulator(np.array([INT32_MAX]), "fc")


# --- common steps ---------------------------------------------------------------------------------


@given(
    exponents=st.lists(st.integers(-7, 7), min_size=1, max_size=4),
    output=st.integers(-7, 7),
)
def test_rescale_terms_is_exact_for_powers_of_two(exponents: list[int], output: int) -> None:
    multipliers, shift = rescale_terms([2.0**n for n in exponents], 2.0**output)
    for multiplier, n in zip(multipliers, exponents, strict=True):
        assert Fraction(multiplier, 2**shift) == Fraction(2) ** (n - output)


@given(ratios=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=4), output=st.floats(0.1, 10))
def test_rescale_terms_is_within_half_a_step_of_15_bits(ratios: list[float], output: float) -> None:
    multipliers, shift = rescale_terms(ratios, output)
    largest = max(ratios) / output
    for multiplier, ratio in zip(multipliers, ratios, strict=True):
        assert 0 <= multiplier <= 2**MULTIPLIER_BITS
        error = abs(Fraction(multiplier, 2**shift) - Fraction(ratio / output))
        assert error <= Fraction(largest) / 2 ** (MULTIPLIER_BITS - 1) / 2


def test_scales_too_far_apart_are_refused() -> None:
    with pytest.raises(ValueError) as caught:
        rescale_terms([2.0**16, 1.0], 1.0)
    assert str(caught.value) == "scales [65536.0, 1.0] and 1.0 lie too far apart to be added in 32 bits"


def test_a_term_too_small_for_the_output_is_zero() -> None:
    multipliers, shift = rescale_terms([2.0**-40, 1.0], 1.0)
    assert (multipliers[0], multipliers[1] / 2**shift) == (0, 1.0)


@given(a=st.integers(-128, 127), b=st.integers(-128, 127), n=st.tuples(*[st.integers(-4, 4)] * 3))
def test_add_is_the_exact_sum_rounded_once(a: int, b: int, n: tuple[int, int, int]) -> None:
    (m0, m1), shift = rescale_terms([2.0 ** n[0], 2.0 ** n[1]], 2.0 ** n[2])
    x, y, z = (Tensor(name, (1,), 2.0**e) for name, e in zip("xyz", n, strict=True))
    op = Add(
        name="add",
        kind="Add",
        inputs=(x, y),
        output=z,
        multipliers=(m0, m1),
        requantize=Requantize(np.array([shift])),
    )
    got = int(op.evaluate([np.array([[a]], np.int8), np.array([[b]], np.int8)])[0, 0])
    exact = (a * Fraction(2) ** n[0] + b * Fraction(2) ** n[1]) / Fraction(2) ** n[2]
    assert got == min(max(half_up(exact), -128), 127)


@given(source=st.integers(-6, 6), output=st.integers(-6, 6), count=st.integers(1, 4096))
def test_rescale_ratio_is_exact_for_powers_of_two(source: int, output: int, count: int) -> None:
    numerator, denominator = rescale_ratio(2.0**source, 2.0**output, count)
    assert Fraction(numerator, denominator) == Fraction(2) ** (source - output)


@given(ratio=st.floats(1 / 8, 8), count=st.integers(1, 4096))
def test_rescale_ratio_never_overflows_and_is_near(ratio: float, count: int) -> None:
    numerator, denominator = rescale_ratio(ratio, 1.0, count)
    assert count * (256 * numerator + denominator) <= INT32_MAX
    assert abs(Fraction(numerator, denominator) - Fraction(ratio)) <= Fraction(1, 2 * denominator)


@given(values=st.lists(st.integers(-128, 127), min_size=1, max_size=9), n=st.integers(-3, 3))
def test_average_is_the_exact_mean_rounded_once(values: list[int], n: int) -> None:
    numerator, denominator = rescale_ratio(1.0, 2.0**n, len(values))
    op = AveragePool(
        name="mean",
        kind="AveragePool",
        inputs=(Tensor("x", (1, len(values), 1), 1.0),),
        output=Tensor("y", (1, 1, 1), 2.0**n),
        window=(1, len(values)),
        numerator=numerator,
        denominator=denominator,
    )
    got = int(op.evaluate([np.array(values, np.int8).reshape(1, 1, -1, 1)]).reshape(-1)[0])
    exact = Fraction(sum(values), len(values)) / Fraction(2) ** n
    assert got == min(max(half_up(exact), -128), 127)
