"""The folder that training writes into: tried before the work, filled with whole files."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from clio_cc.errors import ClioError


def probe(folder: Path) -> None:
    """Raise ClioError if a folder cannot be written to, before the work and not after."""
    holder = next(place for place in (folder, *folder.resolve().parents) if place.exists())
    try:
        tempfile.TemporaryDirectory(dir=holder).cleanup()
    except OSError as error:
        raise ClioError("cannot be written", str(folder), "give another --out") from error


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files into a folder that may have others: all are on disk before the first takes the place of what was there.

    Raises:
        ClioError: the system does not let it.
    """
    parts = {folder / f"{name}.part": folder / name for name in files}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for part, content in zip(parts, files.values(), strict=True):
            part.write_bytes(content)
        for part, path in parts.items():
            part.replace(path)
    except OSError as error:
        message = f"cannot be written: {error.strerror}"
        hint = "make room for it; where a checkpoint.pt is, the same command with --resume goes on"
        raise ClioError(message, str(error.filename or folder), hint) from error
    finally:
        for part in parts:
            with suppress(OSError):
                part.unlink()
