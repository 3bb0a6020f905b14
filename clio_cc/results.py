"""The folder that `compile` wrote, read back and updated: what `profile`, `plan` and `verify` work on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clio_cc.artifacts import (
    ACCURACY,
    FLOAT_ONNX,
    MANIFEST,
    PLAN,
    PROFILE,
    PROGRAM_JSON,
    REPORT,
    to_json,
)
from clio_cc.compiler import PLANNED_BANDWIDTH
from clio_cc.errors import ClioError
from clio_cc.program import Program
from clio_cc.program_json import from_json
from clio_cc.project import edited_files
from clio_cc.targets import find_target

if TYPE_CHECKING:
    from clio_cc.accuracy import AccuracyRow
    from clio_cc.compiler import Progress
    from clio_cc.plan import Plan
    from clio_cc.profile import ProfileRow
    from clio_cc.profiling import Device, Request

HINT = "run `clio-cc compile MODEL --target BOARD` first"


@dataclass(frozen=True)
class Profiled:
    """A profile, and what the user must be told of it."""

    rows: tuple[ProfileRow, ...]
    warnings: tuple[str, ...]


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
    """Return the files that are missing, or have another content than the manifest says and are not to be edited."""
    edited = edited_files(out, manifest["files"])
    return [path for path in manifest["files"] if path in edited or not (out / path).is_file()]


def read_profile(out: Path, manifest: dict[str, Any]) -> tuple[ProfileRow, ...]:
    """Return the rows of ``profile.csv``, perhaps edited by hand.

    Raises:
        ClioError: They are at fault, or not those of the manifest.
    """
    from clio_cc import profile

    if "layers" not in manifest:
        raise ClioError("not a manifest of this clio-cc", str(out / MANIFEST), "compile again")
    return profile.read_profile(
        out / PROFILE, profile.expected_rows(manifest["layers"], manifest["partitions"])
    )


def run_profile(place: Path, target: str | None, request: Request, progress: Progress) -> Profiled:
    """Time the layers of a folder that `compile` wrote, or of an ONNX file for a board.

    Raises:
        ClioError: It is neither, or an option belongs to the other.
    """
    if place.is_dir() or place.suffix != ".onnx":
        if target is not None:
            raise ClioError("--target is for an ONNX file; the folder of compile has its own")
        return measure_profile(place, request, progress)
    if target is None:
        raise ClioError(f"'{place}' needs a board", hint="add --target; `clio-cc targets` lists them")
    return profile_model(place, target, request, progress)


def measure_profile(out: Path, request: Request, progress: Progress) -> Profiled:
    """Fill ``profile.csv`` with times from where the user wants them, and write it."""
    import onnx

    from clio_cc import profile, profiling

    manifest = read_manifest(out)
    rows = read_profile(out, manifest)
    original = _read(out / FLOAT_ONNX)
    device = _device(out, manifest, original)
    rows, warnings = profiling.with_device(rows, device, request, progress)
    if request.cloud_table is not None:
        times = profiling.read_cloud(request.cloud_table, rows)
    else:
        points = [
            (profile.encode_name(p["name"]), p["slices"][-1], _read(out / p["cloud"]))
            for p in manifest["partitions"]
            if "cloud" in p
        ]
        times = profiling.measure_both(onnx.load_from_string(original), points, request.repeats, progress)
    rows = profile.with_cloud(rows, times)
    _replace(out, manifest, PROFILE, profile.to_csv(rows))
    return Profiled(rows, warnings)


def _device(out: Path, manifest: dict[str, Any], original: bytes) -> Device:
    import onnx
    import onnx_ir as ir

    from clio_cc import profile, profiling
    from clio_cc.attribution import attribute

    program, partitions = read_program(out), manifest["partitions"]
    found = attribute(
        program,
        ir.from_proto(onnx.load_from_string(original)),
        [profile.encode_name(p["name"]) for p in partitions],
        [p["layer"] for p in partitions],
    )
    return profiling.Device(program, out / "device", find_target(manifest["target"]), found)


def profile_model(model: Path, target: str, request: Request, progress: Progress) -> Profiled:
    """Return the profile of a model that was not compiled: the device's side is modelled, nothing is written."""
    from clio_cc import graph, profile, profiling
    from clio_cc.compiler import front_end
    from clio_cc.inspection import inspect_model
    from clio_cc.lower import device_supports

    if request.board_table is not None or request.device == profiling.EMULATED or request.counts:
        raise ClioError("only a model from MACs is to be had before compile", hint=HINT)
    board = find_target(target)
    network = front_end(model)
    rows = profile.modelled(inspect_model(network, device_supports).layers, board.macs_per_s)
    if request.cloud_table is not None:
        times = profiling.read_cloud(request.cloud_table, rows)
    else:
        times = profiling.measure_both(graph.to_proto(network), [], request.repeats, progress)
    return Profiled(profile.with_cloud(rows, times), ())


def make_plan(
    out: Path,
    bandwidth: str | None,
    deadline: str | None = None,
    energy: str | None = None,
    link: str | None = None,
    hysteresis: str = "10%",
) -> Plan:
    """Return the plan for a range of bandwidths, a deadline and an energy budget, as typed on the command line.

    Without a range it is the link's own rate, or the default range; without a deadline it is the default one, unless
    there is a budget.
    """
    from clio_cc import options, planner, units
    from clio_cc.radios import find_link

    radio = None if link is None else find_link(link)
    if bandwidth is None and radio is not None:
        wanted = units.BandwidthRange(radio.ceiling_bps, radio.ceiling_bps)
    else:
        wanted = PLANNED_BANDWIDTH if bandwidth is None else units.parse_bandwidth_range(bandwidth)
    deadline_us = planner.DEADLINE_US if energy is None else None
    manifest = read_manifest(out)
    points = planner.read_points(manifest, str(out / MANIFEST))
    rows = read_accuracy(out)
    options.check_accuracy(rows, points, str(out / ACCURACY))
    return planner.make_plan(
        read_profile(out, manifest),
        points,
        wanted,
        deadline_us=deadline_us if deadline is None else units.parse_time_us(deadline),
        budget_uj=None if energy is None else units.parse_energy_uj(energy),
        input_bytes=int(manifest["input_bytes"]),
        link=radio,
        device_power_mw=find_target(manifest["target"]).power_mw,
        accuracy=rows,
        local=bool(manifest.get("local")),
        no_local=str(manifest.get("no_local", "")),
        margin=units.parse_share(hysteresis, "--hysteresis"),
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


def write_report(out: Path) -> Sequence[str]:
    """Write ``report.html`` from what the folder holds now.

    Returns:
        What kept tables from being read.
    """
    return _write_report(out, read_manifest(out))


def _write_report(out: Path, manifest: dict[str, Any]) -> Sequence[str]:
    from clio_cc.report import facts, page

    found = facts.from_folder(out, manifest, read_program(out))
    _write_both(out, manifest, REPORT, page.render(found))
    return found.problems


def _replace(out: Path, manifest: dict[str, Any], name: str, text: str) -> None:
    """Replace a table, its digest, and the page that shows it."""
    _write_both(out, manifest, name, text)
    if REPORT in manifest["files"]:
        _write_report(out, manifest)


def _write_both(out: Path, manifest: dict[str, Any], name: str, text: str) -> None:
    """Write one file and its digest; each file is whole at any time."""
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
