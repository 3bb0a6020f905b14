"""The folder that `compile` wrote, read back and updated: what `profile`, `plan` and `verify` work on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clio_cc.compiler import (
    ACCURACY,
    FLOAT_ONNX,
    MANIFEST,
    PLAN,
    PLANNED_BANDWIDTH,
    PROFILE,
    PROGRAM_JSON,
    to_json,
)
from clio_cc.errors import ClioError
from clio_cc.program import Program
from clio_cc.program_json import from_json
from clio_cc.targets import find_target

if TYPE_CHECKING:
    from clio_cc.accuracy import AccuracyRow
    from clio_cc.plan import Plan
    from clio_cc.profile import ProfileRow

HINT = "run `clio-cc compile MODEL --target BOARD` first"


def read_manifest(out: Path) -> dict[str, Any]:
    """Return ``manifest.json``.

    Raises:
        ClioError: `out` is no folder of `compile`, or of another version.
    """
    path = out / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ClioError(f"'{out}' is not a folder that clio-cc compile wrote", hint=HINT) from None
    except (OSError, ValueError) as error:
        raise ClioError("cannot be read", str(path), "compile again") from error
    if not isinstance(manifest, dict) or manifest.get("schema") != 1:
        raise ClioError("not a manifest of this clio-cc", str(path), "compile again")
    return manifest


def read_program(out: Path) -> Program:
    """Return the Program that `compile` wrote."""
    path = out / PROGRAM_JSON
    return from_json(_read(path).decode("utf-8", "replace"), str(path))


def changed_files(out: Path, manifest: dict[str, Any]) -> list[str]:
    """Return the files whose content is not what the manifest says, or that are missing."""
    return [
        path
        for path, digest in manifest["files"].items()
        if not (out / path).is_file() or hashlib.sha256((out / path).read_bytes()).hexdigest() != digest
    ]


def measure_profile(out: Path, repeats: int) -> tuple[ProfileRow, ...]:
    """Time the float graph on this machine as the cloud side, and write ``profile.csv`` with it."""
    import onnx

    from clio_cc import profile

    manifest = read_manifest(out)
    rows = profile.read_profile(out / PROFILE)
    times = profile.measure_cloud(onnx.load_from_string(_read(out / FLOAT_ONNX)), repeats)
    rows = profile.with_cloud(rows, times.us, times.source)
    _replace(out, manifest, PROFILE, profile.to_csv(rows))
    return rows


def make_plan(out: Path, bandwidth: str | None, deadline: str, link: str | None) -> Plan:
    """Return the plan for a range of bandwidths and a deadline, as typed on the command line.

    Without a range it is the link's own rate, or the default range.
    """
    from clio_cc import planner, profile, units
    from clio_cc.link import find_link

    radio, deadline_us = None if link is None else find_link(link), units.parse_time_us(deadline)
    if bandwidth is None and radio is not None:
        rate = int(radio.bandwidth_bps.value)
        wanted = units.BandwidthRange(rate, rate)
    else:
        wanted = units.parse_bandwidth_range(bandwidth or PLANNED_BANDWIDTH)
    manifest = read_manifest(out)
    return planner.make_plan(
        profile.read_profile(out / PROFILE),
        planner.read_points(manifest, str(out / MANIFEST)),
        wanted,
        deadline_us=deadline_us,
        input_bytes=int(manifest["input_bytes"]),
        link=radio,
        device_power_mw=find_target(manifest["target"]).power_mw,
    )


def write_plan(out: Path, plan: Plan) -> None:
    """Write ``plan.json``."""
    _replace(out, read_manifest(out), PLAN, plan.to_text())


def read_accuracy(out: Path) -> tuple[AccuracyRow, ...]:
    """Return the rows of ``accuracy.csv``; none where there is no such file."""
    from clio_cc import accuracy

    return accuracy.read_accuracy(out / ACCURACY) if (out / ACCURACY).exists() else ()


def write_accuracy(out: Path, rows: Sequence[AccuracyRow]) -> None:
    """Write ``accuracy.csv``."""
    from clio_cc import accuracy

    _replace(out, read_manifest(out), ACCURACY, accuracy.to_csv(rows))


def _replace(out: Path, manifest: dict[str, Any], name: str, text: str) -> None:
    """Replace one file and its digest; each file is whole at any time."""
    manifest["files"][name] = hashlib.sha256(text.encode()).hexdigest()
    _write(out / name, text)
    _write(out / MANIFEST, to_json(manifest))


def _write(path: Path, text: str) -> None:
    fresh = path.with_name(f".{path.name}.new-{os.getpid()}")
    try:
        fresh.write_text(text, encoding="utf-8", newline="\n")
        fresh.replace(path)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise ClioError(f"cannot write '{path}': {error.strerror}") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ClioError(f"cannot read '{path}': {error.strerror}", hint="compile again") from error
