"""GAP8 of GreenWaves; the code runs on the fabric controller."""

from __future__ import annotations

from clio_cc.targets.emulated import PORTABLE_MICRO_KERNELS, VIRT_RV32
from clio_cc.targets.facts import Figure, Target

GAP8 = Target(
    name="gap8",
    title="GAP8, 8 + 1 RI5CY cores",
    core="RI5CY (RV32IMC + Xpulp)",
    clock_hz=Figure(175e6, "GreenWaves, GAP8: cluster up to 175 MHz at 1.2 V"),
    ram_bytes=Figure(512 << 10, "GreenWaves, GAP8: L2, which holds code, data and heap"),
    flash_bytes=Figure(64 << 20, "GreenWaves, GAPuino: HyperFlash"),
    runs_from_ram=True,
    power_mw=Figure(
        50,
        "CLIO (MobiCom'20): 50 mW at 150 MHz; FLEET: 16.4 mW at 175 MHz; the vendor's fps x mJ: about 100 mW",
    ),
    macs_per_s=Figure(
        525e6, "CLIO (MobiCom'20): 525 MMAC/s on MobileNetV2, 8 cores, 3.0 MAC per cycle at 175 MHz"
    ),
    cycles_per_instruction=Figure(
        1.06,
        "CV32E40P (RI5CY) user manual, cycle counts per instruction type: a taken branch 3, a jump 2, a load whose result "
        "is used at once 2; over what the kernels of examples/digits execute on one core, memory that never stalls",
    ),
    # The generated code is for the fabric controller alone; the paper's 525 MMAC/s were reached by all eight cores.
    device_time="model",
    micro_kernels=PORTABLE_MICRO_KERNELS,
    emulated=VIRT_RV32,
    files=(
        ("boards/gap8/Makefile", "gap8/Makefile"),
        ("boards/gap8/main.c", "gap8/main.c"),
    ),
)
