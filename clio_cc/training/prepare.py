"""From what the user asked for to where training starts: files read and checked, the network pruned, equalized and cut."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from clio_cc import graph
from clio_cc.batch import any_batch
from clio_cc.calibrate import Progress as Steps
from clio_cc.calibrate import Samples, load_samples
from clio_cc.compiler import Progress, front_end
from clio_cc.cut import AUTO, Cuts, named_cuts, split_names
from clio_cc.errors import ClioError
from clio_cc.float_run import Runner
from clio_cc.inspection import inspect_model
from clio_cc.judge import accuracy, class_scores
from clio_cc.lower import device_supports
from clio_cc.options import PlanPoint
from clio_cc.packing import UNIT_BITS, packed_bytes
from clio_cc.partition import PartitionPoint
from clio_cc.profile import modelled
from clio_cc.slicing import MOST_CHANNELS, Answer
from clio_cc.split import Slicing, parse_slices, refuse_other_graph, unit_counts
from clio_cc.targets import find_target
from clio_cc.trained import Trained, read_trained
from clio_cc.training.channels import channel_groups, remove_channels
from clio_cc.training.data import Dataset
from clio_cc.training.importance import taylor_importance
from clio_cc.training.pruning import prune, thin
from clio_cc.training.settings import DEVICES, TrainOptions
from clio_cc.training.start import Cut, closed_form, equalized
from clio_cc.training.torch_graph import check_trainable
from clio_cc.training.widths import UNIFORM, Widths, given_probabilities, read_prior, slice_probabilities

CALIBRATION = 512
WEIGHED = 256  # samples that channels are weighed by


@dataclass(frozen=True, eq=False)
class Start:
    """Where training starts.

    Attributes:
        digest: Of the model and all samples.
        original: The canonical float graph as it came, which is distilled from.
        model: The one that is trained.
        cuts: The partition points, in order of execution.
        local: The whole network runs on the device, too.
        shares: Probability of each count, per point.
        answer: Name of the tensor that the loss is taken of: scores of classes before a softmax, or the output.
        kind: What the network answers: ``scores``, or ``values``.
        calibration: Some of the training samples.
        training: What is trained on.
        validation: What is watched, or None.
        macs: Multiply-accumulates of the whole network, before and after pruning.
        warnings: What the user must be told.
    """

    digest: str
    original: ir.Model
    model: ir.Model
    cuts: tuple[Cut, ...]
    local: bool
    shares: tuple[Mapping[int, float], ...]
    answer: str
    kind: Answer
    calibration: Samples
    training: Dataset
    validation: Dataset | None
    macs: tuple[int, int]
    warnings: tuple[str, ...]


def prepare(options: TrainOptions, progress: Progress) -> Start:
    """Return where training starts.

    Raises:
        ClioError: the input is at fault.
    """
    _check_options(options)
    original = front_end(options.model)
    if len(original.graph.inputs) != 1:
        message = f"has {len(original.graph.inputs)} inputs; a network of one input can be trained"
        raise ClioError(message, options.model.name)
    if len(original.graph.outputs) != 1:
        message = f"has {len(original.graph.outputs)} outputs; a network of one output can be trained"
        raise ClioError(message, options.model.name)
    check_trainable(original.clone().graph)
    if AUTO in split_names(options.partition):
        hint = "name the partition points; 'clio-cc inspect MODEL' lists them"
        raise ClioError("training needs to know where the network will be cut", "--partition", hint)
    before = _trained_before(original, options)
    asked = named_cuts(original, options.partition)
    _counts(original, asked.points, options.slices, before)  # refused before the samples are read
    samples = load_samples(original, options.data, scale=options.image_scale)
    answer, kind = _answer(original, samples)
    held = (
        None
        if options.validation is None
        else load_samples(original, options.validation, scale=options.image_scale)
    )
    digest = _digest(options.model, samples, held)
    training = _dataset(original, samples, kind, options.data, options.augment)
    calibration = samples.take(CALIBRATION)
    model = _compressed(original, asked, options, calibration, answer, kind)
    cuts = named_cuts(model, options.partition)
    counts = _counts(model, cuts.points, options.slices, before)
    if options.rounded_epochs:
        model = equalized(model, cuts.points, calibration, local=cuts.local)
    widths = _shares(model, cuts.points, counts, options)
    digest = hashlib.sha256(f"{digest}{widths.probabilities}".encode()).hexdigest()  # of a prior's file, too
    return Start(
        digest,
        original,
        model,
        tuple(
            closed_form(
                model,
                cuts.points,
                counts,
                calibration,
                _stage(progress, "splitting in closed form"),
                before,
            )
        ),
        cuts.local,
        tuple(
            dict(zip(counts[point.name], widths.probabilities[point.name], strict=True))
            for point in cuts.points
        ),
        answer,
        kind,
        calibration,
        training,
        None
        if held is None or options.validation is None
        else _dataset(original, held, kind, options.validation, ()),
        (_macs(original), _macs(model)),
        (*widths.warnings, *_unused_labels(samples, kind, options)),
    )


def _check_options(options: TrainOptions) -> None:
    """Refuse what is wrong whatever the network."""
    if options.unit_bits not in UNIT_BITS:
        raise ClioError(f"{options.unit_bits} bits a value, not 8, 6 or 4", "--unit-bits")
    if options.unit_bits < 8 and not options.rounded_epochs:
        message = f"units of {options.unit_bits} bits need epochs with the device's rounding"
        raise ClioError(message, "--unit-bits", "give --rounded-epochs, at least 1")
    if options.device not in DEVICES:
        raise ClioError(f"unknown device '{options.device}'", "--device", f"give one of {', '.join(DEVICES)}")
    bandwidths = options.bandwidth is not None or options.prior != UNIFORM
    if options.shares is not None and bandwidths:
        hint = "give one of them"
        raise ClioError("a bandwidth and --shares both say how often each count is sent", "--shares", hint)
    if options.target is not None:
        find_target(options.target)
    of_bandwidths = {
        "--deadline": options.deadline_us,
        "--link": options.link,
        "--target": options.target,
    }
    unused = [name for name, value in of_bandwidths.items() if value is not None]
    if unused and not bandwidths:
        hint = f"add --bandwidth, e.g. 50k:2M, or leave out {', '.join(unused)}"
        raise ClioError(
            "says how often each count is sent at a bandwidth, and there is none", unused[0], hint
        )


def _trained_before(model: ir.Model, options: TrainOptions) -> Trained | None:
    """What an earlier training left in the file: this one goes on from there."""
    trained = read_trained(options.model)
    if trained is None:
        return None
    refuse_other_graph(model, trained, options.model.name)
    if trained.points and (options.prune or options.width < 1):
        message = "was trained for slices already: channels can only be removed before"
        where = "--prune" if options.prune else "--width"
        raise ClioError(message, f"{options.model.name}, {where}", "train the network as it was before")
    return trained


def _stage(progress: Progress, stage: str) -> Steps:
    return lambda done, of: progress(stage, done, of)


def _macs(model: ir.Model) -> int:
    return sum(graph.known_macs(node) for node in model.graph)


def _counts(
    model: ir.Model, points: Sequence[PartitionPoint], slices: str, before: Trained | None
) -> dict[str, tuple[int, ...]]:
    """Unit counts by name of a point."""
    wanted = parse_slices(slices)
    for point in points:
        channels = point.shape[1]
        if channels > MOST_CHANNELS:
            message = f"has {channels} channels, more than the {MOST_CHANNELS} that units can be made of"
            raise ClioError(message, f"partition point '{point.name}'", "choose another partition point")
        if len(point.shape) not in (2, 4):
            message = f"its tensor of {len(point.shape) - 1} axes is neither an image nor a vector"
            raise ClioError(message, f"partition point '{point.name}'", "choose another partition point")
        if wanted is not None and wanted[-1] > channels:
            message = f"{wanted[-1]} units of '{point.name}', which has {channels} channels"
            raise ClioError(message, "--slices", f"give counts from 1 to {channels}")
    macs = _macs(model)
    counts = {point.name: unit_counts(point, macs, Slicing(wanted)) for point in points}
    for trained in () if before is None else before.points:
        if trained.name not in counts:
            continue
        if wanted is not None and counts[trained.name] != trained.counts:
            had = ",".join(map(str, trained.counts))
            message = f"'{trained.name}' was trained for {had} units already"
            raise ClioError(message, "--slices", f"give {had}, or the network as it was before")
        counts[trained.name] = trained.counts
    return counts


def _answer(model: ir.Model, samples: Samples) -> tuple[str, Answer]:
    """The tensor that the loss is taken of, and what it holds."""
    output = model.graph.outputs[0]
    few = samples.take(2).inputs
    if not class_scores([*few.values()], Runner(any_batch(model.clone()))(few)):
        return str(output.name), "values"
    node = output.producer()
    if graph.is_op(node, "Softmax", "LogSoftmax") and node is not None and node.inputs[0] is not None:
        output = node.inputs[0]
    return str(output.name), "scores"


def _dataset(
    model: ir.Model,
    samples: Samples,
    kind: Answer,
    path: Path,
    augment: tuple[str, ...],
) -> Dataset:
    ((name, x),) = samples.inputs.items()
    shape = graph.shape(model.graph.inputs[0])
    image = len(shape) == 4
    if augment and not image:
        raise ClioError(f"input '{name}' of shape {shape} is no image", "--augment", "give none")
    labels = samples.labels if kind == "scores" else None
    if labels is not None:
        _check_labels(labels, graph.size(model.graph.outputs[0]), path)
    return Dataset(x, labels, augment, image and _channels_last(model))


def _channels_last(model: ir.Model) -> bool:
    """Whether the network takes images as ``[n, h, w, c]``: it turns them first."""
    (value,) = model.graph.inputs
    readers = [use.node for use in value.uses()]
    return all(
        graph.is_op(each, "Transpose") and graph.ints_attr(each, "perm") == (0, 3, 1, 2) for each in readers
    )


def _unused_labels(samples: Samples, kind: Answer, options: TrainOptions) -> Iterator[str]:
    if samples.labels is not None and kind == "values":
        yield (
            f"labels y of {options.data.name} are not used, as the model does not answer with class scores: its own answers "
            "are what is learned"
        )


def _check_labels(labels: npt.NDArray[np.int64], classes: int, path: Path) -> None:
    folders = int(labels.max()) + 1
    if path.is_dir() and folders != classes:
        hint = "give one folder per class of the model, in the order of their names"
        raise ClioError(f"has {folders} classes, the model answers with {classes}", str(path), hint)
    accuracy(labels, classes, str(path))


def _digest(model: Path, *samples: Samples | None) -> str:
    found = hashlib.sha256(model.read_bytes())
    for each in samples:
        for x in (
            () if each is None else (*each.inputs.values(), *([] if each.labels is None else [each.labels]))
        ):
            found.update(np.ascontiguousarray(x).data)
    return found.hexdigest()


def _shares(
    model: ir.Model,
    points: Sequence[PartitionPoint],
    counts: Mapping[str, Sequence[int]],
    options: TrainOptions,
) -> Widths:
    """Probabilities of the counts."""
    layers = inspect_model(model, device_supports).layers
    rows = () if options.target is None else modelled(layers, find_target(options.target).macs_per_s)
    planned = [
        PlanPoint(
            point.name,
            layers[point.node_index - 1].name,
            tuple(counts[point.name]),
            packed_bytes(point.bytes // point.shape[1], options.unit_bits),
        )
        for point in points
    ]
    if options.shares is not None:
        return given_probabilities(planned, options.shares)
    prior = read_prior(options.prior, options.bandwidth)
    return slice_probabilities(planned, prior, deadline_us=options.deadline, link=options.link, profile=rows)


def _compressed(
    model: ir.Model, cuts: Cuts, options: TrainOptions, samples: Samples, answer: str, kind: Answer
) -> ir.Model:
    """The network with fewer channels, as far as that is asked for: first all over, then on the device."""
    few = samples.take(WEIGHED)
    if options.width < 1:
        weights = taylor_importance(model, channel_groups(model), few, answer, kind)
        model = remove_channels(model, thin(model, options.width, weights))
    if options.prune > 0:
        until = None if cuts.local else [point.tensor for point in cuts.points]
        weights = taylor_importance(model, channel_groups(model, until), few, answer, kind)
        model = remove_channels(model, prune(model, until, options.prune, weights))
    return model
