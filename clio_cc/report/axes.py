"""Plots whose frame stretches with the page while texts and marks keep their size: positions are percentages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from clio_cc.report.markup import Content, Markup, bps, el, large, plain, size

MARKS = (
    "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0-9 0z",  # circle
    "M-4-4h8v8h-8z",  # square
    "M0-5.5L5.5 4.5H-5.5z",  # triangle
    "M0-6L6 0L0 6L-6 0z",  # diamond
    "M0 5.5L5.5-4.5H-5.5z",  # triangle, down
    "M-1.7-5.5h3.4v3.8h3.8v3.4h-3.8v3.8h-3.4v-3.8h-3.8v-3.4h3.8z",  # plus
)
COLORS = 8


@dataclass(frozen=True)
class Linear:
    """From `low` at 0 % to `high` at 100 %."""

    low: float
    high: float

    def at(self, value: float) -> float:
        """Position of a value in percent, at the ends where it is outside."""
        return 100 * min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)


@dataclass(frozen=True)
class Logarithmic:
    """Like `Linear`, in powers."""

    low: float
    high: float
    only: int | None = None

    @staticmethod
    def over(low: int, high: int) -> Logarithmic:
        """An axis for a range that may be a single value, which is `only` then, in the middle."""
        return Logarithmic(low, high) if low < high else Logarithmic(low / 2, high * 2, low)

    def at(self, value: float) -> float:
        """Position of a value in percent, at the ends where it is outside."""
        share = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        return 100 * min(share, 1.0)

    def ticks(self) -> list[int]:
        """Round values: 1, 2 and 5 times powers of ten, or as many of the powers as do not crowd."""
        if self.only is not None:
            return [self.only]
        decades = math.log10(self.high / self.low)
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        factors = (1, 2, 5) if decades <= 2.2 else (1,)
        every = 1 if decades <= 6 else math.ceil(decades / 6)
        found = [f * 10**e for e in range(max(first, 0), last + 1, every) for f in factors]
        return [each for each in found if self.low <= each <= self.high] or [math.ceil(self.low)]


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    """A line between two positions in percent, y from the bottom up."""
    return el("line", x1=_p(x1), y1=_p(100 - y1), x2=_p(x2), y2=_p(100 - y2), class_=kind)


def box(x1: float, y1: float, x2: float, y2: float, kind: str, *content: Content, title: str = "") -> Markup:
    """A rectangle between two corners in percent, y from the bottom up; its content is cut off at its edges."""
    inside = [el("title", title)] if title else []
    place = {"x": _p(x1), "y": _p(100 - y2), "width": _p(x2 - x1), "height": _p(y2 - y1)}
    rect = el("rect", *inside, width="100%", height="100%", class_=kind)
    return el("svg", rect, *content, **place)


def text(x: float, y: float, words: str, kind: str, dx: int = 0, dy: int = 0) -> Markup:
    """Words at a position in percent, moved by pixels to the right and down."""
    return el("text", words, x=_p(x), y=_p(100 - y), dx=dx or None, dy=dy or None, class_=kind)


def mark(x: float, y: float, index: int, title: str) -> Markup:
    """A mark at a position; its form tells curves apart where colors do not."""
    shape = el("path", el("title", title), d=MARKS[index % len(MARKS)], class_=f"mark {color(index)}")
    return el("svg", shape, x=_p(x), y=_p(100 - y), class_="at")


def badge(x: float, y: float, number: int, dx: int = 0, dy: int = 0) -> Markup:
    """A partition point's number in a disk."""
    disk = el("circle", r="9", cx=dx, cy=dy, class_=f"disk {color(number - 1)}")
    digits = el("text", str(number), x=dx, y=dy + 4, class_="digits")
    return el("svg", disk, digits, x=_p(x), y=_p(100 - y), class_="at")


def color(index: int) -> str:
    """The class that holds the color of a curve; beyond the palette the lines are dashed, too."""
    return f"c{index % COLORS}" + (" second" if index // COLORS % 2 else "")


def plot(kind: str, title: str, description: str, *content: Content) -> Markup:
    """A drawing that screen readers take as one picture with its title and description."""
    inside = (el("title", title), el("desc", description), *content)
    drawing = el(
        "svg", *inside, role="img", aria_label=f"{title}. {description}", width="100%", height="100%"
    )
    return el("div", drawing, class_=f"plot {kind}")


def bandwidth_axis(axis: Logarithmic, label: str = "bandwidth, bit/s (logarithmic)") -> list[Markup]:
    """Grid lines and labels below a plot."""
    found = []
    for tick in axis.ticks():
        x = axis.at(tick)
        found += [line(x, 0, x, 100, "grid"), text(x, 0, _short_bps(tick), "tick below", dy=16)]
    return [*found, text(50, 0, label, "label below", dy=34)]


def value_axis(axis: Linear | Logarithmic, ticks: Sequence[tuple[float, str]], label: str) -> list[Markup]:
    """Grid lines and labels at the left of a plot, with a label above."""
    found = []
    for value, words in ticks:
        y = axis.at(value)
        found += [line(0, y, 100, y, "grid"), text(0, y, words, "tick left", dx=-6, dy=4)]
    return [*found, text(0, 100, label, "label above", dx=-44, dy=-12)]


def byte_ticks(axis: Logarithmic) -> list[tuple[float, str]]:
    """Powers of ten in bytes."""
    return [(tick, f"{large(tick)}B" if tick >= 1000 else size(tick)) for tick in _powers(axis)]


def _powers(axis: Logarithmic) -> list[int]:
    ends = math.ceil(math.log10(axis.low)), math.floor(math.log10(axis.high))
    return [10**e for e in range(max(ends[0], 0), ends[1] + 1)]


def _short_bps(value: float) -> str:
    return bps(value).removesuffix("bit/s").rstrip("\u00a0").replace("\u00a0", "")


def _p(value: float) -> str:
    return f"{plain(value)}%"
