"""Builds a device project with a board's compiler, runs it, reads back what was printed and linked."""

from __future__ import annotations

import logging
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, TypeVar

from clio_cc.errors import ClioError
from clio_cc.project import CFLAGS, LDFLAGS, MODEL_SOURCES, ZONES, script_flags
from clio_cc.targets import Board, Compiler, EmulatedBoard

log = logging.getLogger(__name__)

T = TypeVar("T")

_INCLUDE = ("-Iinclude", "-Isrc", "-Itest")

# Stack of the library functions that a model may call: newlib's and picolibc's save at most six registers.
LIBRARY_STACK_BYTES = 32
_LIBRARY = ("memcpy", "memset")


def find_tool(command: str, packages: Sequence[str]) -> str:
    """Full path of a program.

    Raises:
        ClioError: Not on the PATH; the hint names the Debian packages.
    """
    path = shutil.which(command)
    if path is None:
        raise ClioError(f"{command} is not installed", hint=f"apt-get install {' '.join(packages)}")
    return path


def missing_tools(board: Board) -> list[str]:
    """Commands that building for the board, and running on it, needs and that are not on the PATH."""
    needed = [board.compiler.command, *(board.qemu[:1] if isinstance(board, EmulatedBoard) else ())]
    return [command for command in needed if shutil.which(command) is None]


@dataclass(frozen=True)
class Sizes:
    """Bytes as linked, by kind."""

    text: int = 0
    rodata: int = 0
    data: int = 0
    bss: int = 0

    @property
    def flash_bytes(self) -> int:
        """Code, constants and the initial values of variables."""
        return self.text + self.rodata + self.data

    @property
    def ram_bytes(self) -> int:
        """Variables."""
        return self.data + self.bss

    def __add__(self, other: Sizes) -> Sizes:
        return Sizes(
            self.text + other.text, self.rodata + other.rodata, self.data + other.data, self.bss + other.bss
        )


@dataclass(frozen=True)
class Build:
    """A linked test firmware."""

    board: Board
    elf: Path
    map: Path


@dataclass(frozen=True)
class TestRun:
    """What a test firmware printed. Outer index: vector; inner: op or output; both empty without hooks."""

    __test__: ClassVar[bool] = False  # not a test case, whatever pytest thinks of the name

    hashes: tuple[tuple[int, ...], ...]  # CRC-32 of each op's output
    instructions: tuple[tuple[int, ...], ...]  # spent in each op; 0 without a counter
    outputs: tuple[tuple[bytes, ...], ...]
    stack_bytes: int  # most used by clio_run and its hooks, if any; 0 where it is not painted
    mismatches: int  # op outputs that differ from the expected hashes
    dumps: Mapping[tuple[int, int], bytes] = field(default_factory=dict)  # (vector, op) → output
    units: tuple[tuple[int, ...], ...] = ()  # CRC-32 of all units of each tap; empty without taps
    zones: tuple[
        tuple[int, int], ...
    ] = ()  # (op, offset) of bytes that an op changed outside its output and scratch


def build(
    device_dir: Path,
    board: Board,
    build_dir: Path,
    *,
    vectors: Path | None = None,
    hook: bool = True,
    red_zones: bool = False,
    extra_flags: Sequence[str] = (),
    compiler: Compiler | None = None,
) -> Build:
    """Compile and link the test firmware of a device project.

    Args:
        device_dir: The project.
        build_dir: Where objects, ``clio_test.elf`` and ``clio_test.map`` go; made if needed.
        vectors: A C file instead of ``test/clio_vectors.c``.
        hook: Compile with CLIO_OP_HOOK.
        red_zones: Compile with CLIO_RED_ZONES and the project's ``test/clio_zones.c``; needs the hooks.
        extra_flags: After all others, e.g. ``-DCLIO_TEST_DUMP_OP=3``.
        compiler: Instead of the board's own, e.g. clang on the host.

    Raises:
        ClioError: The compiler is missing or refuses a file.
    """
    compiler = compiler or board.compiler
    command = find_tool(compiler.command, compiler.packages)
    out = build_dir.resolve()
    out.mkdir(parents=True, exist_ok=True)
    test = (Path("test/clio_test.c"), vectors.resolve() if vectors else Path("test/clio_vectors.c"))
    zones = [Path(ZONES)] if red_zones else []
    sources = [*map(Path, MODEL_SOURCES), *test, *zones, *map(Path, board.sources)]
    flags = [
        *compiler.flags,
        *CFLAGS,
        *_INCLUDE,
        f"-Iboards/{board.name}",
        *(["-DCLIO_OP_HOOK"] if hook else []),
        *(["-DCLIO_RED_ZONES"] if red_zones else []),
    ]
    objects = []
    for index, source in enumerate(sources):
        # The board's files are named like others may be; the model's keep their plain names for `sections`.
        name = source.stem if index < len(MODEL_SOURCES) else f"{index}_{source.stem}"
        objects.append(str(out / f"{name}.o"))
        _compile([command, *flags, *extra_flags, "-c", str(source), "-o", objects[-1]], device_dir)
    result = Build(board, out / "clio_test.elf", out / "clio_test.map")
    link = [*compiler.flags, *compiler.link_flags, *LDFLAGS, *script_flags(board), f"-Wl,-Map={result.map}"]
    _compile([command, *link, *objects, "-o", str(result.elf)], device_dir)
    return result


def _compile(command: list[str], folder: Path) -> None:
    log.debug("%s", " ".join(command))
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        shown = "\n  ".join([*lines[:8], *(["..."] if len(lines) > 8 else [])])
        raise ClioError(f"{Path(command[0]).name} failed in {folder}:\n  {shown}")


def run(built: Build, *, icount: bool = True, timeout_s: float = 600) -> TestRun:
    """Run a test firmware on its board and parse what it prints.

    Args:
        icount: On an emulated board, let time follow instructions; without it the run may be faster and
            counts mean nothing.

    Raises:
        ClioError: The emulator is missing; the firmware faults, does not finish in time or prints something
            else.
    """
    board = built.board
    name = f"clio_test on {board.name}"
    try:
        done = subprocess.run(
            run_command(built, icount),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired as error:
        raise ClioError(f"{name} did not finish within {timeout_s:g} s") from error
    lines = done.stdout.decode(errors="replace").splitlines()
    if not lines or not lines[-1].startswith("DONE"):
        faults = [line for line in lines if line.startswith("FAULT")]
        said = [*faults, *done.stderr.decode(errors="replace").split("\n"), *lines[-1:], "no output"]
        raise ClioError(f"{name} stopped before its end: {next(filter(None, said))}")
    result = parse_run(lines, name)
    if done.returncode != (1 if result.mismatches or result.zones else 0):
        raise ClioError(f"{name} ended with exit code {done.returncode} after '{lines[-1]}'")
    return result


def run_command(built: Build, icount: bool = True) -> list[str]:
    """The command that runs a test firmware.

    Raises:
        ClioError: The emulator is missing, or the board is a real one.
    """
    board = built.board
    if isinstance(board, EmulatedBoard):
        emulator = find_tool(board.qemu[0], board.packages)
        return [emulator, *board.qemu[1:], *(board.icount if icount else ()), "-kernel", str(built.elf)]
    if board.memory is not None:
        raise ClioError(f"{board.name} is a real board", hint="flash it as device/README.md says")
    return [str(built.elf)]


def parse_run(lines: Iterable[str], name: str) -> TestRun:
    """The lines of a test firmware as values.

    Raises:
        ClioError: A line is not one of the format, or ops and outputs do not come in order.
    """
    hashes: list[list[int]] = []
    instructions: list[list[int]] = []
    outputs: list[list[bytes]] = []
    units: list[list[int]] = []
    dumps: dict[tuple[int, int], bytes] = {}
    zones: list[tuple[int, int]] = []
    totals: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        try:
            match line.split(" "):
                case ["OP", vector, op, value, count]:
                    _append(hashes, int(vector), int(op), int(value, 16))
                    _append(instructions, int(vector), int(op), int(count))
                case ["OUT", vector, output, value]:
                    _append(outputs, int(vector), int(output), bytes.fromhex(value))
                case ["UNIT", vector, tap, value]:
                    _append(units, int(vector), int(tap), int(value, 16))
                case ["DUMP", vector, op, value]:
                    dumps[int(vector), int(op)] = bytes.fromhex(value)
                case ["ZONE", op, offset]:
                    zones.append((int(op), int(offset)))
                case ["STACK" | "DONE" as what, value] if what not in totals:
                    totals[what] = int(value)
                case _:
                    raise ValueError
        except ValueError:
            raise ClioError(f"unexpected line '{line[:60]}'", where=f"{name}:{number}") from None
    if totals.keys() != {"STACK", "DONE"}:
        raise ClioError("no STACK or no DONE line", where=name)
    return TestRun(
        _frozen(hashes),
        _frozen(instructions),
        _frozen(outputs),
        totals["STACK"],
        totals["DONE"],
        dumps,
        _frozen(units),
        tuple(zones),
    )


def _append(table: list[list[T]], row: int, column: int, value: T) -> None:
    if column == 0:
        table.append([])
    if row != len(table) - 1 or column != len(table[row]):
        raise ValueError("out of order")
    table[row].append(value)


def _frozen(table: list[list[T]]) -> tuple[tuple[T, ...], ...]:
    return tuple(map(tuple, table))


# Section of an input file → kind; the longest prefix wins, and what is not listed does not reach the device.
_KINDS = {
    ".text": "text",
    ".rodata": "rodata",
    ".srodata": "rodata",
    ".data": "data",
    ".sdata": "data",
    ".bss": "bss",
    ".sbss": "bss",
    "COMMON": "bss",
}
_MAP_START = "Linker script and memory map"
# " .text.clio_run\n                0x00000000 0x12 /path/clio_model.o"; a short name has no line break.
_MAP_LINE = re.compile(r"^ (\.[\w.$-]+|COMMON)\s+0x[0-9a-f]+\s+0x([0-9a-f]+)\s+(\S.*)$", re.MULTILINE)


def sections(built: Build) -> dict[str, Sizes]:
    """What of the model was linked: object (``clio_model``, ``clio_tables``, ``clio_kernels``) → sizes.

    Library functions and alignment between objects are not counted.
    """
    text = built.map.read_text(encoding="utf-8", errors="replace")
    _, _, body = text.partition(_MAP_START)
    wanted = {str(built.map.parent / f"{Path(source).stem}.o"): Path(source).stem for source in MODEL_SOURCES}
    sizes = {stem: Sizes() for stem in wanted.values()}
    for section, length, file in _MAP_LINE.findall(body):
        kind = next((kind for prefix, kind in _KINDS.items() if section.startswith(prefix)), None)
        if file in wanted and kind is not None:
            sizes[wanted[file]] += Sizes(**{kind: int(length, 16)})
    return sizes


def linked_sizes(built: Build) -> Sizes:
    """Sum of :func:`sections`."""
    return sum(sections(built).values(), Sizes())


def undefined_symbols(built: Build) -> frozenset[str]:
    """What the model's objects need from elsewhere: library functions, hooks where they are compiled in.

    Raises:
        ClioError: The tool chain's ``nm`` is missing.
    """
    compiler = built.board.compiler
    objects = [str(built.map.parent / f"{Path(source).stem}.o") for source in MODEL_SOURCES]
    command = [find_tool(compiler.nm, compiler.packages), "--format=posix", *objects]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    symbols = [line.split()[:2] for line in lines if not line.endswith(":") and line]
    defined = {name for name, kind in symbols if kind != "U"}
    return frozenset(name for name, kind in symbols if kind == "U") - defined


_NODE = re.compile(r'^node: \{ title: "([^"]*)" label: "([^"]*)"', re.MULTILINE)
_EDGE = re.compile(r'^edge: \{ sourcename: "([^"]*)" targetname: "([^"]*)"', re.MULTILINE)
_FRAME = re.compile(r"\\n(\d+) bytes \(([\w,]+)\)")


_RUNS = ("clio_run", "clio_run_to")


def stack_bytes(device_dir: Path, board: Board, build_dir: Path) -> int:
    """Stack that a run uses at most, from the compiler's call graph; hooks not included.

    Raises:
        ClioError: A frame of variable size, recursion, a call through a pointer, or a function that is not
            in the model.
    """
    command = find_tool(board.compiler.command, board.compiler.packages)
    out = build_dir.resolve()
    out.mkdir(parents=True, exist_ok=True)
    graphs = []
    for source in MODEL_SOURCES:
        object_file = out / f"{Path(source).stem}.o"
        flags = (*board.compiler.flags, *CFLAGS, *_INCLUDE, "-fcallgraph-info=su")
        _compile([command, *flags, "-c", source, "-o", str(object_file)], device_dir)
        graphs.append(object_file.with_suffix(".ci").read_text(encoding="utf-8"))
    here = [name for name in _RUNS if any(f'title: "{name}"' in graph for graph in graphs)]
    return max(deepest_stack(graphs, name) for name in here)


def deepest_stack(graphs: Iterable[str], entry: str) -> int:
    """Bytes on the deepest path from `entry` through call graphs as ``gcc -fcallgraph-info=su`` writes them.

    Raises:
        ClioError: As :func:`stack_bytes`.
    """
    frames: dict[str, int] = dict.fromkeys(_LIBRARY, LIBRARY_STACK_BYTES)
    calls: dict[str, list[str]] = {}
    for graph in graphs:
        for title, label in _NODE.findall(graph):
            frame = _FRAME.search(label)
            if frame is not None and frame.group(2) != "static":
                raise ClioError(f"the stack frame of {title} is {frame.group(2)}, its size cannot be stated")
            if frame is not None:
                frames[title] = int(frame.group(1))
        for caller, callee in _EDGE.findall(graph):
            calls.setdefault(caller, []).append(callee)
    return _depth(entry, frames, calls, ())


def _depth(
    function: str, frames: Mapping[str, int], calls: Mapping[str, Sequence[str]], path: tuple[str, ...]
) -> int:
    if function in path:
        raise ClioError(f"{function} calls itself, its stack cannot be stated")
    if function not in frames:
        caller = f"{path[-1]} calls " if path else ""
        raise ClioError(f"{caller}{function}, whose stack is not known")
    below = (_depth(callee, frames, calls, (*path, function)) for callee in calls.get(function, ()))
    return frames[function] + max(below, default=0)
