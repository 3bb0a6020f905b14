"""Make train.npz and test.npz for `clio-cc train`, `compile` and `evaluate`: x float32 [n, 3, 96, 96] in 0..1, y int64 [n].

    python examples/imagenette/prepare.py PHOTOS [TEST_PHOTOS] [--out DIR] [--side 96]

PHOTOS is a folder with a subfolder of photos per class (classes are 0, 1, … in order of the subfolders' names), or a packed
`.npz` with arrays images (JPEG files, one behind the other), offsets and labels. Without TEST_PHOTOS, a folder that holds
train/ and val/ is taken as both, and of any other every ninth photo of a class is kept for testing. Photos are cut to
the largest square in their middle and scaled to SIDE pixels. All arrays are written as they are read, so the same photos
give the same bytes. A photo of 96 pixels takes 110 KB: 10,000 of them a gigabyte, of memory and of disk.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

SIDE = 96
EVERY = 9  # of the photos of a class, one is for testing
ENDINGS = (".bmp", ".jpeg", ".jpg", ".png", ".webp")

Photo = tuple[Callable[[], Image.Image], int]
"""Opens a photo; its class."""


def packed(file: Path) -> list[Photo]:
    """Photos of an `.npz` with images, offsets and labels."""
    with np.load(file) as arrays:
        missing = {"images", "offsets", "labels"} - set(arrays.files)
        if missing:
            raise SystemExit(f"{file} has no array '{min(missing)}', only {', '.join(arrays.files)}")
        data, offsets, labels = arrays["images"].tobytes(), arrays["offsets"], arrays["labels"]

    def opener(start: int, end: int) -> Callable[[], Image.Image]:
        return lambda: Image.open(io.BytesIO(data[start:end]))

    return [(opener(int(offsets[i]), int(offsets[i + 1])), int(label)) for i, label in enumerate(labels)]


def by_class(folder: Path) -> list[list[Photo]]:
    """Photos of each subfolder, in order of names."""

    def opener(file: Path) -> Callable[[], Image.Image]:
        return lambda: Image.open(file)

    names = sorted(each for each in folder.iterdir() if each.is_dir() and not each.name.startswith("."))
    found = [
        [
            (opener(file), number)
            for file in sorted(name.rglob("*"))
            if file.suffix.lower() in ENDINGS and not file.name.startswith(".")
        ]
        for number, name in enumerate(names)
    ]
    for name, photos in zip(names, found, strict=True):
        if not photos:
            raise SystemExit(f"{name} holds no photos, and each folder in {folder} is a class")
        print(f"{name}: {len(photos)} photos are class {photos[0][1]}")
    if len(found) < 2:
        raise SystemExit(f"{folder} must hold a folder of photos per class, at least two")
    return found


def photos_of(source: Path) -> list[Photo]:
    """All photos of a folder or a packed file."""
    return (
        packed(source) if source.suffix == ".npz" else [photo for each in by_class(source) for photo in each]
    )


def sets(source: Path, test: Path | None) -> tuple[list[Photo], list[Photo]]:
    """What to train on, and what to test on."""
    for each in (source, *([] if test is None else [test])):
        if not each.exists():
            raise SystemExit(f"there is no {each}")
    if test is not None:
        return photos_of(source), photos_of(test)
    if source.suffix == ".npz":
        raise SystemExit("give a second .npz, to test on")
    if (source / "train").is_dir() and (source / "val").is_dir():
        return photos_of(source / "train"), photos_of(source / "val")
    classes = by_class(source)
    kept = [photo for photos in classes for photo in photos[::EVERY]]
    return [photo for photos in classes for i, photo in enumerate(photos) if i % EVERY], kept


def pixels(photo: Image.Image, side: int) -> npt.NDArray[np.float32]:
    """The square in the middle, ``[3, side, side]`` in 0..1; a photo of that size as it is."""
    upright = ImageOps.exif_transpose(photo).convert("RGB")
    if upright.size != (side, side):
        upright = ImageOps.fit(upright, (side, side), Image.Resampling.BICUBIC)
    return np.asarray(upright, np.float32).transpose(2, 0, 1) / np.float32(255)


def write(photos: Sequence[Photo], side: int, file: Path) -> None:
    """Write x and y."""
    x = np.empty((len(photos), 3, side, side), np.float32)
    for index, (opened, _) in enumerate(photos):
        with opened() as photo:
            x[index] = pixels(photo, side)
    y: npt.NDArray[Any] = np.array([label for _, label in photos], np.int64)
    np.savez(file, x=x, y=y)
    print(f"{file}: {len(y)} photos, {y.max() + 1} classes, {file.stat().st_size / 1e6:.0f} MB")


def main(arguments: Sequence[str] | None = None) -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path)
    parser.add_argument("test_photos", type=Path, nargs="?")
    parser.add_argument("--out", type=Path, default=Path(), help="folder to write into")
    parser.add_argument("--side", type=int, default=SIDE, help="pixels of a side")
    options = parser.parse_args(arguments)
    train, test = sets(options.photos, options.test_photos)
    options.out.mkdir(parents=True, exist_ok=True)
    write(train, options.side, options.out / "train.npz")
    write(test, options.side, options.out / "test.npz")


if __name__ == "__main__":
    main()
