"""What the device's C is made of: no library, no floating point, constants in flash, clean under every compiler."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import random_operators
from boards import write_projects
from digits import compiled

from clio_cc import execution, toolchain
from clio_cc.arena import plan_arena
from clio_cc.program import Program, Tap
from clio_cc.project import CFLAGS, MODEL_SOURCES
from clio_cc.targets import HOST, TARGETS, Board, Target

Tool = Callable[[str], str]

LIBRARY = {"memcpy", "memset"}
OBJECTS = tuple(f"{Path(source).stem}.o" for source in MODEL_SOURCES)
BOARDS: tuple[tuple[Target, Board], ...] = (
    (TARGETS[0], HOST),
    *((target, target.emulated) for target in TARGETS),
    *((target, target.firmware) for target in TARGETS if target.firmware is not None),
)
# What clang needs to know of each core; a board's own flags are for gcc.
CLANG = {
    "host": (),
    "gap8": ("--target=riscv32-unknown-elf", "-march=rv32imc", "-mabi=ilp32"),
    "stm32f7": ("--target=arm-none-eabi", "-mcpu=cortex-m7", "-mthumb", "-mfloat-abi=hard"),
    "nrf5340": ("--target=arm-none-eabi", "-mcpu=cortex-m33", "-mthumb"),
}
STRING_H = """#include <stddef.h>
void *memcpy(void *restrict to, const void *restrict from, size_t count);
void *memset(void *to, int value, size_t count);
"""
# Floating point in a disassembly: VFP on Arm (all of it starts with v), F and D on RISC-V, SSE arithmetic on x86.
FLOAT = {
    "arm": re.compile(r"v[a-z0-9.]+"),
    "riscv": re.compile(r"f(?!ence)[a-z0-9]+(\.[a-z0-9.]+)?|c\.f[ls][dw](sp)?"),
    "host": re.compile(r"v?(add|sub|mul|div|sqrt|u?comi|cvt[a-z0-9]+)(ss|sd|ps|pd)"),
}


def board_id(value: object) -> str:
    return str(getattr(value, "name", value))


def architecture(board: Board) -> str:
    return "host" if board is HOST else "arm" if "arm" in board.compiler.command else "riscv"


def with_tap(program: Program) -> Program:
    """All families and a partition point, so that clio_unit is there too."""
    image = next(t for name, t in program.tensors.items() if name in program.outputs and len(t.shape) == 3)
    tap = Tap("cut", image.name, image.shape[-1], image.bytes // image.shape[-1])
    outputs = (image.name, *(name for name in program.outputs if name != image.name))
    return replace(program, outputs=outputs, taps=(tap,))


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[Target, Path]]:
    """Device projects by name: every operator family in both modes, and the example network."""
    folder = tmp_path_factory.mktemp("projects")
    families = write_projects(with_tap(random_operators.every_family(3)), folder / "families")
    network = {target: folder / f"digits/{target.name}" for target in TARGETS}
    for target, out in network.items():
        compiled(target.name).files.write(out)
    return {"families": families, "digits": {target: out / "device" for target, out in network.items()}}


Projects = dict[str, dict[Target, Path]]


def disassembled(board: Board, objects: Iterable[Path], tool: Tool) -> list[str]:
    """Mnemonics of object files."""
    command = board.compiler.nm.removesuffix("nm") + "objdump"
    text = subprocess.run(
        [tool(command), "-d", "--no-show-raw-insn", *map(str, objects)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return re.findall(r"^\s*[0-9a-f]+:\s+(\S+)", text, re.MULTILINE)


def section_sizes(board: Board, file: Path, tool: Tool) -> dict[str, int]:
    """Bytes by section of one object file."""
    command = board.compiler.nm.removesuffix("nm") + "size"
    text = subprocess.run([tool(command), "-A", str(file)], check=True, capture_output=True, text=True).stdout
    return {name: int(size) for name, size in re.findall(r"^(\.\S+)\s+(\d+)", text, re.MULTILINE)}


def floats_in(mnemonics: Iterable[str], kind: str) -> set[str]:
    return {each for each in mnemonics if FLOAT[kind].fullmatch(each)}


@pytest.mark.parametrize(("target", "board"), BOARDS, ids=board_id)
@pytest.mark.parametrize("name", ["families", "digits"])
def test_objects(
    name: str, target: Target, board: Board, projects: Projects, tool: Tool, tmp_path: Path
) -> None:
    """No library call but memcpy and memset (no libgcc helper either), no floating point, const tables, no variables."""
    tool(board.compiler.command)
    built = toolchain.build(projects[name][target], board, tmp_path, hook=False)
    objects = [tmp_path / each for each in OBJECTS]
    assert toolchain.undefined_symbols(built) <= LIBRARY
    assert floats_in(disassembled(board, objects, tool), architecture(board)) == set()
    sizes = toolchain.sections(built)
    arena = int(
        re.findall(r"CLIO_ARENA_BYTES (\d+)", (projects[name][target] / "include/clio_model.h").read_text())[
            0
        ]
    )
    assert (sizes["clio_model"].data, sizes["clio_model"].bss) == (0, arena)
    for each in ("clio_tables", "clio_kernels"):
        assert (sizes[each].data, sizes[each].bss) == (0, 0)
    in_file = section_sizes(board, tmp_path / "clio_tables.o", tool)
    assert in_file[".text"] == sizes["clio_tables"].text == 0
    held = sum(size for section, size in in_file.items() if section.startswith((".rodata", ".srodata")))
    # What nothing refers to is dropped by the linker; here everything is used.
    assert held == sizes["clio_tables"].rodata > 0
    for each in OBJECTS:
        found = section_sizes(board, tmp_path / each, tool)
        assert sum(size for section, size in found.items() if section.startswith((".data", ".sdata"))) == 0


@pytest.mark.parametrize("level", ["-O2", "-O3"])
@pytest.mark.parametrize("core", CLANG)
def test_clang(core: str, level: str, projects: Projects, tool: Tool, tmp_path: Path) -> None:
    """Clean under -Wall -Wextra -Werror; for the boards the objects only, as there is no library to link."""
    clang, nm = tool("clang"), tool("nm")
    (tmp_path / "string.h").write_text(STRING_H)
    extra = [] if core == "host" else ["-ffreestanding", "-isystem", str(tmp_path)]
    target = next((t for t in TARGETS if t.name == core), TARGETS[0])
    flags = [*CLANG[core], *extra, *(flag for flag in CFLAGS if flag != "-O3"), level, "-Iinclude", "-Isrc"]
    for name, folders in projects.items():
        objects = [str(tmp_path / f"{name}_{each}") for each in OBJECTS]
        for source, to in zip(MODEL_SOURCES, objects, strict=True):
            command = [clang, *flags, "-c", source, "-o", to]
            done = subprocess.run(command, cwd=folders[target], capture_output=True, text=True, check=False)
            assert (done.returncode, done.stderr) == (0, "")
        symbols = subprocess.run([nm, "-u", *objects], check=True, capture_output=True, text=True).stdout
        needed = set(re.findall(r"^\s+U (\S+)$", symbols, re.MULTILINE))
        assert {each for each in needed if not each.startswith("clio_")} <= LIBRARY


@pytest.mark.parametrize("level", ["-O0", "-O1", "-O2", "-Os"])
@pytest.mark.parametrize("target", TARGETS, ids=board_id)
def test_other_levels_of_gcc(
    level: str, target: Target, projects: Projects, tool: Tool, tmp_path: Path
) -> None:
    """A user's own flags: as clean, no more library, the same result."""
    for command in toolchain.missing_tools(target.emulated):
        tool(command)
    built = toolchain.build(projects["digits"][target], target.emulated, tmp_path, extra_flags=[level])
    assert toolchain.undefined_symbols(built) <= {*LIBRARY, "clio_op_begin", "clio_op_end"}
    if level != "-O0":  # without optimization the stack is deeper than the linker script reserves
        assert toolchain.run(built, icount=False, timeout_s=60).mismatches == 0


def test_no_word_of_the_heap_or_floating_point(projects: Projects) -> None:
    """Nor in the text: whatever the compiler would have made of it."""
    words = re.compile(r"\b(malloc|calloc|realloc|free|alloca|float|double)\b")
    for folders in projects.values():
        for folder in folders.values():
            for file in [*folder.glob("src/**/*.[ch]"), *folder.glob("include/*")]:
                code = re.sub(r"/\*.*?\*/|//[^\n]*", "", file.read_text(), flags=re.DOTALL)
                assert not words.search(code), file
                tables = re.findall(r"^(?:static )?(?:const )?u?int\d+_t \w+\[\d+\].*$", code, re.MULTILINE)
                assert all(line.startswith("const ") or "clio_arena" in line for line in tables), file


def test_only_headers_of_c99(projects: Projects) -> None:
    for folder in projects["families"].values():
        for file in [*folder.glob("src/**/*.[ch]"), *folder.glob("include/*")]:
            includes = set(re.findall(r"#include <(\S+)>", file.read_text()))
            assert includes <= {"stdint.h", "string.h"}, file


def test_arena_is_as_planned() -> None:
    result = compiled("stm32f7")
    header = result.files.files["device/include/clio_model.h"].decode()
    planned = plan_arena(result.program).bytes
    assert f"#define CLIO_ARENA_BYTES {planned}\n" in header
    assert result.manifest["device"]["arena_bytes"] == planned == result.footprint.arena_bytes


# --- units ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS, ids=board_id)
def test_units_are_copied(target: Target, tool: Tool, tmp_path: Path) -> None:
    """Two partition points, one of images and one of a vector, on the host and the emulated board."""
    program = random_operators.program_of("conv", 3)
    gemm = random_operators.program_of("gemm", 2)
    last = tap_at(gemm, 1)
    taps = (tap_at(program, 0), tap_at(program, 2), replace(last, tensor=f"v{last.tensor}"))
    both = Program(
        (*program.inputs, *(replace(t, name=f"v{t.name}") for t in gemm.inputs)),
        (
            *program.operators,
            *(
                replace(
                    op,
                    inputs=tuple(replace(t, name=f"v{t.name}") for t in op.inputs),
                    output=replace(op.output, name=f"v{op.output.name}"),
                )
                for op in gemm.operators
            ),
        ),
        tuple(tap.tensor for tap in taps),
        taps,
    )
    project = write_projects(both, tmp_path / "projects")[target]
    for board in (HOST, target.emulated):
        for command in toolchain.missing_tools(board):
            tool(command)
        result = execution.execute(
            both, project, board, execution.random_inputs(both, 3), tmp_path / board.name
        )
        assert result.exact, result
    # Break it: another stride.
    model = project / "src/clio_model.c"
    text = model.read_text()
    assert text.count("to[i] = from[i * channels];") == 1
    model.write_text(text.replace("from[i * channels]", "from[i * channels / 2u]"))
    result = execution.execute(both, project, HOST, execution.random_inputs(both, 3), tmp_path / "broken")
    assert result.first_mismatch is None
    assert result.wrong_units and not result.exact


def tap_at(program: Program, index: int) -> Tap:
    tensor = program.operators[index].output
    return Tap(f"cut{index}", tensor.name, tensor.shape[-1], tensor.bytes // tensor.shape[-1])


def test_units_beyond_the_last_are_left_alone(projects: Projects, tool: Tool, tmp_path: Path) -> None:
    """The public functions as an application calls them."""
    main = tmp_path / "main.c"
    main.write_text(
        """#include <stdio.h>
#include <string.h>
#include "clio_model.h"
int main(void) {
    static int8_t unit[CLIO_LARGEST_UNIT_BYTES];
    memset(unit, 42, sizeof unit);
    clio_run();
    clio_unit(0, CLIO_TAP0_UNITS, unit);
    clio_unit(1, 0, unit);
    printf("%d %u %u %u %u ", unit[0], clio_units(0) == CLIO_TAP0_UNITS, clio_units(1),
           clio_unit_bytes(0) == CLIO_TAP0_UNIT_BYTES, clio_unit_bytes(1));
    printf("%d %d %u %u %d\\n", clio_input(CLIO_INPUTS) == 0, clio_output(CLIO_OUTPUTS) == 0,
           clio_input_bytes(CLIO_INPUTS), clio_output_bytes(CLIO_OUTPUTS), clio_input(0) != 0);
    return 0;
}
"""
    )
    folder = projects["families"][TARGETS[0]]
    sources = [str(folder / source) for source in MODEL_SOURCES]
    includes = [f"-I{folder / 'include'}", f"-I{folder / 'src'}"]
    program = tmp_path / "main"
    subprocess.run([tool("gcc"), *CFLAGS, *includes, *sources, str(main), "-o", str(program)], check=True)
    done = subprocess.run([str(program)], check=True, capture_output=True, text=True)
    assert done.stdout == "42 1 0 1 0 1 1 0 0 1\n"


# --- the checks themselves ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("board", "code", "symbols", "floats"),
    [
        (TARGETS[0].emulated, "double f(double x) { return x * x; }", {"__muldf3"}, set()),
        (TARGETS[0].emulated, "long long f(long long x) { return 7 / x; }", {"__divdi3"}, set()),
        (TARGETS[1].emulated, "float f(float x) { return x * x; }", set(), {"vmul.f32"}),
        (TARGETS[1].emulated, "long long f(long long x) { return 7 / x; }", {"__aeabi_ldivmod"}, set()),
        (HOST, "void *malloc(unsigned long); void *f(void) { return malloc(1); }", {"malloc"}, set()),
        (HOST, "double f(double x) { return x * x; }", set(), {"mulsd"}),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_the_checks_see(
    board: Board, code: str, symbols: set[str], floats: set[str], tool: Tool, tmp_path: Path
) -> None:
    """Code that breaks each rule."""
    source, built = tmp_path / "x.c", tmp_path / OBJECTS[0]
    source.write_text(code + "\n")
    subprocess.run(
        [tool(board.compiler.command), *board.compiler.flags, "-O3", "-c", str(source), "-o", str(built)],
        check=True,
    )
    for each in OBJECTS[1:]:
        (tmp_path / each).write_bytes(built.read_bytes())
    needed = toolchain.undefined_symbols(toolchain.Build(board, tmp_path / "elf", tmp_path / "map"))
    assert needed == symbols
    assert floats_in(disassembled(board, [built], tool), architecture(board)) >= floats
