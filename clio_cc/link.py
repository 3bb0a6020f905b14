"""Radios between device and cloud, as named, sourced data.

The planner counts a transfer as bits / bandwidth: no packets, connection events, losses or reply. That is how
the CLIO paper counts, and it flatters radios that sleep between packets.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from clio_cc.errors import ClioError
from clio_cc.targets.facts import Figure

_CLIO = "CLIO (MobiCom'20), section 5.5"


@dataclass(frozen=True)
class Link:
    """A radio of constant rate.

    Args:
        name: As typed after ``--link``.
        bandwidth_bps: Bits per second that the application sees.
        power_mw: While sending.
        note: Empty, or why the figures must not be taken for a real radio's.
    """

    name: str
    title: str
    bandwidth_bps: Figure
    power_mw: Figure
    note: str = ""

    def __post_init__(self) -> None:
        if not float(self.bandwidth_bps.value).is_integer():
            raise ValueError(f"{self.name}: bandwidth_bps must be whole")


def _clio(radio: str, bandwidth_bps: int, power_mw: float, note: str = "") -> Link:
    """A radio of the CLIO paper under a name of its own: the figures are the paper's, not this radio's."""
    return Link(
        f"clio-{radio.lower()}",
        f"{radio} as in the CLIO paper",
        Figure(bandwidth_bps, _CLIO),
        Figure(power_mw, _CLIO),
        note,
    )


LINKS: tuple[Link, ...] = (
    _clio("LoRa", 50_000, 60, "the paper's figure; no LoRaWAN rate: SF7 at 125 kHz is 4.8 kbit/s"),
    _clio("ZigBee", 200_000, 60, "the paper's figure; above the 163 kbit/s that 802.15.4 can carry at most"),
    _clio("BLE", 250_000, 15),
    _clio("WiFi", 1_000_000, 100),
)


def find_link(name: str) -> Link:
    """The link of this name.

    Raises:
        ClioError: There is none; the hint names the nearest, or all of them.
    """
    by_name = {link.name: link for link in LINKS}
    if name in by_name:
        return by_name[name]
    near = difflib.get_close_matches(name.lower(), by_name, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"links are {', '.join(by_name)}"
    raise ClioError(f"unknown link '{name}'", hint=hint)
