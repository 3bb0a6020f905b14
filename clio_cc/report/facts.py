"""What the page is made of: the artifacts of a compilation, in memory or read back from its folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from clio_cc.accuracy import AccuracyRow
from clio_cc.artifacts import ACCURACY, FLOAT_ONNX, PLAN, PROFILE
from clio_cc.errors import ClioError
from clio_cc.profile import ProfileRow
from clio_cc.program import Program
from clio_cc.targets import Target, find_target

if TYPE_CHECKING:
    import onnx_ir as ir

    from clio_cc.inspection import Inspection, Layer

_T = TypeVar("_T")


@dataclass(frozen=True, eq=False)
class Facts:
    """One compilation.

    Attributes:
        manifest: ``manifest.json``; digests of files, too.
        network: Layers and candidate partition points of the float graph.
        places: Tensor of the float graph → number of layers up to the one that makes it; 0 for its inputs.
        blocks: Names of the layers of each block, in order; see :mod:`clio_cc.blocks`.
        profile: Rows of ``profile.csv``; none if it is at fault.
        accuracy: Rows of ``accuracy.csv``; none if there are none.
        plan: The object of ``plan.json``; None if there is none.
        problems: What kept tables from being read.
    """

    manifest: Mapping[str, Any]
    target: Target
    network: Inspection
    places: Mapping[str, int]
    blocks: Sequence[tuple[str, ...]]
    program: Program
    profile: Sequence[ProfileRow]
    accuracy: Sequence[AccuracyRow]
    plan: Mapping[str, Any] | None
    problems: Sequence[str] = ()

    @property
    def partitions(self) -> Sequence[Mapping[str, Any]]:
        """The partition points that were compiled."""
        found: Sequence[Mapping[str, Any]] = self.manifest["partitions"]
        return found

    @property
    def layers(self) -> Sequence[Layer]:
        """Layers of the float graph in order of execution."""
        return self.network.layers

    @property
    def macs(self) -> int:
        """Of the whole float network."""
        return sum(layer.macs for layer in self.layers)

    @property
    def metric(self) -> str:
        """``accuracy``, ``agreement``, or nothing where nothing was evaluated."""
        return self.accuracy[0].metric if self.accuracy else ""

    @property
    def local(self) -> bool:
        """The whole network was compiled for the device, too."""
        return bool(self.manifest.get("local"))

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Partition point → its number on this page, from 1."""
        return {entry["name"]: number for number, entry in enumerate(self.partitions, start=1)}

    @cached_property
    def cut_after(self) -> dict[str, int]:
        """Partition point → number of layers on the device's side."""
        index = {layer.name: number for number, layer in enumerate(self.layers, start=1)}
        return {entry["name"]: index[entry["layer"]] for entry in self.partitions}

    @cached_property
    def is_stale(self) -> bool:
        """The plan was made from other figures than profile and accuracy now hold."""
        if self.plan is None:
            return False
        then = {(s["partition"], s["slices"]): _figures(**s) for s in self.plan["steps"]}
        return then != self._steps_now()

    def _steps_now(self) -> dict[tuple[str, int], tuple[object, ...]]:
        from clio_cc import options

        times, known = options.Times.of(self.profile), options.known_accuracy(self.accuracy)
        every: list[options.Option | None] = []
        try:
            for point in options.read_points(self.manifest):
                every += options.point_options(point, times, known)
        except ClioError:
            return {}
        if self.local or not every:
            every.append(options.local_option(times, known))
        return {
            (o.partition, o.slices): (options.rounded_us(o.device_ns), options.rounded_us(o.cloud_ns), o.accuracy)
            for o in every
            if o is not None
        }  # fmt: skip


def _figures(device_us: float, cloud_us: float, accuracy: float | None, **_: object) -> tuple[object, ...]:
    return device_us, cloud_us, accuracy


def gather(
    manifest: Mapping[str, Any],
    graph: ir.Model,
    program: Program,
    profile: Sequence[ProfileRow],
    accuracy: Sequence[AccuracyRow],
    plan: Mapping[str, Any] | None,
    problems: Sequence[str] = (),
) -> Facts:
    """Look at the float graph, and put all together; arguments as in :class:`Facts`."""
    from clio_cc.blocks import blocks
    from clio_cc.inspection import inspect_model
    from clio_cc.lower import device_supports

    inside = bool(manifest["options"]["inside_blocks"])
    return Facts(
        manifest=manifest,
        target=find_target(manifest["target"]),
        network=inspect_model(graph, device_supports, inside_blocks=inside),
        places={
            out.name or "": number for number, node in enumerate(graph.graph, start=1) for out in node.outputs
        },
        blocks=[block.nodes for block in blocks(graph)],
        program=program,
        profile=profile,
        accuracy=accuracy,
        plan=plan,
        problems=problems,
    )


def from_folder(out: Path, manifest: Mapping[str, Any], program: Program) -> Facts:
    """Read a folder that `compile` wrote; tables that are at fault are named as problems.

    Raises:
        ClioError: The float graph cannot be read.
    """
    import onnx
    import onnx_ir as ir

    from clio_cc import accuracy, profile

    problems: list[str] = []

    def read(read_it: Callable[[], _T], otherwise: _T) -> _T:
        try:
            return read_it()
        except ClioError as error:
            problems.append(str(error).replace(f"{out}/", ""))
            return otherwise

    try:
        graph = ir.from_proto(onnx.load_from_string((out / FLOAT_ONNX).read_bytes()))
    except OSError as error:
        raise ClioError(
            f"cannot read '{out / FLOAT_ONNX}': {error.strerror}", hint="compile again"
        ) from error
    expected = profile.expected_rows(manifest["layers"], manifest["partitions"])
    has_accuracy = (out / ACCURACY).exists()
    return gather(
        manifest,
        graph,
        program,
        read(lambda: profile.read_profile(out / PROFILE, expected), ()),
        read(lambda: accuracy.read_accuracy(out / ACCURACY), ()) if has_accuracy else (),
        read(lambda: _read_plan(out / PLAN), None),
        problems,
    )


def _read_plan(path: Path) -> Mapping[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ClioError("cannot be read", str(path), "run `clio-cc plan`") from error
    if not isinstance(found, dict) or found.get("schema") != 1 or "steps" not in found:
        raise ClioError("not a plan of this clio-cc", str(path), "run `clio-cc plan`")
    return found
