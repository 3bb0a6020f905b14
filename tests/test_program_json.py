"""Programs written as JSON come back as they were."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import random_operators

from clio_cc import execution, reference
from clio_cc.errors import ClioError
from clio_cc.operators.base import Operator
from clio_cc.operators.elementwise import Elementwise
from clio_cc.operators.pool import Pool
from clio_cc.program import Program, Tap
from clio_cc.program_json import OPERATORS, from_json, to_json


def assert_same(program: Program) -> None:
    text = to_json(program)
    back = from_json(text, "program.json")
    assert to_json(back) == text
    assert back.describe() == program.describe()
    assert [type(op) for op in back.operators] == [type(op) for op in program.operators]
    inputs = execution.random_inputs(program, 3)
    for wanted, got in zip(reference.run(program, inputs), reference.run(back, inputs), strict=True):
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("family", random_operators.FAMILIES)
def test_round_trip(family: str) -> None:
    assert_same(random_operators.program_of(family, 20))


def test_all_families_and_a_tap() -> None:
    program = random_operators.every_family(2)
    first = program.operators[0].output
    order = tuple(reversed(range(first.shape[-1])))
    tap = Tap("cut", first.name, first.shape[-1], first.bytes // first.shape[-1], order)
    assert_same(replace(program, taps=(tap,)))
    back = from_json(to_json(replace(program, taps=(tap,))), "x")
    assert vars(back.taps[0]) == vars(tap)
    old = json.loads(to_json(replace(program, taps=(replace(tap, order=()),))))
    assert old["taps"][0].pop("order") == []
    assert from_json(json.dumps(old), "x").taps[0].order == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"units": 5}, "its units do not fit"),
        ({"units": 2, "order": (0, 0)}, "its order is not one of"),
        ({"units": 1, "order": (99,)}, "its order is not one of"),
        ({"tensor": "elsewhere"}, "must be the first outputs"),
        ({"bits": 5}, r"tap cut: values of 5 bits, only \(4, 6, 8\) are possible"),
        ({"unit_bytes": 999}, "its units do not fit"),
    ],
)
def test_wrong_taps_are_refused(change: dict[str, Any], message: str) -> None:
    program = random_operators.program_of("conv", 2)
    first = program.operators[0].output
    tap = Tap("cut", first.name, first.shape[-1], first.bytes // first.shape[-1])
    with pytest.raises(ValueError, match=message):
        replace(program, taps=(replace(tap, **change),))


def concrete(cls: type[Operator]) -> set[type[Operator]]:
    found = set() if inspect.isabstract(cls) else {cls}
    return found.union(*(concrete(each) for each in cls.__subclasses__()))


def test_no_operator_is_left_out() -> None:
    shared = {Elementwise, Pool}  # bases that are not abstract by the letter
    found = concrete(Operator) - shared  # type: ignore[type-abstract]
    # What stands for an operator elsewhere, in searches and tests, is in no program that is written.
    assert {each for each in found if each.__module__.startswith("clio_cc.operators.")} == set(OPERATORS)


def test_arrays_are_little_endian() -> None:
    program = random_operators.program_of("gemm", 1)
    op = program.operators[0]
    swapped = replace(op, bias=op.bias.astype(">i4"))  # type: ignore[attr-defined, call-arg]
    assert (
        json.loads(to_json(replace(program, operators=(swapped,))))["operators"][0]["bias"]["data"]
        == (json.loads(to_json(program))["operators"][0]["bias"]["data"])
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a program of this clio-cc: Expecting value: line 1 column 1 (char 0)"),
        ("{}", "not a program of this clio-cc: 'is'"),
        ("[]", "not a program of this clio-cc"),
        ('{"is": "Lstm"}', "not a program of this clio-cc: 'Lstm'"),
        (
            '{"is": "Tensor", "name": "x", "shape": [1], "scale": 1.0}',
            "not a program of this clio-cc",
        ),
    ],
)
def test_words(text: str, message: str) -> None:
    with pytest.raises(ClioError) as caught:
        from_json(text, "out/program.json")
    assert str(caught.value) == f"out/program.json: {message}\n  hint: compile again"
