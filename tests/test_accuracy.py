"""``accuracy.csv``: there and back, and the words for tables that people edited wrongly."""

from __future__ import annotations

from pathlib import Path

import pytest

from clio_cc.accuracy import AccuracyRow, read_accuracy, to_csv
from clio_cc.errors import ClioError

HEADER = "partition,slices,bytes,metric,value,samples\n"
ROWS = (
    AccuracyRow("stack2", 8, 2048, "accuracy", 0.6525, 5000),
    AccuracyRow("local", 0, 0, "accuracy", 1.0, 5000),
    AccuracyRow("jpeg", 50, 1219, "accuracy", 1 / 3, 5000),
    AccuracyRow("stack2/4bit", 32, 4096, "accuracy", 0.0, 5000),
)


def test_there_and_back(tmp_path: Path) -> None:
    text = to_csv(ROWS)
    assert text.splitlines()[:3] == [
        HEADER.strip(),
        "stack2,8,2048,accuracy,0.6525,5000",
        "local,0,0,accuracy,1,5000",
    ]
    (tmp_path / "accuracy.csv").write_text(text)
    assert read_accuracy(tmp_path / "accuracy.csv") == ROWS


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (",1,1,accuracy,0,1", "accuracy.csv:2: partition must have a name"),
        ("a,-1,1,accuracy,0,1", "accuracy.csv:2: slices must be a whole number from 0 up, got '-1'"),
        ("a,1,1.5,accuracy,0,1", "accuracy.csv:2: bytes must be a whole number from 0 up, got '1.5'"),
        ("a,1,1,accuracy,0,0", "accuracy.csv:2: samples must be at least 1"),
        ("a,1,1,top5,0,1", "accuracy.csv:2: metric must be accuracy or agreement, got 'top5'"),
        ("a,1,1,accuracy,87,1", "accuracy.csv:2: value must be a number from 0 to 1, got '87'"),
        ("a,1,1,accuracy,high,1", "accuracy.csv:2: value must be a number from 0 to 1, got 'high'"),
        (
            "a,1,1,accuracy,0,1\n\na,1,2,accuracy,1,1",
            "accuracy.csv:4: 'a,1' is there twice, first in line 2",
        ),
        (
            "a,1,1,accuracy,0,1\na,2,2,agreement,1,1",
            "accuracy.csv:3: metric must be the same in all rows, got 'agreement' after 'accuracy'",
        ),
        ("a,1,1", "accuracy.csv:2: a row has 6 cells, got 3"),
        ("", "accuracy.csv: holds no rows"),
        (
            "a,x,1,accuracy,0,1\nb,1,1,accuracy,2,1",
            "accuracy.csv:2: slices must be a whole number from 0 up, got 'x'\n  "
            "accuracy.csv:3: value must be a number from 0 to 1, got '2'",
        ),
    ],
)
def test_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("accuracy.csv").write_text(HEADER + rows + "\n")
    with pytest.raises(ClioError) as error:
        read_accuracy(Path("accuracy.csv"))
    assert str(error.value) == message


def test_words_for_other_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("accuracy.csv").write_text("partition,value\n")
    with pytest.raises(ClioError) as error:
        read_accuracy(Path("accuracy.csv"))
    assert str(error.value) == (
        "accuracy.csv:1: the first line must be 'partition,slices,bytes,metric,value,samples', got 'partition,value'"
    )
    with pytest.raises(ClioError) as error:
        read_accuracy(Path("none.csv"))
    assert str(error.value) == "none.csv: no such file"
