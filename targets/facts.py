"""What a board is: frozen values, each figure with its source, checked when made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Figure:
    """A number and where it comes from."""

    value: float
    source: str

    def __post_init__(self) -> None:
        if self.value <= 0:
            raise ValueError(f"a figure must be positive, got {self.value}")
        if not self.source:
            raise ValueError("a figure must name its source")


@dataclass(frozen=True)
class Compiler:
    """A gcc for one core.

    Args:
        command: Name on the PATH, e.g. ``arm-none-eabi-gcc``.
        flags: What the core needs, for compiling and linking.
        link_flags: Further flags for linking only.
        packages: Debian packages that bring it.
    """

    command: str
    packages: tuple[str, ...]
    flags: tuple[str, ...] = ()
    link_flags: tuple[str, ...] = ()

    @property
    def nm(self) -> str:
        """The command that lists symbols, from the same tool chain."""
        return f"{self.command.removesuffix('gcc')}nm"


@dataclass(frozen=True)
class Region:
    """A piece of a board's memory."""

    name: str
    origin: int
    length: int  # bytes

    def __post_init__(self) -> None:
        if self.length <= 0 or self.origin < 0 or self.origin + self.length > 1 << 32:
            raise ValueError(f"region {self.name} does not lie in 32 bits")


@dataclass(frozen=True)
class Memory:
    """Which regions hold what; `arena` lists regions by preference, the first large enough is used."""

    regions: tuple[Region, ...]
    code: str
    tables: str
    data: str
    arena: tuple[str, ...]

    def __post_init__(self) -> None:
        names = {region.name for region in self.regions}
        unknown = {self.code, self.tables, self.data, *self.arena} - names
        if unknown or not self.arena or len(names) != len(self.regions):
            raise ValueError(f"memory regions do not fit together: {sorted(unknown) or sorted(names)}")

    def region(self, name: str) -> Region:
        """The region of this name."""
        return next(region for region in self.regions if region.name == name)


@dataclass(frozen=True)
class Board:
    """Something the device project is built for: the host, an emulated board or a real one.

    Args:
        name: Also its folder below ``boards/`` in the device project.
        files: Name in that folder → template below ``targets/``; ``.c`` and ``.S`` are compiled.
        memory: None where the system links (host).
    """

    name: str
    core: str
    compiler: Compiler
    files: tuple[tuple[str, str], ...]
    memory: Memory | None = None

    @property
    def sources(self) -> tuple[str, ...]:
        """Files of the board that are compiled, relative to the device project."""
        return tuple(f"boards/{self.name}/{file}" for file, _ in self.files if file.endswith((".c", ".S")))


@dataclass(frozen=True, kw_only=True)
class EmulatedBoard(Board):
    """A board in QEMU.

    Args:
        qemu: Command up to, not including, ``-kernel``.
        icount: Options that make virtual time count instructions; without them counts mean nothing.
        packages: Debian packages that bring the emulator.
    """

    qemu: tuple[str, ...]
    icount: tuple[str, ...]
    packages: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.memory is None:
            raise ValueError(f"emulated board {self.name} needs a memory map")


@dataclass(frozen=True)
class Target:
    """Facts of a real board.

    Args:
        name: As typed after ``--target``.
        clock_hz: The clock that `power_mw` and `macs_per_s` are for, or nearest to.
        ram_bytes: RAM that one image can use as one piece.
        flash_bytes: Flash that one image can use.
        runs_from_ram: Code and tables take their bytes from `ram_bytes` when the program runs.
        power_mw: While computing.
        macs_per_s: Multiply-accumulates per second on a convolutional network, int8.
        cycles_per_instruction: Of the core, on the inner loops of networks: what turns instructions counted on the
            emulated board into time.
        device_time: What `profile` goes by where no table of a real board is given: ``emulated``, or ``model`` where
            the emulated code is not what the board's `macs_per_s` was reached with.
        micro_kernels: C headers with the inner loops → template; kernels include ``src/clio_micro.h``.
        emulated: The board that stands for it in tests.
        firmware: The real board, where a stock compiler can link for it; None where the vendor's SDK does.
        files: Further files of the device project → template below ``targets/``.
    """

    name: str
    title: str
    core: str
    clock_hz: Figure
    ram_bytes: Figure
    flash_bytes: Figure
    runs_from_ram: bool
    power_mw: Figure
    macs_per_s: Figure
    cycles_per_instruction: Figure
    device_time: Literal["emulated", "model"]
    micro_kernels: tuple[tuple[str, str], ...]
    emulated: EmulatedBoard
    firmware: Board | None = None
    files: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        for what in ("clock_hz", "ram_bytes", "flash_bytes"):
            if not float(getattr(self, what).value).is_integer():
                raise ValueError(f"{self.name}: {what} must be whole")
        if "src/clio_micro.h" not in dict(self.micro_kernels):
            raise ValueError(f"{self.name}: micro_kernels must hold src/clio_micro.h")
