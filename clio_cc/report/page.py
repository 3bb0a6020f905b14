"""The page as a whole: head, answers, sections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from clio_cc.report import curves, memory, names, network, planned, tables
from clio_cc.report.facts import Facts
from clio_cc.report.markup import (
    Content,
    Markup,
    bps,
    el,
    large,
    paragraph,
    percent,
    prose,
    several,
    size,
)
from clio_cc.report.style import CSS, PATTERNS, SCRIPT

LISTED = 6
"""More cuts than these are not named in the short answers."""
STALE = "Profile or accuracy have changed since this plan was made: run `clio-cc plan` again."


def render(facts: Facts) -> str:
    """Return the text of ``report.html``; equal facts give equal text.

    The page needs nothing but itself: no network, no fonts, and a script only so that folded parts are printed.
    """
    title = f"{facts.manifest['model']['name']} on {facts.target.title}"
    sections: Sequence[tuple[str, str, list[Content]]] = (
        ("network", "The network and its cuts", network.section(facts)),
        ("curves", "How good at which bandwidth", curves.section(facts)),
        ("plan", "The plan", planned.section(facts)),
        ("accuracy", "Accuracy per bytes", curves.accuracy_section(facts)),
        ("memory", "Memory", memory.section(facts)),
        ("quantization", "Error of quantization", tables.quantization(facts)),
        ("profile", "Time per layer", tables.times(facts)),
        ("reproduce", "Reproducing this", tables.reproducibility(facts)),
    )
    contents = el("nav", el("ul", [el("li", el("a", head, href=f"#{key}")) for key, head, _ in sections]))
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("title", title),
        el("style", CSS),
    )
    body = el(
        "body",
        PATTERNS,
        el("header", el("h1", title), _summary(facts)),
        _warnings(facts),
        el("section", el("h2", "In short"), _answers(facts), id="answers"),
        contents,
        el("main", [el("section", el("h2", words), content, id=key) for key, words, content in sections]),
        el("footer", f"Made by {facts.manifest['tool']}."),
        el("script", SCRIPT),
    )
    return "<!DOCTYPE html>\n" + el("html", head, "\n", body, lang="en") + "\n"


def _summary(facts: Facts) -> Markup:
    """What a reader must know who has never heard of any of this."""
    name, board = facts.manifest["model"]["name"], facts.target.title
    cost = f"{several(len(facts.layers), 'layer')}, {large(facts.macs)} multiply-accumulates"
    what = f"The neural network {name} ({cost}) was compiled"
    if not facts.partitions:
        return paragraph(
            f"{what} for {board}. It runs on the device alone; nothing is sent to a cloud. This page says what that takes: "
            "memory, time, and what is lost by computing in 8-bit integers."
        )
    return paragraph(
        f"{what} for {board} and a cloud: the device computes the first layers and sends what comes out, the cloud computes "
        "the rest. What is sent is cut into units in order of their worth: the first few already give an answer, "
        "more give a better one. This page says where the network is cut, what the device sends, how good the answer is at "
        "which bandwidth, and whether it fits the board."
    )


def _answers(facts: Facts) -> Markup:
    found = [
        ("Where is it cut?", _where(facts)),
        ("What is sent?", _what(facts)),
        ("How good is the answer?", _how_good(facts)),
    ]
    found.append(("Does it fit?", _fits(facts)))
    return el("dl", [el("div", el("dt", ask), el("dd", answer)) for ask, answer in found], class_="answers")


def _where(facts: Facts) -> list[Content]:
    found: list[Content] = []
    for name in list(facts.numbers)[:LISTED]:
        found += [
            names.chip(facts, name),
            f", after layer {facts.cut_after[name]} of {len(facts.layers)}",
            el("br"),
        ]
    found += _more(facts)
    if facts.local or not found:
        found.append(
            "The whole network can run on the device, too."
            if found
            else "Nowhere: all of it runs on the device."
        )
    return found


def _what(facts: Facts) -> list[Content]:
    if not facts.partitions:
        return ["Nothing."]
    found: list[Content] = []
    for entry in facts.partitions[:LISTED]:
        counts = entry["slices"]
        found += [
            names.chip(facts, entry["name"]),
            f": {counts[0]} to {counts[-1]} units of {size(entry['unit_bytes'])}, "
            f"{size(counts[-1] * entry['unit_bytes'])} at most",
            el("br"),
        ]
    return [*found, *_more(facts), f"The raw input has {size(facts.manifest['input_bytes'])}."]


def _more(facts: Facts) -> list[Content]:
    left = len(facts.partitions) - LISTED
    return [f"and {left} more, below", el("br")] if left > 0 else []


def _how_good(facts: Facts) -> list[Content]:
    plan = facts.plan
    if plan is None:
        return [prose("There is no plan yet: run `clio-cc plan`.")]
    low, high = plan["bandwidth"]
    if not plan["ranges"]:
        return [f"Nothing meets {curves.goal(plan)} from {bps(low)} to {bps(high)}."]
    first, last = plan["ranges"][0], plan["ranges"][-1]
    found: list[Content] = [
        f"Within {curves.goal(plan)}:",
        el("br"),
        _good(facts, first["from_bps"], first),
        el("br"),
    ]
    if len(plan["ranges"]) > 1:
        found += [_good(facts, high, last), el("br")]
    if plan["holes"]:
        found += [
            f"Nothing is in time from {' and '.join(f'{bps(a)} to {bps(b)}' for a, b in plan['holes'])}.",
            el("br"),
        ]
    if facts.metric == "agreement":
        found.append("Agreement with the original network is optimistic.")
    return found


def _good(facts: Facts, where: int, choice: Mapping[str, Any]) -> str:
    what = names.words(facts, choice["partition"], choice["slices"])
    value = choice["accuracy"]
    good = "accuracy not known" if value is None else f"{percent(value)} {facts.metric}"
    return f"{good} at {bps(where)} ({what})"


def _fits(facts: Facts) -> list[Content]:
    ram, flash = memory.used(facts)
    found: list[Content] = []
    for what, used, board in (
        ("RAM", ram, facts.target.ram_bytes),
        ("flash", flash, facts.target.flash_bytes),
    ):
        found += [
            f"{what}: {size(used)} of {size(int(board.value))} ({percent(used / board.value, 1)})",
            el("br"),
        ]
    return ["Yes. ", el("br"), *found]


def _warnings(facts: Facts) -> Markup | None:
    found = [*facts.manifest["warnings"], *facts.problems]
    if facts.is_stale:
        found.append(STALE)
    if not found:
        return None
    items = el("ul", [el("li", prose(text)) for text in found])
    return el("aside", el("h2", "Warnings"), items, class_="warning", id="warnings")
