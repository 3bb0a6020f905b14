"""The script that makes data of photos: the reader's own by class, Imagenette's folders, and packed files."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from conftest import ROOT
from PIL import Image

Arrays = dict[str, npt.NDArray[Any]]


def photos(folder: Path, count: int, size: tuple[int, int] = (6, 4)) -> None:
    """Photos of one gray each, from 0 up; of the second one the sides are red."""
    folder.mkdir(parents=True)
    for index in range(count):
        image = Image.new("RGB", size, (index, index, index))
        if index == 1:
            image.paste((255, 0, 0), (0, 0, 1, size[1]))
            image.paste((255, 0, 0), (size[0] - 1, 0, *size))
        image.save(folder / f"{index:02}.png")


def prepare(out: Path, *sources: Path) -> dict[str, Arrays] | str:
    """What the script writes, or its error."""
    command = [sys.executable, str(ROOT / "examples/imagenette/prepare.py"), *map(str, sources)]
    done = subprocess.run(
        [*command, "--out", str(out), "--side", "4"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        return done.stderr.replace(f"{out.parent}/", "")
    found = {}
    for name in ("train", "test"):
        with np.load(out / f"{name}.npz") as arrays:
            found[name] = dict(arrays)
    return found


def test_own_photos_by_class(tmp_path: Path) -> None:
    photos(tmp_path / "own/b", 10)
    photos(tmp_path / "own/a", 3)
    made = prepare(tmp_path / "out", tmp_path / "own")
    assert not isinstance(made, str)
    assert made["test"]["y"].tolist() == [0, 1, 1]  # every ninth of a class, from the first
    assert made["train"]["y"].tolist() == [0] * 2 + [1] * 8
    x = made["train"]["x"]
    assert x.shape == (10, 3, 4, 4) and x.dtype == np.float32
    np.testing.assert_array_equal(
        x[:, 1, 0, 0] * 255, [1, 2, *range(1, 9)]
    )  # sides are cut off: nothing is red
    before = (tmp_path / "out/train.npz").read_bytes()
    prepare(tmp_path / "out", tmp_path / "own")
    assert (tmp_path / "out/train.npz").read_bytes() == before


def test_folders_for_both(tmp_path: Path) -> None:
    for name, count in (("train/a", 2), ("train/b", 1), ("val/a", 1), ("val/b", 3)):
        photos(tmp_path / "all" / name, count, (4, 4))
    made = prepare(tmp_path / "out", tmp_path / "all")
    again = prepare(tmp_path / "out", tmp_path / "all/train", tmp_path / "all/val")
    assert not isinstance(made, str) and not isinstance(again, str)
    for name, labels in (("train", [0, 0, 1]), ("test", [0, 1, 1, 1])):
        assert made[name]["y"].tolist() == again[name]["y"].tolist() == labels
        np.testing.assert_array_equal(made[name]["x"], again[name]["x"])


def test_packed_files(tmp_path: Path) -> None:
    blobs = []
    for index in range(3):
        file = io.BytesIO()
        Image.new("RGB", (4, 4), (80 * index,) * 3).save(file, "PNG")
        blobs.append(np.frombuffer(file.getvalue(), np.uint8))
    offsets = np.cumsum([0, *map(len, blobs)])
    np.savez(
        tmp_path / "p.npz",
        images=np.concatenate(blobs),
        offsets=offsets,
        labels=np.array([2, 0, 1], np.uint8),
    )
    made = prepare(tmp_path / "out", tmp_path / "p.npz", tmp_path / "p.npz")
    assert not isinstance(made, str)
    assert made["train"]["y"].tolist() == [2, 0, 1]
    np.testing.assert_array_equal(
        made["test"]["x"][:, 0, 0, 0], np.array([0, 80, 160], np.float32) / np.float32(255)
    )


@pytest.mark.parametrize(
    ("folders", "words"),
    [
        ({}, "there is no own\n"),
        ({"own/a": 1}, "own must hold a folder of photos per class, at least two\n"),
        ({"own/a": 1, "own/b": 0}, "own/b holds no photos, and each folder in own is a class\n"),
    ],
)
def test_words(tmp_path: Path, folders: dict[str, int], words: str) -> None:
    for name, count in folders.items():
        photos(tmp_path / name, count)
    assert prepare(tmp_path / "out", tmp_path / "own") == words
