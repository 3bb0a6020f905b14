"""Where a profile's times come from: tables of a board, the emulated board, a model; and the words for tables at fault."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from digits import compiled

from clio_cc import profiling, results, toolchain
from clio_cc.attribution import Attribution
from clio_cc.errors import ClioError
from clio_cc.execution import Execution, Mismatch
from clio_cc.inspection import Layer
from clio_cc.profile import ProfileRow, Times, modelled, read_profile, to_csv
from clio_cc.profiling import Device, Request, read_board, read_cloud, with_device
from clio_cc.program import Program
from clio_cc.targets import find_target
from clio_cc.units import parse_frequency_hz

Clio = Callable[..., Any]

LAYERS = (
    Layer("conv1", "Conv", (1, 16, 32, 32), 525_000, 496, 16_384, True, ""),
    Layer("relu1", "Relu", (1, 16, 32, 32), 0, 0, 16_384, True, ""),
    Layer("turn", "Transpose", (1, 16, 32, 32), 0, 0, 16_384, True, ""),
    Layer("conv2", "Conv", (1, 16, 32, 32), 1_050_000, 496, 16_384, True, ""),
    Layer("conv3", "Conv", (1, 16, 32, 32), 525_000, 496, 16_384, True, ""),
    Layer("lstm", "LSTM", (1, 10), 1000, 100, 10, False, "no LSTM"),
)
POINT = {
    "name": "p",
    "layer": "conv2",
    "slices": [4],
    "unit_bytes": 1,
    "encoder": {"layer": "p/units", "macs": 525},
}
GAP8, STM32F7 = find_target("gap8"), find_target("stm32f7")
RATE = "modelled: MACs at 525 MMAC/s; " + GAP8.macs_per_s.source
BEHIND = "; not in the device's program, which ends at the last cut"
FOLLOWS = (
    10.197,
    "modelled: MACs at 51487.7 MMAC/s; as the layers before; ",
)  # at the rate of what was timed
ROWS = modelled(LAYERS, GAP8.macs_per_s, partitions=[POINT])
FOUND = Attribution(
    ("conv1", "conv2", "conv2", "p/units"), {"relu1": "conv1"}, ("conv1", "relu1", "turn", "conv2")
)
DEVICE = Device(Program((), (), ()), Path("device"), GAP8, FOUND)


def quiet(stage: str, done: int, of: int) -> None:
    """Report to nobody."""


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path("board.csv")


def device_side(rows: Sequence[ProfileRow]) -> dict[str, tuple[float | None, str]]:
    return {row.layer: (row.device_us, row.device_source) for row in rows}


def test_microseconds_of_a_board(board: Path) -> None:
    board.write_text("layer,device_us\nconv1,10\nturn,0\nconv2, 20.5\np/units,1e-1\n")
    rows, warnings = with_device(ROWS, DEVICE, Request(board_table=board), quiet)
    imported = "imported: board.csv"
    assert device_side(rows) == {
        "conv1": (10.0, imported),
        "relu1": (0.0, "fused into conv1"),
        "turn": (0.0, "free: no operator of its own"),
        "conv2": (20.5, imported),
        "p/units": (0.1, imported),
        "conv3": (FOLLOWS[0], FOLLOWS[1] + imported + BEHIND),
        "lstm": (None, "not on the device: no LSTM"),
    }
    assert warnings == () and [row.cloud_us for row in rows] == [row.cloud_us for row in ROWS]


def test_layers_behind_the_cut_and_fused_ones_may_be_measured_too(board: Path) -> None:
    board.write_text("layer,device_us\nconv3,7\nconv1,10\nrelu1,3\nconv2,20\np/units,1\n")
    rows, _ = with_device(ROWS, DEVICE, Request(board_table=board), quiet)
    found = device_side(rows)
    assert found["conv3"] == (7.0, "imported: board.csv") and found["relu1"] == (3.0, "imported: board.csv")


def test_cycles_and_instructions_of_a_board(board: Path) -> None:
    board.write_text("layer,cycles\nconv1,175\nconv2,350\np/units,1\n")
    found = read_board(board, ROWS, DEVICE, Request())
    assert found.us == {"conv1": 1.0, "conv2": 2.0, "p/units": 0.006}
    clock = "clock: GreenWaves, GAP8: cluster up to 175 MHz at 1.2 V"
    assert found.source == f"imported: board.csv, cycles at 175MHz; {clock}"
    found = read_board(board, ROWS, DEVICE, Request(clock_hz=50_000_000))
    assert found.us == {"conv1": 3.5, "conv2": 7.0, "p/units": 0.02}
    assert found.source == "imported: board.csv, cycles at 50MHz; clock: given on the command line"
    board.write_text("layer,instructions\nconv1,175\nconv2,350\np/units,1\n")
    found = read_board(board, ROWS, DEVICE, Request(cycles_per_instruction=2.0))
    assert found.us == {"conv1": 2.0, "conv2": 4.0, "p/units": 0.011}
    assert found.source == (
        "imported: board.csv, instructions x 2 cycles each at 175MHz; "
        f"cycles per instruction: given on the command line; {clock}"
    )


COLUMNS = "'layer,device_us' or 'layer,cycles' or 'layer,instructions'"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("conv1,1\n", f"board.csv:1: the first line must be {COLUMNS}, got 'conv1,1'"),
        ("layer,nothing\nconv1,0\n", f"board.csv:1: the first line must be {COLUMNS}, got 'layer,nothing'"),
        ("", f"board.csv:1: the first line must be {COLUMNS}, got ''"),
        ("layer,cycles\n", "board.csv: holds no layers"),
        ("layer,cycles\nconv1\n", "board.csv:2: a row has 2 cells, got 1"),
        (
            "layer,cycles\nconv1,1\nconv2,1\nconv4,1\nother,1\np/units,1\n",
            "board.csv:4: unknown layer 'conv4'; did you mean 'conv3'?\n  board.csv:5: unknown layer 'other'",
        ),
        (
            "layer,cycles\nconv1,1\n",
            "board.csv: layer 'conv2' is missing\n  board.csv: layer 'p/units' is missing",
        ),
        (
            "layer,cycles\nconv1,-1\nconv2,nan\np/units,fast\n",
            "board.csv:2: cycles must be a number from 0 up, got '-1'\n"
            "  board.csv:3: cycles must be a number from 0 up, got 'nan'\n"
            "  board.csv:4: cycles must be a number from 0 up, got 'fast'",
        ),
        (
            "layer,cycles\nconv1,1\nconv2,1\nconv1,1\np/units,1\n",
            "board.csv:4: layer 'conv1' is there twice, first in line 2",
        ),
        (
            "layer,cycles\nconv1,1\nconv2,1\np/units,1\nlstm,1\n",
            "board.csv:5: layer 'lstm' has no time: not on the device: no LSTM",
        ),
    ],
)
def test_words_for_tables_of_a_board(board: Path, text: str, message: str) -> None:
    board.write_text(text)
    with pytest.raises(ClioError) as error:
        with_device(ROWS, DEVICE, Request(board_table=board), quiet)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("head", "request_", "message"),
    [
        (
            "device_us",
            Request(clock_hz=1),
            "board.csv: has device_us, which --clock and --cpi do not change",
        ),
        ("cycles", Request(cycles_per_instruction=1.5), "board.csv: has cycles, which --cpi does not change"),
    ],
)
def test_options_that_do_nothing_to_a_table(board: Path, head: str, request_: Request, message: str) -> None:
    board.write_text(f"layer,{head}\nconv1,1\nconv2,1\np/units,1\n")
    with pytest.raises(ClioError) as error:
        read_board(board, ROWS, DEVICE, request_)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        ({"device": "emulate"}, "unknown device 'emulate'\n  hint: choose auto, emulated, model"),
        (
            {"device": "model", "board_table": Path("x")},
            "--device model and --import exclude each other",
        ),
        (
            {"device": "model", "clock_hz": 1},
            "--clock and --cpi turn counts into time; a model from MACs has none",
        ),
    ],
)
def test_wishes_that_exclude_each_other(wishes: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ClioError) as error:
        Request(**wishes)
    assert str(error.value) == message


# --- the emulated board -------------------------------------------------------------------------------


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """An emulated board that counts 91, 1, 9 and 100 thousand instructions; the list says when it ran."""
    runs: list[str] = []

    def execute(*_: object, **__: object) -> Execution:
        runs.append("run")
        return Execution("qemu", 1, None, (91_000, 1000, 9000, 100_000))

    monkeypatch.setattr(profiling, "execute", execute)
    monkeypatch.setattr(toolchain, "missing_tools", lambda board: [])
    return runs


BOARD = replace(DEVICE, target=STM32F7)


def test_auto_is_the_order_of_trust_for_each_target(counted: list[str]) -> None:
    assert with_device(ROWS, DEVICE, Request(), quiet) == (ROWS, ()) and not counted
    stages: list[tuple[str, int, int]] = []
    rows, _ = with_device(ROWS, BOARD, Request(), lambda *stage: stages.append(stage))
    assert counted == ["run"] and stages == [("running mps2_an500", 0, 1), ("running mps2_an500", 1, 1)]
    found = device_side(rows)
    us = [found[name][0] for name in ("conv1", "relu1", "turn", "conv2", "p/units")]
    assert us == [383.38, 0.0, 0.0, 42.13, 421.296]  # 0.91 cycles at 216 MHz
    assert found["conv1"][1] == (
        "emulated: instructions on QEMU's mps2_an500 x 0.91 cycles each at 216MHz; cycles per instruction: "
        f"{STM32F7.cycles_per_instruction.source}; clock: {STM32F7.clock_hz.source}"
    )
    assert found["conv3"][1].endswith(BEHIND) and found["lstm"][0] is None
    # Asked for, or with figures of one's own, the emulated board goes first on GAP8 too.
    for request in (Request("emulated"), Request(cycles_per_instruction=2.0)):
        rows, _ = with_device(ROWS, DEVICE, request, quiet)
        assert rows[0].device_source.startswith("emulated: instructions on QEMU's virt_rv32 x ")
    assert rows[0].device_us == 1040.0
    # The rows that were emulated are modelled again where the model is asked for.
    assert with_device(rows, DEVICE, Request("model"), quiet)[0] == ROWS


def test_auto_keeps_what_was_imported_or_edited(board: Path, counted: list[str]) -> None:
    board.write_text("layer,device_us\nconv1,10\nconv2,20\np/units,1\n")
    imported, _ = with_device(ROWS, BOARD, Request(board_table=board), quiet)
    assert with_device(imported, BOARD, Request(), quiet) == (imported, ()) and not counted
    edited = (replace(ROWS[0], device_us=3.0, device_source="my oscilloscope"), *ROWS[1:])
    rows, _ = with_device(edited, BOARD, Request(), quiet)
    assert rows[0] == edited[0] and rows[3].device_us == 42.13
    rows, _ = with_device(edited, BOARD, Request("emulated"), quiet)
    assert rows[0].device_us == 383.38


def test_without_the_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "missing_tools", lambda board: ["gcc-x", "qemu-x"])
    rows, warnings = with_device(ROWS, BOARD, Request(), quiet)
    assert warnings == ("device times are modelled, not emulated: gcc-x and qemu-x not installed",)
    assert {row.device_source.split(":")[0] for row in rows} == {"modelled", "not on the device"}
    assert with_device(ROWS, DEVICE, Request(), quiet)[1] == ()


def test_a_board_that_computes_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = Mismatch("mps2_an500", 0, 1, "conv1", "Conv", 7, 1, 2)
    monkeypatch.setattr(profiling, "execute", lambda *_, **__: Execution("qemu", 1, wrong, ()))
    with pytest.raises(ClioError) as error:
        with_device(ROWS, BOARD, Request("emulated"), quiet)
    assert str(error.value) == (
        "mps2_an500: input 0, operator 1 'conv1' (Conv): element 7 is 2, the reference says 1\n"
        "  hint: clio-cc verify tells more"
    )


# --- the cloud --------------------------------------------------------------------------------------


def test_cloud_table(board: Path) -> None:
    text = "layer,cloud_us\n" + "".join(f"{layer.name},{us}\n" for us, layer in enumerate(LAYERS))
    board.write_text(text)
    assert read_cloud(board, ROWS) == Times(
        {layer.name: float(us) for us, layer in enumerate(LAYERS)}, "imported: board.csv"
    )
    board.write_text(text + "p/units,9\n")
    assert read_cloud(board, ROWS).us["p/units"] == 9.0
    board.write_text("layer,cloud_us\nconv1,1\n")
    missing = [layer.name for layer in LAYERS[1:]]
    with pytest.raises(ClioError) as error:
        read_cloud(board, ROWS)
    assert str(error.value) == "\n  ".join(f"board.csv: layer '{name}' is missing" for name in missing)


# --- folders of compile -------------------------------------------------------------------------------


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The example for the STM32F7 in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    compiled("stm32f7").files.write(Path("clio-out"))
    return Path("clio-out")


def rows_of(out: Path) -> tuple[ProfileRow, ...]:
    return read_profile(out / "profile.csv")


def test_emulated_board_and_its_own_table(out: Path, clio: Clio, tool: Callable[[str], str]) -> None:
    for command in ("make", "arm-none-eabi-gcc", "qemu-system-arm"):
        tool(command)
    done = clio("profile", "--repeats", "1", "--json")
    assert (done.code, done.err) == (0, "")
    emulated = rows_of(out)
    assert [row.to_json() for row in emulated] == json.loads(done.out)
    words = {row.device_source.split(":")[0] for row in emulated}
    assert "emulated" in words and not words & {"imported", "measured"}
    # What the generated firmware prints is a table as it stands; it counts what the test firmware counts.
    make = [tool("make"), "-s", "-C", str(out / "device"), "run-profile"]
    printed = subprocess.run(make, check=True, capture_output=True, text=True).stdout
    Path("board.csv").write_text(printed)
    assert clio("profile", "--repeats", "1", "--import", "board.csv").code == 0
    for was, row in zip(emulated, rows_of(out), strict=True):
        assert row.device_us == pytest.approx(was.device_us, abs=0.1, rel=1e-3)
        if was.device_source.startswith("emulated"):
            assert row.device_source.startswith("imported: board.csv, instructions x 0.91 cycles each")
    # The sum over the layers is the sum over the operators.
    program = results.read_program(out)
    counts = [int(line.rsplit(",", 1)[1]) for line in printed.splitlines()[1:]]
    assert len(counts) <= len(program.operators)
    total = sum(row.device_us or 0 for row in rows_of(out) if row.device_source.startswith("imported"))
    assert total == pytest.approx(sum(counts) * 0.91 / 216, rel=1e-4)
    # And it stays until something else is asked for.
    assert clio("profile", "--repeats", "1").code == 0
    assert any(row.device_source.startswith("imported") for row in rows_of(out))
    assert clio("profile", "--repeats", "1", "--device", "model").code == 0
    assert not any(row.device_source.startswith("imported") for row in rows_of(out))


def test_cloud_table_on_the_command_line(out: Path, clio: Clio) -> None:
    layers = [row.layer for row in rows_of(out) if row.op != "Encode"]
    Path("cloud.csv").write_text("layer,cloud_us\n" + "".join(f"{layer},3\n" for layer in layers))
    done = clio("profile", "--device", "model", "--import-cloud", "cloud.csv")
    assert (done.code, done.err) == (0, "") and "cloud: imported: cloud.csv\n" in done.out
    assert {row.cloud_us for row in rows_of(out) if row.op != "Encode"} == {3.0}


def test_a_model_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clio: Clio) -> None:
    monkeypatch.chdir(tmp_path)
    model = Path(__file__).parent.parent / "examples/digits/digits.onnx"
    done = clio("profile", model, "--target", "gap8", "--repeats", "1", "--json")
    assert (done.code, done.err) == (0, "")
    rows = json.loads(done.out)
    assert {row["device_source"].split(":")[0] for row in rows} == {"modelled"}
    assert {row["cloud_source"].split(":")[0] for row in rows} == {"measured"}
    done = clio("profile", model, "--target", "gap8", "--repeats", "1")
    assert "device: modelled: MACs at 525 MMAC/s; CLIO" in done.out
    assert list(tmp_path.iterdir()) == []


def test_clock_frequencies() -> None:
    assert [parse_frequency_hz(text) for text in ("216M", "32.768k", "64000000")] == [
        216 * 10**6,
        32768,
        64 * 10**6,
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["m.onnx"], "'m.onnx' needs a board\n  hint: add --target; `clio-cc targets` lists them"),
        (["out", "--target", "gap8"], "--target is for an ONNX file; the folder of compile has its own"),
        (
            ["m.onnx", "--target", "gap8", "--cpi", "1.2"],
            "only a model from MACs is to be had before compile\n"
            "  hint: run `clio-cc compile MODEL --target BOARD` first",
        ),
        (
            ["--clock", "216MHz"],
            "--clock: '216MHz' is not a clock frequency\n"
            "  hint: a clock frequency is in hertz, k and M are thousands and millions; did you mean '216M'?",
        ),
    ],
)
def test_words_on_the_command_line(arguments: list[str], message: str, clio: Clio) -> None:
    done = clio("profile", *arguments)
    assert (done.code, done.out, done.err) == (1, "", f"clio-cc: error: {message}\n")


def test_edited_rows_are_checked_against_the_manifest(out: Path, clio: Clio) -> None:
    rows = rows_of(out)
    (out / "profile.csv").write_text(to_csv([*rows[1:], rows[0]]))
    for command in ("profile", "plan"):
        assert clio(command).err == (
            "clio-cc: error: inconsistent profile\n"
            f"  clio-out/profile.csv:2: layer '{rows[1].layer}' stands where '{rows[0].layer}' belongs\n"
            "  hint: the rows are those that compile wrote; edit times and their sources, or compile again\n"
        )
