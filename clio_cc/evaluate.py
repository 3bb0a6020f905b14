"""Evaluate: how good the answers are at every partition point, for every number of units that arrive."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clio_cc import results
from clio_cc.accuracy import FEWER_BITS, AccuracyRow
from clio_cc.artifacts import ACCURACY, FLOAT_ONNX, MANIFEST, PROGRAM_JSON
from clio_cc.baselines import JPEG_BYTES, Original, fewer_bits, jpeg, no_jpeg, raw_input
from clio_cc.cloud import RECEIVED, UNITS
from clio_cc.errors import ClioError
from clio_cc.float_run import Runner
from clio_cc.judge import Judge, accuracy, agreement, class_scores
from clio_cc.plan import LOCAL
from clio_cc.program import Program
from clio_cc.split_run import device_inputs, evaluate_points

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

    from clio_cc.calibrate import Samples

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What `evaluate` found.

    Attributes:
        samples: How many were evaluated.
        metric: ``accuracy`` or ``agreement``.
        original: The float model's value.
        rows: Partition points and numbers of units, then ``local``.
        baselines: What they compete with.
        notes: What the figures cannot say, a sentence each.
    """

    samples: int
    metric: str
    original: float
    rows: tuple[AccuracyRow, ...]
    baselines: tuple[AccuracyRow, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The object of ``evaluate --json`` (DESIGN §8)."""
        return {
            "samples": self.samples,
            "metric": self.metric,
            "original": self.original,
            "results": [_result(row) for row in self.rows],
            "baselines": [_result(row) for row in self.baselines],
            "jpeg_bytes": JPEG_BYTES,
            "notes": list(self.notes),
        }


def _result(row: AccuracyRow) -> dict[str, Any]:
    return {key: value for key, value in asdict(row).items() if key not in ("metric", "samples")}


def evaluate(
    out: Path,
    data: Path,
    *,
    image_scale: float = 1.0,
    samples: int | None = None,
    partitions: Sequence[str] = (),
    baselines: bool = True,
    progress: Progress,
) -> Evaluation:
    """Evaluate a folder that `compile` wrote, and write its ``accuracy.csv``.

    Rows of an earlier evaluation that this one leaves out stay in the file if they have the same metric and number
    of samples; else they are dropped, and a note says so.

    Args:
        out: The folder.
        data: As for calibration, best with labels.
        image_scale: Pixels of images are divided by this; also those of arrays, where a JPEG is made of them.
        samples: Most samples to use, evenly spread; None for all.
        partitions: Points to evaluate, `local` among them; none for all.
        baselines: Also evaluate the raw input, JPEG, and fewer bits.
        progress: Told (what, samples done, samples in all).

    Raises:
        ClioError: the folder is not whole, the data does not fit, or a point is unknown.
    """
    from clio_cc.calibrate import load_samples

    manifest = results.read_manifest(out)
    points = _chosen(manifest, partitions)
    _check_files(out, manifest, points)
    kept = results.read_accuracy(out) if partitions or not baselines else ()
    model = _load(out / FLOAT_ONNX)
    given = load_samples(model, data, scale=image_scale, most=samples)
    original, judge, value, notes = _judge(model, given, data, progress)
    program = results.read_program(out)
    rows = evaluate_points(
        program,
        {name: entry["slices"] for name, entry in points.items()},
        {name: _cloud_graph(out / entry["cloud"], name, original.run) for name, entry in points.items()},
        device_inputs(manifest["inputs"], given.inputs),
        judge,
        local=_local(manifest, program, partitions),
        progress=progress,
    )
    compared: tuple[AccuracyRow, ...] = ()
    if baselines:
        scales = {entry["name"]: entry["scale"] for entry in manifest["inputs"]}
        compared = tuple(_baselines(original, judge, points, scales, image_scale, progress))
        notes += [text for text in (no_jpeg(original, image_scale),) if text]
    if manifest.get("training"):
        notes.append(
            "the original model is here the trained network, whole and in floating point, which answers the raw input and "
            "JPEG too: only with 'local' among the points of its training was it kept able to"
        )
    notes += _dropped((*rows, *compared), kept)
    results.write_accuracy(out, merged((*rows, *compared), kept))
    return Evaluation(judge.samples, judge.metric, value, rows, compared, tuple(notes))


def merged(rows: Sequence[AccuracyRow], kept: Sequence[AccuracyRow]) -> tuple[AccuracyRow, ...]:
    """Return `rows`, and of `kept` what was measured alike and is not among them."""
    alike = {_measure(row) for row in rows}
    return (*rows, *(row for row in _others(rows, kept) if _measure(row) in alike))


def _dropped(rows: Sequence[AccuracyRow], kept: Sequence[AccuracyRow]) -> list[str]:
    """Say whose rows :func:`merged` leaves out, and why; nothing where it leaves out none."""
    alike = dict.fromkeys(_measure(row) for row in rows)
    lost = [row for row in _others(rows, kept) if _measure(row) not in alike]
    if not lost:
        return []
    points = dict.fromkeys(FEWER_BITS.sub(r"\1", row.partition) for row in lost)
    before = dict.fromkeys(_measure(row) for row in lost)
    return [
        f"dropped earlier rows of {', '.join(points)} from {ACCURACY}: "
        f"they are {' and '.join(before)}, these are {' and '.join(alike)}"
    ]


def _others(rows: Sequence[AccuracyRow], kept: Sequence[AccuracyRow]) -> list[AccuracyRow]:
    fresh = {(row.partition, row.slices) for row in rows}
    return [row for row in kept if (row.partition, row.slices) not in fresh]


def _measure(row: AccuracyRow) -> str:
    return f"{row.metric} on {row.samples} sample{'s' if row.samples != 1 else ''}"


def _chosen(manifest: Mapping[str, Any], partitions: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """Entries of the manifest by partition point, of those asked for."""
    every = {str(entry["name"]): entry for entry in manifest["partitions"]}
    known = [*every, LOCAL] if _local_outputs(manifest) else [*every]
    for name in partitions:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"choose of {', '.join(known)}"
            raise ClioError(f"unknown partition point '{name}'", "--partition", hint)
    return {name: entry for name, entry in every.items() if not partitions or name in partitions}


def _local_outputs(manifest: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The graph's own outputs, where the whole network runs on the device: they come behind those of the taps."""
    return list(manifest["outputs"][len(manifest["partitions"]) :])


def _local(
    manifest: Mapping[str, Any], program: Program, partitions: Sequence[str]
) -> list[Mapping[str, Any]]:
    assert [entry["name"] for entry in manifest["outputs"]] == [*program.outputs]
    return _local_outputs(manifest) if not partitions or LOCAL in partitions else []


def _check_files(out: Path, manifest: dict[str, Any], points: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse a folder whose graphs are not what compile wrote: what follows would be about something else."""
    if not all("cloud" in entry for entry in points.values()):
        raise ClioError("not a manifest of this clio-cc", str(out / MANIFEST), "compile again")
    changed = results.changed_files(out, manifest)
    needed = [PROGRAM_JSON, FLOAT_ONNX, *(str(entry["cloud"]) for entry in points.values())]
    for path in needed:
        if path in changed or path not in manifest["files"]:
            state = "is not what compile wrote" if (out / path).is_file() else "is missing"
            raise ClioError(state, str(out / path), "compile again")


def _load(path: Path) -> ir.Model:
    import onnx_ir as ir

    return ir.load(path)


def _cloud_graph(path: Path, partition: str, original: Runner) -> onnx.ModelProto:
    import onnx

    model = onnx.load(path)
    inputs = {value.name for value in model.graph.input}
    outputs = tuple(value.name for value in model.graph.output)
    if inputs != {UNITS, RECEIVED} or outputs != original.outputs:
        raise ClioError(f"is no cloud graph for partition point '{partition}'", str(path), "compile again")
    return model


def _judge(
    model: ir.Model, given: Samples, data: Path, progress: Progress
) -> tuple[Original, Judge, float, list[str]]:
    """Return the float model with its data, who judges, the float model's own value, and notes."""
    from clio_cc.batch import any_batch

    original = Original(model, given.inputs, Runner(any_batch(model.clone())))
    answers = original.answers(progress)
    if given.labels is not None and class_scores([*given.inputs.values()], answers):
        judge = accuracy(given.labels, answers[0][0].size, str(data))
        return original, judge, judge.value(judge.lost(0, answers)), []
    note = f"{data.name} has no labels y: agreement with the original model"
    if given.labels is not None:
        note = (
            f"labels y of {data.name} are not used, as the model does not answer with class scores: agreement"
        )
    return original, agreement([*given.inputs.values()], answers), 1.0, [note]


def _baselines(
    original: Original,
    judge: Judge,
    points: Mapping[str, Mapping[str, Any]],
    scales: Mapping[str, float],
    image_scale: float,
    progress: Progress,
) -> Iterator[AccuracyRow]:
    yield raw_input(original, judge, scales, progress)
    if not no_jpeg(original, image_scale):
        yield from jpeg(original, judge, image_scale, progress)
    for name, entry in points.items():
        yield from fewer_bits(original, judge, name, str(entry["tensor"]), progress)
