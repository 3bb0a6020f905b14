"""Slice heads: for every count of units that may arrive, weights that restore all channels at the cut.

CLIO (MobiCom'20, sections 3.2 and 3.4) gives each slice count its own first cloud layer and ties all that follows.
The weights come in closed form: least squares from the int8 units, as the device sends them, to what the float
network has at the cut, held back by a ridge not to zero but to the encoder's own inverse, which is all that counts where
there is little data; then each channel is stretched to the spread that it really has, as least squares shrinks
what it cannot know, and ReLU would cut the rest off.

A head sees a window of positions, so it uses what neighbors say about a position. It restores the cut's tensor, not
the first layer's output: for a 1×1 layer the two are the same function (least squares is linear in its target), for
wider ones the layer's own window comes on top; skip connections that cross the cut and several readers need no heads
of their own; and the table is smaller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clio_cc.qformat import Int8Array
from clio_cc.quantization.layers import Float

RIDGE = 0.03  # of each input's own variance; benchmarks/slices.py
RIDGE_PER_INPUT = 0.1  # more for every input per position to fit on
MOST_STRETCH = 4.0
TABLE_BYTES = 8 << 20  # of one cut's heads: the window shrinks, then counts are left out, until they fit
WINDOWS = (5, 3, 1)
FIT_WORK = 6e10  # multiply-accumulates of the normal equations
ROWS_PER_INPUT = 8


@dataclass(frozen=True, eq=False)
class Heads:
    """Weights per count; row 0 is for nothing received: the mean.

    Attributes:
        counts: Unit counts that may be sent, ascending.
        window: Positions seen in height and in width, odd; 1 for anything but images.
        weight: ``[1 + counts, channels, units * window²]`` float32, unit by unit; zeros for units that do not count.
        bias: ``[1 + counts, channels]`` float32.
    """

    counts: tuple[int, ...]
    window: int
    weight: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]

    @property
    def bytes(self) -> int:
        """Bytes of all weights."""
        return self.weight.nbytes + self.bias.nbytes

    def only(self, counts: Sequence[int]) -> Heads:
        """Return the heads of some of the counts, over no more units than the last of them."""
        rows = [0, *(1 + self.counts.index(count) for count in counts)]
        weight = self.weight[rows, :, : counts[-1] * self.window**2]
        return Heads(tuple(counts), self.window, weight, self.bias[rows])


def head_bytes(units: int, channels: int, window: int, counts: int) -> int:
    """Return the bytes of the weights of so many heads."""
    return 4 * (counts + 1) * channels * (units * window**2 + 1)


def choose_window(
    units: int, channels: int, counts: int, shape: Sequence[int], *, thorough: bool = True
) -> int:
    """Return the widest window whose heads stay small.

    Args:
        units: At the cut.
        channels: At the cut.
        counts: How many heads.
        shape: What comes behind the channels: (height, width), or anything else.
        thorough: Allow the widest windows, which take the longest to fit.
    """
    if len(shape) != 2:
        return 1
    fitting = [
        window
        for window in (WINDOWS if thorough else WINDOWS[1:])
        if head_bytes(units, channels, window, counts) <= TABLE_BYTES and window < 2 * max(shape)
    ]
    return fitting[0] if fitting else 1


def thinned(counts: Sequence[int], units: int, channels: int) -> tuple[int, ...]:
    """Return the counts, every second left out until their heads stay small; the last stays."""
    kept = list(counts)
    while len(kept) > 2 and head_bytes(units, channels, 1, len(kept)) > TABLE_BYTES:
        kept = kept[::-2][::-1]
    return tuple(kept)


def fit_heads(
    units: Int8Array,
    scale: float,
    x: Float,
    counts: Sequence[int],
    window: int = 1,
    *,
    prior: Float | None = None,
    stretch: float = 1.0,
    work: float = FIT_WORK,
) -> Heads:
    """Return heads fitted on calibration.

    Args:
        units: As the device sends them, ``[n, units, *rest]``.
        scale: What one step of a unit is worth.
        x: What the float network has at the cut for the same samples, ``[n, channels, *rest]``.
        counts: Unit counts that may be sent, ascending.
        window: Odd; 1 unless `rest` is (height, width).
        prior: ``[channels, units]``: what restores the channels where all units are there; None for zeros.
        stretch: 1 gives every channel the spread that it has over calibration, 0 leaves least squares as it is.
        work: Most multiply-accumulates for the normal equations; fewer positions are used where it is not enough.
    """
    every, channels = units.shape[1], x.shape[1]
    taps = window**2
    chosen = _rows_to_fit(units, window, work)
    inputs = patches(units.astype(np.float32) * np.float32(scale), window, chosen)
    target = np.moveaxis(x, 1, -1).reshape(-1, channels)[chosen].astype(np.float32)
    means = inputs.mean(axis=0, dtype=np.float64), target.mean(axis=0, dtype=np.float64)
    inputs -= means[0].astype(np.float32)
    target = target - means[1].astype(np.float32)
    gram = (inputs.T @ inputs).astype(np.float64) / len(inputs)
    cross = (inputs.T @ target).astype(np.float64) / len(inputs)
    diagonal = np.diag(gram)
    ridge = RIDGE + RIDGE_PER_INPUT * len(gram) / len(inputs)
    damped = gram + np.diag(ridge * diagonal + 1e-9 * max(float(diagonal.mean()), 1e-30))
    # Units come first to last, so the factor's leading block is the leading block's factor: one serves all counts.
    lower = np.linalg.cholesky(damped)
    known = _at_center(np.zeros((channels, every)) if prior is None else prior, taps)
    spread = target.var(axis=0, dtype=np.float64)
    weight = np.zeros((1 + len(counts), channels, every * taps))
    bias = np.tile(means[1], (1 + len(counts), 1))
    for row, count in enumerate(counts, 1):
        size = count * taps
        start, factor = known[:size], lower[:size, :size]
        missing = cross[:size] - gram[:size, :size] @ start  # what the prior does not explain
        found = start + np.linalg.solve(factor.T, np.linalg.solve(factor, missing))
        reached = np.einsum("ic,ij,jc->c", found, gram[:size, :size], found, optimize=True)
        shrunk = np.sqrt(spread / np.maximum(reached, 1e-30))
        found = found * np.where(reached > 0, np.clip(shrunk, 1, MOST_STRETCH), 1.0) ** stretch
        weight[row, :, :size] = found.T
        bias[row] -= means[0][:size] @ found
    return Heads(tuple(counts), window, weight.astype(np.float32), bias.astype(np.float32))


def exact_heads(order: Sequence[int], channels: int) -> Heads:
    """Return the head of a selection that sends everything: each channel to its place."""
    weight = np.zeros((2, channels, len(order)), np.float32)
    weight[1, list(order), np.arange(len(order))] = 1
    return Heads((len(order),), 1, weight, np.zeros((2, channels), np.float32))


def restore(heads: Heads, units: Float, received: Sequence[int]) -> npt.NDArray[np.float32]:
    """Return the channels at the cut, ``[n, channels, *rest]``: what the cloud graph computes, in numpy.

    Args:
        heads: The weights.
        units: Dequantized, ``[n, units, *rest]``.
        received: Count per sample.
    """
    rows = np.searchsorted(heads.counts, np.asarray(received), side="right")
    seen = patches(units, heads.window).reshape(len(units), -1, heads.weight.shape[2])
    restored = seen @ heads.weight[rows].transpose(0, 2, 1) + heads.bias[rows][:, None]
    return np.asarray(restored.transpose(0, 2, 1).reshape(len(units), -1, *units.shape[2:]), np.float32)


def patches(
    units: Float, window: int, chosen: npt.NDArray[np.int64] | None = None
) -> npt.NDArray[np.float32]:
    """Return what a head sees at every position, ``[n * positions, units * window²]``, zeros beyond the border.

    Args:
        units: ``[n, units, *rest]``.
        window: Odd; 1 unless `rest` is (height, width).
        chosen: Only these positions, counted over samples.
    """
    count = units.shape[1]
    if window == 1:
        rows = np.moveaxis(units, 1, -1).reshape(-1, count)
        return np.asarray(rows if chosen is None else rows[chosen], np.float32)
    height, width = units.shape[2:]
    rim = window // 2
    padded = np.pad(units, ((0, 0), (0, 0), (rim, rim), (rim, rim)))
    seen = np.lib.stride_tricks.sliding_window_view(padded, (window, window), axis=(2, 3))
    at = np.arange(len(units) * height * width) if chosen is None else chosen
    sample, row, column = np.unravel_index(at, (len(units), height, width))
    return np.asarray(seen[sample, :, row, column].reshape(len(at), -1), np.float32)


def _at_center(prior: Float, taps: int) -> Float:
    """``[channels, units]`` as weights of windows, ``[units * taps, channels]``: all in the middle."""
    weight = np.zeros((prior.shape[1], taps, len(prior)))
    weight[:, taps // 2] = prior.T
    return weight.reshape(-1, len(prior))


def _rows_to_fit(units: Int8Array, window: int, work: float) -> npt.NDArray[np.int64]:
    """Positions to fit on: a draw where there are more than the work allows."""
    inputs = units.shape[1] * window**2
    every = len(units) * int(np.prod(units.shape[2:]))
    most = max(int(work / inputs**2), ROWS_PER_INPUT * inputs)
    if every <= most:
        return np.arange(every)
    return np.sort(np.random.default_rng(0).choice(every, most, replace=False))
