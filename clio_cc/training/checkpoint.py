"""Checkpoints: what a training needs to go on as if nothing had happened, one file, replaced after every epoch."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from clio_cc.errors import ClioError
from clio_cc.training.folder import probe, write_files

NAME = "checkpoint.pt"
SCHEMA = 1


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A training between two epochs.

    Attributes:
        options: As recorded.
        data: Digest of model and samples.
        epoch: Epochs done.
        network: State of the network, its rounding included.
        optimizer: State of the optimizer.
        rows: Of the log.
    """

    options: dict[str, Any]
    data: str
    epoch: int
    network: dict[str, Any]
    optimizer: dict[str, Any]
    rows: list[dict[str, Any]]

    def save(self, folder: Path) -> None:
        """Write it; the one before stays whole until then."""
        content = io.BytesIO()
        torch.save({"schema": SCHEMA, **vars(self)}, content)
        write_files(folder, {NAME: content.getvalue()})

    def refuse_other(self, options: dict[str, Any], data: str, folder: Path) -> None:
        """Raise ClioError if it is of a training with other options, data or model than these."""
        where = str(folder / NAME)
        differing = [name for name, value in options.items() if self.options.get(name) != value]
        if differing:
            before, now = self.options.get(differing[0]), options[differing[0]]
            message = f"was made with other options: {differing[0]} was {before!r}, is {now!r}"
            raise ClioError(message, where, "give the same options, or another --out")
        if self.data != data:
            hint = "give the same files, or another --out"
            raise ClioError("was made with other data or another model", where, hint)


def find_checkpoint(folder: Path, *, resume: bool) -> Checkpoint | None:
    """Return where an interrupted training stood; None to begin.

    Args:
        folder: Of the output.
        resume: Go on.

    Raises:
        ClioError: there is one and `resume` is not set, or none and it is; or the folder is none.
    """
    if folder.exists() and not folder.is_dir():
        raise ClioError("is not a folder", str(folder), "give another --out")
    probe(folder)
    path = folder / NAME
    if not path.exists():
        if resume:
            raise ClioError(
                "no such file: there is nothing to resume", str(path), "leave --resume out to begin"
            )
        return None
    if not resume:
        hint = "go on with --resume, delete the file, or give another --out"
        raise ClioError("an interrupted training is there", str(path), hint)
    try:
        found = torch.load(path, weights_only=True, map_location="cpu")
        if found.pop("schema") != SCHEMA:
            raise ValueError
        return Checkpoint(**found)
    except Exception as error:  # unpickling a damaged file raises anything
        raise ClioError(
            "is not a checkpoint of this version", str(path), "delete it to begin again"
        ) from error
