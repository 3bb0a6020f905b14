"""Boards: facts, C headers with micro-kernels and project templates."""

from __future__ import annotations

import difflib

from clio_cc.errors import ClioError
from clio_cc.targets.emulated import MPS2_AN500, MPS2_AN505, VIRT_RV32
from clio_cc.targets.facts import Board, Compiler, EmulatedBoard, Figure, Memory, Region, Target
from clio_cc.targets.gap8 import GAP8
from clio_cc.targets.host import HOST
from clio_cc.targets.nrf5340 import NRF5340
from clio_cc.targets.stm32f7 import STM32F7

__all__ = [
    "EMULATED_BOARDS",
    "HOST",
    "TARGETS",
    "Board",
    "Compiler",
    "EmulatedBoard",
    "Figure",
    "Memory",
    "Region",
    "Target",
    "find_target",
]

TARGETS: tuple[Target, ...] = (GAP8, STM32F7, NRF5340)
EMULATED_BOARDS: tuple[EmulatedBoard, ...] = (MPS2_AN500, MPS2_AN505, VIRT_RV32)


def find_target(name: str) -> Target:
    """The target of this name.

    Raises:
        ClioError: There is none; the hint names the nearest, or all of them.
    """
    by_name = {target.name: target for target in TARGETS}
    if name in by_name:
        return by_name[name]
    near = difflib.get_close_matches(name.lower(), by_name, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"targets are {', '.join(by_name)}"
    raise ClioError(f"unknown target '{name}'", hint=hint)
