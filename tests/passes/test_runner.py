"""The pass runner: contract, hooks, and what the command line shows of them."""

from __future__ import annotations

from dataclasses import dataclass

import onnx
import onnx_ir as ir
import pytest
from graph_text import parse

from clio_cc import graph
from clio_cc.errors import ClioError
from clio_cc.passes import FLOAT_PIPELINE
from clio_cc.passes.name_nodes import NameNodes
from clio_cc.passes.remove_noops import RemoveNoops
from clio_cc.passes.runner import (
    PassContractError,
    PassRecord,
    dump_into,
    format_times,
    join_hooks,
    pass_name,
    print_after,
    run_passes,
)

TEXT = "m (float[1,4] x) => (float[1,4] y) { a = Identity(x)  y = Relu(a) }"


@dataclass(frozen=True)
class Silent(ir.passes.InPlacePass):
    """Changes the model and denies it."""

    name: str = "silent"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        RemoveNoops()(model)
        return ir.passes.PassResult(model, False)


@dataclass(frozen=True)
class Restless(ir.passes.InPlacePass):
    """Never done."""

    name: str = "restless"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        node = model.graph[0]
        node.name = f"{node.name}x"
        return ir.passes.PassResult(model, True)


@dataclass(frozen=True)
class Vandal(ir.passes.InPlacePass):
    """Leaves an operator that does not exist."""

    name: str = "vandal"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        model.graph[0].op_type = "Nonsense"
        return ir.passes.PassResult(model, True)


@dataclass(frozen=True)
class Broken(ir.passes.InPlacePass):
    """Raises."""

    name: str = "broken"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        raise KeyError("oops")


def test_records_say_what_happened() -> None:
    records = run_passes(parse(TEXT), (NameNodes(), RemoveNoops(), RemoveNoops()))
    assert [(r.index, r.name, r.modified, r.nodes) for r in records] == [
        (0, "name-nodes", True, 2),
        (1, "remove-noops", True, 1),
        (2, "remove-noops", False, 1),
    ]
    assert all(record.time_us >= 0 for record in records)


@pytest.mark.parametrize(
    ("each", "message"),
    [
        (Silent(), "pass 'silent' reports modified=False, but the model changed"),
        (Restless(), "pass 'restless' changes its own result when run again"),
        (Vandal(), "pass 'vandal' leaves an invalid model: "),
    ],
)
def test_the_contract_is_checked(each: ir.passes.InPlacePass, message: str) -> None:
    with pytest.raises(PassContractError) as caught:
        run_passes(parse(TEXT), (each,), check=True)
    assert str(caught.value).startswith(message)


def test_a_pass_that_claims_to_have_changed_something() -> None:
    @dataclass(frozen=True)
    class Boaster(ir.passes.InPlacePass):
        name: str = "boaster"

        def call(self, model: ir.Model) -> ir.passes.PassResult:
            return ir.passes.PassResult(model, True)

    with pytest.raises(PassContractError) as caught:
        run_passes(parse(TEXT), (Boaster(),), check=True)
    assert str(caught.value) == "pass 'boaster' reports modified=True, but the model did not change"


def test_a_traceback_names_the_pass() -> None:
    with pytest.raises(KeyError) as caught:
        run_passes(parse(TEXT), (NameNodes(), Broken()))
    assert caught.value.__notes__ == ["in pass 'broken' (2 of 2)"]


def test_print_after() -> None:
    said: list[str] = []
    run_passes(parse(TEXT), hook=print_after(["remove-noops"], said.append))
    assert said == ["after remove-noops:\nm(x[1,4]) -> (y[1,4])\n  y: y[1,4] = Relu(x[1,4])\n"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fold-pads", "unknown pass 'fold-pads'\n  hint: did you mean 'fold-pad'?"),
        ("zzz", "unknown pass 'zzz'\n  hint: passes are name-nodes, fold-constants, "),
    ],
)
def test_print_after_an_unknown_pass(name: str, message: str) -> None:
    with pytest.raises(ClioError) as caught:
        print_after(["fold-pad", name], lambda text: None)
    assert str(caught.value).startswith(message)


def test_dump() -> None:
    files: dict[str, bytes] = {}
    model = parse(TEXT)
    seen: list[str] = []
    run_passes(model, hook=join_hooks(dump_into(files), lambda record, _: seen.append(record.name)))
    assert list(files) == [f"{index:02}-{pass_name(each)}.onnx" for index, each in enumerate(FLOAT_PIPELINE)]
    assert seen == [pass_name(each) for each in FLOAT_PIPELINE]
    assert list(files.values())[-1] == graph.to_bytes(model)
    assert onnx.load_from_string(files["00-name-nodes.onnx"]).graph.node[0].op_type == "Identity"


def test_times_are_a_table() -> None:
    records = [PassRecord(0, "one", 1500, True, 12), PassRecord(1, "second", 20, False, 12)]
    assert format_times(records) == (
        "pass            time  nodes  result\n"
        "one          1.50 ms     12  modified\n"
        "second       0.02 ms     12  -\n"
        "total        1.52 ms\n"
    )


def test_names_of_passes_are_unique() -> None:
    names = [pass_name(each) for each in FLOAT_PIPELINE]
    assert len(set(names)) == len(names)
