"""Radios as data."""

from __future__ import annotations

import pytest

from clio_cc.errors import ClioError
from clio_cc.link import LINKS, find_link


def test_the_papers_radios() -> None:
    assert {link.name: (link.bandwidth_bps.value, link.power_mw.value) for link in LINKS} == {
        "clio-lora": (50_000, 60),
        "clio-zigbee": (200_000, 60),
        "clio-ble": (250_000, 15),
        "clio-wifi": (1_000_000, 100),
    }
    assert all("CLIO" in link.bandwidth_bps.source and "CLIO" in link.power_mw.source for link in LINKS)
    assert [link.name for link in LINKS if link.note] == ["clio-lora", "clio-zigbee"]
    assert find_link("clio-ble").title == "BLE as in the CLIO paper"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("clio-bel", "unknown link 'clio-bel'\n  hint: did you mean 'clio-ble'?"),
        ("5g", "unknown link '5g'\n  hint: links are clio-lora, clio-zigbee, clio-ble, clio-wifi"),
    ],
)
def test_words(name: str, message: str) -> None:
    with pytest.raises(ClioError) as error:
        find_link(name)
    assert str(error.value) == message
