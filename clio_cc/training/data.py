"""Batches of training samples: seeded order, and images moved about so that the network does not learn them by heart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

SHIFT = 8  # one n-th of the image, at most
ZOOM = (0.5, 1.0)  # of the image's area


@dataclass(frozen=True, eq=False)
class Batch:
    """Some samples, on the device that trains."""

    x: Tensor
    labels: Tensor | None


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training samples.

    Attributes:
        x: ``[n, ...]`` float32.
        labels: ``[n]``, or None.
        augment: What is done to images, see :mod:`clio_cc.training.settings`.
        channels_last: Whether images are ``[n, h, w, c]``.
    """

    x: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64] | None
    augment: tuple[str, ...] = ()
    channels_last: bool = False

    def batches(
        self, size: int, seed: tuple[int, int], device: str, part: tuple[int, int] = (0, 1)
    ) -> Iterator[Batch]:
        """Yield all samples in random order; the last ones that make no whole batch are left out, if others are there.

        Args:
            size: Samples of a batch, over all processes.
            seed: Of order and augmentation: the run's, and the epoch's number.
            device: As PyTorch calls it.
            part: Number of this process, and how many there are: each gets its rows of every batch.
        """
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(self.x))
        number, processes = part
        for start in range(0, max(1, len(order) - size + 1), size):
            chosen = order[start : start + size]
            batch_seed = rng.integers(2**31)
            mine = chosen[len(chosen) * number // processes : len(chosen) * (number + 1) // processes]
            x = torch.from_numpy(self.x[mine])
            if self.augment:
                x = self._augmented(x, np.random.default_rng((int(batch_seed), number)))
            labels = None if self.labels is None else torch.from_numpy(self.labels[mine]).to(device)
            yield Batch(x.to(device), labels)

    def part(self, first: int, size: int, device: str) -> Batch:
        """Return samples as they are, `size` of them from `first` on."""
        labels = (
            None if self.labels is None else torch.from_numpy(self.labels[first : first + size]).to(device)
        )
        return Batch(torch.from_numpy(self.x[first : first + size]).to(device), labels)

    def count(self, size: int) -> int:
        """Return the number of batches of an epoch."""
        return max(1, len(self.x) // size)

    def _augmented(self, x: Tensor, rng: np.random.Generator) -> Tensor:
        images = x.permute(0, 3, 1, 2) if self.channels_last else x
        images = torch.stack([_moved(image, self.augment, rng) for image in images])
        return images.permute(0, 2, 3, 1) if self.channels_last else images


def _moved(image: Tensor, augment: tuple[str, ...], rng: np.random.Generator) -> Tensor:
    """One image, ``[c, h, w]``."""
    height, width = image.shape[1:]
    if "zoom" in augment:
        side = np.sqrt(rng.uniform(*ZOOM))
        h, w = max(1, round(height * side)), max(1, round(width * side))
        top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
        part = image[None, :, top : top + h, left : left + w]
        image = functional.interpolate(part, (height, width), mode="bilinear", align_corners=False)[0]
    if "shift" in augment:
        rim_h, rim_w = height // SHIFT, width // SHIFT
        padded = functional.pad(image[None], (rim_w, rim_w, rim_h, rim_h), mode="reflect")[0]
        top, left = rng.integers(2 * rim_h + 1), rng.integers(2 * rim_w + 1)
        image = padded[:, top : top + height, left : left + width]
    if "flip" in augment and rng.random() < 0.5:
        image = image.flip(2)
    return image
