"""What a split competes with: sizes and values checked against Pillow and numpy."""

from __future__ import annotations

import io

import numpy as np
import onnx_ir as ir
import pytest
import split_folder
from PIL import Image
from split_folder import features, samples, scores

from clio_cc.baselines import (
    BITS,
    QUALITIES,
    Original,
    fewer_bits,
    jpeg,
    no_jpeg,
    raw_input,
    scan_bytes,
    with_levels,
)
from clio_cc.batch import any_batch
from clio_cc.float_run import Runner
from clio_cc.judge import agreement

Array = split_folder.Array


def original(x: Array) -> Original:
    model = ir.from_proto(split_folder.float_model())
    return Original(model, {"x": x}, Runner(any_batch(model.clone())))


def nothing(stage: str, done: int, of: int) -> None:
    """No progress wanted."""


def right(x: Array) -> Array:
    return np.asarray(scores(features(x)).argmax(axis=1))


def share(same: Array) -> float:
    return round(float(np.mean(same)), 6)


def encoded(image: Array, quality: int) -> bytes:
    """A JPEG of an image (HWC or HW)."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return file.getvalue()


@pytest.mark.parametrize("shape", [(32, 24, 3), (16, 16)])
def test_the_header_is_the_same_for_every_image(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, high, shape).astype(np.uint8) for high in (2, 30, 256)]
    for quality in QUALITIES:
        files = [encoded(image, quality) for image in images]
        scans = [scan_bytes(file) for file in files]
        heads = {file[: len(file) - size - 2] for file, size in zip(files, scans, strict=True)}
        assert len(heads) == 1 and len(set(scans)) > 1
        for file, size in zip(files, scans, strict=True):
            header = (
                12 if len(shape) == 3 else 8
            )  # of the scan, with 2 bytes of marker before it and behind it all
            assert size == len(file) - (file.index(b"\xff\xda") + 2 + header) - 2


def test_jpeg_rows() -> None:
    """Pixels are the inputs times the scale; what the model sees are the decoded ones, divided again."""
    x = samples(40)
    model = original(x)
    judge = agreement([x], model.answers(nothing))
    rows = jpeg(model, judge, 16.0, nothing)
    assert [(row.partition, row.slices, row.samples) for row in rows] == [("jpeg", q, 40) for q in QUALITIES]
    for row in rows:
        files = [encoded((image * 16).astype(np.uint8).transpose(1, 2, 0), row.slices) for image in x]
        decoded = [np.asarray(Image.open(io.BytesIO(file))).transpose(2, 0, 1) / 16 for file in files]
        assert row.bytes == int(np.ceil(np.mean([scan_bytes(file) for file in files])))
        assert row.value == share(right(np.stack(decoded)) == right(x))
    assert rows[0].bytes < rows[-1].bytes


def test_what_is_no_image() -> None:
    x = samples(4)
    assert no_jpeg(original(x), 16.0) == no_jpeg(original(x), 1.0) == ""
    words = "no JPEG: inputs times --image-scale run from {} to {}, pixels run from 0 to 255"
    assert no_jpeg(original(x / 15), 1.0) == words.format(0, 1)
    assert no_jpeg(original(x - 15), 1.0) == words.format(-15, 0)
    assert no_jpeg(original(x), 255.0) == words.format(0, 3825)
    vector = Original(original(x).model, {"x": np.zeros((4, 48), np.float32)}, original(x).run)
    assert no_jpeg(vector, 1.0) == "no JPEG: the input is not an image of one or three channels"


def test_raw_input() -> None:
    x = samples(40)
    model = original(x)
    judge = agreement([x], model.answers(nothing))
    exact = raw_input(model, judge, {"x": 1.0}, nothing)
    assert (exact.partition, exact.slices, exact.bytes, exact.value) == ("input", 1, 48, 1.0)
    coarse = raw_input(model, judge, {"x": 8.0}, nothing)
    assert coarse.value == share(right(np.floor(x / 8 + 0.5) * 8) == right(x)) < 1.0


def test_levels() -> None:
    values = np.random.default_rng(1).standard_normal((3, 4, 5, 6)).astype(np.float32)
    values[2] = 7  # nothing to tell apart
    for bits in BITS:
        found = with_levels(values, bits)
        for before, after in zip(values[:2], found, strict=False):
            step = (before.max() - before.min()) / (2**bits - 1)
            assert len(np.unique(after)) <= 2**bits
            np.testing.assert_allclose([after.min(), after.max()], [before.min(), before.max()], rtol=1e-5)
            assert np.abs(before - after).max() <= step / 2 * 1.001
        assert (found[2] == 7).all()


def test_fewer_bits() -> None:
    x = samples(60)
    model = original(x)
    judge = agreement([x], model.answers(nothing))
    rows = fewer_bits(model, judge, "front", "r", nothing)
    assert [(row.partition, row.slices, row.bytes) for row in rows] == [
        (f"front/{bits}bit", 4, 8 * bits + 8) for bits in BITS
    ]
    for row, bits in zip(rows, BITS, strict=True):
        seen = with_levels(features(x).astype(np.float32), bits)
        assert row.value == share(scores(seen).argmax(axis=1) == right(x))
    assert rows[0].value < rows[-1].value
