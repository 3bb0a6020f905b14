"""The artifacts of one compilation besides the device project: manifest, graphs, cloud half, tables.

Everything is made in memory and the same for the same input: no dates, no paths.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from clio_cc import __version__
from clio_cc.operators.base import Tensor
from clio_cc.program import Program
from clio_cc.targets import Target

if TYPE_CHECKING:
    import onnx_ir as ir

    from clio_cc.accuracy import AccuracyRow
    from clio_cc.inspection import Layer
    from clio_cc.link import Link
    from clio_cc.memory import Footprint
    from clio_cc.plan import Plan
    from clio_cc.profile import ProfileRow
    from clio_cc.quantize import Quantized
    from clio_cc.split import CloudHalf, SlicedPoint
    from clio_cc.units import BandwidthRange

DEVICE_ONNX, FLOAT_ONNX, PROGRAM_JSON = "device.onnx", "float.onnx", "program.json"
MANIFEST, PROFILE, ACCURACY, PLAN = "manifest.json", "profile.csv", "accuracy.csv", "plan.json"
REPORT = "report.html"


@dataclass(frozen=True)
class Tables:
    """What `profile`, `evaluate` and `plan` may replace later."""

    profile: Sequence[ProfileRow]
    accuracy: Sequence[AccuracyRow]
    plan: Plan

    def files(self) -> dict[str, str]:
        """Their texts; no ``accuracy.csv`` where nothing was evaluated."""
        from clio_cc import accuracy, profile

        found = {PROFILE: profile.to_csv(self.profile), PLAN: self.plan.to_text()}
        return found | ({ACCURACY: accuracy.to_csv(self.accuracy)} if self.accuracy else {})


def to_json(value: Any) -> str:
    """Return the text of an artifact: keys in the order they were made, newline at the end."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def graphs(graph: ir.Model, quantized: Quantized, program: Program) -> dict[str, bytes | str]:
    """The device's half as a QDQ graph, the whole float graph, and the exact Program."""
    from clio_cc.device_onnx import device_onnx
    from clio_cc.graph import to_bytes
    from clio_cc.program_json import to_json as program_to_json

    return {
        DEVICE_ONNX: device_onnx(quantized).SerializeToString(deterministic=True),
        FLOAT_ONNX: to_bytes(graph),
        PROGRAM_JSON: program_to_json(program),
    }


def cloud_names(model: str, points: Sequence[str]) -> dict[str, str]:
    """Name in the Triton repository per partition point: the model's, with the point's where there are several."""
    from clio_cc.point_names import clean_name

    name = clean_name(model)
    return {point: name if len(points) == 1 else f"{name}_{point}" for point in points}


def cloud_files(model: str, halves: Mapping[str, CloudHalf]) -> dict[str, bytes]:
    """A Triton model repository with one model per partition point."""
    from clio_cc.cloud import triton_repository

    names = cloud_names(model, list(halves))
    return {
        f"cloud/{path}": content
        for point, half in halves.items()
        for path, content in triton_repository(names[point], half.model).items()
    }


def tables(
    layers: Sequence[Layer],
    target: Target,
    manifest: Mapping[str, Any],
    accuracy: Sequence[AccuracyRow],
    bandwidth: BandwidthRange,
    deadline_us: int,
    link: Link | None,
) -> Tables:
    """Profile, accuracy, and the plan that follows from them."""
    from clio_cc import planner, profile

    rows = profile.modelled(layers, target.macs_per_s, partitions=manifest["partitions"])
    made = planner.make_plan(
        rows,
        planner.read_points(manifest),
        bandwidth,
        deadline_us=deadline_us,
        input_bytes=manifest["input_bytes"],
        link=link,
        device_power_mw=target.power_mw,
        accuracy=accuracy,
        local=manifest["local"],
        no_local=manifest["no_local"],
    )
    return Tables(rows, accuracy, made)


def page(manifest: Mapping[str, Any], graph: ir.Model, program: Program, found: Tables) -> str:
    """``report.html``, with the digests that the manifest holds."""
    from clio_cc.report.facts import gather
    from clio_cc.report.page import render

    return render(gather(manifest, graph, program, found.profile, found.accuracy, found.plan.to_json()))


def manifest(
    *,
    options: Mapping[str, Any],
    model: str,
    digest: str,
    target: Target,
    layers: Sequence[str],
    points: Sequence[SlicedPoint],
    halves: Mapping[str, CloudHalf],
    local: bool,
    no_local: str,
    quantized: Quantized,
    program: Program,
    footprint: Footprint,
    tradeoff: Sequence[Mapping[str, Any]],
    training: Mapping[str, Any] | None,
    warnings: Sequence[str],
) -> dict[str, Any]:
    """Return ``manifest.json`` (DESIGN §8) without the digests of the files.

    Args:
        options: As the user gave them.
        model: File name.
        digest: SHA-256 of the file.
        target: The board.
        layers: Names of the float graph's nodes.
        points: In order of execution.
        halves: The cloud's side of each.
        local: The whole network runs on the device.
        no_local: Why it could not; empty if it could.
        quantized: The device's half, and what quantization lost.
        program: It, as it will run.
        footprint: Memory.
        tradeoff: For everything that can be optimized, what it would come to: bytes of the arena, multiply-accumulates,
            instructions of the convolutions.
        training: What training says of itself; None if the network was not trained for slices.
        warnings: What the user must be told.
    """
    tensors = program.tensors
    clouds = cloud_names(model.rsplit(".", 1)[0], list(halves))
    return {
        "schema": 1,
        "tool": f"clio-cc {__version__}",
        "target": target.name,
        "model": {"name": model, "sha256": digest},
        "options": dict(options),
        "input_bytes": sum(tensor.bytes for tensor in program.inputs),
        "inputs": [_tensor(tensor, quantized) for tensor in program.inputs],
        "outputs": [_tensor(tensors[name], quantized) for name in program.outputs],
        "layers": list(layers),
        "local": local,
        "no_local": no_local,
        "partitions": [
            _partition(sliced, halves[sliced.point.name], layers, program)
            | {"cloud": f"cloud/{clouds[sliced.point.name]}/1/model.onnx"}
            for sliced in points
        ],
        "device": {
            "ram_bytes": footprint.ram_bytes,
            "arena_bytes": footprint.arena_bytes,
            "stack_bytes": footprint.stack_bytes,
            "flash_bytes": footprint.flash_bytes,
            "table_bytes": footprint.table_bytes,
            "macs": program.macs,
            "optimize": options["optimize"],
            "tradeoff": [dict(each) for each in tradeoff],
        },
        "quantization": {
            "requant": options["requant"],
            "calibration_samples": quantized.calibration_samples,
            "report_samples": quantized.samples,
            "layers": [asdict(layer) for layer in quantized.layers],
        },
        "training": None if training is None else dict(training),
        "warnings": list(warnings),
        "files": {},
    }


def _partition(
    sliced: SlicedPoint, half: CloudHalf, layers: Sequence[str], program: Program
) -> dict[str, Any]:
    """A partition point; `residual` is the share of the weighted error left after each of `slices`, if that is known."""
    index = next(i for i, tap in enumerate(program.taps) if tap.partition == sliced.point.name)
    tap, encoder, heads = program.taps[index], sliced.encoder, half.heads
    return {
        "name": tap.partition,
        "tensor": sliced.point.tensor,
        "shape": list(sliced.point.shape),
        "layer": layers[sliced.point.node_index - 1],
        "slices": list(sliced.counts),
        "trained": sliced.heads is not None,
        "units": tap.units,
        "unit_bytes": tap.unit_bytes,
        "unit_bits": tap.bits,
        "scale": program.tensors[tap.tensor].scale,
        "order": list(tap.order) or None,
        "encoder": {
            "method": encoder.method,
            "layer": sliced.layer or None,
            "macs": sliced.macs,
            "weight_bytes": 0 if not sliced.layer else encoder.weight.size + 4 * len(encoder.weight),
            "window": 1 if heads is None else heads.window,
            "head_macs": 0
            if heads is None
            else int(heads.weight[0].size) * math.prod(sliced.point.shape[2:]),
            "head_bytes": 0 if heads is None else heads.bytes,
        },
        "residual": [round(float(encoder.residual[count]), 6) for count in sliced.counts]
        if encoder.residual.size
        else None,
        "macs": program.macs_to(index),
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
