"""The command line: what it prints, how it ends, and that its commands work in the order in which people type them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from conftest import Done
from digits import CALIBRATION, MODEL, compiled

from clio_cc import __version__
from clio_cc.passes import FLOAT_PIPELINE
from clio_cc.passes.runner import pass_name

Clio = Callable[..., Done]
Golden = Callable[[str, str], None]

COMMANDS = (
    "compile",
    "train",
    "inspect",
    "targets",
    "links",
    "profile",
    "evaluate",
    "plan",
    "report",
    "verify",
)
NO_DATA = (
    "clio-cc: warning: no calibration data: formats and accuracy mean nothing until real data is given "
    "with --calibration\n"
)


def without_missing_compilers(err: str) -> str:
    """Messages without the one about a cross compiler that this machine lacks."""
    return "".join(line for line in err.splitlines(keepends=True) if "is not installed, so stack" not in line)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder as compile leaves it."""
    folder = tmp_path / "clio-out"
    compiled("stm32f7").files.write(folder)
    return folder


def loads(done: Done) -> Any:
    assert done.code == 0, done.err
    return json.loads(done.out)


# --- help, version, exit codes --------------------------------------------------------------------


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help(command: str, clio: Clio, golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERMINAL_WIDTH", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    done = clio(*([command] if command else []), "--help")
    assert (done.code, done.err) == (0, "")
    golden(f"help{'-' + command if command else ''}.txt", done.out)


def test_no_arguments_show_the_help(clio: Clio) -> None:
    alone, asked = clio(), clio("--help")
    assert (alone.out or alone.err) == asked.out
    assert alone.code in (0, 2)


def test_version(clio: Clio) -> None:
    assert clio("--version") == Done(0, f"clio-cc {__version__}\n", "")


def test_it_can_be_started_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "clio_cc", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"clio-cc {__version__}\n"


def test_help_is_quick() -> None:
    """Under half a second of processor time (others may be using the machine), and without heavy packages."""
    code = (
        "import sys; sys.argv = ['clio-cc', '--help']\n"
        "from clio_cc.cli import main\n"
        "try:\n    main()\nfinally:\n    print(sorted(set(sys.modules) & set(sys.stdin.read().split())), file=sys.stderr)"
    )
    heavy = "onnx onnx_ir onnxruntime onnxsim tvm numpy PIL"
    took = []
    for _ in range(3):
        before = os.times()
        done = subprocess.run(
            [sys.executable, "-c", code], input=heavy, capture_output=True, text=True, check=True
        )
        after = os.times()
        took.append(
            after.children_user + after.children_system - before.children_user - before.children_system
        )
        assert done.stderr == "[]\n"
    assert min(took) < 0.5, took


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compil", "m.onnx"], "No such command 'compil'"),
        (["compile"], "Missing argument"),
        (["compile", "m.onnx"], "Missing option '--target'"),
        (["compile", "m.onnx", "--target", "gap8", "--bogus"], "No such option: --bogus"),
        (["compile", "m.onnx", "--target", "gap8", "--samples", "0"], "Invalid value for '--samples'"),
        (["compile", "m.onnx", "--target", "gap8", "--image-scale", "x"], "Invalid value for '--image-scale'"),
        (["profile", "--repeats", "0"], "Invalid value for '--repeats'"),
        (["verify", "--inputs", "few"], "Invalid value for '--inputs'"),
    ],
)  # fmt: skip
def test_mistyped_commands_end_with_2(arguments: list[str], message: str, clio: Clio) -> None:
    done = clio(*arguments)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert done.err.startswith("Usage: ")


# --- the three commands -----------------------------------------------------------------------------


def test_three_commands_in_an_empty_folder(tmp_path: Path) -> None:
    """As a newcomer types them: own processes, only a model in the folder, nothing else on the command line."""
    shutil.copy(MODEL, tmp_path / "model.onnx")
    command = str(Path(sys.executable).with_name("clio-cc"))
    environment = {**os.environ, "NO_COLOR": "1"}

    def typed(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [command, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    done = typed("compile", "model.onnx", "--target", "gap8")
    assert (done.returncode, without_missing_compilers(done.stderr)) == (0, NO_DATA)
    assert re.search(r"^wrote clio-out/ \(\d+ files\)$", done.stdout, re.MULTILINE)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["clio-out", "model.onnx"]
    modelled = (tmp_path / "clio-out/profile.csv").read_text()
    assert "measured: onnxruntime" not in modelled

    done = typed("profile")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Profile\n" in done.stdout and "cloud: measured: onnxruntime" in done.stdout
    measured = (tmp_path / "clio-out/profile.csv").read_text()
    assert measured.splitlines()[0] == modelled.splitlines()[0] and "measured: onnxruntime" in measured

    done = typed("plan", "--bandwidth", "50k:2M")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Plan for 300ms\n" in done.stdout and "Strategies\n" in done.stdout
    assert json.loads((tmp_path / "clio-out/plan.json").read_text())["bandwidth"] == [50_000, 2_000_000]

    done = typed("verify", "--board", "host")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "host: bit-exact on 8 inputs, every operator" in done.stdout
    assert "PROBLEM" not in done.stdout
    assert sorted(p.name for p in tmp_path.iterdir()) == ["clio-out", "model.onnx"]


def test_calibration_silences_the_warning(tmp_path: Path, clio: Clio) -> None:
    arguments = [
        "compile",
        MODEL,
        "--target",
        "gap8",
        "--out",
        tmp_path / "out",
        "--calibration",
        CALIBRATION,
    ]
    done = clio(*arguments, "--samples", "64")
    assert (done.code, without_missing_compilers(done.err)) == (0, "")
    done = clio(*arguments, "--samples", "16")
    assert without_missing_compilers(done.err) == (
        "clio-cc: warning: units and heads are fitted on 16 inputs only, and so is the agreement in accuracy.csv: "
        "give some hundreds with --calibration\n"
    )
    assert "SQNR dB" in done.out
    assert json.loads((tmp_path / "out/manifest.json").read_text())["warnings"] == [
        line.removeprefix("clio-cc: warning: ") for line in done.err.splitlines()
    ]


# --- JSON -------------------------------------------------------------------------------------------


def test_inspect_json(clio: Clio) -> None:
    found = loads(clio("inspect", MODEL, "--json"))
    assert found.keys() >= {"layers", "partition_points"}
    for layer in found["layers"]:
        assert layer.keys() >= {"name", "op", "macs", "weight_bytes", "output_bytes", "device", "reason"}
        assert layer["device"] is True and layer["reason"] == ""
    for point in found["partition_points"]:
        assert point.keys() >= {"name", "tensor", "shape", "bytes", "macs_before", "runnable", "reason"}
    assert sum(layer["macs"] for layer in found["layers"]) > 600_000


def test_compile_json_is_the_manifest(tmp_path: Path, clio: Clio) -> None:
    out = tmp_path / "out"
    done = clio("compile", MODEL, "--target", "nrf5340", "--out", out, "--samples", "16", "--json")
    found = loads(done)
    assert without_missing_compilers(done.err) == NO_DATA
    assert (out / "manifest.json").read_text() == done.out
    assert found["schema"] == 1 and found["target"] == "nrf5340"
    assert found["model"].keys() >= {"sha256"}
    for partition in found["partitions"]:
        assert partition.keys() >= {"name", "tensor", "shape", "slices", "unit_bytes"}
    assert found["device"].keys() >= {"ram_bytes", "arena_bytes", "stack_bytes", "flash_bytes", "macs"}
    assert isinstance(found["warnings"], list)
    written = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    assert found["files"].keys() == written - {"manifest.json"}


def test_verify_json(out: Path, clio: Clio) -> None:
    found = loads(clio("verify", out, "--json", "--inputs", "3", "--board", "host"))
    assert found.keys() >= {
        *("bit_exact", "executors", "inputs", "first_mismatch", "ram_bytes", "flash_bytes", "cloud_max_error")
    }
    assert found["bit_exact"] is True and found["inputs"] == 3 and found["first_mismatch"] is None
    assert found["executors"] == ["reference", "host"]
    assert found["ram_bytes"].keys() == found["flash_bytes"].keys() == {"stated", "linked"}
    assert found["cloud_max_error"] < 1e-4


def test_verify_json_with_the_emulated_board(out: Path, clio: Clio, tool: Callable[[str], str]) -> None:
    for command in ("arm-none-eabi-gcc", "qemu-system-arm"):
        tool(command)
    found = loads(clio("verify", out, "--json", "--data", CALIBRATION))
    assert found["executors"] == ["reference", "host", "qemu"] and found["inputs"] == 8
    for figure in ("ram_bytes", "flash_bytes"):
        assert found[figure]["stated"] == found[figure]["linked"] is not None
    assert found["stack_bytes"]["used"] <= found["stack_bytes"]["stated"]
    zones = {"board": "mps2_an500", "inputs": 1, "trespasses": [], "wrong": []}
    assert found["bit_exact"] is True and found["problems"] == [] and found["red_zones"] == zones


def test_profile_json_is_the_table(out: Path, clio: Clio) -> None:
    rows = loads(clio("profile", out, "--json", "--repeats", "2"))
    header = (out / "profile.csv").read_text().splitlines()[0]
    assert header == ("layer,op,macs,weight_bytes,output_bytes,device_us,device_source,cloud_us,cloud_source")
    assert all(",".join(row) == header for row in rows)
    assert len(rows) == len((out / "profile.csv").read_text().splitlines()) - 1


def test_plan_json(out: Path, clio: Clio) -> None:
    done = clio("plan", out, "--json", "--bandwidth", "50k:2M")
    found = loads(done)
    assert found.keys() >= {"deadline_us", "link", "intervals", "cover", "holes", "ranges", "strategies"}
    assert (out / "plan.json").read_text() == done.out
    assert found["deadline_us"] == 300_000
    for interval in found["intervals"]:
        assert interval.keys() >= {"partition", "from_bps", "to_bps"}
    for each in found["ranges"]:
        assert each.keys() >= {
            *("from_bps", "to_bps", "partition", "slices", "latency_us", "energy_uj", "accuracy")
        }
    assert (
        loads(clio("plan", out, "--json", "--deadline", "50ms", "--bandwidth", "1M"))["deadline_us"] == 50_000
    )


def test_plan_with_a_link_and_a_budget(out: Path, clio: Clio, tmp_path: Path) -> None:
    link = next(each for each in loads(clio("links", "--json")) if each["name"] == "ble-2m-ios")
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({**link, "name": "mine"}))
    found = loads(clio("plan", out, "--json", "--link", file, "--energy", "1J", "--bandwidth", "20k:2M"))
    assert (found["link"], found["deadline_us"], found["budget_uj"]) == ("mine", None, 1e6)
    assert (found["bandwidth"], found["unreachable"]) == ([20_000, 260_267], [260_267, 2_000_000])
    assert all(each["energy_uj"] > 0 for each in found["ranges"] + found["winners"])
    done = clio("plan", out, "--link", file, "--bandwidth", "20k:2M", "--hysteresis", "25%")
    assert "not planned: link 'mine' does not reach 260.3k to 2M\n" in done.out
    assert json.loads((out / "plan.json").read_text())["hysteresis"]["margin"] == 0.25
    # Without a range it is the link's own rate.
    assert loads(clio("plan", out, "--json", "--link", "clio-ble"))["bandwidth"] == [250_000, 250_000]


def test_links_json(clio: Clio) -> None:
    found = loads(clio("links", "--json"))
    assert {"clio-lora", "clio-zigbee", "clio-ble", "clio-wifi", "ble-2m"} <= {each["name"] for each in found}
    for each in found:
        figures = [value for value in each.values() if isinstance(value, dict)]
        assert figures and all(figure["source"] for figure in figures)
        assert each["ceiling_bps"] > 0


def test_targets_json(clio: Clio) -> None:
    found = loads(clio("targets", "--json"))
    assert [each["name"] for each in found] == ["gap8", "stm32f7", "nrf5340"]
    for each in found:
        for figure in ("clock_hz", "ram_bytes", "flash_bytes"):
            assert each[figure]["value"] > 0 and each[figure]["source"]


def test_tables_are_for_people(out: Path, clio: Clio) -> None:
    for arguments, words in (
        (["links"], ["clio-lora", "BLE as in the CLIO paper", "nRF5340 at 3 V"]),
        (["targets"], ["stm32f7: STM32F746", "clock_hz", "ram_bytes"]),
        (["inspect", MODEL], ["Layers\n", "Partition points\n", "flatten", "yes"]),
        (["plan", out], ["Plan for 300ms\n", "Strategies\n", "Which wins\n", "flatten"]),
    ):
        done = clio(*arguments)
        assert (done.code, done.err) == (0, "")
        assert all(word in done.out for word in words), done.out
        assert "\x1b" not in done.out


# --- watching passes --------------------------------------------------------------------------------


def test_time_passes(clio: Clio) -> None:
    done = clio("inspect", MODEL, "--time-passes")
    lines = done.out.splitlines()
    start = next(i for i, line in enumerate(lines) if re.match(r"pass +time +nodes +result", line))
    named = [line.split()[0] for line in lines[start + 1 : lines.index("", start)]]
    assert named == [*map(pass_name, FLOAT_PIPELINE), "total"]


def test_print_after(clio: Clio) -> None:
    name = pass_name(FLOAT_PIPELINE[-1])
    done = clio("inspect", MODEL, "--print-after", name)
    assert done.out.startswith(f"after {name}:\n") and "Conv" in done.out


def test_dump(tmp_path: Path, clio: Clio) -> None:
    folder = tmp_path / "deep/dump"
    assert clio("inspect", MODEL, "--dump", folder).code == 0
    files = sorted(p.name for p in folder.iterdir())
    assert files == [f"{i:02}-{pass_name(each)}.onnx" for i, each in enumerate(FLOAT_PIPELINE)]
    for name in files:
        onnx.checker.check_model(onnx.load(folder / name))


def test_json_stays_json_beside_the_options_of_passes(clio: Clio) -> None:
    done = clio("inspect", MODEL, "--json", "--time-passes", "--print-after", pass_name(FLOAT_PIPELINE[0]))
    assert loads(done)["layers"]
    assert "after " in done.err and "total" in done.err
