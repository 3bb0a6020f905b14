"""Time per node of a graph in the cloud, measured here with onnxruntime's profiler."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clio_cc.profile import Times

if TYPE_CHECKING:
    import onnx

Event = Mapping[str, object]


def measure_cloud(
    model: onnx.ModelProto,
    repeats: int = 20,
    given: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Times:
    """Time every node of a graph.

    One thread, graph optimizations off so that nodes keep their names (served with them on, a network is rather
    faster than the sum), median of `repeats` runs after one that is not counted.

    Args:
        model: Every node has a name of its own.
        repeats: At least 1.
        given: Inputs by name; the others get seeded random numbers, dimensions that are not fixed are 1.
        progress: Told (done, of) after every run.
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
        inputs = _inputs(model, given or {})
        for run in range(repeats + 1):
            session.run(None, inputs)
            if progress is not None:
                progress(run + 1, repeats + 1)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    source = f"measured: onnxruntime {onnxruntime.__version__}, {repeats} runs"
    inner = set(_inner_nodes(model.graph))
    kernels = [event for event in events if event.get("cat") == "Node" and _kernel(event) not in {"", *inner}]
    return Times(_medians([node.name for node in model.graph.node], kernels, repeats + 1), source)


def _inputs(model: onnx.ModelProto, given: Mapping[str, Any]) -> dict[str, Any]:
    import numpy as np
    import onnx

    rng = np.random.default_rng(0)
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = dict(given)
    for value in model.graph.input:
        if value.name not in {*constants, *given}:
            kind = value.type.tensor_type
            dims = [dim.dim_value or 1 for dim in kind.shape.dim]
            dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
            inputs[value.name] = rng.standard_normal(dims).astype(dtype)
    return inputs


def _inner_nodes(graph: onnx.GraphProto) -> Iterator[str]:
    """Names of the nodes inside If and Loop, whose time is in their owner's too."""
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from (inner.name for inner in attribute.g.node)
                yield from _inner_nodes(attribute.g)


def _medians(names: Sequence[str], kernels: Sequence[Event], runs: int) -> dict[str, float]:
    """Median time per node over all runs but the first."""
    per_run = len(kernels) // runs
    assert per_run * runs == len(kernels), "onnxruntime ran another number of kernels each time"
    totals = [_by_node(names, kernels[run * per_run : (run + 1) * per_run]) for run in range(1, runs)]
    return {name: round(statistics.median(total[name] for total in totals), 3) for name in names}


def _by_node(names: Sequence[str], kernels: Sequence[Event]) -> dict[str, float]:
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


def _kernel(event: Event) -> str:
    """Name of the node that an event timed, empty if it timed something else."""
    name = str(event.get("name", ""))
    return name.removesuffix("_kernel_time") if name.endswith("_kernel_time") else ""
