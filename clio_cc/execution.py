"""Runs a Program's device project on a board and compares every operator's output with the reference interpreter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clio_cc import reference, toolchain
from clio_cc.codegen.model import expected_hashes, unit_hashes, vectors_source
from clio_cc.program import Program
from clio_cc.qformat import Int8Array
from clio_cc.targets import Board


@dataclass(frozen=True)
class Mismatch:
    """The first operator, in execution order, whose output differs from the reference."""

    executor: str
    input: int
    operator: int
    name: str
    kind: str
    element: int
    expected: int
    got: int

    def __str__(self) -> str:
        return (
            f"{self.executor}: input {self.input}, operator {self.operator} '{self.name}' ({self.kind}): "
            f"element {self.element} is {self.got}, the reference says {self.expected}"
        )


@dataclass(frozen=True)
class Execution:
    """A run of the test firmware on one board.

    Attributes:
        board: Name.
        inputs: Number of input vectors.
        first_mismatch: None if every output of every operator equals the reference.
        instructions: Per operator, of the last input vector; zeros where the board does not count.
        wrong_units: Partition points whose units, as ``clio_unit`` hands them out, are not the reference's.
    """

    board: str
    inputs: int
    first_mismatch: Mismatch | None
    instructions: tuple[int, ...]
    wrong_units: tuple[str, ...] = ()

    @property
    def exact(self) -> bool:
        """Every operator's output and every unit is the reference's."""
        return self.first_mismatch is None and not self.wrong_units


@dataclass(frozen=True)
class Trespass:
    """A byte of the arena that an operator changed, though it lies outside its output and scratch, or is read later."""

    executor: str
    operator: int
    name: str
    kind: str
    offset: int

    def __str__(self) -> str:
        return (
            f"{self.executor}: operator {self.operator} '{self.name}' ({self.kind}) changes the arena at offset "
            f"{self.offset}, which is not its to write"
        )


@dataclass(frozen=True)
class ZoneRun:
    """A run between red zones: before each operator everything dead was overwritten, after it all the rest compared.

    Attributes:
        board: Name.
        inputs: Number of input vectors.
        trespasses: What operators changed beside their outputs and scratch.
        wrong: Operators, by index, whose output was not the reference's: they depend on something dead.
    """

    board: str
    inputs: int
    trespasses: tuple[Trespass, ...]
    wrong: tuple[int, ...]


def random_inputs(program: Program, count: int, seed: int = 0) -> list[Int8Array]:
    """Return `count` seeded int8 inputs for every input of the program; the first two are all -128 and all 127."""
    rng = np.random.default_rng(seed)
    batches = []
    for tensor in program.inputs:
        batch = rng.integers(-128, 128, (count, *tensor.shape)).astype(np.int8)
        batch[:1], batch[1:2] = -128, 127
        batches.append(batch)
    return batches


def execute(
    program: Program,
    device_dir: Path,
    board: Board,
    inputs: Sequence[Int8Array],
    build_dir: Path,
    *,
    icount: bool = False,
    extra_flags: Sequence[str] = (),
) -> Execution:
    """Build the device project for `board`, run it on `inputs`, and compare every operator's output with the reference.

    Raises:
        ClioError: a compiler or emulator is missing or fails.
    """
    vectors = _write_vectors(program, inputs, build_dir)
    built = toolchain.build(device_dir, board, build_dir, vectors=vectors, extra_flags=extra_flags)
    result = toolchain.run(built, icount=icount)
    wrong = np.argwhere(_differing(program, inputs, result))
    first = None
    if len(wrong):
        vector, op = (int(i) for i in wrong[0])
        first = _locate(program, device_dir, board, inputs, vector, op, build_dir / "dump")
    counts = result.instructions[-1] if icount and result.instructions else ()
    return Execution(board.name, len(inputs[0]), first, counts, _wrong_units(program, inputs, result.units))


def run_between_zones(
    program: Program, device_dir: Path, board: Board, inputs: Sequence[Int8Array], build_dir: Path
) -> ZoneRun:
    """Build the device project with red zones, and run it through everything.

    Raises:
        ClioError: a compiler or emulator is missing or fails.
    """
    vectors = _write_vectors(program, inputs, build_dir)
    built = toolchain.build(device_dir, board, build_dir, vectors=vectors, red_zones=True)
    result = toolchain.run(built, icount=False)
    wrong = np.flatnonzero(_differing(program, inputs, result).any(axis=0))
    operators = program.operators
    trespasses = (
        Trespass(board.name, op, operators[op].name, operators[op].kind, offset)
        for op, offset in dict.fromkeys(result.zones)
    )
    return ZoneRun(board.name, len(inputs[0]), tuple(trespasses), tuple(map(int, wrong)))


def _write_vectors(program: Program, inputs: Sequence[Int8Array], build_dir: Path) -> Path:
    """Write the C file with the inputs and what the reference makes of them; return its path."""
    build_dir.mkdir(parents=True, exist_ok=True)
    vectors = build_dir / "vectors.c"
    vectors.write_text(vectors_source(program, inputs, "Inputs of clio-cc verify."))
    return vectors


def _differing(
    program: Program, inputs: Sequence[Int8Array], result: toolchain.TestRun
) -> npt.NDArray[np.bool_]:
    """Return ``[vectors, operators]``: where an output is not the reference's."""
    expected = expected_hashes(program, inputs)
    got = np.array(result.hashes, np.uint32).reshape(expected.shape)
    return np.asarray(got != expected)


def _wrong_units(
    program: Program, inputs: Sequence[Int8Array], got: Sequence[Sequence[int]]
) -> tuple[str, ...]:
    expected = unit_hashes(program, reference.run(program, inputs))
    pairs = zip(zip(*expected, strict=True), zip(*got, strict=True), strict=True)
    return tuple(tap.partition for tap, (a, b) in zip(program.taps, pairs, strict=True) if a != b)


def _locate(
    program: Program,
    device_dir: Path,
    board: Board,
    inputs: Sequence[Int8Array],
    vector: int,
    op: int,
    build_dir: Path,
) -> Mismatch:
    """Run the one input again with operator `op` dumped, and find the first element that differs."""
    one = [batch[vector : vector + 1] for batch in inputs]
    vectors = _write_vectors(program, one, build_dir)
    built = toolchain.build(
        device_dir, board, build_dir, vectors=vectors, extra_flags=[f"-DCLIO_TEST_DUMP_OP={op}"]
    )
    dump = np.frombuffer(toolchain.run(built, icount=False).dumps[0, op], np.int8)
    operator, value = list(reference.walk(program, one))[op]
    right = value.reshape(-1)
    differing = np.flatnonzero(dump != right)
    element = int(differing[0]) if len(differing) else 0
    return Mismatch(
        board.name, vector, op, operator.name, operator.kind, element, int(right[element]), int(dump[element])
    )
