"""Sections 6 to 8: what quantization lost, where time goes, and what is needed to get the same again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from clio_cc.artifacts import REPORT
from clio_cc.profile import ENCODE, ProfileRow, short_source
from clio_cc.report.facts import Facts
from clio_cc.report.markup import (
    DASH,
    Content,
    Figure,
    Markup,
    bar,
    el,
    folded,
    long_table,
    number,
    paragraph,
    percent,
    several,
    short,
    table,
    time,
)

FULL_DB = 60.0
"""A bar of this signal-to-noise ratio is full: beyond it the error is under a thousandth of the signal."""
POOR_DB = 15.0


def quantization(facts: Facts) -> list[Content]:
    """Error per operator."""
    found = facts.manifest["quantization"]
    layers: Sequence[Mapping[str, Any]] = found["layers"]
    worst = min(layers, key=lambda layer: float(layer["sqnr_db"]), default=None)
    rows: list[list[Content]] = [
        [
            short(layer["name"]),
            layer["kind"],
            layer["format"],
            Figure(number(layer["sqnr_db"], 1)),
            bar(layer["sqnr_db"] / FULL_DB, "poor" if layer["sqnr_db"] < POOR_DB else ""),
            Figure(percent(layer["saturated"])),
        ]
        for layer in layers
    ]
    heads = ("operator", "kind", "format", "SQNR dB", "", "saturated")
    caption = "Quantization error per operator"
    return [
        paragraph(
            "The device computes in 8-bit integers. A format Qm.n has m bits before the binary point and n behind it. The "
            "signal-to-quantization-noise ratio (SQNR) compares each operator's result with the float network's, all "
            "operators before it quantized, too: 20 dB means an error of a tenth of the signal, 40 dB of a hundredth. "
            f"Bars end at {FULL_DB:.0f} dB; those below {POOR_DB:.0f} dB are hatched. “Saturated” is the share of values "
            "that lie at the end of the 8-bit range."
        ),
        paragraph(
            f"Lowest: {number(worst['sqnr_db'], 1)} dB at “{worst['name']}”. Measured on "
            f"{several(found['report_samples'], 'sample')}, ranges from {several(found['calibration_samples'], 'sample')}."
        )
        if worst is not None
        else None,
        long_table(caption, heads, rows),
    ]


def times(facts: Facts) -> list[Content]:
    """Time per layer on both sides."""
    rows = facts.profile
    if not rows:
        return [paragraph("There is no profile: run `clio-cc profile`.")]
    device = [row.device_us or 0.0 for row in rows]
    cloud = [row.cloud_us for row in rows]
    notes = list(
        dict.fromkeys(
            source for row in rows for source in (row.device_source, row.cloud_source) if ": " in source
        )
    )
    cells = [_row(row, max(device), max(cloud)) for row in rows]
    plain = [row for row in rows if row.op != ENCODE]
    whole: list[Content] = [
        "whole network",
        "",
        sum(row.macs for row in plain),
        Figure(
            "not on the device"
            if any(row.device_us is None for row in plain)
            else _us(sum(row.device_us or 0.0 for row in plain))
        ),
        "",
        "",
        Figure(_us(sum(row.cloud_us for row in plain))),
        "",
        "",
    ]
    heads = ("layer", "operator", "MACs", "device", "", "from", "cloud", "", "from")
    caption = "Time per layer"
    return [
        paragraph(
            "How long each layer takes on the device and in the cloud. The two columns of bars have scales of their own: "
            f"the longest are {time(max(device))} on the device and {time(max(cloud))} in the cloud. Rows of operator "
            "“Encode” are partition points: what makes the units on the device, and what takes them in the cloud."
        ),
        el("ul", [el("li", note) for note in notes], class_="sources"),
        long_table(caption, heads, [*cells, whole]),
    ]


def _row(row: ProfileRow, device: float, cloud: float) -> list[Content]:
    return [
        short(row.layer),
        row.op,
        row.macs,
        Figure(DASH if row.device_us is None else _us(row.device_us)),
        bar((row.device_us or 0.0) / device if device else 0.0, "device"),
        _source(row.device_source),
        Figure(_us(row.cloud_us)),
        bar(row.cloud_us / cloud if cloud else 0.0, "cloud"),
        _source(row.cloud_source),
    ]


def _us(value: float) -> str:
    return f"{number(value, 1)}\u00a0µs"


def _source(source: str) -> Markup:
    return el("span", short_source(source), title=source)


def reproducibility(facts: Facts) -> list[Content]:
    """Options and digests."""
    manifest = facts.manifest
    options = [[name, _option(value)] for name, value in manifest["options"].items()]
    files = [
        [short(path, 44), el("code", digest)] for path, digest in manifest["files"].items() if path != REPORT
    ]
    plan = facts.plan
    sources = [] if plan is None else [el("li", text) for text in plan["sources"].values()]
    return [
        paragraph("The same model, options and data give the same bytes, this page included."),
        table(
            "What it was made with",
            ("", ""),
            [
                ["tool", manifest["tool"]],
                ["model", manifest["model"]["name"]],
                ["its SHA-256", el("code", manifest["model"]["sha256"])],
                ["board", facts.target.title],
            ],
        ),
        el("p", "Figures of board and link:") if sources else None,
        el("ul", sources, class_="sources") if sources else None,
        folded("Options of compile", table("Options of compile", ("option", "value"), options)),
        folded(
            f"Digests of all {len(files)} files", table("SHA-256 of the files", ("file", "SHA-256"), files)
        ),
    ]


def _option(value: Any) -> str:
    if value is None:
        return "not given"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return " to ".join(f"{each:,}" for each in value)
    return f"{value:,}" if isinstance(value, int) else str(value)
