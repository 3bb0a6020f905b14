"""verify finds what is wrong with a folder, in exact words."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import Done
from digits import compiled
from graph_text import parse_proto, save
from onnx import numpy_helper

from clio_cc import results
from clio_cc.arena import plan_arena
from clio_cc.compiler import Options, compile_model

Clio = Callable[..., Done]
Tool = Callable[[str], str]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    compiled("stm32f7").files.write(folder)
    return folder


def problems(done: Done) -> list[str]:
    """The problems that verify printed; its exit code must say the same."""
    found = [line.removeprefix("PROBLEM: ") for line in done.out.splitlines() if line.startswith("PROBLEM: ")]
    assert (done.code, done.err) == (1 if found else 0, "")
    return found


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert text.count(old) == 1, (file, text.count(old))
    file.write_text(text.replace(old, new))


def change_manifest(out: Path, change: Callable[[dict[str, Any]], None]) -> None:
    manifest = json.loads((out / "manifest.json").read_text())
    change(manifest)
    (out / "manifest.json").write_text(json.dumps(manifest))


def test_nothing_is_wrong(out: Path, clio: Clio) -> None:
    done = clio("verify", out, "--board", "host")
    assert problems(done) == []
    assert done.out.splitlines()[0] == "host: bit-exact on 8 inputs, every operator"


def test_an_edited_table(out: Path, clio: Clio) -> None:
    """The first word of the first weights: every element of the first layer's first channel may differ."""
    tables = out / "device/src/clio_tables.c"
    lines = tables.read_text().splitlines()
    at = next(i for i, line in enumerate(lines) if "clio_op0_bias" in line) + 1
    first, rest = lines[at].split(",", 1)
    lines[at] = f"{first.replace(first.strip(), str(int(first) + 100_000))},{rest}"
    tables.write_text("\n".join([*lines, ""]))
    done = clio("verify", out, "--board", "host", "--inputs", "2")
    op = compiled("stm32f7").program.operators[0]
    expected = op.evaluate([np.full((1, 8, 8, 1), -128, np.int8)])
    assert done.out.splitlines()[0] == "host: DIFFERS on 2 inputs, every operator"
    changed, wrong = problems(done)
    assert changed == "device/src/clio_tables.c is not what compile wrote"
    prefix = f"host: input 0, operator 0 '{op.name}' ({op.kind}): element 0 is 127, the reference says "
    assert wrong.startswith(prefix) and -128 <= int(wrong.removeprefix(prefix)) < 127
    assert expected.dtype == np.int8
    found = json.loads(clio("verify", out, "--board", "host", "--json").out)
    assert found["bit_exact"] is False
    assert (
        found["first_mismatch"].items() >= {"executor": "host", "input": 0, "operator": 0, "got": 127}.items()
    )


def test_edited_and_missing_files(out: Path, clio: Clio) -> None:
    (out / "device/README.md").write_text("mine now")
    (out / "plan.json").unlink()
    assert problems(clio("verify", out, "--board", "host")) == [
        "device/README.md is not what compile wrote",
        "plan.json is not what compile wrote",
    ]


def test_profile_and_plan_keep_the_folder_whole(out: Path, clio: Clio) -> None:
    assert clio("profile", out, "--repeats", "2").code == 0
    assert clio("plan", out, "--deadline", "200ms").code == 0
    assert problems(clio("verify", out, "--board", "host")) == []


def test_tables_edited_by_hand_keep_the_folder_whole(out: Path, clio: Clio) -> None:
    for name in ("profile.csv", "plan.json", "report.html"):
        text = (out / name).read_text()
        (out / name).write_text(text + "\n")
    manifest = results.read_manifest(out)
    manifest["files"]["accuracy.csv"] = "0" * 64
    (out / "manifest.json").write_text(json.dumps(manifest))
    (out / "accuracy.csv").write_text(
        "partition,slices,bytes,metric,value,samples\nlocal,0,0,accuracy,0.5,9\n"
    )
    assert problems(clio("verify", out, "--board", "host")) == []
    (out / "report.html").unlink()
    assert problems(clio("verify", out, "--board", "host")) == ["report.html is not what compile wrote"]


def test_wrong_figures(out: Path, clio: Clio, tool: Tool) -> None:
    for command in ("arm-none-eabi-gcc", "qemu-system-arm"):
        tool(command)
    device = dict(compiled("stm32f7").manifest["device"])

    def lie(manifest: dict[str, Any]) -> None:
        manifest["device"]["ram_bytes"] -= 8
        manifest["device"]["flash_bytes"] += 4

    change_manifest(out, lie)
    assert problems(clio("verify", out, "--board", "emulated", "--inputs", "2")) == [
        f"RAM: stated {device['ram_bytes'] - 8} bytes, linked {device['ram_bytes']}",
        f"flash: stated {device['flash_bytes'] + 4} bytes, linked {device['flash_bytes']}",
    ]


def test_a_kernel_that_leaves_its_zone(out: Path, clio: Clio, tool: Tool) -> None:
    """One byte too far: harmless where nothing lies behind, and found all the same."""
    for command in ("arm-none-eabi-gcc", "qemu-system-arm"):
        tool(command)
    clean = clio("verify", out, "--board", "emulated", "--inputs", "2")
    assert problems(clean) == []
    assert clean.out.splitlines()[1] == "mps2_an500: red zones around every operator kept on 1 input"
    program = compiled("stm32f7").program
    arena, op = plan_arena(program), program.operators[-1]
    at = arena.offsets[op.output.name] + op.output.bytes
    model = out / "device/src/clio_model.c"
    call = f"CLIO_END({len(program.operators) - 1},"
    edit(model, call, f"clio_arena[{at}] = (int8_t)~clio_arena[{at}]; {call}")
    done = clio("verify", out, "--board", "emulated", "--inputs", "2")
    assert "mps2_an500: red zones around every operator CROSSED on 1 input" in done.out.splitlines()
    name = f"operator {len(program.operators) - 1} '{op.name}' ({op.kind})"
    changes = f"mps2_an500: {name} changes the arena at offset {at}, which is not its to write"
    assert changes in problems(done)
    found = json.loads(clio("verify", out, "--board", "emulated", "--inputs", "2", "--json").out)
    assert found["bit_exact"] is True
    assert [each["offset"] for each in found["red_zones"]["trespasses"]] == [at]


def test_a_stack_deeper_than_stated(out: Path, clio: Clio, tool: Tool) -> None:
    for command in ("arm-none-eabi-gcc", "qemu-system-arm"):
        tool(command)
    device = dict(compiled("stm32f7").manifest["device"])

    def lie(manifest: dict[str, Any]) -> None:
        manifest["device"]["stack_bytes"] = 16
        manifest["device"]["ram_bytes"] = device["arena_bytes"] + 16

    change_manifest(out, lie)
    (found,) = problems(clio("verify", out, "--board", "emulated", "--inputs", "2"))
    used = found.removeprefix("stack: stated 16 bytes, used ")
    assert 16 < int(used) <= device["stack_bytes"]


def test_a_wrong_cloud_half(out: Path, clio: Clio) -> None:
    """Weights of the cloud's graph changed: the file's digest, and the distance from the original model."""
    (file,) = (out / "cloud").glob("*/1/model.onnx")
    name = file.relative_to(out).as_posix()
    model = onnx.load(file)
    weights = next(
        t for t in model.graph.initializer if len(t.dims) == 2 and t.data_type == onnx.TensorProto.FLOAT
    )
    weights.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(weights), weights.name))
    file.write_bytes(model.SerializeToString())
    found = problems(clio("verify", out, "--board", "host"))
    assert found[0] == f"{name} is not what compile wrote"
    # The same with the digest brought in line: the numbers give it away.
    manifest = results.read_manifest(out)
    manifest["files"][name] = hashlib.sha256(file.read_bytes()).hexdigest()
    (out / "manifest.json").write_text(json.dumps(manifest))
    (found_now,) = problems(clio("verify", out, "--board", "host"))
    assert found_now.startswith(
        "partition point 'flatten': the cloud's graph differs from the original model's second half by "
    )


def test_wrong_units(out: Path, clio: Clio) -> None:
    edit(
        out / "device/src/clio_model.c", "to[i] = from[i * channels];", "to[i] = (int8_t)~from[i * channels];"
    )
    done = clio("verify", out, "--board", "host")
    assert done.out.splitlines()[0] == "host: DIFFERS on 8 inputs, every operator"
    assert problems(done) == [
        "device/src/clio_model.c is not what compile wrote",
        "host: clio_unit hands out other bytes for partition point 'flatten' than the reference",
    ]


def test_code_that_does_not_compile(out: Path, clio: Clio) -> None:
    edit(out / "device/src/clio_model.c", "void clio_run(void) {", "void clio_run(void) { int unused;")
    done = clio("verify", out, "--board", "host")
    assert done.code == 1
    assert done.err.startswith(f"clio-cc: error: gcc failed in {out / 'device'}:\n")
    assert "unused variable" in done.err


def test_missing_compilers(out: Path, clio: Clio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gcc = shutil.which("gcc")
    assert gcc is not None
    monkeypatch.setattr(shutil, "which", lambda command: gcc if command == "gcc" else None)
    done = clio("verify", out)
    assert done.code == 0, done.out
    skipped = "mps2_an500: not run, arm-none-eabi-gcc and qemu-system-arm not installed"
    assert skipped in done.out.splitlines()
    done = clio("verify", out, "--board", "emulated")
    assert done == Done(
        1,
        "",
        "clio-cc: error: arm-none-eabi-gcc is not installed\n"
        "  hint: apt-get install gcc-arm-none-eabi libnewlib-arm-none-eabi\n",
    )


def test_units_of_a_tensor_in_the_graphs_own_order(tmp_path: Path, clio: Clio) -> None:
    """A vector becomes an image just before the cut: its channels are units all the same."""
    text = (
        "m (float[N,16] x, float[32,16] w, float[32] b, float[3,8,3,3] c) => (float[N,3,2,2] y)"
        "<int64[4] s = {-1,8,2,2}>"
        "{ a = Gemm<transB=1>(x,w,b) r = Relu(a) q = Reshape(r, s) y = Conv<pads=[1,1,1,1]>(q, c) }"
    )
    model = save(parse_proto(text), tmp_path / "decoder.onnx")
    result = compile_model(Options(model, "gap8"), lambda stage, done, of: None)
    (partition,) = result.manifest["partitions"]
    assert partition.items() >= {"tensor": "q", "shape": [1, 8, 2, 2], "units": 8, "unit_bytes": 4}.items()
    assert result.program.tensors[result.program.taps[0].tensor].shape == (2, 2, 8)
    result.files.write(tmp_path / "out")
    assert problems(clio("verify", tmp_path / "out", "--board", "host")) == []
