"""``clio-cc train`` as it is typed; a file of its own, as no other command has as many options."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Annotated

import typer

from clio_cc import terminal
from clio_cc.errors import ClioError

OUT = Path("clio-trained")


def train_command(
    model: Annotated[Path, typer.Argument(help="ONNX file.", show_default=False)],
    data: Annotated[
        Path,
        typer.Option(
            help="Samples: .npz with x (and y), .npy, or a folder of images, in a folder per class where they have labels.",
            show_default=False,
        ),
    ],
    partition: Annotated[
        str,
        typer.Option(help="Partition points joined by commas; local: all on the device.", show_default=False),
    ],
    slices: Annotated[
        str, typer.Option(help="auto, or unit counts that may be sent, e.g. 1,2,4,8.")
    ] = "auto",
    out: Annotated[Path, typer.Option(help="Folder to write.")] = OUT,
    validation: Annotated[
        Path | None,
        typer.Option(help="Samples to watch, not trained on.", show_default=False),
    ] = None,
    image_scale: Annotated[float, typer.Option(help="Divide pixels of images by this.", min=1e-9)] = 1.0,
    augment: Annotated[
        str, typer.Option(help="What is done to images: some of flip,shift,zoom, or none.")
    ] = "none",
    bandwidth: Annotated[
        str | None,
        typer.Option(
            help="Range of bandwidths, which says how often each count is sent.",
            show_default="all numbers of units alike",
        ),
    ] = None,
    bandwidth_prior: Annotated[
        str, typer.Option(help="How likely each is: uniform, log, or a file of bandwidths or of a trace.")
    ] = "uniform",
    shares: Annotated[
        str | None,
        typer.Option(help="How often each count is sent, instead, e.g. 1,2,4,4.", show_default=False),
    ] = None,
    deadline: Annotated[
        str | None, typer.Option(help="Time from input to result, for the same.", show_default="300ms")
    ] = None,
    link: Annotated[
        str | None, typer.Option(help="Radio or link file, for the same.", show_default=False)
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(help="Board whose speed counts, for the same.", show_default="takes no time"),
    ] = None,
    epochs: Annotated[int, typer.Option(help="How often all samples are seen.", min=1)] = 10,
    rounded_epochs: Annotated[
        int,
        typer.Option(help="The last of them, with the device's rounding; 0 for none.", min=0),
    ] = 3,
    batch: Annotated[int, typer.Option(help="Samples of a step.", min=1)] = 64,
    learning_rate: Annotated[float, typer.Option(help="At its highest.", min=0, max=1)] = 2e-4,
    distill: Annotated[
        float, typer.Option(help="Weight of the original's answers against the labels.", min=0, max=1)
    ] = 0.5,
    sandwich: Annotated[
        bool, typer.Option("--sandwich", help="Smallest and largest count in every batch.")
    ] = False,
    prune: Annotated[
        str, typer.Option(help="Share of the device's multiply-accumulates to remove before, e.g. 30%.")
    ] = "0%",
    width: Annotated[
        float, typer.Option(help="Share of the whole network's channels that stay.", min=0.01, max=1)
    ] = 1.0,
    unit_bits: Annotated[int, typer.Option(help="Bits of a value of a unit: 8, 6 or 4.")] = 8,
    seed: Annotated[int, typer.Option(help="Of everything random.", min=0, max=2**32 - 1)] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto.")] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on after an interruption.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Train a network so that few units already give an answer.

    Writes model.onnx, which compile takes as it is, training.jsonl and curves.png.
    Needs PyTorch: pip install 'clio-cc[train]'.
    """
    _check_installed()
    from clio_cc.radios import find_link
    from clio_cc.training.settings import TrainOptions, parse_augment
    from clio_cc.training.widths import parse_shares
    from clio_cc.units import parse_bandwidth_range, parse_share, parse_time_us

    options = TrainOptions(
        model,
        data,
        out,
        partition,
        slices,
        validation,
        image_scale,
        parse_augment(augment),
        None if bandwidth is None else parse_bandwidth_range(bandwidth),
        bandwidth_prior,
        None if shares is None else parse_shares(shares),
        None if deadline is None else parse_time_us(deadline),
        None if link is None else find_link(link),
        target,
        epochs,
        min(rounded_epochs, epochs),
        batch,
        learning_rate,
        distill,
        sandwich,
        float(parse_share(prune, "--prune")),
        width,
        unit_bits,
        seed,
        device,
        resume,
    )
    from clio_cc.training.checkpoint import NAME as CHECKPOINT
    from clio_cc.training.loop import train

    others = os.environ.get("RANK", "0") != "0"  # processes of torchrun that must not print
    with terminal.progress_bars(quiet=as_json or others) as progress:
        try:
            found = train(options, progress)
        except KeyboardInterrupt:
            kept = (out / CHECKPOINT).exists()
            hint = "the same command with --resume goes on" if kept else "the same command begins again"
            raise ClioError("interrupted", hint=hint) from None
    if others:
        return
    for warning in found.warnings:
        terminal.warn(warning)
    if as_json:
        terminal.print_json(found.to_json())
    else:
        terminal.print_trained(found)


def _check_installed() -> None:
    for package in ("torch", "matplotlib"):
        if importlib.util.find_spec(package) is None:
            raise ClioError(f"training needs {package}", hint="pip install 'clio-cc[train]'")
