"""``curves.png``: how good the answers became over the epochs, a panel per partition point, a curve per count."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = Mapping[str, Any]
Curve = tuple[list[float], list[float]]
"""Epochs and values."""
End = tuple[float, str, Any]
"""Of a curve: its last value, its count, its color."""

VALIDATION, TRAIN = "validation", "train"
_PANEL_INCHES = (5.2, 4.0)
_IN_A_ROW = 3
_DPI = 150
_MARKED_EPOCHS = 30  # more than that are no points any more, but a line
_LABEL_HEIGHT = 0.045  # of a panel, so that labels do not lie over each other
_DARKEST, _LIGHTEST = 0.0, 0.88  # of the color map: its end is too light for white


def draw_curves(rows: Sequence[Row]) -> bytes:
    """Return a PNG of a training's log; the same rows give the same bytes with the same matplotlib.

    What was held back is drawn solid, with the number of units that are sent at its end; what was trained on, thin and
    dotted. Where there is no value (no labels and nothing to agree with), the loss is drawn.

    Args:
        rows: Of ``training.jsonl``: ``epoch``, ``partition``, ``slices``, ``loss``, ``value`` (0 to 1 or None),
            ``metric``, ``set`` (``train`` or ``validation``). Their order decides that of the panels and nothing else.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    points = list(dict.fromkeys(str(row["partition"]) for row in rows))
    across = min(len(points), _IN_A_ROW) or 1
    down = math.ceil(len(points) / across) or 1
    with matplotlib.rc_context(matplotlib.rcParamsDefault):  # not what a user has in a file
        width, height = _PANEL_INCHES
        figure = Figure(figsize=(width * across, height * down), layout="constrained", dpi=_DPI)
        FigureCanvasAgg(figure)
        panels = list(figure.subplots(down, across, squeeze=False, sharey=True).flat)
        drawn = {
            panel: _draw(panel, point, [row for row in rows if row["partition"] == point])
            for panel, point in zip(panels, points, strict=False)
        }
        for panel in panels:
            panel.set_visible(panel in drawn)
            _label(panel, drawn.get(panel, []))  # not before all is drawn: panels share their scale
        if len({row["set"] for row in rows}) > 1:
            figure.supxlabel(
                "solid: data that was held back; dotted: what was trained on", fontsize=9, color="0.35"
            )
        file = io.BytesIO()
        figure.savefig(file, format="png", metadata={"Software": None})  # no version, no date
    return file.getvalue()


def _draw(panel: Axes, point: str, rows: Sequence[Row]) -> list[End]:
    """Draw a panel without its labels; return where its curves end."""
    from matplotlib import colormaps
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    key = "loss" if any(row["value"] is None for row in rows) else "value"
    counts = sorted({int(row["slices"]) for row in rows})
    shades = [_DARKEST + (_LIGHTEST - _DARKEST) * i / max(1, len(counts) - 1) for i in range(len(counts))]
    colors = [colormaps["viridis"](shade) for shade in reversed(shades)]  # the most units are the darkest
    ends: list[End] = []
    for count, color in zip(counts, colors, strict=True):
        curves = {name: _curve(rows, count, name, key) for name in (TRAIN, VALIDATION)}
        shown = curves[VALIDATION] if curves[VALIDATION][0] else curves[TRAIN]
        if shown is not curves[TRAIN]:
            panel.plot(*curves[TRAIN], color=color, linewidth=0.8, linestyle=":")
        marker = "o" if len(shown[0]) <= _MARKED_EPOCHS else ""
        panel.plot(*shown, color=color, linewidth=1.6, marker=marker, markersize=3.5)
        if count:  # the whole network on the device sends none
            ends.append((shown[1][-1], str(count), color))
    panel.set_title(point, loc="left", fontsize=11, fontweight="bold")
    panel.set_xlabel("epoch")
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.grid(color="0.88", linewidth=0.8)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    panel.set_ylabel("loss" if key == "loss" else str(rows[0]["metric"]))
    panel.tick_params(labelleft=True)
    if key == "value":
        panel.yaxis.set_major_formatter(PercentFormatter(1.0))
    return ends


def _curve(rows: Sequence[Row], count: int, name: str, key: str) -> Curve:
    found = sorted((row["epoch"], row[key]) for row in rows if row["slices"] == count and row["set"] == name)
    return [epoch for epoch, _ in found], [value for _, value in found]


def _label(panel: Axes, ends: Sequence[End]) -> None:
    """Write each count beside the end of its curve, moved up or down where they would lie over each other."""
    low, high = panel.get_ylim()
    step = (high - low) * _LABEL_HEIGHT
    ordered = sorted(ends, key=lambda end: end[0])
    places = spread([value for value, *_ in ordered], step, high - step)
    for place, (value, text, color) in zip(places, ordered, strict=True):
        panel.annotate(
            text,
            (1.0, value),
            xycoords=("axes fraction", "data"),
            xytext=(1.03, place),
            textcoords=("axes fraction", "data"),
            color=color,
            fontsize=9,
            fontweight="bold",
            va="center",
            arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.6, "shrinkA": 1, "shrinkB": 0},
        )
    if ends:
        panel.text(1.03, 1.02, "units", transform=panel.transAxes, fontsize=9, color="0.35")


def spread(values: Sequence[float], step: float, high: float) -> list[float]:
    """Return ascending places at least `step` apart and at most `high`, as near to ascending `values` as that goes."""
    heaps: list[list[float]] = []  # labels that touch lie evenly around the mean of their values
    for value in values:
        heaps.append([value])
        while len(heaps) > 1 and _first(heaps[-1], step) < _first(heaps[-2], step) + step * len(heaps[-2]):
            heaps[-2:] = [heaps[-2] + heaps[-1]]
    places = [_first(heap, step) + step * index for heap in heaps for index in range(len(heap))]
    for index in reversed(range(len(places))):
        places[index] = min(places[index], high)
        high = places[index] - step
    return places


def _first(heap: Sequence[float], step: float) -> float:
    return sum(heap) / len(heap) - step * (len(heap) - 1) / 2
