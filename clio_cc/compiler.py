"""The whole flow on one screen: an ONNX file in; the device's half, the cloud's half and the tables out."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from clio_cc import __version__
from clio_cc.arena import Arena, plan_arena
from clio_cc.cut import AUTO, choose_cut, fit, refuse_too_large
from clio_cc.memory import UNMEASURED_STACK_BYTES, Footprint, check_fits, measure, table_bytes
from clio_cc.operators.base import Tensor
from clio_cc.program import Program
from clio_cc.project import ProjectFiles, device_glue, project_files
from clio_cc.targets import Target, find_target

if TYPE_CHECKING:
    import onnx_ir as ir

    from clio_cc.calibrate import Samples
    from clio_cc.partition import PartitionPoint
    from clio_cc.passes.runner import Hook
    from clio_cc.quantization.formats import Mode
    from clio_cc.quantize import Quantized

DEVICE_ONNX, FLOAT_ONNX, PROGRAM_JSON = "device.onnx", "float.onnx", "program.json"
MANIFEST, PROFILE, ACCURACY, PLAN = "manifest.json", "profile.csv", "accuracy.csv", "plan.json"
PLANNED_BANDWIDTH = "50k:2M"
REQUANTIZATIONS = ("shift", "mulshift")
TEST_VECTORS = 2
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
        partition: ``auto``, ``local``, or a partition point.
        requant: ``shift`` or ``mulshift``.
    """

    model: Path
    target: str
    calibration: Path | None = None
    image_scale: float = 1.0
    samples: int = 512
    partition: str = AUTO
    requant: str = "shift"

    def recorded(self) -> dict[str, Any]:
        """The options as the manifest holds them: no paths."""
        return {
            "target": self.target,
            "calibration": None if self.calibration is None else self.calibration.name,
            "image_scale": self.image_scale,
            "samples": self.samples,
            "partition": self.partition,
            "requant": self.requant,
        }


@dataclass(frozen=True, eq=False)
class Compiled:
    """What `compile` found out, and the files, still in memory: ``result.files.write(folder)`` puts them down.

    Attributes:
        graph: The float graph after the passes.
        point: The cut; None when the whole network stays on the device.
        files: Everything, by path below the output folder.
    """

    options: Options
    target: Target
    graph: ir.Model
    point: PartitionPoint | None
    quantized: Quantized
    program: Program
    arena: Arena
    footprint: Footprint
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
    from clio_cc.codegen.model import device_sources, vectors_source
    from clio_cc.float_run import check_same_function
    from clio_cc.load import model_sha256
    from clio_cc.quantize import quantize_model

    target = find_target(options.target)
    graph = front_end(options.model, hook)
    digest = model_sha256(options.model)
    point, network = choose_cut(graph, options.partition, target)
    refuse_too_large(network, target)  # before the minute that quantization may take
    samples = load_samples(graph, options.calibration, scale=options.image_scale, most=options.samples)
    check_same_function(options.model, graph, samples.take(TEST_VECTORS).inputs)
    quantized = quantize_model(
        graph, network, samples, cast("Mode", options.requant), _stage(progress, "quantizing")
    )
    program = fit(quantized.program, target) or quantized.program
    arena = plan_arena(program)
    front_matter = f"clio-cc {__version__}, {options.model.name} (sha256 {digest[:16]}), target {target.name}"
    vectors = quantized.quantize_inputs(samples.take(TEST_VECTORS).inputs)
    sources = {
        **device_sources(program, arena, front_matter, _stage(progress, "generating code")),
        "test/clio_vectors.c": vectors_source(program, vectors, front_matter),
    }
    progress("measuring memory", 0, 1)
    footprint = measure(sources, target, arena.bytes, table_bytes(program))
    progress("measuring memory", 1, 1)
    check_fits(footprint, arena, target)
    glue = device_glue(
        target,
        model=re.sub(r"[^\x20-\x7e]|\*/", "?", options.model.name),
        tool=f"clio-cc {__version__}",
        arena_bytes=arena.bytes,
        stack_bytes=footprint.stack_bytes or UNMEASURED_STACK_BYTES,
    )
    device = {f"device/{path}": text for path, text in {**sources, **glue}.items()}
    layers = [str(node.name) for node in graph.graph]
    manifest = _manifest(options, target, digest, point, layers, quantized, program, footprint, samples)
    files = project_files(
        device,
        _graphs(graph, quantized, program),
        _cloud(options, graph, point, program),
        _tables(graph, target, manifest),
    )
    manifest["files"] = files.digests()
    files = project_files(files.files, {MANIFEST: to_json(manifest)})
    return Compiled(options, target, graph, point, quantized, program, arena, footprint, manifest, files)


def to_json(value: Any) -> str:
    """Return the text of an artifact: keys in the order they were made, newline at the end."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _stage(progress: Progress, stage: str) -> Callable[[int, int], None]:
    return lambda done, of: progress(stage, done, of)


def _graphs(graph: ir.Model, quantized: Quantized, program: Program) -> dict[str, bytes | str]:
    from clio_cc.device_onnx import device_onnx
    from clio_cc.graph import to_bytes
    from clio_cc.program_json import to_json as program_to_json

    return {
        DEVICE_ONNX: device_onnx(quantized).SerializeToString(deterministic=True),
        FLOAT_ONNX: to_bytes(graph),
        PROGRAM_JSON: program_to_json(program),
    }


def _cloud(
    options: Options, graph: ir.Model, point: PartitionPoint | None, program: Program
) -> dict[str, bytes]:
    if point is None:
        return {}
    from clio_cc.cloud import cloud_model, triton_repository
    from clio_cc.partition import clean_name

    model = cloud_model(graph, point, program.tensors[program.taps[0].tensor].scale)
    files = triton_repository(clean_name(options.model.stem), model)
    return {f"cloud/{path}": content for path, content in files.items()}


def _tables(graph: ir.Model, target: Target, manifest: Mapping[str, Any]) -> dict[str, str]:
    from clio_cc import planner, profile
    from clio_cc.inspection import inspect_model
    from clio_cc.lower import device_supports
    from clio_cc.units import parse_bandwidth_range

    rows = profile.modelled(inspect_model(graph, device_supports).layers, target.macs_per_s)
    made = planner.make_plan(
        rows,
        planner.read_points(manifest),
        parse_bandwidth_range(PLANNED_BANDWIDTH),
        input_bytes=manifest["input_bytes"],
        device_power_mw=target.power_mw,
    )
    return {PROFILE: profile.to_csv(rows), PLAN: made.to_text()}


def _manifest(
    options: Options,
    target: Target,
    digest: str,
    point: PartitionPoint | None,
    layers: Sequence[str],
    quantized: Quantized,
    program: Program,
    footprint: Footprint,
    samples: Samples,
) -> dict[str, Any]:
    tensors = program.tensors
    partitions = [
        {
            "name": tap.partition,
            "tensor": point.tensor if point is not None else tap.tensor,
            "shape": list(point.shape) if point is not None else [],
            "layer": layers[point.node_index - 1] if point is not None else None,
            "slices": [tap.units],
            "unit_bytes": tap.unit_bytes,
            "scale": tensors[tap.tensor].scale,
        }
        for tap in program.taps
    ]
    return {
        "schema": 1,
        "tool": f"clio-cc {__version__}",
        "target": target.name,
        "model": {"name": options.model.name, "sha256": digest},
        "options": options.recorded(),
        "input_bytes": sum(tensor.bytes for tensor in program.inputs),
        "inputs": [_tensor(tensor, quantized) for tensor in program.inputs],
        "outputs": [_tensor(tensors[name], quantized) for name in program.outputs],
        "partitions": partitions,
        "device": {
            "ram_bytes": footprint.ram_bytes,
            "arena_bytes": footprint.arena_bytes,
            "stack_bytes": footprint.stack_bytes,
            "flash_bytes": footprint.flash_bytes,
            "table_bytes": footprint.table_bytes,
            "macs": program.macs,
        },
        "quantization": {
            "requant": options.requant,
            "calibration_samples": quantized.calibration_samples,
            "report_samples": quantized.samples,
            "layers": [asdict(layer) for layer in quantized.layers],
        },
        "warnings": [text for text in (samples.warning, footprint.warning(target)) if text],
        "files": {},
    }


def _tensor(tensor: Tensor, quantized: Quantized) -> dict[str, Any]:
    """A tensor at the device's edge: device axis d is axis ``order[d]`` of the graph's shape."""
    layout = quantized.network.layouts[tensor.name]
    return {
        "name": tensor.name,
        "shape": list(tensor.shape),
        "scale": tensor.scale,
        "graph_shape": list(layout.graph_shape),
        "order": list(layout.order),
    }
