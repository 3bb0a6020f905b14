"""Run passes in order, hold each to its contract, and let one hook look at the model in between.

The hook is what ``--time-passes``, ``--print-after`` and ``--dump`` are made of; this module collects, the
command line prints.
"""

from __future__ import annotations

import difflib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from clio_cc import graph
from clio_cc.errors import ClioError
from clio_cc.passes import FLOAT_PIPELINE

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PassRecord:
    """What one pass did.

    Attributes:
        index: Position in the pipeline, from 0.
        name: The pass's name on the command line.
        time_us: Wall time in us (measured: never in an artifact).
        modified: Whether it changed the model.
        nodes: Number of nodes afterwards.
    """

    index: int
    name: str
    time_us: int
    modified: bool
    nodes: int


Hook = Callable[[PassRecord, ir.Model], None]


class PassContractError(AssertionError):
    """A pass broke its contract: a bug of the pass, not of the input."""


def run_passes(
    model: ir.Model,
    passes: Sequence[ir.passes.InPlacePass] = FLOAT_PIPELINE,
    *,
    hook: Hook | None = None,
    check: bool = False,
) -> list[PassRecord]:
    """Run passes in order on a model, in place.

    Args:
        model: As :func:`clio_cc.load.load_model` gives it.
        passes: The pipeline.
        hook: Called after each pass.
        check: Hold every pass to its contract (valid graph, truthful ``modified``, second run changes
        nothing); slow.

    Returns:
        One record per pass.

    Raises:
        PassContractError: With `check`, a pass broke its contract.
        Exception: Whatever a pass raised, with a note that names the pass.
    """
    records = []
    for index, each in enumerate(passes):
        name = pass_name(each)
        before = graph.to_bytes(model) if check else b""
        started = time.perf_counter_ns()
        try:
            modified = each(model).modified
        except Exception as error:
            error.add_note(f"in pass '{name}' ({index + 1} of {len(passes)})")
            raise
        record = PassRecord(
            index, name, (time.perf_counter_ns() - started) // 1000, modified, len(model.graph)
        )
        logger.debug("pass %s: %s", name, "modified" if modified else "unchanged")
        if check:
            check_contract(each, model, before, modified)
        records.append(record)
        if hook is not None:
            hook(record, model)
    return records


def check_contract(each: ir.passes.InPlacePass, model: ir.Model, before: bytes, modified: bool) -> None:
    """Raise :class:`PassContractError` for an invalid model, a wrong `modified`, or a busy second run."""
    name, after = pass_name(each), graph.to_bytes(model)
    if modified != (after != before):
        happened = "changed" if after != before else "did not change"
        raise PassContractError(f"pass '{name}' reports modified={modified}, but the model {happened}")
    try:
        onnx.checker.check_model(after, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise PassContractError(f"pass '{name}' leaves an invalid model: {error}") from error
    if each(model).modified or graph.to_bytes(model) != after:
        raise PassContractError(f"pass '{name}' changes its own result when run again")


def pass_name(each: ir.passes.InPlacePass) -> str:
    """The name of a pass on the command line."""
    return str(getattr(each, "name", type(each).__name__))


def check_pass_names(names: Sequence[str], passes: Sequence[ir.passes.InPlacePass] = FLOAT_PIPELINE) -> None:
    """Raise a ClioError with a suggestion for the first name that no pass has."""
    known = [pass_name(each) for each in passes]
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            raise ClioError(
                f"unknown pass '{name}'",
                hint=f"did you mean '{close[0]}'?" if close else f"passes are {', '.join(known)}",
            )


def print_after(
    names: Sequence[str],
    emit: Callable[[str], None],
    passes: Sequence[ir.passes.InPlacePass] = FLOAT_PIPELINE,
) -> Hook:
    """A hook for ``--print-after``: `emit` gets the model as text after each named pass, all checked now."""
    check_pass_names(names, passes)

    def hook(record: PassRecord, model: ir.Model) -> None:
        if record.name in names:
            emit(f"after {record.name}:\n{graph.to_text(model)}")

    return hook


def dump_into(files: dict[str, bytes]) -> Hook:
    """A hook for ``--dump``: fills `files` with ``NN-pass-name.onnx`` → bytes after every pass."""

    def hook(record: PassRecord, model: ir.Model) -> None:
        files[f"{record.index:02}-{record.name}.onnx"] = graph.to_bytes(model)

    return hook


def join_hooks(*hooks: Hook) -> Hook:
    """One hook that calls several, in order."""

    def hook(record: PassRecord, model: ir.Model) -> None:
        for each in hooks:
            each(record, model)

    return hook


def format_times(records: Sequence[PassRecord]) -> str:
    """The table of ``--time-passes``."""
    width = max([len("pass"), *(len(record.name) for record in records)])
    rows = [
        f"{r.name:<{width}}  {r.time_us / 1000:>9.2f} ms  {r.nodes:>5}  {'modified' if r.modified else '-'}"
        for r in records
    ]
    total = sum(record.time_us for record in records)
    return (
        "\n".join(
            [
                f"{'pass':<{width}}  {'time':>12}  {'nodes':>5}  result",
                *rows,
                f"{'total':<{width}}  {total / 1000:>9.2f} ms",
            ]
        )
        + "\n"
    )
