"""The command line: the only module that prints, and the only one that knows typer and rich."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from clio_cc import __version__
from clio_cc.errors import ClioError

if TYPE_CHECKING:
    from clio_cc.compiler import Compiled, Progress
    from clio_cc.passes.runner import Hook
    from clio_cc.plan import Choice, Plan, PlanRange, Winner
    from clio_cc.profile import ProfileRow

app = typer.Typer(
    name="clio-cc",
    help="Split a neural network between a microcontroller and the cloud: ONNX in, C and ONNX out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

OUT = Path("clio-out")
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
OutFolder = Annotated[Path, typer.Argument(help="Folder that compile wrote.")]
Model = Annotated[Path, typer.Argument(help="ONNX file.", show_default=False)]
Calibration = Annotated[
    Path | None,
    typer.Option(help="Real inputs: .npz with x (and y), .npy, or a folder of images.", show_default=False),
]


def _positive(value: float) -> float:
    if not 0 < value < float("inf"):
        raise typer.BadParameter(f"{value:g} is not above 0.")
    return value


def _positive_if_given(value: float | None) -> float | None:
    return None if value is None else _positive(value)


InsideBlocks = Annotated[
    bool, typer.Option("--partition-inside-blocks", help="Allow partition points inside blocks.")
]
ImageScale = Annotated[float, typer.Option(help="Divide pixels of images by this.", callback=_positive)]


def main() -> None:
    """Run the command line; errors of the input end with one message and exit code 1."""
    # Before numpy is loaded: sums in another order, on a machine with other cores, could round a weight differently.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    try:
        app()
    except ClioError as error:
        print(f"clio-cc: error: {error}", file=sys.stderr)
        sys.exit(1)


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        print(f"clio-cc {__version__}")
        raise typer.Exit


@app.command("compile", short_help="Compile a model for a board and the cloud.")
def compile_command(
    model: Model,
    target: Annotated[str, typer.Option(help="Board: see `clio-cc targets`.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")] = OUT,
    calibration: Calibration = None,
    image_scale: ImageScale = 1.0,
    samples: Annotated[int, typer.Option(help="Most calibration inputs to use.", min=1)] = 512,
    partition: Annotated[
        str, typer.Option(help="auto, or partition points joined by commas; local: all on the device.")
    ] = "auto",
    inside_blocks: InsideBlocks = False,
    slices: Annotated[
        str, typer.Option(help="auto, or unit counts that may be sent, e.g. 1,2,4,8.")
    ] = "auto",
    units: Annotated[
        str, typer.Option(help="Units: rotation or selection of channels, or auto for the better.")
    ] = "auto",
    bandwidth: Annotated[
        str, typer.Option(help="Range that auto partition points shall cover, in bits per second.")
    ] = "50k:2M",
    deadline: Annotated[str, typer.Option(help="Time from input to result, for the same.")] = "300ms",
    link: Annotated[
        str | None, typer.Option(help="Radio or link file, for the same.", show_default=False)
    ] = None,
    requant: Annotated[
        str, typer.Option(help="shift, or mulshift for models that shifts cannot carry.")
    ] = "shift",
    time_passes: Annotated[bool, typer.Option("--time-passes", help="Print what each pass took.")] = False,
    print_after: Annotated[list[str] | None, typer.Option(help="Print the graph after this pass.")] = None,
    dump: Annotated[
        Path | None, typer.Option(help="Write the graph after every pass into this folder.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compile a model: the device's half to C, the cloud's half to ONNX."""
    from clio_cc import compiler
    from clio_cc.project import check_output_folder
    from clio_cc.radios import find_link
    from clio_cc.units import parse_bandwidth_range, parse_time_us

    check_output_folder(out)  # before the work, not after
    _check_choice("requantization", requant, compiler.REQUANTIZATIONS)
    _check_choice("kind of units", units, compiler.UNIT_METHODS)
    options = compiler.Options(
        model,
        target,
        calibration,
        image_scale,
        samples,
        partition,
        inside_blocks,
        slices,
        units,
        requant,
        parse_bandwidth_range(bandwidth),
        parse_time_us(deadline),
        None if link is None else find_link(link),
    )
    with (
        _passes_hook(time_passes, print_after or [], dump, sys.stderr if as_json else sys.stdout) as hook,
        _progress(quiet=as_json) as progress,
    ):
        result = compiler.compile_model(options, progress, hook)
        result.files.write(out)
    for warning in result.warnings:
        _warn(warning)
    if as_json:
        _print_json(result.manifest)
    else:
        _print_compiled(result, out)


@app.command("inspect", short_help="Show layers, partition points, what the device can run.")
def inspect_command(
    model: Model,
    target: Annotated[
        str | None,
        typer.Option(help="Board: say which partition points it can hold.", show_default=False),
    ] = None,
    partition_inside_blocks: Annotated[
        bool, typer.Option("--partition-inside-blocks", help="List every cut at one tensor.")
    ] = False,
    multi: Annotated[
        bool, typer.Option("--multi", help="List cuts at several tensors that are worth it.")
    ] = False,
    time_passes: Annotated[bool, typer.Option("--time-passes", help="Print what each pass took.")] = False,
    print_after: Annotated[list[str] | None, typer.Option(help="Print the graph after this pass.")] = None,
    dump: Annotated[
        Path | None, typer.Option(help="Write the graph after every pass into this folder.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show a model's layers, its partition points, and what the device can run."""
    from clio_cc.compiler import front_end
    from clio_cc.inspection import inspect_model
    from clio_cc.lower import device_supports
    from clio_cc.targets import find_target

    board = find_target(target) if target is not None else None
    with _passes_hook(time_passes, print_after or [], dump, sys.stderr if as_json else sys.stdout) as hook:
        found = inspect_model(
            front_end(model, hook),
            device_supports,
            target=board,
            inside_blocks=partition_inside_blocks,
            multi=multi,
        )
    if as_json:
        _print_json(found.to_json())
        return
    layers = [
        (
            each.name,
            each.op,
            _dims(each.shape),
            each.macs,
            each.weight_bytes,
            each.output_bytes,
            _yes(each.device, each.reason),
        )
        for each in found.layers
    ]
    _print_table("Layers", ("name", "operator", "output", "MACs", "weights B", "output B", "device"), layers)
    points = [
        (
            each.name,
            f"inside {each.block}" if each.inside else each.block,
            _dims(each.shape),
            each.bytes,
            each.macs_before,
            _yes(each.runnable, each.reason),
        )
        for each in found.partition_points
    ]
    _print_table("Partition points", ("name", "block", "shape", "bytes", "MACs before", "runnable"), points)
    if found.multi_tensor_cuts is not None:
        several = [(cut.name, cut.bytes, cut.macs_before, cut.reason) for cut in found.multi_tensor_cuts]
        _print_table("Cuts at several tensors", ("names", "bytes", "MACs before", ""), several)


@app.command("targets", short_help="List the boards.")
def targets_command(as_json: Json = False) -> None:
    """List the boards, with the source of each figure."""
    from clio_cc.targets import TARGETS

    figures = ("clock_hz", "ram_bytes", "flash_bytes", "power_mw", "macs_per_s", "cycles_per_instruction")
    if as_json:
        found = [
            {
                "name": target.name,
                "title": target.title,
                "core": target.core,
                "emulated": target.emulated.name,
                **{
                    f: {"value": getattr(target, f).value, "source": getattr(target, f).source}
                    for f in figures
                },
            }
            for target in TARGETS
        ]
        _print_json(found)
        return
    for target in TARGETS:
        rows = [(f, f"{getattr(target, f).value:,.10g}", getattr(target, f).source) for f in figures]
        _print_table(
            f"{target.name}: {target.title} (emulated: {target.emulated.name})", ("", "value", "source"), rows
        )


@app.command("links", short_help="List the radios.")
def links_command(as_json: Json = False) -> None:
    """List the radios, with the source of each figure; what --json prints of one is also what --link FILE reads."""
    from clio_cc.link_file import to_json
    from clio_cc.radios import LINKS

    if as_json:
        _print_json([to_json(link) for link in LINKS])
        return
    rows = [
        (
            link.name,
            _bps(link.ceiling_bps),
            link.title,
            *(
                "" if f is None else f"{f.value:g}"
                for f in (link.sending_mw, link.energy_nj_per_byte, link.idle_uw)
            ),
        )
        for link in LINKS
    ]
    _print_table("Links", ("name", "at most", "", "sending mW", "nJ per byte", "idle uW"), rows)
    for link in LINKS:
        print(f"{link.name}: {link.source()}")


@app.command("profile", short_help="Time every layer on both sides and write profile.csv.")
def profile_command(
    out: Annotated[
        Path,
        typer.Argument(help="Folder that compile wrote, or an ONNX file with --target.", metavar="out|model"),
    ] = OUT,
    target: Annotated[str | None, typer.Option(help="Board, for an ONNX file.", show_default=False)] = None,
    device: Annotated[
        str, typer.Option(help="Device times: emulated (counted instructions), model (MACs), or auto.")
    ] = "auto",
    board_table: Annotated[
        Path | None,
        typer.Option(
            "--import", help="Device times from a board: layer,device_us or layer,cycles.", show_default=False
        ),
    ] = None,
    clock: Annotated[
        str | None, typer.Option(help="The board's clock in hertz, e.g. 216M.", show_default="the target's")
    ] = None,
    cpi: Annotated[
        float | None,
        typer.Option(
            help="Cycles per instruction.", show_default="the target's", callback=_positive_if_given
        ),
    ] = None,
    cloud_table: Annotated[
        Path | None,
        typer.Option(
            "--import-cloud", help="Cloud times instead of measuring: layer,cloud_us.", show_default=False
        ),
    ] = None,
    repeats: Annotated[int, typer.Option(help="Runs on the cloud side to take the median of.", min=1)] = 20,
    as_json: Json = False,
) -> None:
    """Time every layer on both sides and write profile.csv.

    The cloud's side is measured on this machine. The device's comes from a table of a real board, from instructions counted
    on the emulated board, or from a model, in this order of trust; times that were imported or edited by hand stay.
    For an ONNX file the device's side is modelled and nothing is written.
    """
    from clio_cc import results
    from clio_cc.profiling import Request
    from clio_cc.units import parse_frequency_hz

    clock_hz = None if clock is None else parse_frequency_hz(clock)
    request = Request(device, board_table, clock_hz, cpi, cloud_table, repeats)
    with _progress(quiet=as_json) as progress:
        found = results.run_profile(out, target, request, progress)
    for warning in found.warnings:
        _warn(warning)
    if as_json:
        _print_json([row.to_json() for row in found.rows])
    else:
        _print_profile(found.rows)


@app.command("evaluate", short_help="Measure accuracy per cut and number of units.")
def evaluate_command(
    data: Annotated[
        Path,
        typer.Option(help="Inputs with labels: .npz with x and y; without y, agreement.", show_default=False),
    ],
    out: OutFolder = OUT,
    image_scale: Annotated[
        float, typer.Option(help="Pixels 0..255 were or are divided by this.", callback=_positive)
    ] = 1.0,
    samples: Annotated[
        int | None, typer.Option(help="Most inputs to use.", min=1, show_default="all")
    ] = None,
    partition: Annotated[
        str | None, typer.Option(help="Points to evaluate, by commas.", show_default="all")
    ] = None,
    baselines: Annotated[bool, typer.Option(help="Also evaluate raw input, JPEG and fewer bits.")] = True,
    as_json: Json = False,
) -> None:
    """Measure accuracy per cut and number of units, and write accuracy.csv.

    The device's half as every board computes it, bit for bit, then the cloud's graph; without labels, how far the
    answers agree with the original model.
    """
    from clio_cc.evaluate import evaluate

    names = [name.strip() for name in partition.split(",")] if partition is not None else []
    with _progress(quiet=as_json) as progress:
        found = evaluate(
            out,
            data,
            image_scale=image_scale,
            samples=samples,
            partitions=names,
            baselines=baselines,
            progress=progress,
        )
    if as_json:
        _print_json(found.to_json())
        return
    heads = ("partition", "slices", "bytes", found.metric)
    print(f"original model: {found.metric} {found.original:.4f} on {found.samples:,} samples")
    for title, rows in (("Partition points", found.rows), ("Compared with", found.baselines)):
        if rows:
            table = [(row.partition, row.slices, row.bytes, f"{row.value:.4f}") for row in rows]
            _print_table(title, heads, table)
    for note in found.notes:
        print(f"note: {note}")


@app.command("plan", short_help="Plan which cut to use at which bandwidth.")
def plan_command(
    bandwidth: Annotated[
        str | None,
        typer.Option(help="Range in bits per second, e.g. 50k:2M (the default); with --link its own rate."),
    ] = None,
    out: OutFolder = OUT,
    deadline: Annotated[
        str | None,
        typer.Option(help="Time from input to result; 300ms if neither this nor --energy is given."),
    ] = None,
    energy: Annotated[
        str | None, typer.Option(help="Energy of device and radio per input, e.g. 5mJ; needs --link.")
    ] = None,
    link: Annotated[
        str | None,
        typer.Option(help="Radio: see `clio-cc links`, or a .json or .toml file.", show_default=False),
    ] = None,
    hysteresis: Annotated[
        str, typer.Option(help="Switch up when the bandwidth exceeds a boundary by this share.")
    ] = "10%",
    as_json: Json = False,
) -> None:
    """Plan which cut to use at which bandwidth, and write plan.json."""
    from clio_cc import results
    from clio_cc.plan import check_reachable

    made = results.make_plan(out, bandwidth, deadline, energy, link, hysteresis)
    if deadline is not None or energy is not None:
        check_reachable(made)
    results.write_plan(out, made)
    if as_json:
        _print_json(made.to_json())
    else:
        _print_plan(made)


@app.command("report", short_help="Write report.html: cuts, accuracy by bandwidth, plan, memory.")
def report_command(out: OutFolder = OUT) -> None:
    """Write report.html from what the folder holds now: one page that needs no network.

    compile, profile, evaluate and plan write it, too; it is needed after tables were edited by hand.
    """
    from clio_cc import results

    for problem in results.write_report(out):
        _warn(problem)
    print(f"wrote {out}/report.html")


@app.command("verify", short_help="Check every operator bit for bit, and what was stated.")
def verify_command(
    out: OutFolder = OUT,
    inputs: Annotated[int, typer.Option(help="Number of inputs.", min=1)] = 8,
    data: Annotated[
        Path | None, typer.Option(help="Real inputs, as for --calibration.", show_default=False)
    ] = None,
    image_scale: ImageScale = 1.0,
    board: Annotated[str, typer.Option(help="all, host or emulated.")] = "all",
    as_json: Json = False,
) -> None:
    """Build and run the device's half, and compare every operator with the reference, bit for bit."""
    from clio_cc import verify

    with _progress(quiet=as_json) as progress:
        result = verify.verify(out, inputs, data, image_scale, board, progress)
    if as_json:
        _print_json(result.to_json())
    else:
        for line in result.lines():
            print(line)
    if not result.passed:
        raise typer.Exit(1)


# --- printing -----------------------------------------------------------------------------------------------------


def _check_choice(what: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ClioError(f"unknown {what} '{value}'", hint=f"choose {' or '.join(choices)}")


def _print_compiled(result: Compiled, out: Path) -> None:
    layers = [(each.name, each.kind, each.format, f"{each.sqnr_db:.1f}") for each in result.quantized.layers]
    _print_table("Quantization", ("operator", "kind", "output format", "SQNR dB"), layers)
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
            "counts that may be sent",
            "device MACs",
            "of the encoder",
        )
        _print_table("Units", heads, points)
    _print_table(f"{result.options.model.name} for {result.target.title}", ("", ""), rows)
    print(f"wrote {out}/ ({len(result.files.files)} files)")


def _print_profile(rows: Sequence[ProfileRow]) -> None:
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
    _print_table("Profile", ("layer", "operator", "MACs", "device us", "from", "cloud us", "from"), table)
    device, cloud = ([getattr(row, f"{side}_source") for row in rows] for side in ("device", "cloud"))
    for side, sources in (("device", device), ("cloud", cloud)):
        for source in dict.fromkeys(sources):
            if ": " in source:
                print(f"{side}: {source}")
    if any(short_source(source) == "fused" for source in device):
        print(
            "device: fused: computed together with a layer before it; --json and profile.csv say with which"
        )


def _print_plan(made: Plan) -> None:
    from clio_cc.units import format_uj, format_us

    goals = [
        format_us(made.deadline_us) if made.deadline_us is not None else "",
        format_uj(made.budget_uj) if made.budget_uj is not None else "",
    ]
    figures = ("partition", "slices", "bytes", "latency", "energy uJ", made.metric or "accuracy")
    rows = [(_bps(r.from_bps), _bps(r.to_bps), *_figures(r)) for r in made.ranges]
    _print_table(f"Plan for {' and '.join(filter(None, goals))}", ("from", "to", *figures), rows)
    if made.no_local:
        print(f"all on the device is not possible: the whole network {made.no_local}")
    for low, high in made.holes:
        print(f"hole: nothing meets it from {_bps(low)} to {_bps(high)}")
    if made.unreachable is not None:
        low, high = made.unreachable
        print(f"not planned: link '{made.link}' does not reach {_bps(low)} to {_bps(high)}")
    if made.cover:
        print(f"fewest partition points: {', '.join(made.cover)}")
    reasons = [
        (_bps(r.from_bps), f"{r.partition} {r.slices}", n.kind, f"{n.partition} {n.slices}", n.reason)
        for r in made.ranges
        for n in r.why
    ]
    if reasons:
        _print_table("Why not another", ("from", "chosen", "", "instead of", "which"), reasons)
    low, high = made.bandwidth
    table = [
        (
            s.strategy,
            "nowhere" if s.from_bps is None else _bps(s.from_bps),
            *_figures(s.at_low)[:4],
            *_figures(s.at_high),
        )
        for s in made.strategies
    ]
    heads = ("strategy", "meets it from", f"at {_bps(low)}", *figures[1:4], f"at {_bps(high)}", *figures[1:])
    _print_table("Strategies", heads, table)
    wins = [(_bps(w.from_bps), _bps(w.to_bps), w.strategy, *_figures(w)) for w in made.winners]
    _print_table("Which wins", ("from", "to", "strategy", *figures), wins)


def _figures(it: Choice | PlanRange | Winner) -> tuple[str | int, ...]:
    energy, accuracy = _or_unknown(it.energy_uj), _or_unknown(it.accuracy)
    return it.partition, it.slices, it.bytes, _ms(it.latency_us), energy, accuracy


def _print_table(title: str, heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
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


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def _warn(text: str) -> None:
    print(f"clio-cc: warning: {text}", file=sys.stderr)


def _dims(shape: Sequence[int]) -> str:
    return "x".join("?" if d < 0 else str(d) for d in shape)


def _yes(value: bool, reason: str) -> str:
    return "yes" if value else f"no: {reason}"


def _bps(value: int) -> str:
    from clio_cc.units import format_bps

    return format_bps(value)


def _ms(value: float) -> str:
    return f"{value / 1000:,.1f} ms"


def _or_unknown(value: float | None) -> str:
    return "unknown" if value is None else f"{value:,.4g}"


def _write_files(folder: Path, files: dict[str, bytes]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / name).write_bytes(content)
    except OSError as error:
        raise ClioError(f"cannot write folder '{folder}': {error.strerror}") from error


@contextmanager
def _progress(quiet: bool) -> Iterator[Progress]:
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


@contextmanager
def _passes_hook(
    time_passes: bool, names: Sequence[str], dump: Path | None, file: TextIO
) -> Iterator[Hook | None]:
    """One hook for --time-passes, --print-after and --dump; times are printed when all is done."""
    from clio_cc.passes import runner

    records: list[runner.PassRecord] = []
    hooks: list[Hook] = [lambda record, _: records.append(record)]
    if names:
        hooks.append(runner.print_after(names, lambda text: print(text, file=file)))
    dumped: dict[str, bytes] = {}
    if dump is not None:
        hooks.append(runner.dump_into(dumped))
    yield runner.join_hooks(*hooks)
    if dump is not None:
        _write_files(dump, dumped)
    if time_passes:
        print(runner.format_times(records), file=file)


if __name__ == "__main__":
    main()
