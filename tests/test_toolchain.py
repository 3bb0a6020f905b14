"""Building, running, reading what linker and firmware say: on the host and every emulated board."""

from __future__ import annotations

import re
import stat
import subprocess
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from toy import EMULATED, LINKABLE, OUTPUTS, RUNNABLE, board_id, toy_project

from clio_cc import toolchain
from clio_cc.errors import ClioError
from clio_cc.targets import HOST, TARGETS, Board, Compiler, EmulatedBoard, Target
from clio_cc.toolchain import Build, Sizes, TestRun, deepest_stack, parse_run

Tool = Callable[[str], str]

CLANG = Compiler("clang", ("clang",))


@pytest.fixture
def need(tool: Tool) -> Callable[[Board], None]:
    """Skips, or fails in CI, where a board's tools are missing."""

    def check(board: Board) -> None:
        for command in toolchain.missing_tools(board):
            tool(command)

    return check


@pytest.fixture
def device(tmp_path: Path) -> Callable[..., Path]:
    """Writes the toy project of a target."""

    def write(target: Target = TARGETS[1], replace: dict[str, tuple[str, str]] | None = None) -> Path:
        toy_project(target, replace).write(tmp_path / "device")
        return tmp_path / "device"

    return write


Need = Callable[[Board], None]
Device = Callable[..., Path]


@pytest.mark.parametrize(("board", "target"), RUNNABLE, ids=board_id)
def test_run(need: Need, device: Device, tmp_path: Path, board: Board, target: Target) -> None:
    need(board)
    folder = device(target)
    built = toolchain.build(folder, board, tmp_path / "build")
    result = toolchain.run(built, timeout_s=60)
    assert result.outputs == OUTPUTS
    assert result.mismatches == 0
    assert result.dumps == {}
    # CRC-32 of the outputs, and one expected hash spelled out in clio_vectors.c.
    assert [hashes[1] for hashes in result.hashes] == [zlib.crc32(outputs[0]) for outputs in OUTPUTS]
    assert all(len(row) == 2 for row in (*result.hashes, *result.instructions))
    if isinstance(board, EmulatedBoard):
        assert all(20 < count < 300 for row in result.instructions for count in row)
        silent = toolchain.run(toolchain.build(folder, board, tmp_path / "silent", hook=False), timeout_s=60)
        stated = toolchain.stack_bytes(folder, board, tmp_path / "stack")
        assert 60 < silent.stack_bytes <= stated
        assert result.stack_bytes <= stated + 64  # the hooks' share
        assert toolchain.run(built, timeout_s=60) == result  # counts included
    else:
        assert result.stack_bytes == 0
        assert result.instructions == ((0, 0),) * 3


@pytest.mark.parametrize(("board", "target"), RUNNABLE, ids=board_id)
def test_wrong_hash_is_a_mismatch(
    need: Need, device: Device, tmp_path: Path, board: Board, target: Target
) -> None:
    need(board)
    folder = device(target)
    built = toolchain.build(folder, board, tmp_path / "build", vectors=folder / "test" / "wrong_vectors.c")
    result = toolchain.run(built, icount=False, timeout_s=60)
    assert result.mismatches == 1
    assert result.outputs == OUTPUTS


@pytest.mark.parametrize(("board", "target"), RUNNABLE, ids=board_id)
def test_wrong_kernel_is_a_mismatch(
    need: Need, device: Device, tmp_path: Path, board: Board, target: Target
) -> None:
    need(board)
    folder = device(target, replace={"src/clio_kernels.c": ("2 * a[i] + b[i]", "2 * a[i] + b[i] + (i == 2)")})
    result = toolchain.run(toolchain.build(folder, board, tmp_path / "build"), timeout_s=60)
    assert result.mismatches > 0


def test_dump(need: Need, device: Device, tmp_path: Path) -> None:
    need(HOST)
    built = toolchain.build(device(), HOST, tmp_path / "build", extra_flags=["-DCLIO_TEST_DUMP_OP=1"])
    assert toolchain.run(built).dumps == {(vector, 1): OUTPUTS[vector][0] for vector in range(3)}


def test_without_hooks_and_with_clang(need: Need, tool: Tool, device: Device, tmp_path: Path) -> None:
    need(HOST)
    tool(CLANG.command)
    built = toolchain.build(device(), HOST, tmp_path / "build", hook=False, compiler=CLANG)
    assert toolchain.run(built) == TestRun((), (), OUTPUTS, 0, 0)


@pytest.mark.parametrize(("board", "target"), LINKABLE, ids=board_id)
def test_sections_are_what_the_objects_hold(
    need: Need, tool: Tool, device: Device, tmp_path: Path, board: Board, target: Target
) -> None:
    need(board)
    # Initialized data, which the toy has none of, and a function that nothing calls.
    change = (
        "static int32_t clamp",
        "int32_t clio_set[3] = {1, 2, 3};\nint clio_unused(void);\n"
        "int clio_unused(void) {\n    return 1;\n}\nstatic int32_t clamp",
    )
    use = ("y[i] = wide[i * 8]", "y[i] = (int8_t)(wide[i * 8] + clio_set[i & 1] * 0)")
    folder = device(target, replace={"src/clio_kernels.c": change})
    kernels = folder / "src" / "clio_kernels.c"
    kernels.write_text(
        kernels.read_text().replace(*use).replace("int32_t clio_set", "volatile int32_t clio_set")
    )
    built = toolchain.build(folder, board, tmp_path / "build", hook=False)
    sizes = toolchain.sections(built)
    assert list(sizes) == ["clio_model", "clio_tables", "clio_kernels"]
    assert sizes["clio_tables"] == Sizes(rodata=256)
    assert sizes["clio_model"].bss == 32
    assert sizes["clio_kernels"].data == 12
    # The same from the other side: symbols of the linked file.
    nm = tool(board.compiler.nm)
    text = subprocess.run([nm, "-S", str(built.elf)], check=True, capture_output=True, text=True).stdout
    by_name = {name: int(size, 16) for size, name in re.findall(r"^\w+ (\w+) \w (clio_\w+)$", text, re.M)}
    assert "clio_unused" not in by_name
    assert by_name["clio_arena"] == sizes["clio_model"].ram_bytes
    functions = by_name["clio_double_add"] + by_name["clio_lookup"]
    assert functions <= sizes["clio_kernels"].text <= functions + 16
    assert toolchain.linked_sizes(built).ram_bytes == 32 + 12
    assert toolchain.linked_sizes(built).flash_bytes == sum(s.text for s in sizes.values()) + 256 + 12


def test_real_boards_do_not_run_here(need: Need, device: Device, tmp_path: Path) -> None:
    target = TARGETS[1]
    assert target.firmware is not None
    need(target.firmware)
    built = toolchain.build(device(target), target.firmware, tmp_path / "build")
    with pytest.raises(ClioError) as caught:
        toolchain.run(built)
    assert str(caught.value) == "stm32f7 is a real board\n  hint: flash it as device/README.md says"


def test_missing_tools(device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = device()
    monkeypatch.setenv("PATH", str(tmp_path))
    board, target = EMULATED[1]
    assert toolchain.missing_tools(board) == ["arm-none-eabi-gcc", "qemu-system-arm"]
    with pytest.raises(ClioError) as caught:
        toolchain.build(folder, board, tmp_path / "build")
    assert str(caught.value) == (
        "arm-none-eabi-gcc is not installed\n"
        "  hint: apt-get install gcc-arm-none-eabi libnewlib-arm-none-eabi"
    )
    with pytest.raises(ClioError) as caught:
        toolchain.run(Build(target.emulated, tmp_path / "elf", tmp_path / "map"))
    assert str(caught.value) == "qemu-system-arm is not installed\n  hint: apt-get install qemu-system-arm"


def test_compiler_says_why(need: Need, device: Device, tmp_path: Path) -> None:
    need(HOST)
    folder = device(replace={"src/clio_kernels.c": ("int32_t i;", "int32_t i, j;")})
    with pytest.raises(ClioError) as caught:
        toolchain.build(folder, HOST, tmp_path / "build")
    lines = str(caught.value).splitlines()
    assert lines[0] == f"gcc failed in {folder}:"
    assert "src/clio_kernels.c:9:16: error: unused variable" in lines[2]
    assert len(lines) <= 10


def script(folder: Path, text: str) -> Build:
    """A shell script in the place of a test firmware of the host."""
    file = folder / "clio_test"
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return Build(HOST, file, folder / "map")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sleep 30 >&- 2>&-", "clio_test on host did not finish within 0.5 s"),
        ("exit 0", "clio_test on host stopped before its end: no output"),
        ("echo OUT 0 0 00", "clio_test on host stopped before its end: OUT 0 0 00"),
        ("echo; echo FAULT x; echo why >&2; exit 1", "clio_test on host stopped before its end: FAULT x"),
        ("echo why >&2; exit 1", "clio_test on host stopped before its end: why"),
        ("echo STACK 0; echo DONE 0; exit 1", "clio_test on host ended with exit code 1 after 'DONE 0'"),
        ("echo STACK 0; echo DONE 1", "clio_test on host ended with exit code 0 after 'DONE 1'"),
    ],
)
def test_firmware_that_goes_wrong(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ClioError) as caught:
        toolchain.run(script(tmp_path, text), timeout_s=0.5 if "sleep" in text else 60)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "line",
    [
        "hello",
        "OP 0 0 12 x",
        "OP 0 1 12 1",  # op 0 is missing
        "OP 1 0 12 1",  # vector 0 is missing
        "OUT 0 0 0",  # half a byte
        "OUT 0 0",
        "DUMP 0 0 zz",
    ],
)
def test_unexpected_line(line: str) -> None:
    with pytest.raises(ClioError) as caught:
        parse_run([line, "STACK 0", "DONE 0"], "firmware")
    assert str(caught.value) == f"firmware:1: unexpected line '{line}'"


def test_unexpected_end() -> None:
    with pytest.raises(ClioError, match="firmware: no STACK or no DONE line"):
        parse_run(["DONE 0"], "firmware")
    with pytest.raises(ClioError, match="firmware:2: unexpected line 'DONE 0'"):
        parse_run(["DONE 0", "DONE 0"], "firmware")


def test_parse_run() -> None:
    lines = [
        "OP 0 0 ff 7",
        "DUMP 0 0 80",
        "OP 0 1 0a 8",
        "OUT 0 0 80ff",
        "OUT 0 1 00",
        "ZONE 3 -8",
        "STACK 5",
        "DONE 1",
    ]
    assert parse_run(lines, "x") == TestRun(
        ((255, 10),), ((7, 8),), ((b"\x80\xff", b"\0"),), 5, 1, {(0, 0): b"\x80"}, zones=((3, -8),)
    )


GRAPH = r"""graph: { title: "a.c"
node: { title: "clio_run" label: "clio_run\na.c:1:1\n24 bytes (static)" }
node: { title: "a.c:small" label: "small\na.c:2:1\n8 bytes (static)" }
edge: { sourcename: "clio_run" targetname: "a.c:small" label: "a.c:1:2" }
edge: { sourcename: "clio_run" targetname: "big" label: "a.c:1:3" }
edge: { sourcename: "clio_run" targetname: "big" label: "a.c:1:4" }
node: { title: "big" label: "big\na.c:9:1" shape : ellipse }
}
"""
BIG = r"""graph: { title: "b.c"
node: { title: "big" label: "big\nb.c:1:1\n100 bytes (static)" }
node: { title: "memset" label: "__builtin_memset\n<built-in>" shape : ellipse }
edge: { sourcename: "big" targetname: "memset" }
}
"""


def test_deepest_stack() -> None:
    assert deepest_stack([GRAPH, BIG], "clio_run") == 24 + 100 + toolchain.LIBRARY_STACK_BYTES
    assert deepest_stack([BIG, GRAPH], "big") == 100 + toolchain.LIBRARY_STACK_BYTES


@pytest.mark.parametrize(
    ("graphs", "message"),
    [
        ([GRAPH], "clio_run calls big, whose stack is not known"),
        ([BIG], "clio_run, whose stack is not known"),
        ([GRAPH, BIG.replace("memset", "clio_run")], "clio_run calls itself, its stack cannot be stated"),
        (
            [GRAPH, BIG.replace("memset", "__indirect_call")],
            "big calls __indirect_call, whose stack is not known",
        ),
        (
            [GRAPH, BIG.replace("(static)", "(dynamic)")],
            "the stack frame of big is dynamic, its size cannot be stated",
        ),
    ],
)
def test_stack_that_cannot_be_stated(graphs: list[str], message: str) -> None:
    with pytest.raises(ClioError) as caught:
        deepest_stack(graphs, "clio_run")
    assert str(caught.value) == message


def test_frames_of_variable_size_are_found(need: Need, device: Device, tmp_path: Path) -> None:
    board = EMULATED[1][0]
    need(board)
    start = "void clio_lookup(const int8_t *x, int8_t *y) {\n"
    body = "    volatile int8_t grows[x[0] + 200];\n    grows[0] = 1;\n    (void)grows[0];\n"
    folder = device(replace={"src/clio_kernels.c": (start, start + body)})
    with pytest.raises(ClioError) as caught:
        toolchain.stack_bytes(folder, board, tmp_path / "build")
    assert str(caught.value) == "the stack frame of clio_lookup is dynamic, its size cannot be stated"


@pytest.mark.parametrize(("board", "target"), RUNNABLE, ids=board_id)
def test_undefined_symbols(need: Need, device: Device, tmp_path: Path, board: Board, target: Target) -> None:
    need(board)
    folder = device(target)
    built = toolchain.build(folder, board, tmp_path / "build", hook=False)
    assert toolchain.undefined_symbols(built) == frozenset()
    built = toolchain.build(folder, board, tmp_path / "build", hook=True)
    assert toolchain.undefined_symbols(built) - {"memset"} == {"clio_op_begin", "clio_op_end"}


def test_other_emulator_options(need: Need) -> None:
    board = replace(EMULATED[0][0], name="other")
    need(board)
    command = toolchain.run_command(Build(board, Path("a.elf"), Path("a.map")), icount=False)
    assert command[1:] == [*board.qemu[1:], "-kernel", "a.elf"]
