"""What the benchmark of training computes beside training: data, widths, marks, tables."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from digits import MODEL, compiled
from PIL import Image
from scripts import benchmark

from clio_cc.baselines import scan_bytes
from clio_cc.compiler import front_end
from clio_cc.training.channels import remove_channels
from clio_cc.training.pruning import thin

bench = benchmark("trained_slices")
CASE = bench.Case(
    "m.onnx",
    "train.npz",
    "test.npz",
    1.0,
    ("p",),
    (1, 4),
    (5, 50),
    (5, 50),
    {},
    {},
    over_jpeg=True,
    below={("p", 4): 1.5},
    trial={("p", 1): (20.0, 6)},
)


def row(part: str, way: str, size: int, accuracy: float, in_pytorch: float | None = None) -> object:
    return bench.Row("net", part, "p", way, size, accuracy, 10, in_pytorch)


TRAINED = [row("trained", "1", 100, 30.0, 30.2), row("trained", "4", 400, 85.0, 85.5)]
OTHERS = [
    row("separate", "1", 100, 56.5),
    row("separate", "4", 400, 86.5),
    row("4-bit", "4", 200, 84.0),
    row("jpeg", "quality 5, as it is", 90, 10.0),
    row("jpeg", "quality 5, fine-tuned", 90, 20.0),
    row("jpeg", "quality 50, fine-tuned", 400, 84.9),
]


def test_marks() -> None:
    found = bench.marks("net", CASE, [*TRAINED, *OTHERS], 86.0)
    assert [(mark.what, mark.wanted, mark.found, mark.reached) for mark in found] == [
        ("p, 1 units, 100 B", 26.0, 30.0, True),
        ("p, 1 units, 100 B, alone", 20.0, 30.0, True),
        ("p, 1 units, 100 B: apart from PyTorch, as a loss", -0.3, -0.2, True),
        ("p, 4 units, 400 B", 84.5, 85.0, True),
        ("p, 4 units, 400 B: apart from PyTorch, as a loss", -0.3, -0.5, False),
        ("one trunk against one for each cut, expected over cuts and counts", 70.5, 57.5, False),
        ("split within the 90 B of JPEG quality 5, fine-tuned", 20.0, 0.0, False),
        ("split within the 400 B of JPEG quality 50, fine-tuned", 84.9, 85.0, True),
    ]
    assert bench.marks("net", CASE, OTHERS, 86.0) == []  # nothing is said of what was not run


def test_tables() -> None:
    rows = [
        *TRAINED,
        *OTHERS,
        bench.Row("net", "fewer-bits", "p", "2 bits", 1100, 81.0),
        bench.Row("net", "width", "local", "width 0.5, for p", 0, 82.5, 26_000_000),
        bench.Row("another", "jpeg", "", "quality 5, as it is", 70, 11.0),
    ]
    assert list(bench.tables("net", rows)) == [
        "| cut | accuracy in %, by units | 1 | 4 |",
        "| --- | --- | --- | --- |",
        "| `p`, 100 B a unit | trained | 30.0 | 85.0 |",
        "|  | trained for this cut alone | 56.5 | 86.5 |",
        "|  | trained, 4 bits a value: half the bytes |  | 84.0 |",
        "",
        "| JPEG of the image | quality 5 | quality 50 |",
        "| --- | --- | --- |",
        "| bytes | 90 | 400 |",
        "| the network as it is | 10.0 |  |",
        "| the network fine-tuned | 20.0 | 84.9 |",
        "",
        "| all channels at the cut, with | 2 bits |",
        "| --- | --- |",
        "| `p` | 81.0 (1,100 B) |",
        "",
        "| a narrower network, all of it on the device | million multiply-accumulates | accuracy in % |",
        "| --- | --- | --- |",
        "| width 0.5, for p | 26.0 | 82.5 |",
        "",
    ]


def test_report_names_what_is_missed() -> None:
    rows = [*TRAINED, *OTHERS]
    found = bench.marks("net", CASE, rows, 86.0)
    first, second, *_ = bench.report(found)
    assert first == "5 of 8 marks reached"
    assert second == ("MISSED: net, p, 4 units, 400 B: apart from PyTorch, as a loss: -0.50, wanted -0.30")
    assert bench.from_json(bench.to_json({"net": 86.0}, rows, found)) == ({"net": 86.0}, rows)


def test_readmes_show_the_figures_beside_the_script() -> None:
    originals, rows = bench.from_json(bench.RESULTS.read_text())
    for path in bench.SHOWN:
        text = path.read_text()
        assert bench.with_tables(text, rows) == text
        assert bench.with_tables(text, rows[5:]) != text
    found = []
    for net, original in originals.items():
        found += bench.marks(net, bench.CASES[net], [row for row in rows if row.net == net], original)
    assert len(found) > 30
    assert [mark.what for mark in found if not mark.reached] == []


def test_photos_by_class_and_as_jpegs(tmp_path: Path) -> None:
    blobs = []
    for index in range(3):
        file = io.BytesIO()
        noise = np.random.default_rng(index).integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(noise).save(file, "JPEG", quality=90)
        blobs.append(file.getvalue())
    images = np.frombuffer(b"".join(blobs), np.uint8)
    np.savez(
        tmp_path / "p.npz",
        images=images,
        offsets=np.cumsum([0, *map(len, blobs)]),
        labels=np.array([3, 0, 3]),
    )
    folder = bench.unpack(tmp_path / "p.npz", tmp_path / "photos")
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.jpg")}
    assert files == {"03/00000.jpg": blobs[0], "00/00001.jpg": blobs[1], "03/00002.jpg": blobs[2]}
    coarse = bench.recode(folder, 10, tmp_path / "coarse")
    again = {path.relative_to(coarse).as_posix(): path.read_bytes() for path in coarse.rglob("*.jpg")}
    assert sorted(again) == sorted(files)
    sizes = [scan_bytes(content) for content in again.values()]
    assert bench.mean_bytes(coarse) == -(-sum(sizes) // 3) < bench.mean_bytes(folder)
    assert bench.recode(folder, 90, tmp_path / "coarse") == coarse  # what is there is not made again
    assert bench.mean_bytes(coarse) == -(-sum(sizes) // 3)


def test_width_within() -> None:
    model = front_end(MODEL)
    macs = bench.macs_of(model)
    width = bench.width_within(model, macs // 2)
    found = [bench.macs_of(remove_channels(model, thin(model, each))) for each in (width, width + 1 / 64)]
    assert found[0] <= macs // 2 < found[1]
    with pytest.raises(SystemExit, match="no width has at most 10 multiply-accumulates"):
        bench.width_within(model, 10)


def test_multiply_accumulates_before_a_cut(tmp_path: Path) -> None:
    result = compiled("stm32f7", "block1,pointwise")
    result.files.write(tmp_path)
    program = result.program
    assert len({op.output.name for op in program.operators if op.output.name.endswith("/units")}) == 2
    assert bench.device_macs(tmp_path) == {
        tap.partition: sum(program.operators[index].macs for index in program.operators_to(number))
        for number, tap in enumerate(program.taps)
    }


def test_last_epoch(tmp_path: Path) -> None:
    log = tmp_path / "training.jsonl"
    assert bench.last_epoch(log, 400) == {}
    lines = [
        {"epoch": epoch, "partition": "p", "slices": 4, "value": value, "set": which, "samples": 400}
        for epoch, which, value in ((1, "validation", 0.1), (2, "train", 0.9), (2, "validation", 0.81234))
    ]
    log.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert bench.last_epoch(log, 400) == {("p", 4): 81.23}
    assert bench.last_epoch(log, 1339) == {}  # other images
