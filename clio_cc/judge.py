"""How good answers are: the share of right classes, or how far they agree with the original model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from clio_cc.errors import ClioError

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Judge:
    """Judges answers to some samples, part by part.

    *accuracy*: the share of samples whose highest class score is the label's.
    *agreement*, class scores (see :func:`class_scores`): the share whose highest score is the original model's.
    *agreement*, any other output: 1 minus the relative squared error, 0 at least. The error is relative to the
    spread of the original's output around its mean over the samples, so 0 is no better than always
    answering that mean; relative to the output itself where it is the same for all samples. Outputs that
    are no floats count by the share of equal values. Several outputs count alike.

    Attributes:
        metric: ``accuracy`` or ``agreement``.
        samples: How many there are.
        classes: The right class of each, where classes are what counts, else None.
        wanted: The original's outputs ``[samples, ...]``, where they are.
        spread: Of each of `wanted`.
    """

    metric: str
    samples: int
    classes: npt.NDArray[np.int64] | None
    wanted: tuple[Array, ...] = ()
    spread: tuple[float, ...] = ()

    def lost(self, first: int, outputs: Sequence[Array]) -> float:
        """Return how many samples' worth is wrong in the outputs (``[n, ...]``) for samples `first` and following."""
        if self.classes is not None:
            scores = outputs[0].reshape(len(outputs[0]), -1)
            right = self.classes[first : first + len(scores)]
            return float(np.sum(scores.argmax(axis=1) != right))
        part = slice(first, first + len(outputs[0]))
        errors = [
            _squared_error(wanted[part], got) / spread
            for wanted, got, spread in zip(self.wanted, outputs, self.spread, strict=True)
        ]
        return self.samples * sum(errors) / len(errors)

    def value(self, lost: float) -> float:
        """Return the metric, 0 to 1, for what all parts have lost together."""
        return round(max(0.0, 1 - lost / self.samples), 6)  # max(0.0, nan) is 0.0


def class_scores(inputs: Sequence[Array], outputs: Sequence[Array]) -> bool:
    """Whether a model's outputs are scores of classes: one output, one axis, two values or more, not shaped like an input.

    Args:
        inputs: ``[n, ...]`` each.
        outputs: ``[n, ...]`` each.
    """
    if len(outputs) != 1 or outputs[0].dtype.kind != "f":
        return False
    shape = outputs[0].shape[1:]
    wide = [size for size in shape if size != 1]
    return len(wide) == 1 and all(x.shape[1:] != shape for x in inputs)


def agreement(inputs: Sequence[Array], original: Sequence[Array]) -> Judge:
    """Judge by the original model's outputs (``[n, ...]`` each) for `inputs`."""
    count = len(original[0])
    if class_scores(inputs, original):
        return Judge("agreement", count, original[0].reshape(count, -1).argmax(axis=1))
    return Judge("agreement", count, None, tuple(original), tuple(map(_spread, original)))


def accuracy(labels: npt.NDArray[np.int64], classes: int, where: str) -> Judge:
    """Judge by labels, one per sample.

    Raises:
        ClioError: a label is none of the model's classes.
    """
    outside = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(outside):
        label, sample = labels[outside[0]], outside[0]
        from_one = labels.min() == 1 and labels.max() == classes
        hint = "labels count from 0: subtract 1" if from_one else f"labels are 0 to {classes - 1}"
        raise ClioError(
            f"label {label} of sample {sample} is none of the model's {classes} classes", where, hint
        )
    return Judge("accuracy", len(labels), labels)


def _spread(wanted: Array) -> float:
    """What an error is relative to; above 0."""
    if wanted.dtype.kind != "f":
        return float(max(1, wanted.size))
    values = wanted.astype(np.float64)
    return float(np.sum((values - values.mean(axis=0)) ** 2)) or float(np.sum(values**2)) or 1.0


def _squared_error(wanted: Array, got: Array) -> float:
    if wanted.dtype.kind != "f":
        return float(np.sum(wanted != got))
    return float(np.sum((wanted.astype(np.float64) - got) ** 2))
