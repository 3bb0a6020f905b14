"""How good a network is while it learns: loss and accuracy per partition point and count, as rows of ``training.jsonl``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from clio_cc.plan import LOCAL
from clio_cc.slicing import Answer
from clio_cc.training.curves import TRAIN, VALIDATION
from clio_cc.training.network import SlicedNetwork, Way

Row = dict[str, Any]
Losses = Callable[[Tensor, Tensor | None, Tensor | None], Tensor]


@dataclass(eq=False)
class Tally:
    """Sums over the samples that took each way."""

    names: Sequence[str]
    kind: Answer
    labeled: bool
    sums: dict[tuple[int, int], tuple[float, float, int]] = field(default_factory=dict)

    def add(self, way: Way, lost: Tensor, answers: Tensor, wanted: Tensor | None) -> None:
        """Count the answers of some samples, ``[n, ...]``, that took one way; `wanted` from :func:`right_classes`."""
        right = 0.0
        if self.kind != "values":
            right = float((answers.flatten(1).argmax(1) == wanted).sum())
        before = self.sums.get((way.point, way.count), (0.0, 0.0, 0))
        self.sums[way.point, way.count] = (
            before[0] + float(lost.sum()),
            before[1] + right,
            before[2] + len(answers),
        )

    def rows(self, epoch: int, which: str) -> list[Row]:
        """Return a row per way."""
        metric = "accuracy" if self.labeled else "agreement"
        return [
            {
                "epoch": epoch,
                "partition": LOCAL if point == len(self.names) else self.names[point],
                "slices": count,
                "loss": round(lost / samples, 6),
                "value": None if self.kind == "values" else round(right / samples, 6),
                "metric": "loss" if self.kind == "values" else metric,
                "set": which,
                "samples": samples,
            }
            for (point, count), (lost, right, samples) in sorted(self.sums.items())
        ]


def validated(
    network: SlicedNetwork,
    batches: Iterable[tuple[Tensor, Tensor | None, Tensor | None]],
    tally: Tally,
    losses: Losses,
    *,
    local: bool,
    epoch: int,
) -> list[Row]:
    """Return a row for every point and count (and the whole network, if `local`) over samples not trained on.

    Gradients are the caller's to switch off.

    Args:
        network: The split network.
        batches: Inputs, the original's answers, labels.
        tally: An empty one.
        losses: Per sample, of answers, the original's answers and labels.
        local: The whole network runs on the device, too.
        epoch: For the rows.
    """
    for x, original, labels in batches:
        wanted = right_classes(original, labels)
        for number, point in enumerate(network.points):
            units = network.units(x, number)
            for count in point.counts:
                answers = network.answer(units, number, count)
                tally.add(Way(number, count, len(x)), losses(answers, original, labels), answers, wanted)
        if local:
            way = Way(len(network.points), 0, len(x))
            answers = network(x, [way])
            tally.add(way, losses(answers, original, labels), answers, wanted)
    return tally.rows(epoch, VALIDATION)


def right_classes(original: Tensor | None, labels: Tensor | None) -> Tensor | None:
    """Return the class of each sample, ``[n]``: its label, or else what the original network says."""
    if labels is not None or original is None:
        return labels
    return original.flatten(1).argmax(1)


def to_jsonl(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the text of ``training.jsonl``."""
    return "".join(f"{json.dumps(row)}\n" for row in rows)


def latest(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of the last epoch: those of the validation set, if there is one."""
    if not rows:
        return []
    last = [row for row in rows if row["epoch"] == rows[-1]["epoch"]]
    return [row for row in last if row["set"] == VALIDATION] or [row for row in last if row["set"] == TRAIN]
