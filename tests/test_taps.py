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
from clio_cc.operators.movement import Reshape
from clio_cc.packing import UNIT_BITS, pack_units, packed_bytes, value_range
from clio_cc.program import MOST_TAPS, Program, Tap
from clio_cc.project import CFLAGS, MODEL_SOURCES
from clio_cc.qformat import Requantize
from clio_cc.targets import HOST, TARGETS, Target

Tool = Callable[[str], str]


def encoder(rng: np.random.Generator, source: Tensor, units: int, bits: int = 8) -> Conv:
    """A 1×1 convolution of a trunk tensor to its units, of so many bits a value."""
    name = f"{source.name}/units"
    return Conv(
        name=name,
        kind="Encode",
        inputs=(source,),
        output=Tensor(name, (*source.shape[:-1], units), 1.0),
        weight=rng.integers(-128, 128, (units, 1, 1, source.shape[-1])).astype(np.int8),
        bias=rng.integers(-999, 999, units).astype(np.int32),
        requantize=Requantize(rng.integers(4, 9, units), None, *value_range(bits)),
    )


def tap_of(sent: Tensor, order: tuple[int, ...] = (), bits: int = 8) -> Tap:
    """A tap on all channels of a tensor, or on those of an order."""
    channels = sent.shape[-1]
    size = packed_bytes(sent.bytes // channels, bits)
    return Tap(f"at {sent.name}", sent.name, len(order) or channels, size, order, bits)


def tapped(program: Program, seed: int, local: bool, most: int = 4) -> Program:
    """Put taps on some tensors of a chain of operators: as they are, in another order, through an encoder of any bits."""
    rng, of_bits = np.random.default_rng(seed), np.random.default_rng(seed)
    last = len(program.operators) - 1
    at = set(rng.choice(last + 1, min(most, last + 1), replace=False).tolist())
    at = at - {last} if local else at | {last}
    operators: list[Operator] = []
    taps = []
    for index, op in enumerate(program.operators):
        operators.append(op)
        if index not in at:
            continue
        channels, order, bits = op.output.shape[-1], (), 8
        if rng.random() < 0.5:
            bits = int(of_bits.choice(UNIT_BITS))
            operators.append(encoder(rng, op.output, int(rng.integers(1, channels + 1)), bits))
        elif rng.random() < 0.7:
            order = tuple(rng.permutation(channels)[: rng.integers(1, channels + 1)].tolist())
        taps.append(replace(tap_of(operators[-1].output, order, bits), partition=f"after {op.name}"))
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
    cut = replace(program, outputs=(inside.name, *program.outputs), taps=(tap_of(inside),))
    small = shrink(cut, plan_arena(cut).bytes - 1)
    assert small is None or any(op.output.name == inside.name for op in small.operators)


# --- units of few bits ----------------------------------------------------------------------------


def few_bits(shape: tuple[int, ...], bits: tuple[int, ...]) -> Program:
    """One input with a tap per number of bits; the last but one sends in another order, the last through a reshape."""
    rng, x = np.random.default_rng(1), Tensor("x", shape, 1.0)
    made = [encoder(rng, x, 5, each) for each in bits]
    operators: list[Operator] = [
        replace(op, name=f"e{i}", output=replace(op.output, name=f"e{i}")) for i, op in enumerate(made)
    ]
    orders: list[tuple[int, ...]] = [()] * len(bits)
    orders[-2] = (4, 0, 2)
    last = operators[-1].output
    flat = replace(last, name="flat", shape=(last.bytes // 5, 5))
    operators.append(Reshape(name="flat", kind="Reshape", inputs=(last,), output=flat))
    sent = [*(op.output for op in operators[:-2]), flat]
    taps = tuple(map(tap_of, sent, orders, bits))
    return Program((x,), tuple(operators), tuple(tap.tensor for tap in taps), taps)


@pytest.mark.parametrize("shape", [(3, 5, 4), (4, 4, 3), (3,)])
def test_units_of_few_bits_on_every_board(shape: tuple[int, ...], tmp_path: Path, tool: Tool) -> None:
    check(few_bits(shape, (4, 6, 8, 6, 4)), tmp_path, tool)


def test_units_of_few_bits_in_bands(tmp_path: Path, tool: Tool) -> None:
    """Every band of the encoder clamps, so what they make together does."""
    whole = bottlenecks()
    wide = whole.operators[:2]
    op = encoder(np.random.default_rng(0), wide[-1].output, 3, 4)
    made = Program(whole.inputs, (*wide, op), (op.output.name,), (tap_of(op.output, bits=4),))
    program = shrink(made, 15_000)
    assert program is not None
    assert [each.kind for each in program.operators if each.output.name == op.output.name] == ["RowStack"]
    assert program.taps[0].unit_bytes == 288
    check(program, tmp_path, tool, TARGETS[:1])


def test_units_must_have_the_bits_that_they_travel_with() -> None:
    x = Tensor("x", (3, 5, 4), 1.0)
    op = encoder(np.random.default_rng(0), x, 2, 6)
    words = "tap at x/units: x/units may hold -32..31, 4 bits only -8..7"
    with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
        Program((x,), (op,), (op.output.name,), (tap_of(op.output, bits=4),))
    for lo, hi in ((-9, 7), (0, 8)):
        wrong = replace(op, requantize=replace(op.requantize, lo=lo, hi=hi))
        with pytest.raises(ValueError, match=f"may hold {lo}..{hi}, 4 bits only"):
            Program((x,), (wrong,), (op.output.name,), (tap_of(op.output, bits=4),))
    right = replace(op, requantize=replace(op.requantize, lo=0, hi=7))  # a ReLU
    assert Program((x,), (right,), (op.output.name,), (tap_of(op.output, bits=4),)).range_of("x") == (
        -128,
        127,
    )
    with pytest.raises(ValueError, match=r"x may hold -128\.\.127, 6 bits only -32\.\.31"):
        Program((x,), (), ("x",), (tap_of(x, bits=6),))


FILLING = """#include <stdio.h>
#include "clio_model.h"
int main(void) {
    static int8_t unit[CLIO_LARGEST_UNIT_BYTES + 1];
    uint32_t tap, k, i;
    for (i = 0; i < CLIO_INPUT0_BYTES; i++) { clio_input(0)[i] = (int8_t)(37u * i); }
    for (tap = 0; tap < CLIO_TAPS; tap++) {
        clio_run_to(tap);
        for (k = 0; k < clio_units(tap); k++) {
            for (i = 0; i < sizeof unit; i++) { unit[i] = 99; }
            clio_unit(tap, k, unit);
            for (i = 0; i < clio_unit_bytes(tap); i++) { printf("%02x", (unsigned)(uint8_t)unit[i]); }
            printf(unit[i] == 99 ? "\\n" : " and more\\n");
        }
    }
    return 0;
}
"""


def test_a_packed_unit_fills_its_bytes_and_no_more(tmp_path: Path, tool: Tool) -> None:
    program = few_bits((3, 5, 4), (4, 6, 8, 6, 4))
    image = (37 * np.arange(60)).astype(np.uint8).view(np.int8).reshape(1, 3, 5, 4)
    wanted = [
        unit.tobytes().hex()
        for tap, value in zip(program.taps, reference.run(program, [image]), strict=True)
        for unit in pack_units(reference.units_of(tap, value), tap.bits)[0]
    ]
    assert [len(line) // 2 for line in wanted] == [8] * 5 + [12] * 5 + [15] * 5 + [12] * 3 + [8] * 5
    assert run_main(program, tmp_path, tool, FILLING) == wanted


def test_int8_units_are_copied_without_ado() -> None:
    program = few_bits((3, 5, 4), (8, 8))
    sources = device_sources(program, plan_arena(program), "Test.")
    assert "        to[i] = from[i * channels];\n" in sources["src/clio_model.c"]
    assert "bits" not in sources["src/clio_model.c"] + sources["include/clio_model.h"]
    packed = few_bits((3, 5, 4), (8, 4))
    sources = device_sources(packed, plan_arena(packed), "Test.")
    assert "units of 8 bytes (4 bits a value), " in sources["include/clio_model.h"]
    assert (
        " * Values of fewer than 8 bits lie side by side, from the lowest bit of the first byte on.\n"
        " * Does nothing beyond the last. */\n" in sources["include/clio_model.h"]
    )


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


def run_main(program: Program, folder: Path, tool: Tool, main: str, *extra: str) -> list[str]:
    project = write_projects(program, folder)[TARGETS[0]]
    (folder / "main.c").write_text(main)
    sources = [str(project / source) for source in MODEL_SOURCES]
    flags = [*CFLAGS, *extra, f"-I{project / 'include'}", f"-I{project / 'src'}"]
    command = [tool("gcc"), *flags, *sources, str(folder / "main.c"), "-o", str(folder / "main")]
    subprocess.run(command, check=True)
    done = subprocess.run([str(folder / "main")], check=True, capture_output=True, text=True)
    return done.stdout.splitlines()


@pytest.mark.parametrize("local", [False, True])
def test_a_run_to_a_tap_runs_what_it_needs(local: bool, tmp_path: Path, tool: Tool) -> None:
    program = tapped(random_chain(21, 6), 3, local)
    assert any(op.kind == "Encode" for op in program.operators)
    *runs, same = run_main(program, tmp_path, tool, COUNTING, "-DCLIO_OP_HOOK")
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
    tap = replace(tap_of(y, order), partition="p")
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
    taps = tuple(tap_of(tensor) for tensor in tensors)
    with pytest.raises(ValueError, match="32 taps, at most 31 are possible"):
        replace(program, taps=taps)
