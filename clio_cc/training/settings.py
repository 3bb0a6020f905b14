"""What can be asked of a training; without PyTorch, so that the command line can build it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clio_cc.errors import ClioError
from clio_cc.link import Link
from clio_cc.plan import DEADLINE_US
from clio_cc.units import BandwidthRange

AUGMENTATIONS = ("flip", "shift", "zoom")
DEVICES = ("auto", "cpu", "cuda")
NONE, AUTO = "none", "auto"


@dataclass(frozen=True)
class TrainOptions:
    """What the user asked for.

    Attributes:
        model: ONNX file.
        data: Samples, best with labels: ``.npz`` or a folder of images by class.
        out: Folder to write.
        partition: Partition points joined by commas, `local` (the whole network on the device) among them.
        slices: ``auto``, or unit counts joined by commas.
        validation: Samples that are not trained on, to watch accuracy by; None to watch the training samples.
        image_scale: Pixels of images are divided by this.
        augment: What is done to images, of :data:`AUGMENTATIONS`.
        bandwidth: The range of the prior; None where all numbers of units are alike.
        prior: ``uniform``, ``log``, or a file; see :func:`clio_cc.training.widths.read_prior`.
        shares: How often each count is sent, the same at each point; None for what follows from `bandwidth`.
        deadline_us: From input to answer; None for the default where there is a bandwidth.
        link: How bytes travel; None for the bandwidth itself.
        target: Board whose speed counts; None for computation in no time.
        epochs: How many, in floats and rounded together.
        rounded_epochs: The last of them, with the device's rounding; 0 for none.
        batch: Samples of a step.
        learning_rate: At its highest, of the network's weights.
        distill: Weight of the original's answers against the labels, 0 to 1.
        sandwich: Every batch has the smallest and the largest count.
        prune: Share of the device's multiply-accumulates to remove before.
        width: Of the network's channels that stay; 1 for all.
        unit_bits: Of a value of a unit.
        seed: Of order, augmentation and draws.
        device: ``auto``, ``cpu`` or ``cuda``.
        resume: Go on from the checkpoint in `out`.
    """

    model: Path
    data: Path
    out: Path
    partition: str
    slices: str = AUTO
    validation: Path | None = None
    image_scale: float = 1.0
    augment: tuple[str, ...] = ()
    bandwidth: BandwidthRange | None = None
    prior: str = "uniform"
    shares: tuple[float, ...] | None = None
    deadline_us: int | None = None
    link: Link | None = None
    target: str | None = None
    epochs: int = 10
    rounded_epochs: int = 3
    batch: int = 64
    learning_rate: float = 2e-4
    distill: float = 0.5
    sandwich: bool = False
    prune: float = 0.0
    width: float = 1.0
    unit_bits: int = 8
    seed: int = 0
    device: str = AUTO
    resume: bool = False

    @property
    def deadline(self) -> int:
        """The deadline that counts, in microseconds."""
        return DEADLINE_US if self.deadline_us is None else self.deadline_us

    def recorded(self) -> dict[str, Any]:
        """The options as the model file and the checkpoint hold them: no paths, nothing that does not change the result."""
        bandwidth = None if self.bandwidth is None else [self.bandwidth.low_bps, self.bandwidth.high_bps]
        return {
            "model": self.model.name,
            "data": self.data.name,
            "partition": self.partition,
            "slices": self.slices,
            "image_scale": self.image_scale,
            "augment": list(self.augment),
            "bandwidth": bandwidth,
            "prior": self.prior if self.prior in ("uniform", "log") else Path(self.prior).name,
            "shares": None if self.shares is None else list(self.shares),
            "deadline_us": self.deadline,
            "link": None if self.link is None else self.link.name,
            "target": self.target,
            "epochs": self.epochs,
            "rounded_epochs": self.rounded_epochs,
            "batch": self.batch,
            "learning_rate": self.learning_rate,
            "distill": self.distill,
            "sandwich": self.sandwich,
            "prune": self.prune,
            "width": self.width,
            "unit_bits": self.unit_bits,
            "seed": self.seed,
        }


def parse_augment(text: str) -> tuple[str, ...]:
    """Return the augmentations of ``flip,shift``; none for ``none``.

    Raises:
        ClioError: one is unknown.
    """
    if text == NONE:
        return ()
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in AUGMENTATIONS:
            raise ClioError(
                f"unknown augmentation '{name}'",
                "--augment",
                f"give none, or some of {', '.join(AUGMENTATIONS)}",
            )
    return names
