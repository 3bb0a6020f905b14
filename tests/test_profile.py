"""profile.csv there and back, its models, its measurement, and the words for tables that are at fault."""

from __future__ import annotations

import re
from pathlib import Path

import onnx
import onnx.parser
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clio_cc.errors import ClioError
from clio_cc.inspection import Layer
from clio_cc.profile import (
    ProfileRow,
    _by_node,
    measure_cloud,
    modelled,
    read_profile,
    to_csv,
    with_cloud,
)
from clio_cc.targets.facts import Figure

HEADER = "layer,op,macs,weight_bytes,output_bytes,device_us,device_source,cloud_us,cloud_source\n"
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
    rows = with_cloud(modelled(LAYERS, Figure(525e6, "paper")), {"conv1": 12.5}, "measured")
    assert (rows[0].cloud_us, rows[0].cloud_source) == (12.5, "measured")
    assert rows[1:] == modelled(LAYERS, Figure(525e6, "paper"))[1:]


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


def test_words_for_files(table: Path) -> None:
    with pytest.raises(ClioError, match=re.escape("profile.csv: no such file")):
        read_profile(table)
    table.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ClioError, match=re.escape("profile.csv: cannot be read as UTF-8 text")):
        read_profile(table)


MODEL = """<ir_version: 8, opset_import: ["" : 17]>
g (float[1,3,16,16] x) => (float[1,3,16,16] y) {
    a = Relu(x)
    b = HardSwish(a)
    y = Softplus(b)
}"""


def test_cloud_is_measured() -> None:
    model = onnx.parser.parse_model(MODEL)
    for node, name in zip(model.graph.node, ("relu", "swish", "soft"), strict=True):
        node.name = name
    times = measure_cloud(model, repeats=3)
    assert re.fullmatch(r"measured: onnxruntime \d+\.\d+\.\d+, 3 runs", times.source)
    assert list(times.us) == ["relu", "swish", "soft"]
    assert all(us > 0 for us in times.us.values())  # also of HardSwish, which onnxruntime takes apart


def test_kernels_of_other_names_count_for_the_operator_they_replace() -> None:
    events = [("relu", 1), ("HardSigmoid_3", 10), ("Mul_4", 100), ("soft", 1000), ("Cast_5", 1)]
    kernels = [{"cat": "Node", "name": f"{name}_kernel_time", "dur": us} for name, us in events]
    assert _by_node(["relu", "swish", "soft"], kernels) == {"relu": 1, "swish": 110, "soft": 1001}
