"""How the page names partition points and what is sent there."""

from __future__ import annotations

from typing import Any

from clio_cc.accuracy import FEWER_BITS, JPEG
from clio_cc.plan import LOCAL, RAW
from clio_cc.report.axes import color
from clio_cc.report.facts import Facts
from clio_cc.report.markup import DASH, TIMES, Markup, el, join, short

STRATEGIES = {
    "clio": "this plan",
    "local": "all on the device",
    "input": "raw input sent",
    "jpeg": "JPEG sent",
    "neurosurgeon": "one cut, lowest latency (Neurosurgeon)",
    "neurosurgeon-energy": "one cut, lowest energy (Neurosurgeon)",
    "jalad": "all channels, fewer bits (JALAD)",
}


def chip(facts: Facts, name: str) -> Markup:
    """A partition point's number and name, as it is marked everywhere on the page; other choices in words."""
    if name in facts.numbers:
        number = facts.numbers[name]
        disk = el("span", str(number), class_=f"chip {color(number - 1)}")
        return el("span", disk, " ", short(name), class_="point")
    return el("span", words(facts, name, 0), class_="point")


def words(facts: Facts, name: str, slices: int) -> str:
    """A choice in words; `slices` of 0 leaves out how much is sent."""
    if name == LOCAL:
        return "all on the device"
    if name == RAW:
        return "raw input"
    if name == JPEG:
        return f"JPEG, quality {slices}" if slices else "JPEG"
    match = FEWER_BITS.fullmatch(name)
    if match is not None and name not in facts.numbers:
        return f"{match[1]}, {slices or 'all'} units with {match[2]} bits"
    return f"{name}, {slices} of {units(facts, name)} units" if slices else name


def brief(facts: Facts, name: str, slices: int) -> str:
    """A choice within the little room of a strip."""
    if name in facts.numbers:
        return f"{facts.numbers[name]}: {slices}"
    match = FEWER_BITS.fullmatch(name)
    if match is not None and match[1] in facts.numbers:
        return f"{facts.numbers[match[1]]}: {match[2]} bit"
    return {LOCAL: "local", RAW: "raw"}.get(name, f"JPEG {slices}")


def sent(facts: Facts, name: str, slices: int) -> Markup:
    """How much is sent: ``8 of 64 units``."""
    if name in facts.numbers:
        return join(f"{slices} of {units(facts, name)}")
    if name == JPEG:
        return join(f"quality {slices}")
    return join(str(slices) if slices and name != RAW else DASH)


def units(facts: Facts, name: str) -> int:
    """Units of a partition point; 0 where there is none of that name."""
    return next((entry_units(entry) for entry in facts.partitions if entry["name"] == name), 0)


def entry_units(entry: Any) -> int:
    """Units of one of the manifest's partitions."""
    return int(entry["units"])


def how(entry: Any) -> str:
    """How units were made of channels, in words."""
    encoder = entry["encoder"]
    method: str = encoder["method"]
    made = {
        "rotation": "rotated channels",
        "selection": "selected channels",
        "trained": "trained units and heads",
    }.get(method, method)
    if entry["unit_bits"] < 8:
        made += f" of {entry['unit_bits']} bits a value"
    if not encoder["layer"]:
        return f"{made}, nothing extra to compute"
    return f"{made}, an extra 1{TIMES}1 convolution of {encoder['macs']:,} MACs"
