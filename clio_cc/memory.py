"""What a device project needs of its board: RAM and flash, measured by the board's own compiler where it is installed."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from clio_cc import toolchain
from clio_cc.arena import Arena
from clio_cc.errors import ClioError
from clio_cc.program import Program
from clio_cc.project import device_glue, project_files
from clio_cc.targets import Target

UNMEASURED_STACK_BYTES = (
    4096  # reserved in linker scripts where no compiler can say; the deepest seen is under 600
)


@dataclass(frozen=True)
class Footprint:
    """Memory of the device's half, for one target.

    Attributes:
        arena_bytes: Tensors and scratch, exact.
        stack_bytes: Most that ``clio_run`` uses, from the compiler's call graph; None without the compiler.
        flash_bytes: Code, constants and initial values as linked; None without the compiler.
        table_bytes: Constant tables, exact; part of `flash_bytes`.
    """

    arena_bytes: int
    stack_bytes: int | None
    flash_bytes: int | None
    table_bytes: int

    @property
    def ram_bytes(self) -> int | None:
        """Arena and stack."""
        return None if self.stack_bytes is None else self.arena_bytes + self.stack_bytes

    def warning(self, target: Target) -> str:
        """Return what to tell the user where figures are missing, else ''."""
        if self.stack_bytes is not None:
            return ""
        compiler = target.emulated.compiler
        return (
            f"{compiler.command} is not installed, so stack and flash are not stated and "
            f"{UNMEASURED_STACK_BYTES} bytes of stack are reserved: apt-get install {' '.join(compiler.packages)}"
        )


def table_bytes(program: Program) -> int:
    """Return the bytes of all constant tables, equal ones counted once as they are stored once."""
    from clio_cc.codegen.model import bind

    return sum(int(values.nbytes) for values in bind(program).tables.values())


def measure(sources: Mapping[str, str], target: Target, arena_bytes: int, table_bytes: int) -> Footprint:
    """Compile and link the generated sources for the target's core, without hooks, and read what that takes.

    Without the cross compiler, stack and flash stay None: a guess would be worse than no figure.

    Args:
        sources: Files of the code generator and the test vectors, by path below ``device/``.
    """
    board = target.emulated
    if board.compiler.command in toolchain.missing_tools(board):
        return Footprint(arena_bytes, None, None, table_bytes)
    glue = device_glue(
        target, model="model", tool="clio-cc", arena_bytes=arena_bytes, stack_bytes=UNMEASURED_STACK_BYTES
    )
    with tempfile.TemporaryDirectory(prefix="clio-cc-") as temporary:
        folder = Path(temporary)
        project_files(sources, glue).write(folder / "device")
        stack = toolchain.stack_bytes(folder / "device", board, folder / "stack")
        built = toolchain.build(folder / "device", board, folder / "build", hook=False)
        return Footprint(arena_bytes, stack, toolchain.linked_sizes(built).flash_bytes, table_bytes)


def check_fits(footprint: Footprint, arena: Arena, target: Target) -> None:
    """Raise ClioError unless the board has room, saying how much is missing and which layer is to blame."""
    ram = footprint.arena_bytes + (footprint.stack_bytes or 0)
    flash = footprint.table_bytes if footprint.flash_bytes is None else footprint.flash_bytes
    hint = "cut earlier with --partition, or choose a board with more memory"
    if target.runs_from_ram:
        ram, flash = ram + flash, 0
    if ram > target.ram_bytes.value:
        over = int(ram - target.ram_bytes.value)
        what = " with code and tables" if target.runs_from_ram else ""
        raise ClioError(
            f"needs {ram} bytes of RAM{what}, {over} more than the {int(target.ram_bytes.value)} of {target.name}; "
            f"layer '{arena.worst}' needs most, {arena.live_bytes} bytes of tensors at once",
            hint=hint,
        )
    if flash > target.flash_bytes.value:
        over = int(flash - target.flash_bytes.value)
        raise ClioError(
            f"needs {flash} bytes of flash, {over} more than the {int(target.flash_bytes.value)} of {target.name}",
            hint=hint,
        )
