"""What training minimizes, and with which counts the samples of a batch are sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from clio_cc.slicing import Answer
from clio_cc.training.network import Way

TEMPERATURE = 2.0  # of the distillation: what the original thinks of wrong classes counts too


def losses(
    answers: Tensor, original: Tensor | None, labels: Tensor | None, kind: Answer, distill: float
) -> Tensor:
    """Return the loss of each sample, ``[n]``.

    Classes: cross-entropy with the labels, and the divergence from the original's probabilities (Hinton, Vinyals, Dean,
    "Distilling the Knowledge in a Neural Network", 2015); anything else: the squared error.

    Args:
        answers: ``[n, ...]``; scores of classes, before a softmax.
        original: What the network answered before training; None if `distill` is 0.
        labels: Class per sample, or None.
        kind: What the network answers.
        distill: Weight of the original's answers against the labels, 0 to 1; 1 without labels.
    """
    flat = answers.flatten(1)
    if kind == "values":
        assert original is not None
        return (flat - original.flatten(1)).square().mean(1)
    total = torch.zeros(len(flat), device=flat.device)
    if labels is not None and distill < 1:
        total = total + (1 - distill) * functional.cross_entropy(flat, labels, reduction="none")
    if original is not None:
        wanted = functional.log_softmax(original.flatten(1) / TEMPERATURE, 1)
        got = functional.log_softmax(flat / TEMPERATURE, 1)
        apart = functional.kl_div(got, wanted, reduction="none", log_target=True).sum(1)
        total = total + distill * TEMPERATURE**2 * apart
    return total


def draw_ways(
    shares: Sequence[Mapping[int, float]],
    local: bool,
    samples: int,
    rng: np.random.Generator,
    *,
    sandwich: bool = False,
) -> list[Way]:
    """Return with which counts the samples of a batch are sent: all samples at every point.

    Counts are drawn by systematic sampling, so that every batch has them nearly in their shares; the expected share of a
    count is exactly its probability.

    Args:
        shares: Per point, count → probability.
        local: The whole network runs on the device, too.
        samples: In the batch.
        rng: Of the draw.
        sandwich: Take the smallest and the largest count in every batch, a quarter of the samples each, and draw the
            rest (the sandwich rule: J. Yu, T. Huang, "Universally Slimmable Networks and Improved Training Techniques",
            ICCV 2019). Less than three samples are drawn.
    """
    ways = []
    for number, share in enumerate(shares):
        counts = sorted(share)
        taken, left = np.zeros(len(counts), int), samples
        if sandwich and len(counts) > 1 and samples > 2:
            taken[0] = taken[-1] = max(1, samples // 4)
            left -= 2 * int(taken[0])
        taken += _systematic([share[count] for count in counts], left, rng)
        ways += [Way(number, count, int(n)) for count, n in zip(counts, taken, strict=True) if n]
    return [*ways, *([Way(len(shares), 0, samples)] if local else [])]


def _systematic(weights: Sequence[float], samples: int, rng: np.random.Generator) -> np.ndarray:
    """How many of the samples fall to each weight: one random start, then even steps."""
    edges = np.cumsum(np.asarray(weights, np.float64) / sum(weights)) * samples
    edges[-1] = samples  # whatever the sum was rounded to
    steps = np.floor(np.concatenate([[0.0], edges]) + rng.random())
    return np.diff(steps).astype(int)
