"""Sections 2 and 4: how good the answers are, per bandwidth (CLIO, Figure 4) and per byte."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from clio_cc.accuracy import AccuracyRow
from clio_cc.report import names
from clio_cc.report.axes import (
    Linear,
    Logarithmic,
    badge,
    bandwidth_axis,
    color,
    line,
    mark,
    plot,
    value_axis,
)
from clio_cc.report.facts import Facts
from clio_cc.report.markup import (
    Content,
    Figure,
    Markup,
    bar,
    bps,
    el,
    long_table,
    paragraph,
    percent,
    several,
    time,
)

Step = Mapping[str, Any]

UNCUT = ("local", "input", "jpeg")
"""Strategies that are drawn, too, where their accuracy is known."""

METRICS = {
    "accuracy": "Accuracy is the share of labelled samples that are answered right.",
    "agreement": (
        "Agreement is how often the answer is the one of the original network, on the inputs that were at hand (after "
        "compile alone: calibration inputs, which the compiler has seen). It says nothing about how often that answer is "
        "right, and is optimistic; `clio-cc evaluate` with labelled data measures accuracy."
    ),
    "": (
        "Accuracy was not evaluated: the share of units that is sent stands in its place, and the plan goes by it. "
        "`clio-cc evaluate` measures accuracy."
    ),
}


def section(facts: Facts) -> list[Content]:
    """Curves with their envelope."""
    plan = facts.plan
    if plan is None:
        return [paragraph("There is no plan: run `clio-cc plan`.")]
    return [
        paragraph(
            "Each line is one partition point. Every mark on it is a number of units: it stands at the lowest bandwidth at "
            f"which device, transfer and cloud together meet {goal(plan)}. More bandwidth lets more units through, and "
            "the answer gets better; the bold line is the best that is to be had at each bandwidth, the plan's choice. Of "
            "what is in reach at the left edge already, only the best is marked. "
            f"{link_words(plan)}"
        ),
        paragraph(METRICS[facts.metric]),
        *_drawn(facts, plan),
        _missing(facts, plan),
    ]


def goal(plan: Mapping[str, Any]) -> str:
    """The deadline and the budget in words."""
    found = []
    if plan["deadline_us"] is not None:
        found.append(f"the deadline of {time(plan['deadline_us'])}")
    if plan["budget_uj"] is not None:
        found.append(f"the energy budget of {plan['budget_uj']:,.4g} µJ")
    return " and ".join(found)


def link_words(plan: Mapping[str, Any]) -> str:
    """How bytes travel."""
    if plan["link"] is None:
        return "Bytes travel at the bandwidth itself, without any protocol's waiting."
    return f"Bytes travel over the link '{plan['link']}'."


# --- geometry ---------------------------------------------------------------------------------------


def steps_of(plan: Mapping[str, Any], name: str) -> list[Step]:
    """What of one partition point comes into reach within the range, by bandwidth.

    Of what is in reach at its low end already, only the best: of equals the one with the fewest units.
    """
    low, high = plan["bandwidth"]
    mine = [s for s in plan["steps"] if s["partition"] == name and s["from_bps"] is not None]
    at_low = [s for s in mine if s["from_bps"] <= low]
    above = sorted(
        (s for s in mine if low < s["from_bps"] <= high), key=lambda s: (s["from_bps"], s["slices"])
    )
    best = (
        [max(at_low, key=lambda s: (s["accuracy"] is not None, s["accuracy"] or s["slices"], -s["slices"]))]
        if at_low
        else []
    )
    return [*best, *above]


class Scale:
    """Where a bandwidth and a value lie in the drawing, in percent."""

    def __init__(self, facts: Facts, plan: Mapping[str, Any]) -> None:
        """Choose the range of values: from the tens below the lowest to those above the highest."""
        self.x = Logarithmic.over(*plan["bandwidth"])
        self.low: int = plan["bandwidth"][0]
        self.known = bool(facts.metric)
        self._units = {name: names.units(facts, name) for name in facts.numbers}
        values = [
            v for name in facts.numbers for s in steps_of(plan, name) if (v := self.value(s)) is not None
        ]
        values += [v for s in plan["strategies"] for r in s["ranges"] if (v := self.value(r)) is not None]
        self.is_empty = not values
        low = math.floor(10 * min(values, default=0) - 1e-9) / 10
        high = math.ceil(10 * max(values, default=1) + 1e-9) / 10
        high = min(1.0, max(high, 0.3))
        self.y = Linear(max(0.0, min(low, high - 0.3)), high)

    def value(self, it: Step) -> float | None:
        """Accuracy, or the share of units where nothing is known at all."""
        if self.known:
            value: float | None = it["accuracy"]
            return value
        units = self._units.get(it["partition"], 0)
        return it["slices"] / units if units else None

    def at(self, it: Step) -> tuple[float, float] | None:
        """Position of a step, or of a range's lower end; None without a value."""
        value = self.value(it)
        return None if value is None else (self.x.at(max(it["from_bps"], self.low)), self.y.at(value))

    @property
    def end(self) -> float:
        """Where lines end at the right: a single bandwidth is in the middle."""
        return 100.0 if self.x.only is None else 50.0


def _drawn(facts: Facts, plan: Mapping[str, Any]) -> Iterator[Markup]:
    scale = Scale(facts, plan)
    if scale.is_empty:
        yield paragraph("There is nothing to draw.")
        return
    yield _drawing(facts, plan, scale)
    yield _legend(facts, plan)


def _drawing(facts: Facts, plan: Mapping[str, Any], scale: Scale) -> Markup:
    what = facts.metric or "share of units"
    step = 0.1 if scale.y.high - scale.y.low < 0.65 else 0.2
    count = math.floor((scale.y.high - scale.y.low) / step + 1e-9)
    ticks = [(scale.y.low + i * step, f"{100 * (scale.y.low + i * step):.0f} %") for i in range(count + 1)]
    low, high = plan["bandwidth"]
    ends = [r for r in plan["ranges"] if scale.value(r) is not None]
    description = f"From {bps(low)} to {bps(high)}"
    if ends:
        description += (
            f", the best goes from {percent(scale.value(ends[0]))} to {percent(scale.value(ends[-1]))}"
        )
    return plot(
        "curves",
        f"Highest {what} within {goal(plan)}, by bandwidth",
        f"{description}.",
        value_axis(scale.y, ticks, what),
        bandwidth_axis(scale.x),
        [_stairs(_ranges(plan, name), scale, f"baseline {name}") for name in UNCUT],
        _stairs(plan["ranges"], scale, "envelope"),
        [_curve(facts, plan, scale, name) for name in facts.numbers],
    )


def _curve(facts: Facts, plan: Mapping[str, Any], scale: Scale, name: str) -> Iterator[Markup]:
    """What one partition point offers: marks, and a line along the best of them so far."""
    index = facts.numbers[name] - 1
    steps = steps_of(plan, name)
    kind = f"curve {color(index)}"
    best: tuple[float, float] | None = None
    marks = []
    for step in steps:
        place = scale.at(step)
        if place is None:
            continue
        marks.append(mark(*place, index, _said(step, scale)))
        if best is None:
            best = place
        yield line(*best, place[0], best[1], kind)
        if place[1] > best[1]:
            yield line(place[0], best[1], *place, kind)
        best = place[0], max(place[1], best[1])
    if best is not None:
        yield line(*best, scale.end, best[1], kind)
        yield from marks
        first = next(p for s in steps if (p := scale.at(s)) is not None)
        yield badge(*first, index + 1, dx=13 if first[0] < 50 else -13, dy=13 if first[1] > 12 else -13)


def _said(step: Step, scale: Scale) -> str:
    good = f"{percent(scale.value(step))} from {bps(step['from_bps'])}"
    return f"{step['partition']}: {several(step['slices'], 'unit')}, {step['bytes']:,} B, {good}"


def _stairs(ranges: Sequence[Step], scale: Scale, kind: str) -> Iterator[Markup]:
    """A line along ranges with their values; broken where there is a gap."""
    before: tuple[float, float] | None = None
    for each in ranges:
        place = scale.at(each)
        if place is None:
            before = None
            continue
        end = scale.x.at(each["to_bps"])
        if before is not None and before[0] == place[0]:
            yield line(*before, *place, kind)
        yield line(*place, end, place[1], kind)
        before = end, place[1]


def _ranges(plan: Mapping[str, Any], strategy: str) -> Sequence[Step]:
    return next((s["ranges"] for s in plan["strategies"] if s["strategy"] == strategy), ())


def _legend(facts: Facts, plan: Mapping[str, Any]) -> Markup:
    items = [el("li", _sample("envelope"), "the best at each bandwidth: the plan")]
    for entry in facts.partitions:
        index = facts.numbers[entry["name"]] - 1
        steps = steps_of(plan, entry["name"])
        if steps:
            start = bps(max(steps[0]["from_bps"], plan["bandwidth"][0]))
            sample = _sample(f"curve {color(index)}", mark(50, 50, index, ""))
            said = f": {several(entry['units'], 'unit')}, from {start}"
            items.append(el("li", sample, names.chip(facts, entry["name"]), said))
    known = {name: [r for r in _ranges(plan, name) if r["accuracy"] is not None] for name in UNCUT}
    items += [
        el("li", _sample(f"baseline {name}"), names.STRATEGIES[name])
        for name, found in known.items()
        if found
    ]
    return el("ul", items, class_="legend")


def _sample(kind: str, *content: Content) -> Markup:
    return el("svg", line(0, 50, 100, 50, kind), content, width="34", height="14", aria_hidden="true")


def _missing(facts: Facts, plan: Mapping[str, Any]) -> Markup | None:
    """Points that the drawing does not show, and why."""
    never = [name for name in facts.numbers if not steps_of(plan, name)]
    if not never:
        return None
    return paragraph(
        f"Not drawn, as they meet {goal(plan)} nowhere up to {bps(plan['bandwidth'][1])}: {', '.join(never)}."
    )


# --- accuracy per bytes -------------------------------------------------------------------------------


def accuracy_section(facts: Facts) -> list[Content]:
    """The rows of ``accuracy.csv``."""
    if not facts.accuracy:
        return [paragraph("Nothing was evaluated: run `clio-cc evaluate --data FILE`.")]
    points = [row for row in facts.accuracy if row.partition in facts.numbers]
    others = [row for row in facts.accuracy if row.partition not in facts.numbers]
    heads = ("what is sent", "units", "bytes", facts.metric, "", "error left", "samples")
    caption = f"{facts.metric.capitalize()} per bytes"
    other_heads, other_caption = (heads[0], *heads[2:5], heads[6]), f"{caption}: other strategies"
    return [
        paragraph(
            "What an answer costs on the air, and how good it is. “Error left” is the share of the weighted squared error "
            "in the features that remains with so many units, as expected from calibration: it says how fast the order of "
            "the units pays off. Of trained units it is not known: they aim at the answer."
        ),
        paragraph(METRICS[facts.metric]),
        long_table(caption, heads, [_units_row(facts, row) for row in points]),
        long_table(other_caption, other_heads, [_other_row(facts, row) for row in others]),
    ]


def _units_row(facts: Facts, row: AccuracyRow) -> list[Content]:
    expected = _residual(facts, row.partition, row.slices)
    return [
        names.chip(facts, row.partition),
        names.sent(facts, row.partition, row.slices),
        row.bytes,
        Figure(percent(row.value)),
        bar(row.value),
        Figure("" if expected is None else percent(expected, 1)),
        row.samples,
    ]


def _other_row(facts: Facts, row: AccuracyRow) -> list[Content]:
    what = names.words(facts, row.partition, row.slices)
    return [what, row.bytes, Figure(percent(row.value)), bar(row.value), row.samples]


def _residual(facts: Facts, name: str, slices: int) -> float | None:
    for entry in facts.partitions:
        if entry["name"] == name and slices in entry["slices"] and entry["residual"]:
            value: float = entry["residual"][entry["slices"].index(slices)]
            return value
    return None
