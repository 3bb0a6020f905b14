"""Float graphs in onnxruntime, and how far two results are apart: the yardstick for what must not change a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from clio_cc.errors import ClioError

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

_RANDOM = frozenset(
    "RandomNormal RandomNormalLike RandomUniform RandomUniformLike Bernoulli Multinomial".split()
)
TOLERANCE = 1e-4  # of a result's largest value: what two orders of adding floats may differ by

Arrays = Mapping[str, npt.NDArray[Any]]


class Runner:
    """A graph in onnxruntime, two threads, that answers for any number of samples; a fixed batch of 1 runs one by one.

    Attributes:
        inputs: Names of the graph's inputs.
        outputs: Names of its outputs.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        from clio_cc.calibrate import open_session

        self._session = cast("Any", open_session(model))
        self.inputs = tuple(str(value.name) for value in self._session.get_inputs())
        self.outputs = tuple(str(value.name) for value in self._session.get_outputs())
        self._one_by_one = any(value.shape[:1] == [1] for value in self._session.get_inputs())

    def __call__(self, inputs: Arrays) -> list[npt.NDArray[Any]]:
        """Return each output for all samples, ``[n, ...]``; `inputs` are ``[n, ...]`` by name."""
        feed = {name: np.ascontiguousarray(inputs[name]) for name in self.inputs}
        count = len(feed[self.inputs[0]])
        if not self._one_by_one or count == 1:
            return [np.asarray(value) for value in self._session.run(None, feed)]
        runs = [
            self._session.run(None, {name: x[i : i + 1] for name, x in feed.items()}) for i in range(count)
        ]
        return [np.concatenate(values) for values in zip(*runs, strict=True)]


def run_each(model: onnx.ModelProto | Path, inputs: Arrays) -> list[list[npt.NDArray[Any]]]:
    """Run a graph whose batch may be fixed to 1, sample by sample; return for each output the samples' results."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    count = len(inputs[names[0]])
    runs = [session.run(None, {name: inputs[name][i : i + 1] for name in names}) for i in range(count)]
    return [[np.asarray(value) for value in values] for values in zip(*runs, strict=True)]


def difference(
    wanted: Sequence[Sequence[npt.NDArray[Any]]], got: Sequence[Sequence[npt.NDArray[Any]]]
) -> float:
    """Return the largest difference of two results of :func:`run_each`.

    In units of an output's largest wanted value (at least 1); inf where only one is a number, or where sizes differ.
    """
    return max(_difference(a, b) for a, b in zip(wanted, got, strict=True))


def _difference(wanted: Sequence[npt.NDArray[Any]], got: Sequence[npt.NDArray[Any]]) -> float:
    a, b = (np.concatenate([value.reshape(-1) for value in values]) for values in (wanted, got))
    if a.size != b.size:
        return float("inf")
    if a.dtype.kind not in "fiub":  # text
        return 0.0 if (a == b).all() else float("inf")
    a, b = a.astype(np.float64), b.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    apart = np.abs(np.where(same, 0, a) - np.where(same, 0, b))
    largest = np.max(np.abs(a), initial=1.0, where=np.isfinite(a))
    worst = float(np.max(apart, initial=0.0)) / float(largest)
    return worst if np.isfinite(worst) else float("inf")


def check_same_function(path: Path, graph: ir.Model, inputs: Arrays) -> None:
    """Compare the file as the user gave it with the graph after the passes.

    Raises:
        ClioError: onnxruntime cannot run the file, or the answers differ, which is a bug of clio-cc.
    """
    from clio_cc.graph import to_proto

    if any(node.op_type in _RANDOM for node in graph.graph):
        return
    try:
        wanted = run_each(path, inputs)
    except Exception as error:  # onnxruntime's errors have no common base but Exception
        reason = str(error).splitlines()[0]
        raise ClioError(f"onnxruntime cannot run the model: {reason}", path.name) from error
    apart = difference(wanted, run_each(to_proto(graph), inputs))
    if apart > TOLERANCE:
        raise ClioError(
            f"the simplified graph gives another answer than the model, {apart:.2g} of its range away",
            path.name,
            "this is a bug of clio-cc: please report it",
        )
