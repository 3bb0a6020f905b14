"""nRF5340, application core."""

from __future__ import annotations

from clio_cc.targets.emulated import CORTEX_M33, CORTEX_M_FILES, CORTEX_M_MICRO_KERNELS, MPS2_AN505
from clio_cc.targets.facts import Board, Figure, Memory, Region, Target

_FLASH = 1 << 20
_RAM = 512 << 10

NRF5340_APPLICATION = Board(
    name="nrf5340",
    core="Cortex-M33",
    compiler=CORTEX_M33,
    files=(
        *CORTEX_M_FILES,
        ("counter_dwt.h", "cortex_m/counter_dwt.h"),
        ("board_config.h", "nrf5340/board_config.h"),
    ),
    memory=Memory(
        (Region("FLASH", 0x00000000, _FLASH), Region("RAM", 0x20000000, _RAM)),
        code="FLASH",
        tables="FLASH",
        data="RAM",
        arena=("RAM",),
    ),
)

NRF5340 = Target(
    name="nrf5340",
    title="nRF5340 application core, Cortex-M33",
    core="Cortex-M33",
    clock_hz=Figure(64e6, "Nordic nRF5340 product specification: 64 MHz after reset, 128 MHz on request"),
    ram_bytes=Figure(_RAM, "Nordic nRF5340 product specification: 512 KB, application core"),
    flash_bytes=Figure(_FLASH, "Nordic nRF5340 product specification: 1 MB, application core"),
    runs_from_ram=False,
    power_mw=Figure(9.3, "FLEET: Cortex-M33 9.3 mW at 64 MHz"),
    macs_per_s=Figure(
        19e6,
        "MLPerf Tiny, nRF5340 at 128 MHz, microTVM with CMSIS-NN: 3.1 to 4.0 cycles per MAC; 64 MHz / 3.4",
    ),
    cycles_per_instruction=Figure(
        1.29,
        "MLPerf Tiny, nRF5340 at 128 MHz, microTVM with CMSIS-NN: ResNet-8, DS-CNN and MobileNetV1 in 624 ms, 79.9 M "
        "cycles, over 61.8 M instructions of CMSIS-NN on QEMU's mps2-an505; by network 1.21 to 1.37",
    ),
    device_time="emulated",
    micro_kernels=CORTEX_M_MICRO_KERNELS,
    emulated=MPS2_AN505,
    firmware=NRF5340_APPLICATION,
    files=(
        ("boards/zephyr/CMakeLists.txt", "nrf5340/zephyr/CMakeLists.txt"),
        ("boards/zephyr/prj.conf", "nrf5340/zephyr/prj.conf"),
        ("boards/zephyr/src/main.c", "nrf5340/zephyr/src/main.c"),
    ),
)
