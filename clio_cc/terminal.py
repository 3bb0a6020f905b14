"""What people see: tables, JSON, warnings and progress bars. Only this module and :mod:`clio_cc.cli` print."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clio_cc.units import format_bps, format_uj, format_us

if TYPE_CHECKING:
    from clio_cc.compiler import Compiled, Progress
    from clio_cc.plan import Choice, Plan, PlanRange, Winner
    from clio_cc.profile import ProfileRow
    from clio_cc.training.loop import Training


def print_compiled(result: Compiled, out: Path) -> None:
    """What compile found: error per layer, units, memory."""
    layers = [(each.name, each.kind, each.format, f"{each.sqnr_db:.1f}") for each in result.quantized.layers]
    print_table("Quantization", ("operator", "kind", "output format", "SQNR dB"), layers)
    device = result.manifest["device"]
    unknown = "not stated"
    rows = [
        ("device MACs", f"{device['macs']:,}"),
        ("RAM", unknown if device["ram_bytes"] is None else f"{device['ram_bytes']:,} B"),
        ("  arena", f"{device['arena_bytes']:,} B"),
        ("  stack", unknown if device["stack_bytes"] is None else f"{device['stack_bytes']:,} B"),
        ("flash", unknown if device["flash_bytes"] is None else f"{device['flash_bytes']:,} B"),
        ("  tables", f"{device['table_bytes']:,} B"),
    ]
    points = [
        (
            entry["name"],
            entry["encoder"]["method"],
            f"{entry['units']} x {entry['unit_bytes']:,} B",
            entry["unit_bits"],
            ",".join(map(str, entry["slices"])),
            entry["macs"],
            entry["encoder"]["macs"],
        )
        for entry in result.manifest["partitions"]
    ]
    if points:
        heads = (
            "partition point",
            "units by",
            "units",
            "bits a value",
            "counts that may be sent",
            "device MACs",
            "of the encoder",
        )
        print_table("Units", heads, points)
    print_table(f"{result.options.model.name} for {result.target.title}", ("", ""), rows)
    ways = [
        (each["optimize"], each["arena_bytes"], each["macs"], each["conv_instructions"] or unknown)
        for each in device["tradeoff"]
    ]
    print_table(
        f"Optimized for {device['optimize']}",
        ("--optimize", "arena B", "device MACs", "instructions of convolutions"),
        ways,
    )
    print(f"wrote {out}/ ({len(result.files.files)} files)")


def print_trained(result: Training) -> None:
    """What a training came to: loss and accuracy per partition point and count, and where it is."""
    rows = [
        (
            row["partition"],
            row["slices"] or "",
            f"{row['loss']:.4f}",
            *([] if row["value"] is None else [f"{row['value']:.4f}"]),
        )
        for row in result.rows
    ]
    before, now = result.macs
    if now < before:
        print(f"pruned to {now:,} of {before:,} multiply-accumulates ({now / before:.0%})")
    if rows:
        last = result.rows[0]
        heads = ("partition", "slices", "loss", last["metric"])
        print_table(f"After epoch {last['epoch']}, {last['set']} data", heads[: len(rows[0])], rows)
    print(f"wrote {result.out}/: model.onnx for `clio-cc compile`, training.jsonl, curves.png")


def print_profile(rows: Sequence[ProfileRow]) -> None:
    """Time per layer, and where it comes from."""
    from clio_cc.profile import short_source

    table = [
        (
            row.layer,
            row.op,
            row.macs,
            "" if row.device_us is None else f"{row.device_us:,.1f}",
            short_source(row.device_source),
            f"{row.cloud_us:,.1f}",
            short_source(row.cloud_source),
        )
        for row in rows
    ]
    print_table("Profile", ("layer", "operator", "MACs", "device us", "from", "cloud us", "from"), table)
    device, cloud = ([getattr(row, f"{side}_source") for row in rows] for side in ("device", "cloud"))
    for side, sources in (("device", device), ("cloud", cloud)):
        for source in dict.fromkeys(sources):
            if ": " in source:
                print(f"{side}: {source}")
    if any(short_source(source) == "fused" for source in device):
        print(
            "device: fused: computed together with a layer before it; --json and profile.csv say with which"
        )


def print_plan(made: Plan) -> None:
    """The plan, why not another, and what it competes with."""
    goals = [
        format_us(made.deadline_us) if made.deadline_us is not None else "",
        format_uj(made.budget_uj) if made.budget_uj is not None else "",
    ]
    figures = ("partition", "slices", "bytes", "latency", "energy uJ", made.metric or "accuracy")
    rows = [(format_bps(r.from_bps), format_bps(r.to_bps), *_figures(r)) for r in made.ranges]
    print_table(f"Plan for {' and '.join(filter(None, goals))}", ("from", "to", *figures), rows)
    if made.no_local:
        print(f"all on the device is not possible: the whole network {made.no_local}")
    for low, high in made.holes:
        print(f"hole: nothing meets it from {format_bps(low)} to {format_bps(high)}")
    if made.unreachable is not None:
        low, high = made.unreachable
        print(f"not planned: link '{made.link}' does not reach {format_bps(low)} to {format_bps(high)}")
    if made.cover:
        print(f"fewest partition points: {', '.join(made.cover)}")
    reasons = [
        (format_bps(r.from_bps), f"{r.partition} {r.slices}", n.kind, f"{n.partition} {n.slices}", n.reason)
        for r in made.ranges
        for n in r.why
    ]
    if reasons:
        print_table("Why not another", ("from", "chosen", "", "instead of", "which"), reasons)
    low, high = made.bandwidth
    table = [
        (
            s.strategy,
            "nowhere" if s.from_bps is None else format_bps(s.from_bps),
            *_figures(s.at_low)[:4],
            *_figures(s.at_high),
        )
        for s in made.strategies
    ]
    heads = (
        "strategy",
        "meets it from",
        f"at {format_bps(low)}",
        *figures[1:4],
        f"at {format_bps(high)}",
        *figures[1:],
    )
    print_table("Strategies", heads, table)
    _print_unranked(made)
    wins = [(format_bps(w.from_bps), format_bps(w.to_bps), w.strategy, *_figures(w)) for w in made.winners]
    print_table("Which wins", ("from", "to", "strategy", *figures), wins)


def _print_unranked(made: Plan) -> None:
    """Strategies that lose to all others, only because nobody knows their accuracy."""
    from clio_cc.plan import LOCAL

    choices: dict[str, tuple[Choice | PlanRange, ...]] = {
        s.strategy: (s.at_low, s.at_high, *s.ranges) for s in made.strategies
    }
    unknown = [name for name, found in choices.items() if all(each.accuracy is None for each in found)]
    if not unknown or len(unknown) == len(choices):
        return
    missing = {each.partition for name in unknown for each in choices[name]}
    compiled = {step.partition for step in made.steps}
    how = (
        "compile with --partition ...,local and evaluate" if LOCAL in missing - compiled else "evaluate again"
    )
    print(f"not ranked: {', '.join(unknown)}, whose accuracy is not known ({how})")


def _figures(it: Choice | PlanRange | Winner) -> tuple[str | int, ...]:
    energy, accuracy = _or_unknown(it.energy_uj), _or_unknown(it.accuracy)
    return it.partition, it.slices, it.bytes, _ms(it.latency_us), energy, accuracy


# --- for all of them ----------------------------------------------------------------------------------


def print_table(title: str, heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table; numbers to the right."""
    from rich.console import Console
    from rich.table import Table

    print(title)  # as the table's own title it would break at the table's width
    table = Table(show_header=any(heads), box=None, pad_edge=False)
    for index, head in enumerate(heads):
        numeric = index > 0 and all(isinstance(row[index], int | float) for row in rows)
        table.add_column(head, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row))
    width = None if sys.stdout.isatty() else 160
    Console(width=width, highlight=False, markup=False).print(table)


def print_json(value: Any) -> None:
    """JSON for other programs."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def warn(text: str) -> None:
    """A warning on stderr."""
    print(f"clio-cc: warning: {text}", file=sys.stderr)


def dims(shape: Sequence[int]) -> str:
    """A shape, ``1x16x32x32``; unknown sizes as ``?``."""
    return "x".join("?" if d < 0 else str(d) for d in shape)


def yes_or_reason(value: bool, reason: str) -> str:
    """``yes``, or why not."""
    return "yes" if value else f"no: {reason}"


def _ms(value: float) -> str:
    return f"{value / 1000:,.1f} ms"


def _or_unknown(value: float | None) -> str:
    return "unknown" if value is None else f"{value:,.4g}"


@contextmanager
def progress_bars(quiet: bool) -> Iterator[Progress]:
    """A bar per stage on stderr; nothing where nobody is looking."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:22}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    bars: dict[str, Any] = {}
    with Progress(
        *columns, console=Console(stderr=True), disable=quiet or not sys.stderr.isatty()
    ) as display:

        def report(stage: str, done: int, of: int) -> None:
            if stage not in bars:
                bars[stage] = display.add_task(stage, total=of)
            display.update(bars[stage], completed=done, total=of)

        yield report
