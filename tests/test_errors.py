"""Bad input, from the command line: the exact words, exit code 1, and nothing written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import Done
from digits import MODEL, compiled
from graph_text import parse_proto, save
from onnx import numpy_helper

Clio = Callable[..., Done]

CONV = "m (float[N,3,8,8] x, float[4,3,3,3] w) => (float[N,4,6,6] y) { y = Conv(x, w) }"
NORMALIZED = (
    "m (float[N,3,8,8] x, float[4,3,3,3] w, float[4] g, float[4] h, float[4,4,3,3] v) => (float[N,4,4,4] y)"
    "{ a = Conv(x, w) b = Relu(a) c = InstanceNormalization(b, g, h) d = Conv(c, v) y = Relu(d) }"
)
NORMALIZED_FIRST = (
    "m (float[N,3,8,8] x, float[3] g, float[3] h, float[4,3,3,3] w) => (float[N,4,6,6] y)"
    "{ c = InstanceNormalization(x, g, h) y = Conv(c, w) }"
)
WIDE = (
    "m (float[N,64,96,96] x, float[64,64,1,1] w, float[4,64,8,8] v) => (float[N,4,12,12] y)"
    "{ a = Conv(x, w) r = Relu(a) y = Conv<strides=[8,8]>(r, v) }"
)
HEAVY = (
    "m (float[N,2048] x, float[2048,4096] w, float[4096,10] v) => (float[N,10] y)"
    "{ a = MatMul(x, w) r = Relu(a) y = MatMul(r, v) }"
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test runs in a folder of its own, with relative names, as people do."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def listing(folder: Path) -> dict[str, bytes | None]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")
    }


@pytest.fixture
def refused(folder: Path, clio: Clio) -> Callable[..., None]:
    """Assert a command's words on stderr, its exit code, and that no file appeared, changed or went away."""

    def check(message: str, *arguments: object) -> None:
        before = listing(folder)
        done = clio(*arguments)
        assert done.err == f"clio-cc: error: {message}\n"
        assert (done.code, done.out) == (1, "")
        assert listing(folder) == before

    return check


Refused = Callable[..., None]


def write(text: str, name: str = "model.onnx") -> onnx.ModelProto:
    proto = parse_proto(text)
    save(proto, Path(name))
    return proto


# --- model files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [["compile", "--target", "gap8"], ["inspect"]], ids=lambda c: str(c[0]))
def test_files_that_are_no_models(command: list[str], refused: Refused) -> None:
    Path("text.onnx").write_text("hello, this is not a model\n")
    refused("text.onnx: is not an ONNX model\n  hint: export the model to ONNX first", *command, "text.onnx")
    Path("empty.onnx").write_bytes(b"")
    refused("empty.onnx: is empty, expected an ONNX model", *command, "empty.onnx")
    refused("none.onnx: no such file", *command, "none.onnx")
    refused(".: cannot be read: Is a directory", *command, ".")
    data = MODEL.read_bytes()
    Path("half.onnx").write_bytes(data[:1000])
    refused(
        f"half.onnx: is truncated: it ends at byte 1000, at least {len(data) - 1000 - 4} more are missing\n"
        "  hint: copy or export the model again",
        *command,
        "half.onnx",
    )  # the opset behind the graph cannot be known


def test_missing_external_data(refused: Refused) -> None:
    proto = parse_proto(CONV)
    onnx.save(proto, "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=0)
    Path("m.bin").write_bytes(Path("m.bin").read_bytes()[:100])
    hint = "  hint: keep the data files beside the model, under their names"
    message = "m.onnx: external data file 'm.bin' is truncated: it has 100 bytes, 432 are needed\n"
    refused(message + hint, "compile", "m.onnx", "--target", "gap8")
    Path("m.bin").unlink()
    message = "m.onnx: external data file 'm.bin' is missing (initializer 'w')\n"
    refused(message + hint, "compile", "m.onnx", "--target", "gap8")


def test_dynamic_shape(refused: Refused) -> None:
    write("m (float[N,3,H,8] x, float[4,3,3,3] w) => (float[N,4,K,6] y) { y = Conv(x, w) }")
    refused(
        "model.onnx: input 'x' has a dynamic dimension 2 ('H'); only the batch, dimension 0, may be dynamic\n"
        "  hint: export the model with a fixed input shape and batch 1",
        *("compile", "model.onnx", "--target", "gap8"),
    )


def test_weights_that_are_no_numbers(refused: Refused) -> None:
    proto = parse_proto(CONV)
    weights = numpy_helper.to_array(proto.graph.initializer[0]).copy()
    weights[1, 2] = np.nan
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights, "w"))
    save(proto, Path("model.onnx"))
    refused(
        "model.onnx: initializer 'w' of node 'y' (Conv) holds 9 NaN values\n"
        "  hint: the training went wrong or the file is damaged; export a healthy model",
        *("compile", "model.onnx", "--target", "gap8"),
    )


# --- options ----------------------------------------------------------------------------------------


def test_options_with_unknown_values(refused: Refused) -> None:
    shutil.copy(MODEL, "model.onnx")
    compile_it = ("compile", "model.onnx", "--target")
    refused("unknown target 'stm32f4'\n  hint: did you mean 'stm32f7'?", *compile_it, "stm32f4")
    refused("unknown target 'esp'\n  hint: targets are gap8, stm32f7, nrf5340", *compile_it, "esp")
    refused(
        "unknown requantization 'shft'\n  hint: choose shift or mulshift",
        *(*compile_it, "gap8", "--requant", "shft"),
    )
    refused(
        "unknown optimization 'rma'\n  hint: choose latency or ram",
        *(*compile_it, "gap8", "--optimize", "rma"),
    )
    refused(
        "unknown partition point 'flaten'\n  hint: did you mean 'flatten'?",
        *(*compile_it, "gap8", "--partition", "block1,flaten,local"),
    )
    refused(
        "unknown partition point 'q'\n  hint: 'clio-cc inspect MODEL' lists the partition points",
        *(*compile_it, "gap8", "--partition", "q"),
    )
    refused(
        "--slices: '1,two' is not a list of unit counts\n  hint: give auto, or e.g. 1,2,4,8",
        *(*compile_it, "gap8", "--slices", "1,two"),
    )
    refused(
        "a cut at 'input' leaves nothing for the device\n  hint: no need to compile: send the input",
        *(*compile_it, "gap8", "--partition", "input"),
    )
    refused(
        "unknown pass 'fold-pads'\n  hint: did you mean 'fold-pad'?",
        *("inspect", "model.onnx", "--print-after", "fold-pads"),
    )
    refused("unknown board 'hst'\n  hint: choose all, host, emulated", "verify", "--board", "hst")


def test_pixels_are_divided_by_something(clio: Clio) -> None:
    for value in ("0", "-1", "nan", "inf"):
        done = clio("compile", "model.onnx", "--target", "gap8", "--image-scale", value)
        assert done.code == 2
        assert f"Invalid value for '--image-scale': {value} is not above 0." in done.err


# --- what the device cannot do ----------------------------------------------------------------------


def test_operator_before_the_cut(refused: Refused) -> None:
    write(NORMALIZED)
    where = "node 'InstanceNormalization_2' (InstanceNormalization)"
    message = f"{where}: does not run on the device: no device operator"
    hint = "\n  hint: cut at 'Relu_1' or earlier"
    compile_it = ("compile", "model.onnx", "--target", "gap8", "--partition")
    refused(f"{message}; it comes before the cut 'Conv_3'{hint}", *compile_it, "Conv_3")
    refused(f"{message}; it comes before the cut 'Conv_3'{hint}", *compile_it, "d")
    refused(f"{message}{hint}", *compile_it, "local")


def test_operator_before_every_cut(refused: Refused) -> None:
    write(NORMALIZED_FIRST)
    message = (
        "node 'InstanceNormalization_0' (InstanceNormalization): does not run on the device: no device operator\n"
        "  hint: no cut lies before it: the device cannot take part"
    )
    for partition in ("auto", "local"):
        refused(message, "compile", "model.onnx", "--target", "gap8", "--partition", partition)


def test_arena_larger_than_the_board(refused: Refused) -> None:
    write(WIDE)
    refused(
        "needs 590208 bytes of RAM, 262528 more than the 327680 of stm32f7; layer 'Relu_1' needs most, "
        "590208 bytes of tensors at once\n"
        "  hint: cut earlier with --partition, or choose a board with more memory",
        *("compile", "model.onnx", "--target", "stm32f7", "--partition", "Relu_1"),
    )


def test_tables_larger_than_the_board(refused: Refused) -> None:
    write(HEAVY)
    refused(
        "needs 8409088 bytes of flash, 7360512 more than the 1048576 of stm32f7\n"
        "  hint: cut earlier with --partition, or choose a board with more memory",
        *("compile", "model.onnx", "--target", "stm32f7", "--partition", "Relu_1"),
    )
    refused(
        "no partition point fits stm32f7, which has 327680 bytes of RAM and 1048576 of flash: the smallest, 'Relu_1', "
        "needs 8192 for tensors and 8409088 for tables\n  hint: choose a board with more memory",
        *("compile", "model.onnx", "--target", "stm32f7"),
    )


@pytest.mark.parametrize("name", ["lstm_kws", "transformer_kws"])
def test_networks_of_other_operators(name: str, shared: Path, clio: Clio) -> None:
    """Compiled up to a cut in front of the first such operator, or refused in words; never a crash."""
    filled = Path(f"{name}.onnx")
    script, model = shared / "tools/fill_weights.py", shared / f"data/models_structure/{name}.onnx"
    subprocess.run([sys.executable, script, model, filled, "--seed", "0"], check=True, capture_output=True)
    done = clio("compile", filled, "--target", "stm32f7", "--out", "out")
    if done.code == 0:
        assert json.loads(Path("out/manifest.json").read_text())["partitions"]
        assert Path("out/cloud").is_dir()
        verified = clio("verify", "out", "--board", "host")
        assert verified.code == 0, verified.out
    else:
        assert done.code == 1 and done.err.startswith("clio-cc: error: node '"), done.err
        assert " does not run on the device: " in done.err and "\n  hint: " in done.err
        assert not Path("out").exists()
    local = clio("compile", filled, "--target", "stm32f7", "--out", "local", "--partition", "local")
    assert local.code == 1 and " does not run on the device: " in local.err
    assert not Path("local").exists()


# --- calibration data -------------------------------------------------------------------------------


def test_calibration_data(refused: Refused) -> None:
    shutil.copy(MODEL, "model.onnx")
    compile_it = ("compile", "model.onnx", "--target", "gap8", "--calibration")
    np.savez("small.npz", x=np.zeros((4, 1, 7, 7), np.float32))
    refused(
        "small.npz: has shape (4, 1, 7, 7), input 'image' needs (n, 1, 8, 8)\n"
        "  hint: give x of shape (n, 1, 8, 8)",
        *(*compile_it, "small.npz"),
    )
    np.save("nhwc.npy", np.zeros((4, 8, 8, 1), np.float32))
    refused(
        "nhwc.npy: has shape (4, 8, 8, 1), input 'image' needs (n, 1, 8, 8)\n"
        "  hint: x.transpose(0, 3, 1, 2) has the right shape",
        *(*compile_it, "nhwc.npy"),
    )
    np.savez("names.npz", images=np.zeros((4, 1, 8, 8), np.float32))
    refused("names.npz: has no array 'x', only images", *compile_it, "names.npz")
    np.save("none.npy", np.zeros((0, 1, 8, 8), np.float32))
    refused("none.npy: holds no samples", *compile_it, "none.npy")
    np.save("nan.npy", np.full((2, 1, 8, 8), np.nan, np.float32))
    refused("nan.npy: holds NaN or infinite values", *compile_it, "nan.npy")
    refused("gone.npz: no such file", *compile_it, "gone.npz")
    hint = "\n  hint: give a .npz with an array x, a .npy, or a folder of images"
    refused(f"model.onnx: is not a numpy file{hint}", *compile_it, "model.onnx")
    Path("images").mkdir()
    refused(
        "images: holds no images\n"
        "  hint: file names must end in one of .bmp .gif .jpeg .jpg .png .ppm .tif .tiff .webp",
        *(*compile_it, "images"),
    )


# --- the output folder ------------------------------------------------------------------------------


def test_output_folders(refused: Refused) -> None:
    shutil.copy(MODEL, "model.onnx")
    compile_it = ("compile", "model.onnx", "--target", "gap8", "--out")
    Path("file").write_text("")
    refused("cannot write output folder 'file/out': Not a directory", *compile_it, "file/out")
    refused("cannot write output folder 'file/deep/out': Not a directory", *compile_it, "file/deep/out")
    refused("output folder 'file' is a file\n  hint: choose another folder with --out", *compile_it, "file")
    refused(
        "output folder '.' is the current folder or holds it\n  hint: name a folder below it",
        *compile_it,
        ".",
    )
    Path("thesis").mkdir()
    Path("thesis/thesis.tex").write_text("years of work")
    refused(
        "output folder 'thesis' holds files that clio-cc did not write\n"
        "  hint: choose another folder with --out, or empty this one",
        *(*compile_it, "thesis"),
    )
    compiled("gap8").files.write(Path("edited"))
    Path("edited/device/boards/host/board.c").write_text("mine")
    refused(  # before the model is read
        "output folder 'edited' holds files that were edited since clio-cc wrote them: device/boards/host/board.c\n"
        "  hint: move them away or choose another folder with --out",
        *("compile", "none.onnx", "--target", "gap8", "--out", "edited"),
    )
    refused(
        "cannot write folder 'file/dump': Not a directory", "inspect", "model.onnx", "--dump", "file/dump"
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder(refused: Refused) -> None:
    shutil.copy(MODEL, "model.onnx")
    Path("locked").mkdir(mode=0o555)
    compile_it = ("compile", "model.onnx", "--target", "gap8", "--out")
    refused("cannot write output folder 'locked/out': Permission denied", *compile_it, "locked/out")


def test_no_room_at_the_end(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fills up while writing: the older result stays as it was."""
    shutil.copy(MODEL, "model.onnx")
    compiled("gap8").files.write(Path("out"))
    older = listing(Path("out"))
    real = Path.write_bytes

    def full(self: Path, data: bytes) -> int:
        if self.name == "plan.json":
            raise OSError(28, "No space left on device")
        return real(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    monkeypatch.setattr("clio_cc.compiler.compile_model", lambda *_: compiled("stm32f7"))
    refused(
        "cannot write output folder 'out': No space left on device",
        *("compile", "model.onnx", "--target", "stm32f7", "--out", "out"),
    )
    assert listing(Path("out")) == older


# --- folders of compile -----------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["profile", "plan", "verify"])
def test_folders_that_compile_did_not_write(command: str, refused: Refused) -> None:
    hint = "\n  hint: run `clio-cc compile MODEL --target BOARD` first"
    refused(f"'clio-out' is not a folder that clio-cc compile wrote{hint}", command)
    Path("other").mkdir()
    refused(f"'other' is not a folder that clio-cc compile wrote{hint}", command, "other")
    Path("other/manifest.json").write_text("{")
    refused("other/manifest.json: cannot be read\n  hint: compile again", command, "other")
    for text in ("[]", "{}", '{"schema": 2}'):
        Path("other/manifest.json").write_text(text)
        refused(
            "other/manifest.json: not a manifest of this clio-cc\n  hint: compile again", command, "other"
        )


def test_edited_profile(refused: Refused) -> None:
    compiled("stm32f7").files.write(Path("clio-out"))
    table = Path("clio-out/profile.csv")
    lines = table.read_text().splitlines()
    first, second = lines[1].split(",", 6), lines[2].split(",", 6)
    first[5], second[2] = "fast", "-3"
    table.write_text("\n".join([lines[0], ",".join(first), ",".join(second), *lines[3:], ""]))
    message = (
        "clio-out/profile.csv:2: device_us must be a number from 0 up, got 'fast'\n"
        "  clio-out/profile.csv:3: macs must be a whole number from 0 up, got '-3'"
    )
    refused(message, "plan")
    refused(message, "profile")
    table.write_text("layer,op\n")
    refused(f"clio-out/profile.csv:1: the first line must be '{lines[0]}', got 'layer,op'", "plan")
    table.write_text("\n".join([lines[0], *lines[2:], ""]))
    table.write_text("\n".join([*lines, lines[1], ""]))
    name = lines[1].split(",")[0]
    refused(f"clio-out/profile.csv:{len(lines) + 1}: layer '{name}' is there twice, first in line 2", "plan")
    table.unlink()
    refused("clio-out/profile.csv: no such file", "plan")


def test_plans_that_cannot_be(refused: Refused) -> None:
    compiled("stm32f7").files.write(Path("clio-out"))
    refused(
        "--bandwidth: 'fast' is not a bandwidth\n"
        "  hint: bandwidth is in bits per second, k and M are thousands and millions",
        *("plan", "--bandwidth", "fast"),
    )
    for wrong, words in (
        ("2M:50k", "'2M:50k' runs from high to low\n  hint: did you mean '50k:2M'?"),
        ("50k:", "'50k:' is not a range of bandwidths\n  hint: give it from low to high, e.g. 50k:2M"),
    ):
        refused(f"--bandwidth: {words}", "plan", "--bandwidth", wrong)
    refused(
        "an energy budget needs a link\n  hint: add --link; `clio-cc links` lists them",
        "plan",
        "--energy",
        "5mJ",
    )
    refused(
        "link 'lora-sf7' reaches at most 4.8k, the range begins at 50k\n"
        "  hint: without --bandwidth the plan is for the link's own rate",
        *("plan", "--link", "lora-sf7", "--bandwidth", "50k:2M"),
    )
    Path("mine.toml").write_text('name = "mine"\nbandwidth_bps = "50k"\n')
    refused(
        "mine.toml: bandwidth_bps must be a number above 0 and at most 1e+12, got '50k'\n"
        "  hint: `clio-cc links --json` prints links in this form",
        *("plan", "--link", "mine.toml"),
    )
    table = Path("clio-out/accuracy.csv")
    table.write_text("partition,slices,bytes,metric,value,samples\nlayer9,1,5,accuracy,0.5,10\n")
    refused(
        "clio-out/accuracy.csv: 'layer9' is no partition point of this folder\n  hint: compile and evaluate again",
        "plan",
    )
    table.write_text("partition,slices,bytes,metric,value,samples\nlayer9,1,5,accuracy,85,10\n")
    refused("clio-out/accuracy.csv:2: value must be a number from 0 to 1, got '85'", "plan")
    table.unlink()
    refused("unknown link 'clio-bl'\n  hint: did you mean 'clio-ble'?", "plan", "--link", "clio-bl")


def test_missing_program(refused: Refused) -> None:
    compiled("stm32f7").files.write(Path("clio-out"))
    Path("clio-out/program.json").unlink()
    refused(
        "cannot read 'clio-out/program.json': No such file or directory\n  hint: compile again",
        *("verify", "--board", "host"),
    )


def test_wrong_inputs_for_verify(refused: Refused) -> None:
    compiled("stm32f7").files.write(Path("clio-out"))
    np.save("x.npy", np.zeros((4, 64), np.float32))
    refused(
        "x.npy: has shape (4, 64), input 'image' needs (n, 1, 8, 8)\n  hint: give x of shape (n, 1, 8, 8)",
        *("verify", "--board", "host", "--data", "x.npy"),
    )


# --- the words do not hide bugs ---------------------------------------------------------------------


def test_a_bug_is_no_message(clio: Clio, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError("bug")

    monkeypatch.setattr("clio_cc.compiler.compile_model", broken)
    shutil.copy(MODEL, "model.onnx")
    with pytest.raises(KeyError, match="bug"):
        clio("compile", "model.onnx", "--target", "gap8")
