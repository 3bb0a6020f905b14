"""profile.csv there and back, its models, and the words for tables that are at fault."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clio_cc.errors import ClioError
from clio_cc.inspection import Layer
from clio_cc.profile import (
    COLUMNS,
    ENCODE,
    ProfileRow,
    Times,
    expected_rows,
    modelled,
    read_profile,
    short_source,
    to_csv,
    with_cloud,
)
from clio_cc.targets.facts import Figure

HEADER = ",".join(COLUMNS) + "\n"
LAYERS = (
    Layer("conv1", "Conv", (1, 16, 32, 32), 442_368, 496, 16_384, True, ""),
    Layer("relu1", "Relu", (1, 16, 32, 32), 0, 0, 16_384, True, ""),
    Layer("lstm", "LSTM", (1, 10), 1000, 100, 10, False, "no LSTM"),
)


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path("profile.csv")


def test_model_from_macs(table: Path) -> None:
    rows = modelled(LAYERS, Figure(525e6, "the paper, page 1"), Figure(1e10, "assumed"))
    text = to_csv(rows)
    assert text == HEADER + (
        'conv1,Conv,442368,496,16384,842.606,"modelled: MACs at 525 MMAC/s; the paper, page 1",44.237,'
        "modelled: MACs at 10000 MMAC/s; assumed\n"
        'relu1,Relu,0,0,16384,0,"modelled: MACs at 525 MMAC/s; the paper, page 1",0,'
        "modelled: MACs at 10000 MMAC/s; assumed\n"
        "lstm,LSTM,1000,100,10,,not on the device: no LSTM,0.1,modelled: MACs at 10000 MMAC/s; assumed\n"
    )
    table.write_text(text, encoding="utf-8")
    assert read_profile(table) == rows


def test_cloud_times_replace_the_model() -> None:
    rows = with_cloud(modelled(LAYERS, Figure(525e6, "paper")), Times({"conv1": 12.5}, "measured"))
    assert (rows[0].cloud_us, rows[0].cloud_source) == (12.5, "measured")
    assert rows[1:] == modelled(LAYERS, Figure(525e6, "paper"))[1:]


POINTS = (
    {
        "name": "p",
        "layer": "relu1",
        "slices": [2, 4],
        "unit_bytes": 1024,
        "units": 16,
        "encoder": {"method": "rotation", "layer": "p/units", "macs": 525, "head_macs": 10**6},
    },
    {
        "name": "q",
        "layer": "relu1",
        "slices": [2, 4],
        "unit_bytes": 10,
        "encoder": {"layer": None, "macs": 0},
    },
    {"name": "r", "layer": "lstm", "slices": [1], "unit_bytes": 10},
)


def test_partition_points_have_rows_behind_their_layer() -> None:
    rows = modelled(LAYERS, Figure(525e6, "paper"), Figure(1e9, "assumed"), POINTS)
    assert [(row.layer, row.op) for row in rows] == [
        *(("conv1", "Conv"), ("relu1", "Relu"), ("p/units", ENCODE), ("q/units", ENCODE)),
        *(("lstm", "LSTM"), ("r/units", ENCODE)),
    ]
    assert rows[2] == ProfileRow(
        *("p/units", ENCODE, 525, 0, 16384),
        *(1.0, "modelled: MACs at 525 MMAC/s; paper", 1000.0, "modelled: MACs at 1000 MMAC/s; assumed"),
    )
    free = (0.0, "free: nothing runs here")
    assert rows[3] == ProfileRow("q/units", ENCODE, 0, 0, 40, *free, *free)
    names = [layer.name for layer in LAYERS]
    assert expected_rows(names, POINTS) == {row.layer: row.op == ENCODE for row in rows}


@pytest.mark.parametrize(
    ("source", "short"),
    [
        ("modelled: MACs at 1 MMAC/s; x: y", "modelled"),
        ("fused into a: b", "fused"),
        ("not on the device: no LSTM", "not on the device"),
        ("my oscilloscope", "my oscilloscope"),
    ],
)
def test_short_sources(source: str, short: str) -> None:
    assert short_source(source) == short


TIMES = st.floats(0, 1e12, allow_nan=False)
WORDS = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=8)
ROWS = st.builds(
    ProfileRow,
    *[WORDS, WORDS, *[st.integers(0, 10**12)] * 3],
    device_us=st.none() | TIMES,
    device_source=WORDS,
    cloud_us=TIMES,
    cloud_source=WORDS,
)


@given(st.lists(ROWS, min_size=1, max_size=5, unique_by=lambda row: row.layer))
def test_round_trip(tmp_path: Path, rows: list[ProfileRow]) -> None:
    path = tmp_path / "profile.csv"
    path.write_text(to_csv(rows), encoding="utf-8")
    assert read_profile(path) == tuple(rows)


def test_tables_from_spreadsheets(table: Path) -> None:
    table.write_bytes(
        b"\xef\xbb\xbf" + HEADER.strip().encode() + b"\r\n\r\na,Conv,1,2,3, 4.5 ,board,6e1,here\r\n"
    )
    assert read_profile(table) == (ProfileRow("a", "Conv", 1, 2, 3, 4.5, "board", 60.0, "here"),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            HEADER + "a,Conv,1,1,1,fast,b,1,c\n",
            "profile.csv:2: device_us must be a number from 0 up, got 'fast'",
        ),
        (HEADER + "a,Conv,1,1,1,-1,b,1,c\n", "profile.csv:2: device_us must be a number from 0 up, got '-1'"),
        (
            HEADER + "a,Conv,1,1,1,nan,b,1,c\n",
            "profile.csv:2: device_us must be a number from 0 up, got 'nan'",
        ),
        (HEADER + "a,Conv,1,1,1,1,b,,c\n", "profile.csv:2: cloud_us must be a number from 0 up, got ''"),
        (
            HEADER + "a,Conv,1,1,1,1,,1,c\n",
            "profile.csv:2: device_source must say where device_us comes from",
        ),
        (HEADER + "a,Conv,1,1,1\n", "profile.csv:2: a row has 9 cells, got 5"),
        (
            HEADER + "a,Conv,x,1,1,1,b,1,c\n\n,Conv,1,1.5,1,1,b,1,c\na,Conv,1,1,1,1,b,1,c\n",
            "profile.csv:2: macs must be a whole number from 0 up, got 'x'\n"
            "  profile.csv:4: layer must have a name\n"
            "  profile.csv:4: weight_bytes must be a whole number from 0 up, got '1.5'\n"
            "  profile.csv:5: layer 'a' is there twice, first in line 2",
        ),
        (HEADER, "profile.csv: holds no layers"),
        ("layer,op\n", f"profile.csv:1: the first line must be '{HEADER.strip()}', got 'layer,op'"),
    ],
)
def test_words(table: Path, text: str, message: str) -> None:
    table.write_text(text, encoding="utf-8")
    with pytest.raises(ClioError) as error:
        read_profile(table)
    assert str(error.value) == message


INCONSISTENT = "inconsistent profile\n  "
EDIT = "\n  hint: the rows are those that compile wrote; edit times and their sources, or compile again"


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ("a b p/units c", ""),
        ("a p/units b c", "profile.csv:3: layer 'p/units' stands where 'b' belongs"),
        ("a b c p/units", "profile.csv:4: layer 'c' stands where 'p/units' belongs"),
        ("b a p/units c", "profile.csv:2: layer 'b' stands where 'a' belongs"),
        ("a b c", "profile.csv: layer 'p/units' is missing"),
        ("b p/units", "profile.csv: layer 'a' is missing\n  profile.csv: layer 'c' is missing"),
        ("a b p/unit c", "profile.csv:4: unknown layer 'p/unit'; did you mean 'p/units'?\n"
         "  profile.csv: layer 'p/units' is missing"),
        ("a b p/units c zzzzz", "profile.csv:6: unknown layer 'zzzzz'"),
    ],
)  # fmt: skip
def test_rows_must_be_those_of_compile(table: Path, order: str, message: str) -> None:
    expected = expected_rows(["a", "b", "c"], [{"name": "p", "layer": "b"}])
    rows = [
        ProfileRow(name, ENCODE if name.endswith("units") else "Conv", 1, 1, 1, 1.0, "here", 1.0, "there")
        for name in order.split()
    ]
    table.write_text(to_csv(rows), encoding="utf-8")
    if not message:
        assert read_profile(table, expected) == tuple(rows)
        return
    with pytest.raises(ClioError) as error:
        read_profile(table, expected)
    assert str(error.value) == INCONSISTENT + message + EDIT


def test_the_row_of_a_point_must_stay_one(table: Path) -> None:
    rows = [ProfileRow(name, "Conv", 1, 1, 1, 1.0, "here", 1.0, "there") for name in ("a", "p/units")]
    table.write_text(to_csv(rows), encoding="utf-8")
    with pytest.raises(ClioError) as error:
        read_profile(table, expected_rows(["a"], [{"name": "p", "layer": "a"}]))
    message = "profile.csv:3: the row of a partition point has the op Encode, got 'Conv'"
    assert str(error.value) == INCONSISTENT + message + EDIT


def test_words_for_files(table: Path) -> None:
    with pytest.raises(ClioError, match=re.escape("profile.csv: no such file")):
        read_profile(table)
    table.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ClioError, match=re.escape("profile.csv: cannot be read as UTF-8 text")):
        read_profile(table)
