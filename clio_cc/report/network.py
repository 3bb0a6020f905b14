"""Section 1: the network with the places where it can be cut, and where it is."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from clio_cc.plan import RAW
from clio_cc.report import names
from clio_cc.report.axes import Linear, Logarithmic, badge, box, byte_ticks, line, plot, text, value_axis
from clio_cc.report.facts import Facts
from clio_cc.report.markup import (
    DASH,
    Content,
    Markup,
    bar,
    dims,
    el,
    folded,
    large,
    paragraph,
    percent,
    several,
    short,
    size,
    table,
)

if TYPE_CHECKING:
    from clio_cc.inspection import Layer, Point

UNFOLDED_LAYERS = 40
"""Longer lists of layers are folded: by block, and out of sight at first."""


def section(facts: Facts) -> list[Content]:
    """The drawing, the chosen cuts, and all layers."""
    return [
        paragraph(
            f"The network computes {several(len(facts.layers), 'layer')} one after the other. Bars show how large the "
            "tensor (the intermediate result) behind each layer is, as one byte per value: that is what would travel "
            "if the network were cut there and everything sent. The area below shows how much of all multiply-accumulates "
            "(MACs, the unit of work) is done by then. Small ticks are other places where one tensor is all that would "
            "travel; numbered lines are the cuts that were compiled, whose units may take an extra convolution on the "
            "device."
        ),
        _bytes_plot(facts),
        _macs_plot(facts),
        _cuts(facts),
        _layer_list(facts),
        _candidates(facts),
    ]


# --- drawing ----------------------------------------------------------------------------------------


def _bytes_plot(facts: Facts) -> Markup:
    layers = facts.layers
    sizes = [max(1, layer.output_bytes) for layer in layers]
    axis = Logarithmic(1, 10 ** len(str(max(sizes, default=9))))
    width = 100 / max(1, len(layers))
    bars = [
        box(
            width * (i + 0.1), 0, width * (i + 0.9), axis.at(layer.output_bytes or 1), "bytes",
            title=f"{i + 1}: {layer.name} ({layer.op}), {dims(layer.shape)}: {size(layer.output_bytes)}",
        )
        for i, layer in enumerate(layers)
    ]  # fmt: skip
    ticks = [text(100 * cut / len(layers), 100, "▾", "candidate", dy=-1) for cut in _candidate_places(facts)]
    description = "; ".join(
        f"cut {number} after layer {facts.cut_after[name]} of {len(layers)}, {name}"
        for name, number in facts.numbers.items()
    )
    return plot(
        "network",
        "Bytes of the tensor behind each layer, with the cuts",
        description or "The network is not cut: all of it runs on the device.",
        value_axis(axis, byte_ticks(axis)[::2], "bytes behind each layer (logarithmic)"),
        bars,
        ticks,
        _cut_lines(facts, with_numbers=True),
    )


def _macs_plot(facts: Facts) -> Markup:
    layers = facts.layers
    total = max(1, facts.macs)
    done = list(itertools.accumulate((layer.macs for layer in layers), initial=0))
    axis = Linear(0, 1)
    width = 100 / max(1, len(layers))
    steps = [
        box(
            width * i, 0, width * (i + 1), axis.at(done[i + 1] / total), "macs",
            title=f"after {layer.name}: {done[i + 1]:,} MACs, {percent(done[i + 1] / total, 1)}",
        )
        for i, layer in enumerate(layers)
    ]  # fmt: skip
    return plot(
        "cumulative",
        "Share of all multiply-accumulates done after each layer",
        f"From 0 to {total:,} MACs over {len(layers)} layers.",
        value_axis(
            axis, [(0, "0 %"), (0.5, "50 %"), (1, "100 %")], f"work done, of {large(facts.macs)} MACs"
        ),
        steps,
        _cut_lines(facts, with_numbers=False),
        text(0, 0, "first layer", "tick start", dy=18),
        text(100, 0, f"layer {len(layers)}", "tick end", dy=18),
    )


def _cut_lines(facts: Facts, with_numbers: bool) -> Iterator[Markup]:
    """Lines through both drawings; numbers of cuts that are close to each other are stacked."""
    level, before = 0, -100.0
    for name, after in sorted(facts.cut_after.items(), key=lambda item: item[1]):
        x = 100 * after / len(facts.layers)
        level = (level + 1) % 5 if x - before < 6 else 0
        before = x
        yield line(x, 0, x, 100, "cut")
        if with_numbers:
            yield badge(x, 100, facts.numbers[name], dy=12 + 20 * level)


def _candidate_places(facts: Facts) -> list[int]:
    """Numbers of layers before the candidates that were not compiled."""
    return [
        _place(facts, point) for point in facts.network.partition_points if point.name not in facts.numbers
    ]


def _place(facts: Facts, point: Point) -> int:
    """Number of layers before a candidate."""
    return facts.places.get(point.tensor, 0)


# --- lists ------------------------------------------------------------------------------------------


def _cuts(facts: Facts) -> Markup:
    if not facts.partitions:
        return paragraph(
            "No partition point was compiled: the whole network runs on the device, and nothing is sent."
        )
    rows = [_cut(facts, entry) for entry in facts.partitions]
    heads = (
        "cut",
        "behind layer",
        "units",
        "bytes each",
        "bytes in all",
        "units are",
        "device MACs",
        "of the network's",
    )
    return table("The cuts that were compiled", heads, rows)


def _cut(facts: Facts, entry: Mapping[str, Any]) -> list[Content]:
    units = names.entry_units(entry)
    return [
        names.chip(facts, entry["name"]),
        f"{facts.cut_after[entry['name']]} of {len(facts.layers)}",
        units,
        entry["unit_bytes"],
        units * entry["unit_bytes"],
        names.how(entry),
        entry["macs"],
        percent(entry["macs"] / max(1, facts.macs), 1),
    ]


def _layer_list(facts: Facts) -> Markup:
    """All layers with the cuts between them; block by block where there are many."""
    layers = facts.layers
    total, largest = max(1, facts.macs), max([1, *(layer.output_bytes for layer in layers)])
    by_place: dict[int, list[str]] = {}
    for name, after in facts.cut_after.items():
        by_place.setdefault(after, []).append(name)
    candidates = set(_candidate_places(facts))
    rows: list[Markup] = []
    done = 0
    for start, end in _groups(facts):
        group = layers[start:end]
        done += sum(layer.macs for layer in group)
        rows.append(_group_row(start, group, done, total, largest))
        rows += [_cut_row(facts, name) for name in by_place.get(end, ())]
        if end in candidates and end not in by_place:
            rows.append(el("li", "could be cut here", class_="could"))
    unfolded = len(rows) <= UNFOLDED_LAYERS
    return folded(
        f"All {len(layers)} layers in order" + ("" if unfolded else ", by block"),
        el("ol", rows, class_="layers"),
        unfolded=unfolded,
    )


def _groups(facts: Facts) -> list[tuple[int, int]]:
    """Runs of layers that share a row: one each, or those of a block, but never across a cut that was compiled."""
    layers = facts.layers
    single = [(i, i + 1) for i in range(len(layers))]
    if len(layers) <= UNFOLDED_LAYERS:
        return single
    block = {name: number for number, names_ in enumerate(facts.blocks) for name in names_}
    cuts = set(facts.cut_after.values())
    found: list[tuple[int, int]] = []
    for i, layer in enumerate(layers):
        same = i > 0 and i not in cuts and block.get(layer.name, -1) == block.get(layers[i - 1].name, -2)
        found.append((found.pop()[0], i + 1) if same else (i, i + 1))
    return found


def _group_row(start: int, group: Sequence[Layer], done: int, total: int, largest: int) -> Markup:
    last = group[-1]
    number = str(start + 1) if len(group) == 1 else f"{start + 1}{DASH}{start + len(group)}"
    ops = (
        last.op
        if len(group) == 1
        else f"block of {len(group)}: " + ", ".join(dict.fromkeys(layer.op for layer in group))
    )
    what = el("span", el("b", number), " ", short(last.name, 36), " ", el("small", ops), class_="what")
    out = el(
        "span",
        bar(last.output_bytes / largest, "bytes"),
        f"{dims(last.shape)}, {size(last.output_bytes)}",
        class_="out",
    )
    work = el(
        "span",
        bar(done / total, "macs"),
        f"{large(sum(layer.macs for layer in group))} MACs, {percent(done / total, 1)} done",
        class_="work",
    )
    return el("li", what, out, work)


def _cut_row(facts: Facts, name: str) -> Markup:
    entry = next(each for each in facts.partitions if each["name"] == name)
    units = names.entry_units(entry)
    words = f" cut: {several(units, 'unit')} of {size(entry['unit_bytes'])}, {names.how(entry)}"
    return el("li", names.chip(facts, name), words, class_="chosen")


def _candidates(facts: Facts) -> Markup:
    points = facts.network.partition_points
    rows: list[list[Content]] = []
    for point in points:
        chosen = names.chip(facts, point.name) if point.name in facts.numbers else short(point.name)
        state = "compiled" if point.name in facts.numbers else _why_not(point)
        rows.append([chosen, dims(point.shape), point.bytes, point.macs_before, state])
    summary = f"All {several(len(points), 'place')} where one tensor is all that would travel"
    return folded(
        summary, table("Candidate partition points", ("name", "shape", "bytes", "MACs before", ""), rows)
    )


def _why_not(point: Point) -> str:
    if point.name == RAW:
        return "the input itself, no layer on the device"
    return "can be cut here" if point.runnable else f"the device cannot run {point.reason}"
