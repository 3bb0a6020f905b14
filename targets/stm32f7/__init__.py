"""STM32F7: the STM32F746NG of the 32F746GDISCOVERY board."""

from __future__ import annotations

from clio_cc.targets.emulated import CORTEX_M7, CORTEX_M_FILES, CORTEX_M_MICRO_KERNELS, MPS2_AN500
from clio_cc.targets.facts import Board, Figure, Memory, Region, Target

_FLASH = 1 << 20
_RAM = 320 << 10

STM32F746 = Board(
    name="stm32f7",
    core="Cortex-M7",
    compiler=CORTEX_M7,
    files=(
        *CORTEX_M_FILES,
        ("counter_dwt.h", "cortex_m/counter_dwt.h"),
        ("board_config.h", "stm32f7/board_config.h"),
    ),
    memory=Memory(
        (Region("FLASH", 0x08000000, _FLASH), Region("RAM", 0x20000000, _RAM)),
        code="FLASH",
        tables="FLASH",
        data="RAM",
        arena=("RAM",),
    ),
)

STM32F7 = Target(
    name="stm32f7",
    title="STM32F746, Cortex-M7",
    core="Cortex-M7",
    clock_hz=Figure(216e6, "ST DS10916 (STM32F745xx STM32F746xx datasheet): up to 216 MHz"),
    ram_bytes=Figure(
        _RAM,
        "ST DS10916: 64 KB DTCM + 240 KB SRAM1 + 16 KB SRAM2, one piece from 0x20000000; without 16 KB ITCM",
    ),
    flash_bytes=Figure(_FLASH, "ST DS10916: 1 MB in the STM32F746xG"),
    runs_from_ram=False,
    power_mw=Figure(
        60, "CLIO (MobiCom'20): 60 mW at 200 MHz; the paper's figure, not checked against a datasheet"
    ),
    macs_per_s=Figure(
        180e6,
        "MLPerf Tiny, F746 at 216 MHz, Plumerai: ResNet-8 in 62.9 ms is 199 MMAC/s, DS-CNN 150; between them",
    ),
    cycles_per_instruction=Figure(
        0.91,
        "CMSIS-NN (arXiv 1801.06601, table 1): its CIFAR-10 network in 99.1 ms on an STM32F746 at 216 MHz, 21.4 M cycles, "
        "over 23.6 M instructions of the same kernels (CMSIS of January 2018, gcc -O3) in QEMU; by layer 0.85 to 1.01",
    ),
    device_time="emulated",
    micro_kernels=CORTEX_M_MICRO_KERNELS,
    emulated=MPS2_AN500,
    firmware=STM32F746,
)
