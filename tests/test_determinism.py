"""Same input and options, same bytes; another option changes what it should."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from digits import CALIBRATION, MODEL, compiled

COMMON = ("compile", "--target", "stm32f7", "--samples", "32")


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def compile_in(folder: Path, hash_seed: str, *arguments: str) -> dict[str, bytes]:
    """Compile in a process of its own, in a folder of its own; returns what was written."""
    folder.mkdir(parents=True)
    shutil.copy(MODEL, folder / "model.onnx")
    shutil.copy(CALIBRATION, folder / "data.npz")
    command = [str(Path(sys.executable).with_name("clio-cc")), *COMMON, *arguments, "model.onnx"]
    # Neither the number of threads nor the language of the machine may show.
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "OMP_NUM_THREADS": hash_seed, "LC_ALL": "C"}
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    return files(folder / "clio-out")


@pytest.mark.parametrize(
    "arguments",
    [["--requant", "shift", "--calibration", "data.npz"], ["--requant", "mulshift"]],
    ids=["shift, data", "mulshift, random inputs"],
)
def test_two_runs_are_equal(arguments: list[str], tmp_path: Path) -> None:
    first = compile_in(tmp_path / "one", "1", *arguments)
    second = compile_in(tmp_path / "a/rather/deep/folder", "2", *arguments)
    assert first.keys() == second.keys()
    assert changed(first, second) == set()
    for path, content in first.items():
        assert str(tmp_path).encode() not in content, path
        assert os.fsencode(Path.home()) + b"/" not in content, path


def changed(a: dict[str, bytes], b: dict[str, bytes]) -> set[str]:
    return {path for path in a.keys() | b.keys() if a.get(path) != b.get(path)}


# The same whatever the numbers are: glue, the float graph, the model's times.
FIXED = {
    "float.onnx",
    "profile.csv",
    "device/CMakeLists.txt",
    "device/src/clio_micro.h",
    "device/test/clio_test.c",
}


def test_other_options_change_what_they_should() -> None:
    base = dict(compiled("stm32f7").files.files)
    mulshift = changed(base, dict(compiled("stm32f7", requant="mulshift").files.files))
    assert mulshift >= {"manifest.json", "program.json", "device.onnx", "device/src/clio_kernels.c"}
    assert not mulshift & FIXED
    local = changed(base, dict(compiled("stm32f7", partition="local").files.files))
    assert local >= {"manifest.json", "program.json", "device.onnx", "device/src/clio_model.c"}
    assert {path for path in base if path.startswith("cloud/")} <= local
    assert local & FIXED == {"profile.csv"}  # which has a row for the units
    board = changed(base, dict(compiled("nrf5340").files.files))
    assert board >= {"manifest.json", "profile.csv", "device/README.md"}
    # The arithmetic is the same on every board.
    assert not board & {"float.onnx", "program.json", "device.onnx", "cloud/digits/1/model.onnx"}


def test_the_named_cut_is_the_default_one_but_for_its_record() -> None:
    base = compiled("stm32f7")
    [sliced] = base.points
    named = compiled("stm32f7", partition=sliced.point.name)
    # The report embeds the manifest.
    assert changed(dict(base.files.files), dict(named.files.files)) - {"report.html"} == {"manifest.json"}
