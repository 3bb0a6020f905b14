"""The radios that ship: the CLIO paper's under names of its own, and real ones. `clio-cc links` lists them."""

from __future__ import annotations

import difflib
from pathlib import Path

from clio_cc.errors import ClioError
from clio_cc.link import ATT_AND_L2CAP_BYTES, PHYS, ConnectionEvents, Link, Phy
from clio_cc.link_file import read_link
from clio_cc.targets.facts import Figure

_CLIO = "CLIO (MobiCom'20), section 5.5"
_BLE = (
    "Bluetooth Core Specification, volume 6, part B; overhead per event fitted to Nordic's throughput figures"
)
_IDLE_30MS = Figure(
    222, "nRF5340 at 3 V: about 74 uA with an interval of 30 ms; CLIO, section 5.7: 460 uW at 40 ms"
)
_AIR_2M = Figure(51, "nRF5340 at 3 V, about")
_AIR_1M = Figure(95, "nRF5340 at 3 V, about")
_PHONES = (
    "FLEET (MobiCom'23), table 1, counts acknowledgements too, which would halve it; an acknowledged transfer uses every "
    "second event; packets over 100 bytes suffer losses"
)


def _clio(radio: str, bandwidth_bps: int, power_mw: float, note: str = "") -> Link:
    return Link(
        f"clio-{radio.lower()}",
        f"{radio} as in the CLIO paper",
        bandwidth_bps=Figure(bandwidth_bps, _CLIO),
        sending_mw=Figure(power_mw, _CLIO),
        note=note or "the paper's figures: no packets, no waiting",
    )


def _ble(
    name: str,
    title: str,
    phy: str,
    energy_nj_per_byte: Figure,
    packets: int | None = None,
    payload: int = 251,
    note: str = "",
) -> Link:
    """A connection of 30 ms, iOS's default and the shortest of Android's balanced setting (FLEET, section 4.3)."""
    return Link(
        f"ble-{name}",
        f"BLE, {title}, interval 30 ms",
        connection=ConnectionEvents(phy, payload, 30_000, packets, acknowledged=False, loss=0.0, source=_BLE),
        energy_nj_per_byte=energy_nj_per_byte,
        idle_uw=_IDLE_30MS,
        note=note,
    )


def _derived(phy: str, payload: int = 251) -> Figure:
    """Energy per byte where none is known: as on 1M with full packets, for the time that radios are on the air."""

    def air_us(on: Phy, size: int) -> float:
        return (on.packet_us(size) + on.packet_us(0)) / (size - ATT_AND_L2CAP_BYTES)

    times = air_us(PHYS[phy], payload) / air_us(PHYS["1M"], 251)
    return Figure(
        round(_AIR_1M.value * times),
        f"derived: 95 nJ on 1M with full packets, {times:.1f} times as long on the air",
    )


_ANY_PEER = "as many packets per event as fit: phones allow fewer, see ble-2m-ios"

LINKS: tuple[Link, ...] = (
    _clio("LoRa", 50_000, 60, "the paper's figure; no LoRaWAN rate: SF7 at 125 kHz is 4.8 kbit/s"),
    _clio("ZigBee", 200_000, 60, "the paper's figure; above the 163 kbit/s that 802.15.4 can carry at most"),
    _clio("BLE", 250_000, 15),
    _clio("WiFi", 1_000_000, 100),
    _ble("2m", "2M PHY", "2M", _AIR_2M, note=_ANY_PEER),
    _ble("2m-ios", "2M PHY, iOS: 4 packets per event", "2M", _AIR_2M, 4, note=_PHONES),
    _ble("2m-android", "2M PHY, Android: 6 packets per event", "2M", _AIR_2M, 6, note=_PHONES),
    _ble("1m", "1M PHY", "1M", _AIR_1M, note=_ANY_PEER),
    _ble("1m-ios", "1M PHY, iOS: 4 packets per event", "1M", _AIR_1M, 4, note=_PHONES),
    _ble("1m-android", "1M PHY, Android: 6 packets per event", "1M", _AIR_1M, 6, note=_PHONES),
    _ble("coded-500k", "coded PHY, S=2", "coded-500k", _derived("coded-500k"), note=_ANY_PEER),
    _ble("coded-125k", "coded PHY, S=8", "coded-125k", _derived("coded-125k"), note=_ANY_PEER),
    _ble(
        "4.0",
        "Bluetooth 4.0: 1M PHY, 20 bytes per notification",
        "1M",
        _derived("1M", 27),
        payload=27,
        note=_ANY_PEER,
    ),
    Link(
        "802.15.4",
        "802.15.4 at its best, nothing else on the air",
        Figure(162_000, "proven ceiling of 802.15.4 at 250 kbit/s with acknowledgements: 162 to 163 kbit/s"),
    ),
    Link("zigbee", "ZigBee as it is", Figure(60_000, "real networks: 40 to 80 kbit/s; between them")),
    Link("lora-sf7", "LoRa, SF7 at 125 kHz", Figure(4800, "SF7 at 125 kHz"), note="without duty cycle"),
    Link("lora-sf7-duty1", "LoRa, SF7 at 1 % duty cycle", Figure(48, "SF7 at 125 kHz, 1 % duty cycle")),
    Link("lora-sf9", "LoRa, SF9 at 125 kHz", Figure(1360, "SF9 at 125 kHz"), note="without duty cycle"),
    Link("lora-sf12", "LoRa, SF12 at 125 kHz", Figure(146, "SF12 at 125 kHz"), note="without duty cycle"),
    Link(
        "wifi",
        "WiFi, ESP-class module",
        Figure(6_000_000, "ESP-class module, what an application sees"),
        note="associating takes most of the energy and is not in these figures",
    ),
)


def find_link(name: str) -> Link:
    """The link of this name, or in this file (``.json`` or ``.toml``).

    Raises:
        ClioError: There is none, and the hint names the nearest, or all of them; or the file is at fault.
    """
    if name.lower().endswith((".json", ".toml")):
        return read_link(Path(name))
    by_name = {link.name: link for link in LINKS}
    if name in by_name:
        return by_name[name]
    near = difflib.get_close_matches(name.lower(), by_name, n=1)
    hint = (
        f"did you mean '{near[0]}'?" if near else f"links are {', '.join(by_name)}, or a .json or .toml file"
    )
    raise ClioError(f"unknown link '{name}'", hint=hint)
