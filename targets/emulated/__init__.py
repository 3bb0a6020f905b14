"""Boards in QEMU that stand for the real ones. Their memory maps and clocks were tried with QEMU 7.2."""

from __future__ import annotations

from clio_cc.targets.facts import Compiler, EmulatedBoard, Memory, Region

MIB = 1 << 20

_ARM_PACKAGES = ("gcc-arm-none-eabi", "libnewlib-arm-none-eabi")
_ARM_LINK = ("-nostartfiles", "-Wl,--no-warn-rwx-segments")

CORTEX_M7 = Compiler(
    "arm-none-eabi-gcc", _ARM_PACKAGES, ("-mcpu=cortex-m7", "-mthumb", "-mfloat-abi=hard"), _ARM_LINK
)
CORTEX_M33 = Compiler(
    "arm-none-eabi-gcc", _ARM_PACKAGES, ("-mcpu=cortex-m33", "-mthumb", "-mfloat-abi=hard"), _ARM_LINK
)
# Not rv32imc_zicsr: this gcc then finds no 32-bit library and links the 64-bit one.
RV32IMC = Compiler(
    "riscv64-unknown-elf-gcc",
    ("gcc-riscv64-unknown-elf", "picolibc-riscv64-unknown-elf"),
    ("-march=rv32imc", "-mabi=ilp32", "--specs=picolibc.specs"),
    ("-nostartfiles", "-Wl,--no-warn-rwx-segments"),
)

# Files that every board without an operating system has; those of a Cortex-M.
BARE_METAL_FILES = (
    ("sections.ld", "runtime/sections.ld"),
    ("stack.c", "runtime/stack.c"),
    ("semihosting.c", "runtime/semihosting.c"),
)
CORTEX_M_FILES = (*BARE_METAL_FILES, ("startup.c", "cortex_m/startup.c"))
_HEADERS = (
    "clio_micro.h",
    "clio_matmul.h",
    "clio_wide.h",
    "clio_depthwise.h",
    "clio_planar.h",
    "clio_elementwise.h",
    "clio_pool.h",
)
PORTABLE_MICRO_KERNELS = tuple((f"src/{name}", f"portable/{name}") for name in _HEADERS)
CORTEX_M_MICRO_KERNELS = (
    ("src/clio_micro.h", "cortex_m/clio_micro_select.h"),
    *((f"src/dsp/{name}", f"cortex_m/{name}") for name in _HEADERS),
    *((f"src/portable/{name}", f"portable/{name}") for name in _HEADERS),
)
_CMSDK = ("counter_cmsdk.h", "cortex_m/counter_cmsdk.h")


def _mps2(code: int, ram: int, psram: int) -> Memory:
    # Tables go to the 16 MB of PSRAM: weights and test vectors may exceed the 4 MB of code memory. QEMU loads
    # them there, and where they lie costs no instruction.
    regions = (Region("FLASH", code, 4 * MIB), Region("RAM", ram, 4 * MIB), Region("PSRAM", psram, 16 * MIB))
    return Memory(regions, code="FLASH", tables="PSRAM", data="RAM", arena=("RAM", "PSRAM"))


def _qemu(emulator: str, *machine: str) -> tuple[str, ...]:
    return (
        *(emulator, "-M", *machine, "-display", "none", "-monitor", "none", "-serial", "none"),
        *("-chardev", "stdio,id=out", "-semihosting-config", "enable=on,target=native,chardev=out"),
    )


MPS2_AN500 = EmulatedBoard(
    name="mps2_an500",
    core="Cortex-M7",
    compiler=CORTEX_M7,
    files=(*CORTEX_M_FILES, _CMSDK, ("board_config.h", "emulated/mps2_an500/board_config.h")),
    memory=_mps2(0x00000000, 0x20000000, 0x60000000),
    qemu=_qemu("qemu-system-arm", "mps2-an500"),
    icount=("-icount", "shift=6"),
    packages=("qemu-system-arm",),
)

MPS2_AN505 = EmulatedBoard(
    name="mps2_an505",
    core="Cortex-M33",
    compiler=CORTEX_M33,
    files=(*CORTEX_M_FILES, _CMSDK, ("board_config.h", "emulated/mps2_an505/board_config.h")),
    memory=_mps2(0x10000000, 0x38000000, 0x80000000),
    qemu=_qemu("qemu-system-arm", "mps2-an505"),
    icount=("-icount", "shift=6"),
    packages=("qemu-system-arm",),
)

VIRT_RV32 = EmulatedBoard(
    name="virt_rv32",
    core="RV32IMC",
    compiler=RV32IMC,
    files=(
        *BARE_METAL_FILES,
        ("start.S", "emulated/virt_rv32/start.S"),
        ("trap.c", "emulated/virt_rv32/trap.c"),
        ("board_config.h", "emulated/virt_rv32/board_config.h"),
    ),
    memory=Memory(
        (Region("CODE_RAM", 0x80000000, 64 * MIB), Region("RAM", 0x84000000, 64 * MIB)),
        code="CODE_RAM",
        tables="CODE_RAM",
        data="RAM",
        arena=("RAM",),
    ),
    qemu=_qemu("qemu-system-riscv32", "virt", "-m", "128M", "-bios", "none"),
    icount=("-icount", "shift=0"),
    packages=("qemu-system-misc",),
)
