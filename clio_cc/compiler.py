"""The whole flow on one screen: an ONNX file in; the device's half, the cloud's half and the tables out."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from clio_cc import __version__, artifacts
from clio_cc.arena import Arena, plan_arena
from clio_cc.arena_check import check_arena
from clio_cc.cut import AUTO, LATENCY, LOCAL, OPTIMIZATIONS, choose_cuts, refuse_too_large
from clio_cc.errors import ClioError
from clio_cc.memory import UNMEASURED_STACK_BYTES, Footprint, check_fits, measure, table_bytes
from clio_cc.plan import DEADLINE_US
from clio_cc.program import Program
from clio_cc.project import ZONES, ProjectFiles, device_glue, project_files
from clio_cc.scheduling import conv_instructions, planned
from clio_cc.targets import Target, find_target
from clio_cc.units import BandwidthRange

if TYPE_CHECKING:
    import onnx_ir as ir

    from clio_cc.accuracy import AccuracyRow
    from clio_cc.calibrate import Samples
    from clio_cc.inspection import Layer
    from clio_cc.link import Link
    from clio_cc.partition import PartitionPoint
    from clio_cc.passes.runner import Hook
    from clio_cc.quantization.formats import Mode
    from clio_cc.quantization.layers import Network
    from clio_cc.quantize import Quantized
    from clio_cc.split import CloudHalf, SlicedPoint, Slicing
    from clio_cc.trained import Trained

PLANNED_BANDWIDTH = BandwidthRange(50_000, 2_000_000)
"""CLIO's range for Bluetooth (section 3.4), and the default."""
REQUANTIZATIONS = ("shift", "mulshift")
UNIT_METHODS = (AUTO, "rotation", "selection")
TEST_VECTORS = 2
FEW_SAMPLES = 64
JUDGED_MACS = 3e10  # of the cloud's half in onnxruntime, over all counts of a point: some seconds
JUDGED_SAMPLES = (16, 256)
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Options:
    """What the user asked for.

    Attributes:
        model: ONNX file.
        target: Name of a board.
        calibration: ``.npz``, ``.npy`` or folder of images; None for seeded random inputs.
        image_scale: Pixels of calibration images are divided by this.
        samples: Most calibration samples to use.
        partition: ``auto``, or partition points joined by commas, ``local`` (all of the network on the device) among them.
            Of a trained network ``auto`` means the points that were trained.
        inside_blocks: Partition points may lie inside residual, bottleneck, inception and dense blocks.
        slices: ``auto``, or unit counts joined by commas; at trained points some of those that were trained.
        units: How units are made of channels: ``auto``, ``rotation`` or ``selection``.
        requant: ``shift`` or ``mulshift``.
        optimize: ``latency``, or ``ram`` for bands of rows that take less memory and more instructions.
        bandwidth: The range that ``auto`` partition points shall cover, and that is planned.
        deadline_us: From input to answer, for the same.
        link: How bytes travel, for the same; None for the bandwidth itself.
    """

    model: Path
    target: str
    calibration: Path | None = None
    image_scale: float = 1.0
    samples: int = 512
    partition: str = AUTO
    inside_blocks: bool = False
    slices: str = AUTO
    units: str = AUTO
    requant: str = "shift"
    optimize: str = LATENCY
    bandwidth: BandwidthRange = PLANNED_BANDWIDTH
    deadline_us: int = DEADLINE_US
    link: Link | None = None

    def recorded(self) -> dict[str, Any]:
        """The options as the manifest holds them: no paths."""
        return {
            "target": self.target,
            "calibration": None if self.calibration is None else self.calibration.name,
            "image_scale": self.image_scale,
            "samples": self.samples,
            "partition": self.partition,
            "inside_blocks": self.inside_blocks,
            "slices": self.slices,
            "units": self.units,
            "requant": self.requant,
            "optimize": self.optimize,
            "bandwidth": [self.bandwidth.low_bps, self.bandwidth.high_bps],
            "deadline_us": self.deadline_us,
            "link": None if self.link is None else self.link.name,
        }


@dataclass(frozen=True, eq=False)
class Compiled:
    """What `compile` found out, and the files, still in memory: ``result.files.write(folder)`` puts them down.

    Attributes:
        graph: The float graph after the passes.
        points: The partition points, in order of execution; none when the whole network stays on the device.
        accuracy: Agreement with the float network on calibration inputs.
        files: Everything, by path below the output folder.
    """

    options: Options
    target: Target
    graph: ir.Model
    points: tuple[SlicedPoint, ...]
    quantized: Quantized
    program: Program
    arena: Arena
    footprint: Footprint
    accuracy: tuple[AccuracyRow, ...]
    manifest: Mapping[str, Any]
    files: ProjectFiles

    @property
    def warnings(self) -> Sequence[str]:
        """What the user must be told."""
        found: Sequence[str] = self.manifest["warnings"]
        return found


def front_end(model: Path, hook: Hook | None = None, check: bool = False) -> ir.Model:
    """Return the float graph of an ONNX file: loaded, checked, simplified, all passes run."""
    from clio_cc.load import load_model
    from clio_cc.passes.runner import run_passes

    graph = load_model(model)
    run_passes(graph, hook=hook, check=check)
    return graph


def compile_model(options: Options, progress: Progress, hook: Hook | None = None) -> Compiled:
    """Compile for one board.

    Raises:
        ClioError: the input is at fault, or the board is too small.
    """
    from clio_cc.calibrate import load_samples
    from clio_cc.float_run import check_same_function
    from clio_cc.holding import why_not_local
    from clio_cc.inspection import inspect_model
    from clio_cc.load import model_sha256
    from clio_cc.lower import device_supports
    from clio_cc.quantize import quantize_model
    from clio_cc.split import (
        Slicing,
        fitting_samples,
        order_units,
        parse_slices,
        refuse_other_graph,
        refuse_untrained,
    )
    from clio_cc.trained import read_trained

    counts = parse_slices(options.slices)
    target = find_target(options.target)
    graph = front_end(options.model, hook)
    trained = read_trained(options.model)
    slicing = Slicing(counts, options.units, trained=trained)
    if trained is not None:
        refuse_other_graph(graph, trained, options.model.name)
        _refuse_mulshift(trained, options)
    digest = model_sha256(options.model)
    layers = inspect_model(graph, device_supports).layers
    cuts = choose_cuts(
        graph,
        _partition(options, trained),
        target,
        lambda points: _covering(layers, points, target, options, slicing),
        inside_blocks=options.inside_blocks,
    )
    refuse_untrained(cuts.points, slicing)
    refuse_too_large(cuts.network, target)  # before the minute that calibration may take
    samples = load_samples(graph, options.calibration, scale=options.image_scale, most=options.samples)
    check_same_function(options.model, graph, samples.take(TEST_VECTORS).inputs)
    fitting = fitting_samples(cuts.network, cuts.points, samples)
    macs = sum(layer.macs for layer in layers)
    network, points = order_units(
        graph, cuts.points, fitting, slicing, _stage(progress, "ordering units"), local=cuts.local
    )
    refuse_too_large(network, target)  # with encoders
    mode = cast("Mode", options.requant)
    formats = None if trained is None else trained.formats({each.point.name: each.units for each in points})
    quantized = quantize_model(graph, network, samples, mode, _stage(progress, "quantizing"), formats)
    ways = {each: planned(quantized.program, target, each) for each in OPTIMIZATIONS}
    program = ways[options.optimize]
    arena = plan_arena(program)
    check_arena(program, arena)
    front_matter = f"clio-cc {__version__}, {options.model.name} (sha256 {digest[:16]}), target {target.name}"
    vectors = quantized.quantize_inputs(samples.take(TEST_VECTORS).inputs)
    sources = _sources(program, arena, graph, vectors, front_matter, progress)
    progress("measuring memory", 0, 1)
    footprint = measure(sources, target, arena.bytes, table_bytes(program))
    progress("measuring memory", 1, 1)
    check_fits(footprint, arena, target)
    halves = _cloud_halves(graph, points, quantized, program, fitting, slicing, progress)
    judged = fitting.take(_judged_samples(points, macs))
    accuracy = _agreement(graph, points, halves, quantized, program, judged, cuts.local, progress)
    manifest = artifacts.manifest(
        options=options.recorded(),
        model=options.model.name,
        digest=digest,
        target=target,
        layers=[layer.name for layer in layers],
        points=points,
        halves=halves,
        local=cuts.local,
        no_local="" if cuts.local else why_not_local(graph, target),
        quantized=quantized,
        program=program,
        footprint=footprint,
        tradeoff=[_way(each, program, target) for each, program in ways.items()],
        training=None if trained is None else trained.record,
        warnings=[
            text
            for text in (
                samples.warning,
                cuts.warning,
                *_untrained(points, network, trained),
                _few(points, fitting),
                footprint.warning(target),
            )
            if text
        ],
    )
    tables = artifacts.tables(
        layers, target, manifest, accuracy, options.bandwidth, options.deadline_us, options.link
    )
    files = project_files(
        _device(options, target, sources, arena, footprint),
        artifacts.graphs(graph, quantized, program),
        artifacts.cloud_files(options.model.stem, halves),
        tables.files(),
    )
    manifest["files"] = files.digests()
    files = project_files(files.files, {artifacts.REPORT: artifacts.page(manifest, graph, program, tables)})
    manifest["files"] = files.digests()
    files = project_files(files.files, {artifacts.MANIFEST: artifacts.to_json(manifest)})
    return Compiled(
        options, target, graph, points, quantized, program, arena, footprint, accuracy, manifest, files
    )


def _way(optimize: str, program: Program, target: Target) -> dict[str, Any]:
    """What it comes to."""
    return {
        "optimize": optimize,
        "arena_bytes": plan_arena(program).bytes,
        "macs": program.macs,
        "conv_instructions": conv_instructions(program, target),
    }


def _partition(options: Options, trained: Trained | None) -> str:
    """Of a trained network auto means what it was trained for."""
    if trained is None or options.partition != AUTO:
        return options.partition
    return ",".join([*(point.name for point in trained.points), *([LOCAL] if trained.local else [])]) or AUTO


def _refuse_mulshift(trained: Trained, options: Options) -> None:
    """Formats that were trained are powers of two."""
    if trained.scales and options.requant != "shift":
        message = f"'{options.model.name}' was trained for shifts: its formats are powers of two"
        raise ClioError(message, "--requant", "give shift")


def _untrained(points: Sequence[SlicedPoint], network: Network, trained: Trained | None) -> list[str]:
    """What to say of points and formats of a trained network that were not trained with it."""
    if trained is None:
        return []
    names = ", ".join(point.name for point in trained.points)
    found = [
        f"partition point '{each.point.name}' was not trained: its units and heads are made in closed form; trained: {names}"
        for each in points
        if each.heads is None and trained.points
    ]
    missing = trained.without_formats(network)
    if missing:
        found.append(
            f"not trained were the formats of {', '.join(missing[:5])}{', ...' if missing[5:] else ''}: calibration "
            "chooses them, and trained units may come out otherwise than in training"
        )
    return found


def _few(points: Sequence[SlicedPoint], fitting: Samples) -> str:
    """What to say where units and heads rest on little; random inputs have a warning of their own."""
    fitted = any(each.heads is None for each in points)
    if not fitted or fitting.warning or fitting.count >= FEW_SAMPLES:
        return ""
    return (
        f"units and heads are fitted on {fitting.count} inputs only, and so is the agreement in accuracy.csv: "
        "give some hundreds with --calibration"
    )


def _stage(progress: Progress, stage: str) -> Callable[[int, int], None]:
    return lambda done, of: progress(stage, done, of)


def _covering(
    layers: Sequence[Layer],
    points: Sequence[PartitionPoint],
    target: Target,
    options: Options,
    slicing: Slicing,
) -> tuple[str, ...]:
    """The fewest partition points that cover the range of bandwidths (CLIO section 3.4).

    Of points that reach equally far, the one that has all of its units in the cloud first where time is shortest.
    Behind the last multiply-accumulate there is nothing to gain from a cloud.
    """
    from clio_cc import planner, profile
    from clio_cc.link import Stream
    from clio_cc.options import PlanPoint, Times, point_options
    from clio_cc.split import unit_counts

    macs = sum(layer.macs for layer in layers)
    useful = [point for point in points if point.macs_before < macs] or points
    candidates = [
        PlanPoint(
            point.name,
            layers[point.node_index - 1].name,
            unit_counts(point, macs, slicing),
            point.bytes // point.shape[1],
        )
        for point in useful
    ]
    rows = profile.modelled(layers, target.macs_per_s)
    made = planner.make_plan(
        rows,
        candidates,
        options.bandwidth,
        deadline_us=options.deadline_us,
        input_bytes=1,
        link=options.link,
    )
    low, high = made.bandwidth
    times, transfer = Times.of(rows), Stream() if options.link is None else options.link.transfer
    whole = {each.name: point_options(each, times, {})[-1] for each in candidates}
    latency = {
        name: option.compute_ns + transfer.time_ns(option.bytes, low) for name, option in whole.items()
    }
    return planner.cover_range(sorted(made.intervals, key=lambda i: latency[i.partition]), low, high)[0]


def _sources(
    program: Program,
    arena: Arena,
    graph: ir.Model,
    vectors: Sequence[Any],
    front_matter: str,
    progress: Progress,
) -> dict[str, str]:
    """The generated C."""
    from clio_cc.attribution import attribute
    from clio_cc.codegen.layers import layers_source
    from clio_cc.codegen.model import device_sources, vectors_source
    from clio_cc.codegen.zones import zones_source
    from clio_cc.profile import encode_name

    found = attribute(program, graph, [encode_name(tap.partition) for tap in program.taps])
    return {
        **device_sources(program, arena, front_matter, _stage(progress, "generating code")),
        "test/clio_vectors.c": vectors_source(program, vectors, front_matter),
        ZONES: zones_source(program, arena, front_matter),
        "test/clio_layers.c": layers_source(found.owners, found.rows, front_matter),
    }


def _device(
    options: Options, target: Target, sources: Mapping[str, str], arena: Arena, footprint: Footprint
) -> dict[str, str]:
    """The device project, by path."""
    glue = device_glue(
        target,
        model=re.sub(r"[^\x20-\x7e]|\*/", "?", options.model.name),
        tool=f"clio-cc {__version__}",
        arena_bytes=arena.bytes,
        stack_bytes=footprint.stack_bytes or UNMEASURED_STACK_BYTES,
    )
    return {f"device/{path}": text for path, text in {**sources, **glue}.items()}


def _cloud_halves(
    graph: ir.Model,
    points: Sequence[SlicedPoint],
    quantized: Quantized,
    program: Program,
    fitting: Samples,
    slicing: Slicing,
    progress: Progress,
) -> dict[str, CloudHalf]:
    """Heads and cloud graph per partition point, fitted on what the device really sends where they were not trained."""
    from clio_cc.split import cloud_half, units_sent

    if not points:
        return {}
    units: Mapping[str, Any] = {}
    if any(each.heads is None for each in points):
        inputs = quantized.quantize_inputs(fitting.inputs)
        units = units_sent(program, inputs, _stage(progress, "running the device's half"))
    taps = {tap.partition: tap for tap in program.taps}
    halves = {}
    for number, sliced in enumerate(points):
        progress("fitting heads", number, len(points))
        tap = taps[sliced.point.name]
        scale = program.tensors[tap.tensor].scale
        halves[tap.partition] = cloud_half(graph, sliced, units.get(tap.partition), scale, slicing, tap.bits)
    progress("fitting heads", len(points), len(points))
    return halves


def _judged_samples(points: Sequence[SlicedPoint], macs: int) -> int:
    """How many samples answers are judged on: fewer where the cloud has much to compute."""
    work = sum(len(each.counts) * max(1, macs - each.point.macs_before) for each in points)
    return max(JUDGED_SAMPLES[0], min(JUDGED_SAMPLES[1], int(JUDGED_MACS / max(1, work))))


def _agreement(
    graph: ir.Model,
    points: Sequence[SlicedPoint],
    halves: Mapping[str, CloudHalf],
    quantized: Quantized,
    program: Program,
    samples: Samples,
    local: bool,
    progress: Progress,
) -> tuple[AccuracyRow, ...]:
    """How often the split network answers as the float network does, on calibration inputs.

    A first figure for the plan, which `evaluate` on other data replaces.
    """
    from clio_cc import judge
    from clio_cc.batch import any_batch
    from clio_cc.float_run import Runner
    from clio_cc.split_run import evaluate_points

    original = Runner(any_batch(graph.clone()))(samples.inputs)
    layouts = quantized.network.layouts
    outputs = [
        {
            "name": name,
            "scale": program.tensors[name].scale,
            "graph_shape": layouts[name].graph_shape,
            "order": layouts[name].order,
        }
        for name in program.outputs[len(program.taps) :]
    ]
    return evaluate_points(
        program,
        {each.point.name: each.counts for each in points},
        {name: half.model for name, half in halves.items()},
        quantized.quantize_inputs(samples.inputs),
        judge.agreement(list(samples.inputs.values()), original),
        local=outputs if local else (),
        progress=lambda _, done, of: progress("comparing answers", done, of),
    )
