"""Reading of calibration data, its messages, and the statistics."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from digits import MODEL
from graph_text import parse
from PIL import Image

from clio_cc.calibrate import NO_DATA, Samples, calibrate, load_samples, samples_within_budget
from clio_cc.compiler import front_end
from clio_cc.errors import ClioError
from clio_cc.lower import lower
from clio_cc.passes.runner import run_passes

IMAGES = "m (float[1,3,4,6] x, float[2,3,3,3] w) => (float[1,2,4,6] y) { c = Conv<pads=[1,1,1,1]>(x, w) y = Relu(c) }"
PLANES_LAST = "m (float[1,4,6,1] x) => (float[1,4,6,1] y) { y = Relu(x) }"
FLAT = """m (float[1,3,4,6] x, float[2,3,3,3] w, float[48,5] v) => (float[1,5] y)
    { c = Conv<pads=[1,1,1,1]>(x, w) s = Constant<value_ints=[1, 48]>() f = Reshape(c, s) y = MatMul(f, v) }"""


def canonical(text: str) -> ir.Model:
    model = parse(text)
    run_passes(model)
    return model


def save(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def test_npz_with_labels(tmp_path: Path) -> None:
    x = np.arange(5 * 72, dtype=np.uint8).reshape(5, 3, 4, 6)
    samples = load_samples(canonical(IMAGES), save(tmp_path / "c.npz", x=x, y=np.arange(5)))
    assert samples.inputs["x"].dtype == np.float32 and samples.warning == "" and samples.count == 5
    np.testing.assert_array_equal(samples.inputs["x"], x)
    thinned = samples.take(3)
    assert thinned.labels is not None and thinned.labels.tolist() == [0, 2, 4]


def test_npy(tmp_path: Path) -> None:
    np.save(tmp_path / "c.npy", np.zeros((2, 3, 4, 6), np.float64))
    assert load_samples(canonical(IMAGES), tmp_path / "c.npy").count == 2


@pytest.mark.parametrize(("text", "shape"), [(IMAGES, (2, 3, 4, 6)), (PLANES_LAST, (2, 4, 6, 1))])
def test_folder_of_images(tmp_path: Path, text: str, shape: tuple[int, ...]) -> None:
    for index in range(2):
        Image.new("RGB", (12, 8), (255, 0, 51)).save(tmp_path / f"{index}.png")
    (tmp_path / "notes.txt").write_text("not an image")
    x = load_samples(canonical(text), tmp_path, scale=255).inputs["x"]
    assert x.shape == shape
    if shape[1] == 3:
        np.testing.assert_allclose(x[0, :, 0, 0], [1, 0, 0.2])


def images(folder: Path, *paths: str) -> Path:
    """A folder of images, each of its own gray."""
    for index, path in enumerate(paths):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 4), (index, index, index)).save(folder / path)
    return folder


def test_folders_are_classes(tmp_path: Path) -> None:
    folder = images(
        tmp_path,
        "b/1.png",
        "b/deeper/2.png",
        "a/3.png",
        "c c/4.png",
        "c c/5.png",
        ".thumbs/6.png",
        "a/._3.png",
    )
    (tmp_path / ".git").mkdir()
    (tmp_path / "classes.txt").write_text("a b c")
    samples = load_samples(canonical(IMAGES), folder)
    assert samples.labels is not None and samples.labels.tolist() == [0, 1, 1, 2, 2]
    assert samples.inputs["x"][:, 0, 0, 0].tolist() == [2, 0, 1, 3, 4]
    fewer = load_samples(canonical(IMAGES), folder, most=3)
    assert fewer.labels is not None and fewer.labels.tolist() == [0, 1, 2]
    assert fewer.inputs["x"][:, 0, 0, 0].tolist() == [2, 1, 4]


@pytest.mark.parametrize(
    "paths",
    [
        ("1.png", "2.png"),
        ("1.png", "a/2.png", "b/3.png"),
        ("only/1.png", "only/2.png"),
        ("only/1.png", ".thumbs/2.png"),
    ],
)
def test_other_folders_have_no_labels(tmp_path: Path, paths: Sequence[str]) -> None:
    assert load_samples(canonical(IMAGES), images(tmp_path, *paths)).labels is None


def test_a_class_without_images_is_refused(tmp_path: Path) -> None:
    folder = images(tmp_path, "a/1.png", "c/2.png")
    (folder / "b").mkdir()
    with pytest.raises(ClioError) as caught:
        load_samples(canonical(IMAGES), folder)
    assert str(caught.value) == (
        f"{folder}: folder 'b' holds no images\n  hint: each folder beside the others is a class: remove it"
    )


def test_without_data_there_are_random_inputs_and_a_warning() -> None:
    first, second = (load_samples(canonical(IMAGES), None) for _ in range(2))
    assert (
        first.warning
        == NO_DATA
        == (
            "no calibration data: formats and accuracy mean nothing until real data is given with --calibration"
        )
    )
    np.testing.assert_array_equal(first.inputs["x"], second.inputs["x"])


def test_several_inputs_are_read_by_name(tmp_path: Path) -> None:
    model = canonical("m (float[1,4] x, float[1,4] x2) => (float[1,4] y) { y = Add(x, x2) }")
    path = save(tmp_path / "c.npz", x=np.ones((3, 4)), x2=np.zeros((3, 4)))
    assert sorted(load_samples(model, path).inputs) == ["x", "x2"]
    with pytest.raises(ClioError, match="has no array 'x2', only x"):
        load_samples(model, save(tmp_path / "d.npz", x=np.ones((3, 4))))


def test_messages(tmp_path: Path) -> None:
    model = canonical(IMAGES)

    def message(path: Path) -> str:
        with pytest.raises(ClioError) as caught:
            load_samples(model, path)
        return str(caught.value).replace(str(tmp_path), "")

    assert message(save(tmp_path / "a.npz", x=np.zeros((7, 3, 5, 6)))) == (
        "/a.npz: has shape (7, 3, 5, 6), input 'x' needs (n, 3, 4, 6)\n  hint: give x of shape (n, 3, 4, 6)"
    )
    assert message(save(tmp_path / "b.npz", x=np.zeros((7, 4, 6, 3)))) == (
        "/b.npz: has shape (7, 4, 6, 3), input 'x' needs (n, 3, 4, 6)\n"
        "  hint: x.transpose(0, 3, 1, 2) has the right shape"
    )
    assert message(save(tmp_path / "c.npz", images=np.zeros(3))) == "/c.npz: has no array 'x', only images"
    assert message(save(tmp_path / "d.npz", x=np.zeros((0, 3, 4, 6)))) == "/d.npz: holds no samples"
    assert message(save(tmp_path / "e.npz", x=np.full((1, 3, 4, 6), np.nan))) == (
        "/e.npz: holds NaN or infinite values"
    )
    assert message(tmp_path / "none.npz") == "/none.npz: no such file"
    (tmp_path / "text.npz").write_text("hello")
    assert message(tmp_path / "text.npz") == (
        "/text.npz: is not a numpy file\n  hint: give a .npz with an array x, a .npy, or a folder of images"
    )
    (tmp_path / "empty").mkdir()
    assert message(tmp_path / "empty").startswith(
        "/empty: holds no images\n  hint: file names must end in one of .bmp"
    )
    (tmp_path / "empty/broken.png").write_text("hello")
    assert message(tmp_path / "empty") == "/empty/broken.png: is not a readable image"


@pytest.mark.parametrize("text", [IMAGES, FLAT])
def test_statistics_are_those_of_the_float_graph(text: str) -> None:
    model = canonical(text)
    network = lower(model)
    x = np.random.default_rng(0).standard_normal((41, 3, 4, 6)).astype(np.float32)
    calls: list[tuple[int, int]] = []
    seen = calibrate(model, network, Samples({"x": x}), lambda done, of: calls.append((done, of)))
    assert calls[-1] == (41, 41)
    values = network.run({"x": network.layouts["x"].to_device(x)})
    for name, value in values.items():
        rows = value.reshape(-1, value.shape[-1])
        np.testing.assert_allclose(seen[name].low, rows.min(axis=0), atol=1e-5)
        np.testing.assert_allclose(seen[name].high, rows.max(axis=0), atol=1e-5)
        assert seen[name].rows.shape == rows.shape  # small: everything is kept


def test_large_networks_get_fewer_samples() -> None:
    network = lower(canonical(IMAGES))
    samples = Samples({"x": np.zeros((600, 3, 4, 6), np.float32)})
    assert samples_within_budget(network, samples).count == 512
    assert samples_within_budget(network, samples, budget=network.macs * 40).count == 40
    assert samples_within_budget(network, samples, budget=1).count == 16


def _damaged(path: Path, kind: str) -> None:
    x = np.zeros((4, 1, 8, 8), np.float32)
    if kind == "truncated":
        np.savez(path, x=x)
        path.write_bytes(path.read_bytes()[:-100])
    elif kind == "flipped":
        np.savez(path, x=x)
        data = bytearray(path.read_bytes())
        data[600] ^= 0xFF
        path.write_bytes(bytes(data))
    elif kind == "objects":
        np.savez(path, x=np.array([{}, []], object))
    elif kind == "words":
        np.savez(path, x=x, y=np.array(list("abcd")))
    elif kind == "short":
        np.savez(path, x=x, y=np.arange(3))
    else:
        np.savez(path, x=np.full((4, 1, 8, 8), 1e300))


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([0, 0.5, 1], "must be whole numbers, got 0.5 for sample 1"),
        ([0, 1, np.nan], "must be whole numbers, got nan for sample 2"),
        ([-np.inf, 1, 2], "must be whole numbers, got -inf for sample 0"),
        ([1j, 1, 2], "must be one number for each of 3 samples"),
    ],
)
def test_labels_that_are_no_classes_are_refused(labels: list[float], words: str, tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, x=np.zeros((3, 1, 8, 8), np.float32), y=np.array(labels))
    with pytest.raises(ClioError) as caught:
        load_samples(front_end(MODEL), path)
    assert str(caught.value) == f"{path}: labels y {words}"


def test_whole_labels_may_be_floats(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.zeros((3, 1, 8, 8), np.float32), y=np.array([2.0, 0.0, 1.0]))
    labels = load_samples(front_end(MODEL), tmp_path / "data.npz").labels
    assert labels is not None and labels.dtype == np.int64 and labels.tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("truncated", "is not a numpy file"),
        ("flipped", "is damaged, or holds other things than numbers"),
        ("objects", "is damaged, or holds other things than numbers"),
        ("words", "labels y must be one number for each of 4 samples"),
        ("short", "labels y must be one number for each of 4 samples"),
        ("huge", "holds NaN or infinite values"),
    ],
)
def test_damaged_data_is_refused(kind: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    _damaged(path, kind)
    with pytest.raises(ClioError) as caught:
        load_samples(front_end(MODEL), path)
    assert words in str(caught.value)
