"""The PNG of a training: what it shows, and that equal logs give equal bytes."""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image

from clio_cc.training import curves
from clio_cc.training.curves import draw_curves, spread


def rows(points: Sequence[str] = ("a", "b"), *, value: bool = True, epochs: int = 3) -> list[dict[str, Any]]:
    return [
        {
            "epoch": epoch,
            "partition": point,
            "slices": count,
            "loss": 3 / epoch,
            "value": count / 8 * epoch / epochs if value else None,
            "metric": "accuracy",
            "set": name,
        }
        for point in points
        for count in (1, 2, 8)
        for epoch in range(1, epochs + 1)
        for name in ("train", "validation")
    ]


def test_equal_rows_in_any_order_give_equal_bytes() -> None:
    given_rows = rows()
    shuffled = random.Random(0).sample(given_rows, len(given_rows))
    shuffled.sort(key=lambda row: str(row["partition"]))
    png = draw_curves(given_rows)
    assert png == draw_curves(shuffled)
    assert png != draw_curves(rows(epochs=4))
    image = Image.open(io.BytesIO(png))
    assert (image.width, image.height) == (2 * 780, 600)
    assert set(image.info) == {"dpi"}  # no date, no version


def test_panels_go_into_further_rows() -> None:
    image = Image.open(io.BytesIO(draw_curves(rows("abcd"))))
    assert (image.width, image.height) == (3 * 780, 2 * 600)


def test_nothing_to_draw_is_an_empty_picture() -> None:
    assert Image.open(io.BytesIO(draw_curves([]))).width == 780


def drawn(given_rows: Sequence[dict[str, Any]]) -> tuple[list[tuple[list[float], str]], list[Any], str]:
    """Values and style of each line of one panel, the ends of the curves, and what the axis says."""
    panel = Figure().subplots()
    ends = curves._draw(panel, "a", given_rows)
    lines = [
        (np.asarray(line.get_ydata(), float).tolist(), str(line.get_linestyle()))
        for line in panel.get_lines()
    ]
    return lines, [end[:2] for end in ends], panel.get_ylabel()


def test_a_curve_per_count() -> None:
    lines, ends, label = drawn(rows("a", epochs=2))
    assert lines == [([count / 16, count / 8], style) for count in (1, 2, 8) for style in (":", "-")]
    assert ends == [(0.125, "1"), (0.25, "2"), (1.0, "8")]
    assert label == "accuracy"


def test_the_whole_network_on_the_device_has_no_count() -> None:
    lines, ends, _ = drawn([row | {"slices": 0} for row in rows("a", epochs=2) if row["slices"] == 1])
    assert (len(lines), ends) == (2, [])


def test_without_validation_what_was_trained_on_is_solid() -> None:
    lines, ends, _ = drawn([row for row in rows("a") if row["set"] == "train"])
    assert [style for _, style in lines] == ["-"] * 3
    assert len(ends) == 3


def test_without_values_the_loss_is_drawn() -> None:
    lines, _, label = drawn(rows("a", value=False, epochs=2))
    assert lines[0] == ([3.0, 1.5], ":")
    assert label == "loss"


@pytest.mark.parametrize(
    ("values", "places"),
    [
        ([0, 5, 9], [0, 5, 9]),
        ([4, 4, 4], [3, 4, 5]),
        ([4, 4.2, 9.9, 9.9], [3.6, 4.6, 9, 10]),
        ([1, 2.6, 2.6, 2.8], [0.75, 1.75, 2.75, 3.75]),
    ],
)
def test_labels_keep_apart(values: list[float], places: list[float]) -> None:
    assert spread(values, 1, 10) == pytest.approx(places)


@given(st.lists(st.floats(0, 10), max_size=12))
def test_labels_never_lie_over_each_other(values: list[float]) -> None:
    places = spread(sorted(values), 0.5, 10)
    assert len(places) == len(values)
    assert all(later - earlier >= 0.5 - 1e-9 for earlier, later in pairwise(places))
    assert all(place <= 10 for place in places)
