"""Section 3: what to do at which bandwidth, why, and what else would win."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from clio_cc.report import names
from clio_cc.report.axes import Logarithmic, bandwidth_axis, box, color, plot, text
from clio_cc.report.curves import goal
from clio_cc.report.facts import Facts
from clio_cc.report.markup import (
    Content,
    Figure,
    Markup,
    bps,
    el,
    energy,
    folded,
    paragraph,
    percent,
    table,
    time,
)

LABELLED = 7.0
"""Narrower pieces of a strip, in percent, have no label; their titles and the tables tell."""


def section(facts: Facts) -> list[Content]:
    """The strips and their tables."""
    plan = facts.plan
    if plan is None:
        return [paragraph("There is no plan: run `clio-cc plan`.")]
    return [
        paragraph(
            f"At each bandwidth, what the device sends so that the answer meets {goal(plan)}. A label “2: 16” means "
            "partition point 2, its first 16 units. Latency and energy are those at the low end of each range, where they "
            "are worst."
        ),
        *_holes(plan),
        _strip(facts, plan, "The plan", plan["ranges"], plan["holes"]),
        _ranges(facts, plan) if plan["ranges"] else None,
        _reasons(facts, plan),
        _switching(plan),
        el("h3", "Against other strategies"),
        paragraph(
            "The same deadline, link and figures for what else one could do. The strip shows which strategy has the most "
            f"accurate answer in time{'' if facts.metric else ' (as far as known: accuracy was not evaluated)'}."
        ),
        _strip(facts, plan, "Which strategy wins", plan["winners"], _gaps(plan)),
        _winners(facts, plan) if plan["winners"] else None,
        _strategies(facts, plan),
    ]  # fmt: skip


def _holes(plan: Mapping[str, Any]) -> Iterator[Content]:
    if plan["holes"]:
        where = ", ".join(f"{bps(low)} to {bps(high)}" for low, high in plan["holes"])
        shortest = plan["shortest"]
        yield el(
            "p", el("b", "Holes: "), f"nothing meets {goal(plan)} from {where}. The shortest latency, at "
            f"{bps(plan['bandwidth'][1])}, is {time(shortest['latency_us'])} ({shortest['partition']}: "
            f"{time(shortest['device_us'])} on the device, {time(shortest['transfer_us'])} on the air, "
            f"{time(shortest['cloud_us'])} in the cloud).", class_="warning",
        )  # fmt: skip
    if plan["unreachable"] is not None:
        low, high = plan["unreachable"]
        yield paragraph(f"The link does not reach {bps(low)} to {bps(high)}; that part is not planned.")


def _strip(
    facts: Facts,
    plan: Mapping[str, Any],
    title: str,
    ranges: Sequence[Mapping[str, Any]],
    holes: Sequence[Sequence[int]],
) -> Markup:
    low, high = plan["bandwidth"]
    axis = Logarithmic.over(low, high)

    def ends(start: int, end: int) -> tuple[float, float]:
        return (axis.at(start), axis.at(end)) if low < high else (0.0, 100.0)

    pieces = []
    for each in ranges:
        left, right = ends(each["from_bps"], each["to_bps"])
        number = facts.numbers.get(each["partition"])
        kind = f"piece {color(number - 1)}" if number else "piece uncut"
        what = names.words(facts, each["partition"], each["slices"])
        words = f"{bps(each['from_bps'])} to {bps(each['to_bps'])}: {what}"
        short = names.brief(facts, each["partition"], each["slices"])
        fits = right - left >= max(LABELLED, 2.2 * len(short))
        pieces.append(
            box(left, 0, right, 100, kind, text(50, 50, short, "inside", dy=4) if fits else None, title=words)
        )
    for start, end in holes:
        left, right = ends(start, end)
        fits = right - left >= 3 * LABELLED
        label = el("text", "hole", x="50%", y="50%", dy=4, class_="inside onhole") if fits else None
        pieces.append(box(left, 0, right, 100, "hole", label, title=f"{bps(start)} to {bps(end)}: a hole"))
    description = "; ".join(
        f"{bps(r['from_bps'])} to {bps(r['to_bps'])}: {names.words(facts, r['partition'], r['slices'])}"
        for r in ranges
    )
    return plot("strip", title, description or "Nothing is in time.", bandwidth_axis(axis), pieces)


def _gaps(plan: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Where no strategy at all is in time."""
    low, high = plan["bandwidth"]
    found = []
    for each in plan["winners"]:
        if each["from_bps"] > low:
            found.append((low, each["from_bps"]))
        low = each["to_bps"]
    return [*found, (low, high)] if low < high or not plan["winners"] else found


def _figures(facts: Facts, it: Mapping[str, Any]) -> list[Content]:
    return [
        names.chip(facts, it["partition"]),
        names.sent(facts, it["partition"], it["slices"]),
        it["bytes"],
        Figure(time(it["latency_us"])),
        Figure(energy(it["energy_uj"])),
        Figure(percent(it["accuracy"])),
    ]


def _heads(facts: Facts) -> tuple[str, ...]:
    return "cut", "units", "bytes", "latency", "energy", facts.metric or "accuracy"


def _ranges(facts: Facts, plan: Mapping[str, Any]) -> Markup:
    rows = [
        [Figure(bps(r["from_bps"])), Figure(bps(r["to_bps"])), *_figures(facts, r)] for r in plan["ranges"]
    ]
    return table("The plan's ranges", ("from", "to", *_heads(facts)), rows)


def _reasons(facts: Facts, plan: Mapping[str, Any]) -> Markup | None:
    rows: list[list[Content]] = [
        [
            Figure(bps(r["from_bps"])),
            names.words(facts, r["partition"], r["slices"]),
            n["kind"],
            names.words(facts, n["partition"], n["slices"]),
            n["reason"],
        ]
        for r in plan["ranges"]
        for n in r["why"]
    ]
    if not rows:
        return None
    heads = ("from", "chosen", "", "instead of", "which")
    return folded("Why not another", table("Why not another", heads, rows), unfolded=len(rows) <= 12)


def _switching(plan: Mapping[str, Any]) -> Markup | None:
    rows: list[list[Content]] = [
        [Figure(bps(b["at_bps"])), Figure(bps(b["up_bps"])), Figure(bps(b["down_bps"]))]
        for b in plan["hysteresis"]["boundaries"]
    ]
    if not rows:
        return None
    margin = percent(plan["hysteresis"]["margin"], 0)
    heads = ("boundary", "switch up at", "switch down below")
    return folded(
        f"When a device that runs should switch (margin {margin})",
        table("Switching with hysteresis", heads, rows),
    )


def _winners(facts: Facts, plan: Mapping[str, Any]) -> Markup:
    rows = [
        [
            Figure(bps(w["from_bps"])),
            Figure(bps(w["to_bps"])),
            names.STRATEGIES[w["strategy"]],
            *_figures(facts, w),
        ]
        for w in plan["winners"]
    ]
    return table("Which strategy wins", ("from", "to", "strategy", *_heads(facts)), rows)


def _strategies(facts: Facts, plan: Mapping[str, Any]) -> Markup:
    low, high = plan["bandwidth"]
    rows: list[list[Content]] = []
    for each in plan["strategies"]:
        start = each["from_bps"]
        for where, choice in ((low, each["at_low"]), (high, each["at_high"])):
            rows.append(
                [
                    names.STRATEGIES[each["strategy"]],
                    Figure("nowhere" if start is None else bps(start)),
                    Figure(bps(where)),
                    *_figures(facts, choice),
                ]
            )
    caption = "All strategies at both ends of the range, in time or not"
    heads = ("strategy", "in time from", "at", *_heads(facts))
    return folded(caption, table(caption, heads, rows))
