"""Radios as data: the BLE model against measured figures, the radios that ship, and files of the user's own."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clio_cc.errors import ClioError
from clio_cc.link import PHYS, ConnectionEvents, Link, Stream
from clio_cc.link_file import read_link, to_json
from clio_cc.radios import LINKS, find_link


def ble(
    phy: str = "2M",
    payload: int = 251,
    interval_us: int = 30_000,
    packets: int | None = None,
    acknowledged: bool = False,
    loss: float = 0.0,
) -> ConnectionEvents:
    return ConnectionEvents(phy, payload, interval_us, packets, acknowledged, loss, "test")


# --- BLE ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phy", "payload", "pair_us", "application_bytes", "ceiling_kbps"),
    [
        ("2M", 251, 1392, 244, 1402),
        ("1M", 251, 2468, 244, 791),
        ("2M", 27, 496, 20, 323),
        ("1M", 27, 676, 20, 237),
        ("coded-500k", 251, 5240, 244, 373),  # 372.5
        ("coded-125k", 251, 17_804, 244, 110),
        ("coded-125k", 27, 3468, 20, 46),
    ],
)
def test_packets_in_the_air(
    phy: str, payload: int, pair_us: int, application_bytes: int, ceiling_kbps: int
) -> None:
    found = ble(phy, payload)
    assert (found.pair_us, found.packet_bytes) == (pair_us, application_bytes)
    assert round(application_bytes * 8000 / pair_us) == ceiling_kbps


@pytest.mark.parametrize(("interval_us", "packets", "kbps"), [(50_000, 34, 1327.5), (400_000, 282, 1376.2)])
def test_throughput_that_nordic_measured(interval_us: int, packets: int, kbps: float) -> None:
    found = ble(interval_us=interval_us)
    assert found.packets_per_event == packets
    assert found.ceiling_bps / 1000 == pytest.approx(kbps, rel=2e-4)


def test_what_lowers_the_ceiling() -> None:
    assert ble().ceiling_bps == 1_301_334  # 20 packets of 244 bytes in 30 ms
    assert ble(packets=4).ceiling_bps == 260_267
    assert ble(packets=25).ceiling_bps == ble().ceiling_bps
    assert ble(packets=4, acknowledged=True).ceiling_bps == 130_134
    assert ble(packets=4, loss=0.25).ceiling_bps == 195_200


def test_time_of_a_transfer_by_hand() -> None:
    found = ble(packets=4)  # 976 bytes in events of 4 * 1.392 ms, of which the last ends with its last packet
    full = found.ceiling_bps
    assert [found.time_ns(size, full) // 1000 for size in (0, 1, 244, 245, 976, 977, 1953)] == [
        0,
        31_392,
        31_392,
        32_784,
        35_568,
        61_392,
        91_392,
    ]
    # At half of it an event carries 488 bytes, two packets.
    assert found.time_ns(976, full // 2 + 1) == 62_784_000
    # With acknowledgements every second event carries data.
    slow = ble(packets=4, acknowledged=True)
    assert slow.time_ns(977, slow.ceiling_bps) == 91_392_000
    # If every fourth packet is lost, one brings 183 bytes over on average.
    lossy = ble(packets=4, loss=0.25)
    assert [lossy.time_ns(size, lossy.ceiling_bps) // 1000 for size in (183, 184, 732, 733)] == [
        31_392,
        32_784,
        35_568,
        61_392,
    ]


def test_one_packet_takes_as_long_whatever_else_fits_into_an_event() -> None:
    found = {name: find_link(name).transfer.time_ns(64, 200_000) for name in ("ble-2m", "ble-2m-ios")}
    assert found == {"ble-2m": 31_392_000, "ble-2m-ios": 31_392_000}


TRANSFERS = st.one_of(
    st.just(Stream()),
    st.builds(
        ble,
        st.sampled_from(sorted(PHYS)),
        st.integers(27, 251),
        st.integers(20, 400).map(lambda steps: steps * 1250),
        st.none() | st.integers(1, 8),
        st.booleans(),
        st.sampled_from([0.0, 0.1]),
    ),
)


@given(TRANSFERS, st.integers(1, 20_000), st.integers(1, 10**6), st.integers(0, 10**6))
def test_more_bandwidth_never_takes_longer(
    transfer: Stream | ConnectionEvents, size: int, bps: int, more: int
) -> None:
    assert transfer.time_ns(size, bps + more) <= transfer.time_ns(size, bps)
    assert transfer.time_ns(size + 1, bps) >= transfer.time_ns(size, bps)


@given(
    st.sampled_from(sorted(PHYS)),
    st.integers(27, 251),
    st.integers(20, 400).map(lambda steps: steps * 1250),
    st.integers(1, 30),
    st.booleans(),
    st.sampled_from([0.0, 0.1, 0.5]),
    st.integers(1, 20_000),
    st.integers(1, 10**6),
)
def test_what_makes_a_connection_better_never_takes_longer(
    phy: str,
    payload: int,
    interval_us: int,
    packets: int,
    acknowledged: bool,
    loss: float,
    size: int,
    thousandths: int,
) -> None:
    """At a bandwidth that both reach: the rounding up of a ceiling may be worth a packet in some hundred events."""
    worse = ble(phy, payload, interval_us, packets, acknowledged, loss)
    bps = max((worse.ceiling_bps - 1) * thousandths // 10**6, 1)
    better = [ble(phy, payload, interval_us, more, acknowledged, loss) for more in (packets + 1, None)]
    better += [
        ble(faster, payload, interval_us, count, acknowledged, loss)
        for faster in PHYS
        if PHYS[faster].packet_us(payload) < PHYS[phy].packet_us(payload)
        for count in (packets, None)
    ]
    better.append(ble(phy, payload, interval_us, packets, acknowledged, 0.0))
    for each in better:
        assert each.time_ns(size, bps) <= worse.time_ns(size, bps)


@given(TRANSFERS, st.integers(1, 20_000), st.integers(1, 10**9))
def test_the_lowest_bandwidth_in_time(transfer: Stream | ConnectionEvents, size: int, most_ns: int) -> None:
    lowest = transfer.from_bps(size, most_ns)
    if lowest is None:
        assert transfer.time_ns(size, 10**15) > most_ns
        return
    assert transfer.time_ns(size, lowest) <= most_ns
    assert lowest == 1 or transfer.time_ns(size, lowest - 1) > most_ns


# --- named links ----------------------------------------------------------------------------------


def test_the_papers_radios() -> None:
    found = {link.name: link for link in LINKS if link.name.startswith("clio-")}
    assert {name: (link.ceiling_bps, float(link.power_mw)) for name, link in found.items()} == {
        "clio-lora": (50_000, 60),
        "clio-zigbee": (200_000, 60),
        "clio-ble": (250_000, 15),
        "clio-wifi": (1_000_000, 100),
    }
    assert all("CLIO" in link.source() for link in found.values())
    assert "no LoRaWAN rate" in found["clio-lora"].note
    assert "above the 163 kbit/s" in found["clio-zigbee"].note
    assert find_link("clio-ble").title == "BLE as in the CLIO paper"


def test_real_radios() -> None:
    assert {link.name: link.ceiling_bps for link in LINKS if not link.name.startswith("clio-")} == {
        "ble-2m": 1_301_334,
        "ble-2m-ios": 260_267,
        "ble-2m-android": 390_400,
        "ble-1m": 715_734,
        "ble-1m-ios": 260_267,
        "ble-1m-android": 390_400,
        "ble-coded-500k": 325_334,
        "ble-coded-125k": 65_067,
        "ble-4.0": 218_667,
        "802.15.4": 162_000,
        "zigbee": 60_000,
        "lora-sf7": 4800,
        "lora-sf7-duty1": 48,
        "lora-sf9": 1360,
        "lora-sf12": 146,
        "wifi": 6_000_000,
    }
    assert {link.name for link in LINKS if link.knows_energy} == {
        link.name for link in LINKS if link.name.startswith(("clio-", "ble-"))
    }


def test_energy_per_byte_where_none_was_measured() -> None:
    # 1M: 2,088 + 80 us for 244 bytes. Coded: 4,478 + 462 and 16,784 + 720 us; 4.0: 296 + 80 us for 20 bytes.
    expected = {"coded-500k": 4940 / 2168, "coded-125k": 17_504 / 2168, "4.0": 376 / 20 / (2168 / 244)}
    for name, times in expected.items():
        figure = find_link(f"ble-{name}").energy_nj_per_byte
        assert figure is not None
        assert figure.value == round(95 * times)
        assert figure.source.startswith("derived: 95 nJ on 1M")


def test_energy_of_a_transfer() -> None:
    link = Link("x", "x", connection=ble(loss=0.5), energy_nj_per_byte=find_link("ble-2m").energy_nj_per_byte)
    assert (float(link.power_mw), float(link.pj_per_byte)) == (
        0,
        102_000,
    )  # half of the packets are sent twice
    link = find_link("ble-2m")
    assert (float(link.power_mw), float(link.pj_per_byte)) == (0.222, 51_000)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("clio-bel", "unknown link 'clio-bel'\n  hint: did you mean 'clio-ble'?"),
        (
            "5g",
            "unknown link '5g'\n  hint: links are clio-lora, clio-zigbee, clio-ble, clio-wifi, ble-2m, ble-2m-ios, "
            "ble-2m-android, ble-1m, ble-1m-ios, ble-1m-android, ble-coded-500k, ble-coded-125k, ble-4.0, 802.15.4, "
            "zigbee, lora-sf7, lora-sf7-duty1, lora-sf9, lora-sf12, wifi, or a .json or .toml file",
        ),
    ],
)
def test_words(name: str, message: str) -> None:
    with pytest.raises(ClioError) as error:
        find_link(name)
    assert str(error.value) == message


# --- files ----------------------------------------------------------------------------------------

HINT = "\n  hint: `clio-cc links --json` prints links in this form"
CONNECTION = {"phy": "2M", "payload": 251, "interval_us": 30_000}


@pytest.mark.parametrize("link", LINKS, ids=lambda link: link.name)
def test_what_is_listed_can_be_read_back(link: Link, tmp_path: Path) -> None:
    path = tmp_path / "link.json"
    path.write_text(json.dumps(to_json(link)))
    assert find_link(str(path)) == link


def test_toml_and_bare_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my.toml").write_text(
        'name = "mine"\nenergy_nj_per_byte = { value = 60, source = "my scope" }\nidle_uw = 5.5\n'
        '[connection]\nphy = "1M"\npayload = 100\ninterval_us = 50_000\npackets = 2\nloss = 0.1\n'
    )
    link = find_link("my.toml")
    assert (link.name, link.title) == ("mine", "mine")
    assert link.connection == ConnectionEvents("1M", 100, 50_000, 2, False, 0.1, "my.toml")
    assert link.idle_uw is not None
    assert (link.idle_uw.value, link.idle_uw.source) == (5.5, "my.toml")
    assert link.source() == (
        "mine; connection: my.toml; energy_nj_per_byte 60: my scope; idle_uw 5.5: my.toml"
    )


@pytest.mark.parametrize(
    ("data", "mistakes"),
    [
        ({"bandwidth_bps": 1}, ["name must be a text"]),
        ({"name": 5, "bandwidth_bps": 1}, ["name must be a text, got 5"]),
        ({"name": "a"}, ["give either bandwidth_bps or connection"]),
        (
            {"name": "a", "bandwidth_bps": 1, "connection": CONNECTION},
            ["give either bandwidth_bps or connection"],
        ),
        ({"name": "a", "bandwidth_bps": 0.5}, ["bandwidth_bps must be a whole number, got 0.5"]),
        (
            {"name": "a", "bandwidth_bps": "50k"},
            ["bandwidth_bps must be a number above 0 and at most 1e+12, got '50k'"],
        ),
        (
            {"name": "a", "bandwidth_bps": -1},
            ["bandwidth_bps must be a number above 0 and at most 1e+12, got -1"],
        ),
        (
            {"name": "a", "bandwidth_bps": math.inf},
            ["bandwidth_bps must be a number above 0 and at most 1e+12, got inf"],
        ),
        (
            {"name": "a", "bandwidth_bps": True},
            ["bandwidth_bps must be a number above 0 and at most 1e+12, got True"],
        ),
        (
            {"name": "a", "bandwidth_bps": {"value": 5, "unit": "k"}},
            [
                "bandwidth_bps.source must say where bandwidth_bps comes from",
                "unknown field 'bandwidth_bps.unit'",
            ],
        ),
        ({"name": "a", "bandwidth_bps": 1, "power": 3}, ["unknown field 'power'"]),
        ({"name": "a", "connection": 5}, ["connection must be an object, got 5"]),
        (
            {"name": "a", "connection": {"phy": 2, "payload": 251.5, "acknowledged": 1, "mtu": 5}},
            [
                "unknown field 'connection.mtu'",
                "connection.phy must be a text, got 2",
                "connection.payload must be a whole number, got 251.5",
                "connection.interval_us is missing",
                "connection.acknowledged must be true or false, got 1",
            ],
        ),
        (
            {
                "name": "a",
                "connection": {"phy": "3M", "payload": 300, "interval_us": 7000, "packets": 0, "loss": 1},
            },
            [
                "connection.phy must be 2M, 1M, coded-500k, coded-125k, got '3M'",
                "connection.payload must be 27 to 251 bytes, got 300",
                "connection.interval_us must be 7500 to 4000000 in steps of 1250, got 7000",
                "connection.packets must be at least 1, got 0",
                "connection.loss must be 0 to 0.99, got 1",
            ],
        ),
        (
            {"name": "a", "connection": {"phy": "coded-125k", "payload": 251, "interval_us": 7500}},
            ["connection.interval_us must leave room for a packet and its acknowledgement, 17804 us"],
        ),
    ],
)
def test_words_for_files(
    data: dict[str, Any], mistakes: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my.json").write_text(json.dumps(data))
    with pytest.raises(ClioError) as error:
        read_link(Path("my.json"))
    assert str(error.value) == "\n  ".join(f"my.json: {mistake}" for mistake in mistakes) + HINT


def test_words_for_files_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text, message in (
        ("none.json", None, "none.json: no such file"),
        ("bytes.json", b"\xff\xfe", "bytes.json: cannot be read as UTF-8 text"),
        ("broken.json", b"{", "broken.json: is no JSON: Expecting property name"),
        ("broken.toml", b"x", "broken.toml: is no TOML: "),
        ("list.json", b"[]", f"list.json: must hold one link, an object with a name{HINT}"),
    ):
        if text is not None:
            Path(name).write_bytes(text)
        with pytest.raises(ClioError) as error:
            find_link(name)
        assert str(error.value).startswith(message)


def test_links_are_checked_when_made() -> None:
    for values in itertools.chain(
        [{}], [{"bandwidth_bps": find_link("wifi").bandwidth_bps, "connection": ble()}]
    ):
        with pytest.raises(ValueError, match="give either bandwidth_bps or connection"):
            Link("a", "a", **values)  # type: ignore[arg-type]
