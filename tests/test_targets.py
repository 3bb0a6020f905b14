"""Targets: facts, messages, and the C that belongs to boards."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import pytest
from toy import EMULATED, board_id, toy_project

from clio_cc import toolchain
from clio_cc.errors import ClioError
from clio_cc.targets import (
    EMULATED_BOARDS,
    TARGETS,
    EmulatedBoard,
    Figure,
    Memory,
    Region,
    Target,
    find_target,
)

Tool = Callable[[str], str]

STUBS = Path(__file__).parent / "data" / "stubs"
STRICT = ("-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only")


def test_find_target() -> None:
    assert [find_target(target.name) for target in TARGETS] == list(TARGETS)
    assert [target.name for target in TARGETS] == ["gap8", "stm32f7", "nrf5340"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("stm32f4", "unknown target 'stm32f4'\n  hint: did you mean 'stm32f7'?"),
        ("NRF5340", "unknown target 'NRF5340'\n  hint: did you mean 'nrf5340'?"),
        ("esp32c3", "unknown target 'esp32c3'\n  hint: targets are gap8, stm32f7, nrf5340"),
    ],
)
def test_unknown_target(name: str, message: str) -> None:
    with pytest.raises(ClioError) as caught:
        find_target(name)
    assert str(caught.value) == message


@pytest.mark.parametrize("target", TARGETS, ids=board_id)
def test_facts(target: Target) -> None:
    figures = [getattr(target, field.name) for field in fields(target)]
    assert sum(isinstance(figure, Figure) for figure in figures) == 6
    if target.firmware is not None:
        memory = target.firmware.memory
        assert memory is not None
        assert memory.region(memory.data).length == target.ram_bytes.value
        assert memory.region(memory.code).length == target.flash_bytes.value
    assert target.emulated in EMULATED_BOARDS


def test_facts_are_checked() -> None:
    region = Region("RAM", 0, 16)
    target, board = TARGETS[1], EMULATED_BOARDS[0]
    with pytest.raises(ValueError, match="must name its source"):
        Figure(1, "")
    with pytest.raises(ValueError, match="must be positive, got 0"):
        Figure(0, "somewhere")
    with pytest.raises(ValueError, match="region RAM does not lie in 32 bits"):
        Region("RAM", 0xFFFFFFFF, 2)
    with pytest.raises(ValueError, match=r"do not fit together: \['ROM'\]"):
        Memory((region,), code="ROM", tables="RAM", data="RAM", arena=("RAM",))
    with pytest.raises(ValueError, match="stm32f7: clock_hz must be whole"):
        replace(target, clock_hz=Figure(0.5, "somewhere"))
    with pytest.raises(ValueError, match=r"must hold src/clio_micro\.h"):
        replace(target, micro_kernels=())
    with pytest.raises(ValueError, match="emulated board mps2_an500 needs a memory map"):
        replace(board, memory=None)


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Target → its toy device project."""
    folder = tmp_path_factory.mktemp("projects")
    for target in TARGETS:
        toy_project(target).write(folder / target.name)
    return {target.name: folder / target.name for target in TARGETS}


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize("flags", [(), ("-DCLIO_OP_HOOK",), ("-DCLIO_OP_HOOK", "-DCLIO_TEST_DUMP_OP=1")])
def test_firmware_is_strict_c99(
    tool: Tool, projects: dict[str, Path], compiler: str, flags: tuple[str, ...]
) -> None:
    profile = ("test/clio_profile.c",) if flags == ("-DCLIO_OP_HOOK",) else ()
    sources = ("test/clio_test.c", *profile, "boards/host/board.c")
    subprocess.run(
        [tool(compiler), *STRICT, *flags, "-Iinclude", "-Itest", *sources],
        cwd=projects["stm32f7"],
        check=True,
    )


@pytest.mark.parametrize(
    ("name", "source"), [("gap8", "boards/gap8/main.c"), ("nrf5340", "boards/zephyr/src/main.c")]
)
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_firmware_for_a_vendors_sdk(
    tool: Tool, projects: dict[str, Path], name: str, source: str, compiler: str
) -> None:
    # PMSIS takes a function as void *, which ISO C forbids.
    flags = [flag for flag in STRICT if flag != "-Wpedantic"]
    command = [tool(compiler), *flags, f"-I{STUBS}", "-Iinclude", "-Itest", source]
    subprocess.run(command, cwd=projects[name], check=True)


@pytest.mark.parametrize("board", EMULATED_BOARDS, ids=board_id)
def test_board_files_are_strict_c99(tool: Tool, projects: dict[str, Path], board: EmulatedBoard) -> None:
    name = next(target.name for target in TARGETS if target.emulated is board)
    sources = [source for source in board.sources if source.endswith(".c")]
    command = [tool(board.compiler.command), *board.compiler.flags, *STRICT, "-Itest", *sources]
    subprocess.run(command, cwd=projects[name], check=True)


def run_variant(
    board: EmulatedBoard, target: Target, folder: Path, body: str, hook: bool = True, **options: int
) -> toolchain.TestRun:
    """Run the toy with `body` as the first statement of its second operator."""
    start = "void clio_lookup(const int8_t *x, int8_t *y) {\n"
    project = toy_project(target, {"src/clio_kernels.c": (start, f"{start}{body}\n")}, **options)
    project.write(folder / "device")
    return toolchain.run(toolchain.build(folder / "device", board, folder / "build", hook=hook), timeout_s=60)


def fill_frame(size: int) -> str:
    """C statements that need `size` bytes of stack and write all of them."""
    loop = f"for (int32_t k = {size - 1}; k >= 0; k--)"
    return f"volatile int8_t deep[{size}]; {loop} {{ deep[k] = 1; (void)deep[k]; }}"


@pytest.mark.parametrize(("board", "target"), EMULATED, ids=board_id)
def test_instruction_counts_are_exact(
    tool: Tool, tmp_path: Path, board: EmulatedBoard, target: Target
) -> None:
    tool(board.compiler.command), tool(board.qemu[0])
    nops = '__asm__ volatile(".rept {}\\n\\tnop\\n\\t.endr");'
    few, many = (
        run_variant(board, target, tmp_path / str(n), nops.format(n)).instructions for n in (1000, 51000)
    )
    for before, after in zip(few, many, strict=True):
        assert abs(after[1] - before[1] - 50000) <= 1
        assert abs(after[0] - before[0]) <= 1  # the other operator does not change
    # Of an operator without work the call remains, and nothing of the hooks.
    none = run_variant(board, target, tmp_path / "none", "if (y != 0) { return; }").instructions
    assert all(3 <= counts[1] <= 8 for counts in none)


@pytest.mark.parametrize(("board", "target"), EMULATED, ids=board_id)
def test_stack_is_measured_and_stated(
    tool: Tool, tmp_path: Path, board: EmulatedBoard, target: Target
) -> None:
    tool(board.compiler.command), tool(board.qemu[0])
    measured = run_variant(
        board, target, tmp_path, fill_frame(1000), hook=False, stack_bytes=1200
    ).stack_bytes
    stated = toolchain.stack_bytes(tmp_path / "device", board, tmp_path / "stack")
    assert 1000 <= measured <= stated < measured + 32


@pytest.mark.parametrize(("board", "target"), EMULATED, ids=board_id)
def test_stack_overflow_is_a_fault(tool: Tool, tmp_path: Path, board: EmulatedBoard, target: Target) -> None:
    tool(board.compiler.command), tool(board.qemu[0])
    # The stack lies lowest in the RAM. Below it is nothing on the M33, where a fault without a stack stops
    # the core, and unused memory on the others, where the painted limit tells.
    reason = "qemu: fatal: Lockup" if board.core == "Cortex-M33" else "FAULT stack overflow"
    with pytest.raises(ClioError, match=f"clio_test on {board.name} stopped before its end: {reason}"):
        run_variant(board, target, tmp_path, fill_frame(4000))


@pytest.mark.parametrize(("board", "target"), EMULATED, ids=board_id)
def test_a_trap_is_a_fault(tool: Tool, tmp_path: Path, board: EmulatedBoard, target: Target) -> None:
    tool(board.compiler.command), tool(board.qemu[0])
    reason = "trap 03" if board.core == "RV32IMC" else "exception 03"
    with pytest.raises(ClioError) as caught:
        run_variant(board, target, tmp_path, "__builtin_trap();")
    assert str(caught.value) == f"clio_test on {board.name} stopped before its end: FAULT {reason}"


@pytest.mark.parametrize(("board", "target"), EMULATED, ids=board_id)
def test_large_arena_and_tables(tool: Tool, tmp_path: Path, board: EmulatedBoard, target: Target) -> None:
    tool(board.compiler.command), tool(board.qemu[0])
    arena, table = 6_000_000, 5_000_000
    changes = {
        "include/clio_model.h": ("CLIO_ARENA_BYTES 32", f"CLIO_ARENA_BYTES {arena}"),
        "src/clio_kernels.h": ("clio_table[256]", f"clio_table[{table}]"),
        "src/clio_tables.c": ("clio_table[256]", f"clio_table[{table}]"),
    }
    toy_project(target, changes, arena_bytes=arena).write(tmp_path / "device")
    built = toolchain.build(tmp_path / "device", board, tmp_path / "build")
    assert toolchain.run(built, timeout_s=60).mismatches == 0
    sizes = toolchain.sections(built)
    assert sizes["clio_model"].bss == arena
    assert sizes["clio_tables"].rodata == table


def test_arena_too_large_for_the_real_board(tool: Tool, tmp_path: Path) -> None:
    target = find_target("stm32f7")
    assert target.firmware is not None
    tool(target.firmware.compiler.command)
    arena = 320 << 10
    changes = {"include/clio_model.h": ("CLIO_ARENA_BYTES 32", f"CLIO_ARENA_BYTES {arena}")}
    toy_project(target, changes, arena_bytes=arena).write(tmp_path / "device")
    with pytest.raises(ClioError, match="region `RAM' overflowed by"):
        toolchain.build(tmp_path / "device", target.firmware, tmp_path / "build")
