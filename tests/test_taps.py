"""Several taps in one Program, end to end: what runs, what is sent, on every board."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import random_operators
from boards import boards_of, write_projects
from test_bands import bottlenecks, random_chain, shrink

from clio_cc import execution, reference, toolchain
from clio_cc.arena import plan_arena
from clio_cc.codegen.model import device_sources
from clio_cc.operators.base import Operator, Tensor
from clio_cc.operators.conv import Conv
from clio_cc.program import MOST_TAPS, Program, Tap
from clio_cc.project import CFLAGS, MODEL_SOURCES
from clio_cc.qformat import Requantize
from clio_cc.targets import HOST, TARGETS, Target

Tool = Callable[[str], str]


def encoder(rng: np.random.Generator, source: Tensor, units: int) -> Conv:
    """A 1×1 convolution of a trunk tensor to its units."""
    name = f"{source.name}/units"
    return Conv(
        name=name,
        kind="Encode",
        inputs=(source,),
        output=Tensor(name, (*source.shape[:-1], units), 1.0),
        weight=rng.integers(-128, 128, (units, 1, 1, source.shape[-1])).astype(np.int8),
        bias=rng.integers(-999, 999, units).astype(np.int32),
        requantize=Requantize(rng.integers(4, 9, units)),
    )


def tapped(program: Program, seed: int, local: bool, most: int = 4) -> Program:
    """Put taps on some tensors of a chain of operators: as they are, in another order, through an encoder."""
    rng = np.random.default_rng(seed)
    last = len(program.operators) - 1
    at = set(rng.choice(last + 1, min(most, last + 1), replace=False).tolist())
    at = at - {last} if local else at | {last}
    operators: list[Operator] = []
    taps = []
    for index, op in enumerate(program.operators):
        operators.append(op)
        if index not in at:
            continue
        channels, order = op.output.shape[-1], ()
        if rng.random() < 0.5:
            operators.append(encoder(rng, op.output, int(rng.integers(1, channels + 1))))
        elif rng.random() < 0.7:
            order = tuple(rng.permutation(channels)[: rng.integers(1, channels + 1)].tolist())
        sent = operators[-1].output
        units = len(order) or sent.shape[-1]
        taps.append(Tap(f"after {op.name}", sent.name, units, sent.bytes // sent.shape[-1], order))
    outputs = (*(tap.tensor for tap in taps), *(program.outputs if local else ()))
    return replace(program, operators=tuple(operators), outputs=outputs, taps=tuple(taps))


def check(program: Program, folder: Path, tool: Tool, targets: tuple[Target, ...] = TARGETS) -> None:
    """Every operator and every unit, on every board."""
    for target, project in write_projects(program, folder).items():
        for board in boards_of(target) if target in targets else []:
            for command in toolchain.missing_tools(board):
                tool(command)
            inputs = execution.random_inputs(program, 3)
            result = execution.execute(program, project, board, inputs, folder / "build" / board.name)
            assert result.exact, (board.name, str(result.first_mismatch), result.wrong_units)


@pytest.mark.parametrize("seed", range(6))
def test_random_programs_on_the_host(seed: int, tmp_path: Path, tool: Tool) -> None:
    program = tapped(random_chain(seed, 3 + seed), seed, local=bool(seed % 2))
    (target,) = TARGETS[:1]
    project = write_projects(program, tmp_path)[target]
    tool("gcc")
    inputs = execution.random_inputs(program, 4)
    result = execution.execute(program, project, HOST, inputs, tmp_path / "build")
    assert result.exact, (str(result.first_mismatch), result.wrong_units)


@pytest.mark.parametrize(("seed", "local"), [(11, False), (12, True)])
def test_random_programs_on_every_board(seed: int, local: bool, tmp_path: Path, tool: Tool) -> None:
    check(tapped(random_chain(seed, 6), seed, local), tmp_path, tool)


def banded() -> Program:
    """Two bottlenecks in bands of rows, a tap with an encoder between them, a tap in another order at the end."""
    whole = bottlenecks()
    rng = np.random.default_rng(0)
    between = next(i for i, op in enumerate(whole.operators) if op.name == "add0")
    middle = encoder(rng, whole.operators[between].output, 3)
    operators = (*whole.operators[: between + 1], middle, *whole.operators[between + 1 :])
    order = tuple(rng.permutation(8).tolist())
    taps = (Tap("between", middle.name, 3, 576), Tap("end", whole.outputs[0], 8, 576, order))
    outputs = (middle.name, *whole.outputs)
    program = shrink(replace(whole, operators=operators, outputs=outputs, taps=taps), 20_000)
    assert program is not None
    return program


def test_taps_between_bands(tmp_path: Path, tool: Tool) -> None:
    program = banded()
    assert plan_arena(program).bytes <= 20_000
    assert sum(op.kind == "RowStack" for op in program.operators) >= 2
    check(program, tmp_path, tool, TARGETS[:2])


def test_a_tap_inside_a_chain_of_bands_exists_whole() -> None:
    program = bottlenecks()
    inside = program.operators[1].output  # the widest
    tap = Tap("inside", inside.name, inside.shape[-1], inside.bytes // inside.shape[-1])
    cut = replace(program, outputs=(inside.name, *program.outputs), taps=(tap,))
    small = shrink(cut, plan_arena(cut).bytes - 1)
    assert small is None or any(op.output.name == inside.name for op in small.operators)


# --- what runs ------------------------------------------------------------------------------------

COUNTING = """#include <stdio.h>
#include "clio_model.h"
static uint32_t ran[CLIO_OPS];
void clio_op_begin(uint32_t op) { ran[op]++; }
void clio_op_end(uint32_t op, const int8_t *output, uint32_t bytes) { (void)op; (void)output; (void)bytes; }
int main(void) {
    static int8_t first[CLIO_LARGEST_UNIT_BYTES], again[CLIO_LARGEST_UNIT_BYTES];
    uint32_t run, i, same = 1;
    for (run = 0; run <= CLIO_TAPS + 1u; run++) {
        clio_forget();
        for (i = 0; i < CLIO_OPS; i++) { ran[i] = 0; }
        clio_run_to(run);
        for (i = 0; i < CLIO_OPS; i++) { printf("%u", ran[i]); }
        printf("\\n");
    }
    clio_forget();
    clio_run_to(CLIO_TAPS - 1u);
    clio_unit(CLIO_TAPS - 1u, 0, first);
    clio_forget();
    clio_run();
    clio_unit(CLIO_TAPS - 1u, 0, again);
    for (i = 0; i < clio_unit_bytes(CLIO_TAPS - 1u); i++) { same &= first[i] == again[i]; }
    printf("%u\\n", same);
    return 0;
}
"""


def run_main(program: Program, folder: Path, tool: Tool, compiler: str = "gcc") -> list[str]:
    project = write_projects(program, folder)[TARGETS[0]]
    (folder / "main.c").write_text(COUNTING)
    sources = [str(project / source) for source in MODEL_SOURCES]
    flags = [*CFLAGS, "-DCLIO_OP_HOOK", f"-I{project / 'include'}", f"-I{project / 'src'}"]
    command = [tool(compiler), *flags, *sources, str(folder / "main.c"), "-o", str(folder / "main")]
    subprocess.run(command, check=True)
    done = subprocess.run([str(folder / "main")], check=True, capture_output=True, text=True)
    return done.stdout.splitlines()


@pytest.mark.parametrize("local", [False, True])
def test_a_run_to_a_tap_runs_what_it_needs(local: bool, tmp_path: Path, tool: Tool) -> None:
    program = tapped(random_chain(21, 6), 3, local)
    assert any(op.kind == "Encode" for op in program.operators)
    *runs, same = run_main(program, tmp_path, tool)
    for number, (tap, ran) in enumerate(zip(program.taps, runs, strict=False)):
        needed = program.operators_to(number)
        assert [i for i, count in enumerate(ran) if count == "1"] == list(needed)
        others = [each for each in program.taps if each is not tap]
        encoders = [i for i in needed if program.operators[i].kind == "Encode"]
        assert len(encoders) <= 1 and len(needed) < len(program.operators) + (not others)
    assert runs[-2:] == ["1" * len(program.operators), "0" * len(program.operators)]
    if not local:
        assert same == "1"


def test_one_tap_needs_no_conditions(tmp_path: Path) -> None:
    program = tapped(random_chain(21, 4), 3, local=False, most=1)
    assert len(program.taps) <= 2
    last = program.taps[-1]
    single = replace(
        program,
        outputs=(last.tensor,),
        taps=(last,),
        operators=tuple(program.operators[i] for i in program.operators_to(len(program.taps) - 1)),
    )
    text = device_sources(single, plan_arena(single), "Test.")["src/clio_model.c"]
    assert "if (tap <= CLIO_TAPS) {\n        clio_run();\n    }" in text
    assert text.count("run & ") == 0
    several = tapped(random_chain(21, 6), 3, local=True)
    text = device_sources(several, plan_arena(several), "Test.")["src/clio_model.c"]
    masks = re.findall(r"if \(\(run & 0x([0-9a-f]+)u\) != 0u\) \{", text)
    assert len(masks) == len(set(masks)) > 1
    assert "        /* after table1, after table2, after conv4 and clio_run */\n" in text
    assert "        /* clio_run */\n" in text
    assert text.count("clio_run_to(CLIO_TAPS);") == 1


def test_an_order_is_a_table_in_flash() -> None:
    program = random_operators.program_of("conv", 1)
    y = program.operators[0].output
    order = tuple(reversed(range(y.shape[-1])))
    tap = Tap("p", y.name, len(order), y.bytes // len(order), order)
    program = replace(program, taps=(tap,))
    tables = device_sources(program, plan_arena(program), "Test.")["src/clio_tables.c"]
    assert f"/* channels of {y.name} that partition point p sends, in this order */" in tables
    assert f"const uint16_t clio_tap0_order[{len(order)}]" in tables
    identity = device_sources(replace(program, taps=(replace(tap, order=()),)), plan_arena(program), "Test.")
    assert "order" not in identity["src/clio_tables.c"]


def test_wrong_units_name_their_partition(tmp_path: Path, tool: Tool) -> None:
    """A block that does not run, though its tap needs it: what an earlier run left must not make up for it."""
    tool("gcc")
    program = tapped(random_chain(21, 6), 3, local=True)
    project = write_projects(program, tmp_path / "projects")[TARGETS[0]]
    encoded = next(i for i, tap in enumerate(program.taps) if tap.tensor.endswith("/units"))
    model = project / "src/clio_model.c"
    text = model.read_text()
    everything = 1 << len(program.taps)
    mask = f"run & 0x{everything | 1 << encoded:x}u"
    assert text.count(mask) == 1
    model.write_text(text.replace(mask, f"run & 0x{everything:x}u"))
    inputs = execution.random_inputs(program, 2)
    result = execution.execute(program, project, HOST, inputs, tmp_path / "build")
    assert result.first_mismatch is None
    assert result.wrong_units == (program.taps[encoded].partition,)


def test_the_header_says_what_can_be_read() -> None:
    program = tapped(random_chain(21, 6), 3, local=True)
    header = device_sources(program, plan_arena(program), "Test.")["include/clio_model.h"]
    assert f"after clio_run()         output {len(program.taps)}, and" in header
    assert not re.search(r"\d\.\d", re.sub(r"/\*.*?\*/", "", header, flags=re.DOTALL))


def test_the_header_is_cpp_too(tmp_path: Path, tool: Tool) -> None:
    program = tapped(random_chain(21, 6), 3, local=True)
    for name, text in device_sources(program, plan_arena(program), "Test.").items():
        (tmp_path / Path(name).name).write_text(text)
    objects = []
    micro = next(Path(__file__).parent.parent.glob("targets/portable"))
    for source in MODEL_SOURCES:
        objects.append(str(tmp_path / f"{Path(source).stem}.o"))
        flags = [*CFLAGS, f"-I{tmp_path}", f"-I{micro}", "-c"]
        subprocess.run(
            [tool("gcc"), *flags, str(tmp_path / Path(source).name), "-o", objects[-1]], check=True
        )
    (tmp_path / "main.cpp").write_text('#include "clio_model.h"\nint main() { clio_run_to(0); return 0; }\n')
    subprocess.run(
        [tool("g++"), "-Wall", "-Wextra", "-Werror", f"-I{tmp_path}", str(tmp_path / "main.cpp"), *objects,
         "-o", str(tmp_path / "main")],
        check=True,
    )  # fmt: skip


# --- the Program ----------------------------------------------------------------------------------


def test_macs_to_a_tap() -> None:
    program = tapped(random_chain(21, 6), 3, local=True)
    for number, tap in enumerate(program.taps):
        needed = [program.operators[i] for i in program.operators_to(number)]
        assert needed[-1].output.name == tap.tensor
        assert program.macs_to(number) == sum(op.macs for op in needed) < program.macs


def test_units_are_unit_major() -> None:
    program = tapped(random_chain(21, 6), 3, local=True)
    outputs = reference.run(program, execution.random_inputs(program, 2))
    for number, tap in enumerate(program.taps):
        units = reference.units_of(tap, outputs[number])
        rest = program.tensors[tap.tensor].shape[:-1]
        assert units.shape == (2, tap.units, *rest)
        for unit, channel in enumerate(tap.order or range(tap.units)):
            np.testing.assert_array_equal(units[:, unit], outputs[number][..., channel])


def test_too_many_taps() -> None:
    count = MOST_TAPS + 1
    program = random_operators.program_of("conv", count)
    tensors = [op.output for op in program.operators]
    taps = tuple(Tap(t.name, t.name, t.shape[-1], t.bytes // t.shape[-1]) for t in tensors)
    with pytest.raises(ValueError, match="32 taps, at most 31 are possible"):
        replace(program, taps=taps)
