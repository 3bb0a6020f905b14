"""Time per layer, device and cloud, measured or modelled, each figure with its source: ``profile.csv``."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from clio_cc.errors import ClioError, raise_collected
from clio_cc.table import is_count, number, read_table, write_table
from clio_cc.targets.facts import Figure

if TYPE_CHECKING:
    import onnx

    from clio_cc.inspection import Layer

CLOUD_MACS_PER_S = Figure(
    1e10, "a round figure for one x86-64 core in float32, not measured ('clio-cc profile' measures)"
)
"""What `compile` takes for the cloud, so that its output does not depend on the machine that it runs on."""


@dataclass(frozen=True)
class ProfileRow:
    """One layer; the fields are the columns of ``profile.csv``, in this order.

    Attributes:
        device_us: Time on the device; None where the device cannot run the layer.
        device_source: Where `device_us` comes from, or why there is none.
        cloud_us: Time in the cloud.
        cloud_source: Where `cloud_us` comes from.
    """

    layer: str
    op: str
    macs: int
    weight_bytes: int
    output_bytes: int
    device_us: float | None
    device_source: str
    cloud_us: float
    cloud_source: str

    def to_json(self) -> dict[str, object]:
        """The object of ``profile --json``."""
        return asdict(self)


COLUMNS = tuple(field.name for field in fields(ProfileRow))
_COUNTS = ("macs", "weight_bytes", "output_bytes")
_TIMES = {"device_us": "device_source", "cloud_us": "cloud_source"}


# --- models ---------------------------------------------------------------------------------------


def modelled(
    layers: Sequence[Layer], device_macs_per_s: Figure, cloud_macs_per_s: Figure = CLOUD_MACS_PER_S
) -> tuple[ProfileRow, ...]:
    """A profile from multiply-accumulates alone; layers without any count as 0 us on both sides.

    Args:
        layers: In order of execution, see :mod:`clio_cc.inspection`.
        device_macs_per_s: The target's rate.
        cloud_macs_per_s: The cloud's.
    """
    return tuple(
        ProfileRow(
            layer=layer.name,
            op=layer.op,
            macs=layer.macs,
            weight_bytes=layer.weight_bytes,
            output_bytes=layer.output_bytes,
            device_us=_time_us(layer.macs, device_macs_per_s) if layer.device else None,
            device_source=_rate(device_macs_per_s) if layer.device else f"not on the device: {layer.reason}",
            cloud_us=_time_us(layer.macs, cloud_macs_per_s),
            cloud_source=_rate(cloud_macs_per_s),
        )
        for layer in layers
    )


def with_cloud(rows: Sequence[ProfileRow], times: Mapping[str, float], source: str) -> tuple[ProfileRow, ...]:
    """The rows with measured cloud times (see :func:`measure_cloud`); rows without one stay as they are."""
    return tuple(
        replace(row, cloud_us=times[row.layer], cloud_source=source) if row.layer in times else row
        for row in rows
    )


def _time_us(macs: int, rate: Figure) -> float:
    return round(macs / rate.value * 1e6, 3)


def _rate(rate: Figure) -> str:
    return f"modelled: MACs at {rate.value / 1e6:g} MMAC/s; {rate.source}"


# --- measurement ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class CloudTimes:
    """Microseconds per node by its name, and where they come from."""

    us: Mapping[str, float]
    source: str


def measure_cloud(model: onnx.ModelProto, repeats: int = 20) -> CloudTimes:
    """Time every node of a float graph with onnxruntime's profiler on this machine.

    One thread, seeded random input, graph optimizations off so that nodes keep their names (served with them
    on, a network is rather faster than the sum), median of `repeats` runs after one that is not counted.

    Args:
        model: Static shapes; every node has a name of its own.
        repeats: At least 1.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder, "run"))
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        inputs = _seeded_inputs(model)
        for _ in range(repeats + 1):
            session.run(None, inputs)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    source = f"measured: onnxruntime {onnxruntime.__version__}, {repeats} runs"
    return CloudTimes(_medians([node.name for node in model.graph.node], events, repeats + 1), source)


def _seeded_inputs(model: onnx.ModelProto) -> dict[str, object]:
    import numpy as np
    import onnx

    rng = np.random.default_rng(0)
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs: dict[str, object] = {}
    for value in model.graph.input:
        if value.name not in constants:
            kind = value.type.tensor_type
            dims = [dim.dim_value for dim in kind.shape.dim]
            dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
            inputs[value.name] = rng.standard_normal(dims).astype(dtype)
    return inputs


def _medians(names: Sequence[str], events: Sequence[Mapping[str, object]], runs: int) -> dict[str, float]:
    """Median time per node over all runs but the first."""
    kernels = [event for event in events if event.get("cat") == "Node" and _kernel(event)]
    per_run = len(kernels) // runs
    assert per_run * runs == len(kernels), "onnxruntime ran another number of kernels each time"
    totals = [_by_node(names, kernels[run * per_run : (run + 1) * per_run]) for run in range(1, runs)]
    return {name: round(statistics.median(total[name] for total in totals), 3) for name in names}


def _by_node(names: Sequence[str], kernels: Sequence[Mapping[str, object]]) -> dict[str, float]:
    """Time per node in one run.

    onnxruntime replaces an operator that it has no kernel for (HardSwish, say) by several of its own naming;
    they count for the node that comes next in the graph if that one has none under its own name, else for the
    last one seen.
    """
    index = {name: i for i, name in enumerate(names)}
    seen = {_kernel(event) for event in kernels}
    total = dict.fromkeys(names, 0.0)
    owner = 0
    for event in kernels:
        name = _kernel(event)
        if name in index:
            owner = index[name]
        elif owner + 1 < len(names) and names[owner + 1] not in seen:
            owner += 1
        total[names[owner]] += float(str(event["dur"]))
    return total


def _kernel(event: Mapping[str, object]) -> str:
    """Name of the node that an event timed, empty if it timed something else."""
    name = str(event.get("name", ""))
    return name.removesuffix("_kernel_time") if name.endswith("_kernel_time") else ""


# --- the table ------------------------------------------------------------------------------------


def to_csv(rows: Sequence[ProfileRow]) -> str:
    """The text of ``profile.csv``; equal rows give equal text."""
    return write_table(COLUMNS, (asdict(row) for row in rows))


def read_profile(path: Path) -> tuple[ProfileRow, ...]:
    """Read ``profile.csv``, perhaps edited by hand.

    Raises:
        ClioError: It cannot be read, or rows are at fault: all of them are named, with their lines.
    """
    rows: list[ProfileRow] = []
    errors: list[str] = []
    layers: dict[str, int] = {}
    for line, cells in read_table(path, COLUMNS):
        found = list(_mistakes(cells))
        name = cells["layer"]
        if name in layers:
            found.append(f"layer '{name}' is there twice, first in line {layers[name]}")
        layers.setdefault(name, line)
        errors += [f"{path}:{line}: {mistake}" for mistake in found]
        if not found:
            rows.append(_row(cells))
    raise_collected(errors)
    if not rows:
        raise ClioError("holds no layers", str(path))
    return tuple(rows)


def _mistakes(cells: Mapping[str, str]) -> Iterator[str]:
    if not cells["layer"]:
        yield "layer must have a name"
    for name in _COUNTS:
        if not is_count(cells[name]):
            yield f"{name} must be a whole number from 0 up, got '{cells[name]}'"
    for name, source in _TIMES.items():
        may_be_empty = name == "device_us"
        if cells[name] or not may_be_empty:
            if number(cells[name]) is None:
                yield f"{name} must be a number from 0 up, got '{cells[name]}'"
            if not cells[source]:
                yield f"{source} must say where {name} comes from"


def _row(cells: Mapping[str, str]) -> ProfileRow:
    return ProfileRow(
        layer=cells["layer"],
        op=cells["op"],
        macs=int(cells["macs"]),
        weight_bytes=int(cells["weight_bytes"]),
        output_bytes=int(cells["output_bytes"]),
        device_us=number(cells["device_us"]),
        device_source=cells["device_source"],
        cloud_us=number(cells["cloud_us"]) or 0.0,
        cloud_source=cells["cloud_source"],
    )
