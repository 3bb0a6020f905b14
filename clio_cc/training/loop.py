"""`clio-cc train` on one screen: an ONNX file and samples in; the trained network, an ordinary input of `compile`, out.

float graph ── prune ── equalize ── split in closed form ── epochs in floats ── epochs rounded ── model.onnx
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from clio_cc.errors import ClioError
from clio_cc.training.checkpoint import NAME as CHECKPOINT
from clio_cc.training.checkpoint import Checkpoint, find_checkpoint
from clio_cc.training.curves import TRAIN, draw_curves
from clio_cc.training.data import Batch
from clio_cc.training.folder import write_files
from clio_cc.training.network import SlicedNetwork, Way
from clio_cc.training.objective import draw_ways, losses
from clio_cc.training.prepare import Start, prepare
from clio_cc.training.session import Session, open_session, saying_batch_size
from clio_cc.training.settings import TrainOptions
from clio_cc.training.start import fake_quant
from clio_cc.training.torch_graph import TorchGraph, with_weights
from clio_cc.training.watch import Row, Tally, latest, right_classes, to_jsonl, validated
from clio_cc.training.write import trained_model

MODEL, LOG, CURVES = "model.onnx", "training.jsonl", "curves.png"
HEADS_RATE = 5.0  # of encoders and heads, relative to the network's weights
THRESHOLDS_RATE = 1e-2  # TQT, section 5.2
WARM_UP = 0.02  # of all steps
STEEPEST = 5.0  # norm of the gradient of a step
VALIDATED = 256  # samples at once
SETTLED = 256  # samples that the heads' statistics start from

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class Training:
    """What came out of it.

    Attributes:
        out: The folder.
        rows: Of the last epoch: loss and value per partition point and count.
        macs: Multiply-accumulates of the whole network: before, and now.
        warnings: What the user must be told.
        first: Whether this process is the one to report.
    """

    out: Path
    rows: Sequence[Row]
    macs: tuple[int, int]
    warnings: tuple[str, ...]
    first: bool = True

    def to_json(self) -> dict[str, Any]:
        """The object of ``train --json``."""
        before, now = self.macs
        return {
            "out": str(self.out),
            "macs_before": before,
            "macs": now,
            "rows": list(self.rows),
            "warnings": list(self.warnings),
        }


def train(options: TrainOptions, progress: Progress) -> Training:
    """Train, and write model, log and curves into ``options.out``.

    Raises:
        ClioError: the input is at fault, or memory is short.
    """
    with open_session(options.device, options.seed) as session:
        refuse_overwriting(options.model, options.out)
        checkpoint = find_checkpoint(options.out, resume=options.resume)
        start = prepare(options, progress)
        session.refuse_few(min(options.batch, len(start.training.x)))
        with saying_batch_size(options.batch):
            loop = _Loop(options, start, session, progress)
            if checkpoint is not None:
                checkpoint.refuse_other(options.recorded(), start.digest, options.out)
                loop.restore(checkpoint)
            loop.run()
        if session.first:
            loop.write()
        return Training(options.out, latest(loop.rows), start.macs, start.warnings, session.first)


def refuse_overwriting(model: Path, out: Path) -> None:
    """Raise ClioError if the network to train would be lost, or if a folder lies where a file is to be."""
    for name in (MODEL, LOG, CURVES, CHECKPOINT):
        if (out / name).is_dir():
            raise ClioError("is a folder", str(out / name), "give another --out")
    written = out / MODEL
    if written.exists() and written.resolve() == model.resolve():
        raise ClioError(
            "is the network to train, which would be overwritten", str(written), "give another --out"
        )


class _Loop:
    """The epochs."""

    def __init__(self, options: TrainOptions, start: Start, session: Session, progress: Progress) -> None:
        self.options, self.start, self.session, self.progress = options, start, session, progress
        self.original = _to(TorchGraph(start.original).requires_grad_(False), session.device)
        self.network = SlicedNetwork(
            TorchGraph(start.model), [cut.module() for cut in start.cuts], start.answer
        )
        self.network = _to(self.network, session.device)
        (x,) = start.calibration.take(SETTLED).inputs.values()
        self.network.settle(torch.from_numpy(x).to(session.device))
        self.rows: list[Row] = []
        self.epoch = 0
        self.optimizer = self._optimizer()

    @property
    def rounded_from(self) -> int:
        """The first epoch with the device's rounding."""
        return self.options.epochs - self.options.rounded_epochs

    def _optimizer(self) -> torch.optim.Optimizer:
        rate = self.options.learning_rate
        groups = [
            {"params": list(self.network.graph.parameters()), "highest": rate},
            {"params": list(self.network.points.parameters()), "highest": rate * HEADS_RATE},
        ]
        return torch.optim.AdamW([group for group in groups if group["params"]], rate, weight_decay=0.0)

    def round(self) -> None:
        """Begin to compute as the device does."""
        model = with_weights(self.start.model, self.network.graph.trained())
        points = {point.name: point.encoder() for point in self.network.points}
        samples, local = self.start.calibration, self.start.local
        rounding = fake_quant(
            model,
            [cut.made_of for cut in self.start.cuts],
            points,
            samples,
            local=local,
            bits=self.options.unit_bits,
        )
        self.network.rounding = rounding.to(self.session.device)
        free = [each for each in rounding.parameters() if each.requires_grad]
        self.optimizer.add_param_group({"params": free, "highest": THRESHOLDS_RATE})

    # --- epochs

    def run(self) -> None:
        while self.epoch < self.options.epochs:
            if self.epoch == self.rounded_from and self.network.rounding is None:
                self.round()
            rows = self._trained_epoch()
            self.network.eval()
            rows += self._validated()
            # The last step's weights have been in no loss if nothing is validated.
            if not all(math.isfinite(row["loss"]) for row in rows) or not self.network.is_finite():
                raise self._diverged()
            self.network.train()
            self.rows += rows
            self.epoch += 1
            if self.session.first and self.epoch < self.options.epochs:
                self._checkpoint().save(self.options.out)

    def _trained_epoch(self) -> list[Row]:
        options, session = self.options, self.session
        network = self._distributed()
        tally = self._tally()
        steps = self.start.training.count(options.batch)
        rng = np.random.default_rng((options.seed, self.epoch, session.number))
        batches = self.start.training.batches(
            options.batch, (options.seed, self.epoch), session.device, (session.number, session.processes)
        )
        stage = f"epoch {self.epoch + 1} of {options.epochs}"
        for step, batch in enumerate(batches):
            self.progress(stage, step, steps)
            self._set_rate((self.epoch * steps + step + 0.5) / (options.epochs * steps))
            ways = draw_ways(
                self.start.shares, self.start.local, len(batch.x), rng, sandwich=options.sandwich
            )
            self._step(network, batch, ways, tally)
        self.progress(stage, steps, steps)
        return tally.rows(self.epoch + 1, TRAIN)

    def _step(self, network: nn.Module, batch: Batch, ways: Sequence[Way], tally: Tally) -> None:
        x = _channels_last(batch.x)
        with torch.no_grad():
            original = self._original(x, batch.labels)
        times = len({way.point for way in ways})  # every sample at every point
        original, labels = (
            None if each is None else torch.cat([each] * times) for each in (original, batch.labels)
        )
        answers = network(x, ways)
        lost = self._losses(answers, original, labels)
        if not torch.isfinite(lost).all():
            raise self._diverged()
        self.optimizer.zero_grad()
        lost.mean().backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), STEEPEST)
        self.optimizer.step()
        _add(tally, ways, lost.detach(), answers.detach(), right_classes(original, labels))

    def _diverged(self) -> ClioError:
        hint = f"give --learning-rate {self.options.learning_rate / 4:g}"
        return ClioError(f"the loss is no longer a number in epoch {self.epoch + 1}", hint=hint)

    def _distributed(self) -> nn.Module:
        if self.session.processes == 1:
            return self.network
        return nn.parallel.DistributedDataParallel(self.network, find_unused_parameters=True)

    def _set_rate(self, done: float) -> None:
        """Up in a line, down in a cosine."""
        share = min(1.0, done / WARM_UP) * 0.5 * (1 + math.cos(math.pi * done))
        for group in self.optimizer.param_groups:
            group["lr"] = group["highest"] * share

    def _original(self, x: Tensor, labels: Tensor | None) -> Tensor | None:
        """What the network answered before training, where it counts."""
        if labels is not None and not self.options.distill:
            return None
        return self.original.run({self.network.input: x}, self.start.answer)

    def _losses(self, answers: Tensor, original: Tensor | None, labels: Tensor | None) -> Tensor:
        distill = self.options.distill if labels is not None else 1.0
        return losses(answers, original, labels, self.start.kind, distill)

    def _tally(self) -> Tally:
        names = [cut.point.name for cut in self.start.cuts]
        return Tally(names, self.start.kind, self.start.training.labels is not None)

    def _validated(self) -> list[Row]:
        held = self.start.validation
        if held is None or not self.session.first:
            return []

        def batches() -> Iterator[tuple[Tensor, Tensor | None, Tensor | None]]:
            for first in range(0, len(held.x), VALIDATED):
                self.progress("validation", first, len(held.x))
                part: Batch = held.part(first, VALIDATED, self.session.device)
                x = _channels_last(part.x)
                yield x, self._original(x, part.labels), part.labels
            self.progress("validation", len(held.x), len(held.x))

        tally = replace(self._tally(), labeled=held.labels is not None)
        with torch.no_grad():
            return validated(
                self.network, batches(), tally, self._losses, local=self.start.local, epoch=self.epoch + 1
            )

    # --- on disk

    def _checkpoint(self) -> Checkpoint:
        return Checkpoint(
            self.options.recorded(),
            self.start.digest,
            self.epoch,
            self.network.state_dict(),
            self.optimizer.state_dict(),
            self.rows,
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        if checkpoint.epoch > self.rounded_from:
            self.round()  # for the modules; what they hold comes from the checkpoint
        self.network.load_state_dict(checkpoint.network)
        self.optimizer.load_state_dict(checkpoint.optimizer)
        self.epoch, self.rows = checkpoint.epoch, checkpoint.rows

    def write(self) -> None:
        """Write all files; the checkpoint goes last."""
        self.network.eval()
        files = {
            MODEL: trained_model(self.network, self.start, self.options),
            LOG: to_jsonl(self.rows).encode(),
            CURVES: draw_curves(self.rows),
        }
        write_files(self.options.out, files)
        (self.options.out / CHECKPOINT).unlink(missing_ok=True)


def _add(tally: Tally, ways: Sequence[Way], lost: Tensor, answers: Tensor, wanted: Tensor | None) -> None:
    first = 0
    for way in ways:
        part = slice(first, first + way.samples)
        tally.add(way, lost[part], answers[part], None if wanted is None else wanted[part])
        first += way.samples


def _to(module: Any, device: str) -> Any:
    """Images are convolved channel by channel otherwise: on a CPU that is half as fast."""
    for parameter in module.parameters():
        parameter.data = _channels_last(parameter.data)
    return module.to(device)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x
