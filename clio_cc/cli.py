"""The command line: what can be typed. It and :mod:`clio_cc.terminal`, what people see, are all that prints."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from clio_cc import __version__, terminal
from clio_cc.cli_train import train_command
from clio_cc.errors import ClioError
from clio_cc.units import format_bps

if TYPE_CHECKING:
    from clio_cc.passes.runner import Hook

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
    optimize: Annotated[
        str, typer.Option(help="latency, or ram: less memory for more instructions, in bands of rows.")
    ] = "latency",
    time_passes: Annotated[bool, typer.Option("--time-passes", help="Print what each pass took.")] = False,
    print_after: Annotated[list[str] | None, typer.Option(help="Print the graph after this pass.")] = None,
    dump: Annotated[
        Path | None, typer.Option(help="Write the graph after every pass into this folder.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compile a model: the device's half to C, the cloud's half to ONNX."""
    from clio_cc import compiler
    from clio_cc.cut import OPTIMIZATIONS
    from clio_cc.project import check_output_folder
    from clio_cc.radios import find_link
    from clio_cc.units import parse_bandwidth_range, parse_time_us

    check_output_folder(out)  # before the work, not after
    _check_choice("requantization", requant, compiler.REQUANTIZATIONS)
    _check_choice("optimization", optimize, OPTIMIZATIONS)
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
        optimize,
        parse_bandwidth_range(bandwidth),
        parse_time_us(deadline),
        None if link is None else find_link(link),
    )
    with (
        _passes_hook(time_passes, print_after or [], dump, sys.stderr if as_json else sys.stdout) as hook,
        terminal.progress_bars(quiet=as_json) as progress,
    ):
        result = compiler.compile_model(options, progress, hook)
        result.files.write(out)
    for warning in result.warnings:
        terminal.warn(warning)
    if as_json:
        terminal.print_json(result.manifest)
    else:
        terminal.print_compiled(result, out)


app.command("train", short_help="Train a network so that few units already give an answer.")(train_command)


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
        terminal.print_json(found.to_json())
        return
    layers = [
        (
            each.name,
            each.op,
            terminal.dims(each.shape),
            each.macs,
            each.weight_bytes,
            each.output_bytes,
            terminal.yes_or_reason(each.device, each.reason),
        )
        for each in found.layers
    ]
    terminal.print_table(
        "Layers", ("name", "operator", "output", "MACs", "weights B", "output B", "device"), layers
    )
    points = [
        (
            each.name,
            f"inside {each.block}" if each.inside else each.block,
            terminal.dims(each.shape),
            each.bytes,
            each.macs_before,
            terminal.yes_or_reason(each.runnable, each.reason),
        )
        for each in found.partition_points
    ]
    terminal.print_table(
        "Partition points", ("name", "block", "shape", "bytes", "MACs before", "runnable"), points
    )
    if found.multi_tensor_cuts is not None:
        several = [(cut.name, cut.bytes, cut.macs_before, cut.reason) for cut in found.multi_tensor_cuts]
        terminal.print_table("Cuts at several tensors", ("names", "bytes", "MACs before", ""), several)


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
        terminal.print_json(found)
        return
    for target in TARGETS:
        rows = [(f, f"{getattr(target, f).value:,.10g}", getattr(target, f).source) for f in figures]
        terminal.print_table(
            f"{target.name}: {target.title} (emulated: {target.emulated.name})", ("", "value", "source"), rows
        )


@app.command("links", short_help="List the radios.")
def links_command(as_json: Json = False) -> None:
    """List the radios, with the source of each figure; what --json prints of one is also what --link FILE reads."""
    from clio_cc.link_file import to_json
    from clio_cc.radios import LINKS

    if as_json:
        terminal.print_json([to_json(link) for link in LINKS])
        return
    rows = [
        (
            link.name,
            format_bps(link.ceiling_bps),
            link.title,
            *(
                "" if f is None else f"{f.value:g}"
                for f in (link.sending_mw, link.energy_nj_per_byte, link.idle_uw)
            ),
        )
        for link in LINKS
    ]
    terminal.print_table("Links", ("name", "at most", "", "sending mW", "nJ per byte", "idle uW"), rows)
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
    with terminal.progress_bars(quiet=as_json) as progress:
        found = results.run_profile(out, target, request, progress)
    for warning in found.warnings:
        terminal.warn(warning)
    if as_json:
        terminal.print_json([row.to_json() for row in found.rows])
    else:
        terminal.print_profile(found.rows)


@app.command("evaluate", short_help="Measure accuracy per cut and number of units.")
def evaluate_command(
    data: Annotated[
        Path,
        typer.Option(
            help="Inputs with labels: .npz with x and y, or a folder of images per class; without labels, agreement.",
            show_default=False,
        ),
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
    with terminal.progress_bars(quiet=as_json) as progress:
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
        terminal.print_json(found.to_json())
        return
    heads = ("partition", "slices", "bytes", found.metric)
    print(f"original model: {found.metric} {found.original:.4f} on {found.samples:,} samples")
    for title, rows in (("Partition points", found.rows), ("Compared with", found.baselines)):
        if rows:
            table = [(row.partition, row.slices, row.bytes, f"{row.value:.4f}") for row in rows]
            terminal.print_table(title, heads, table)
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
        terminal.print_json(made.to_json())
    else:
        terminal.print_plan(made)


@app.command("report", short_help="Write report.html: cuts, accuracy by bandwidth, plan, memory.")
def report_command(out: OutFolder = OUT) -> None:
    """Write report.html from what the folder holds now: one page that needs no network.

    compile, profile, evaluate and plan write it, too; it is needed after tables were edited by hand.
    """
    from clio_cc import results

    for problem in results.write_report(out):
        terminal.warn(problem)
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

    with terminal.progress_bars(quiet=as_json) as progress:
        result = verify.verify(out, inputs, data, image_scale, board, progress)
    if as_json:
        terminal.print_json(result.to_json())
    else:
        for line in result.lines():
            print(line)
    if not result.passed:
        raise typer.Exit(1)


# --- helpers ----------------------------------------------------------------------------------------


def _check_choice(what: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ClioError(f"unknown {what} '{value}'", hint=f"choose {' or '.join(choices)}")


def _write_files(folder: Path, files: dict[str, bytes]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / name).write_bytes(content)
    except OSError as error:
        raise ClioError(f"cannot write folder '{folder}': {error.strerror}") from error


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
