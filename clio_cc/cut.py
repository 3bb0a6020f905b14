"""Where to cut: the partition points asked for, or the fewest that cover a range of bandwidths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from clio_cc.arena import plan_arena
from clio_cc.band_search import BandSearch
from clio_cc.errors import ClioError
from clio_cc.memory import Footprint, check_fits, table_bytes
from clio_cc.operators.base import Operator, Tensor
from clio_cc.plan import RAW
from clio_cc.program import Program
from clio_cc.targets import Target

if TYPE_CHECKING:
    import onnx_ir as ir

    from clio_cc.partition import PartitionPoint
    from clio_cc.quantization.layers import Network

AUTO, LOCAL = "auto", "local"
OPTIMIZATIONS = LATENCY, RAM = "latency", "ram"

STACK_BYTES = 1024  # the most seen is 600


@dataclass(frozen=True, eq=False)
class Cuts:
    """Where the network is cut.

    Attributes:
        points: In order of execution.
        local: The whole network runs on the device, whether or not there are points in its middle.
        network: The device's half, still in floating point, with a tap per point.
        warning: What the user must be told; '' if all is well.
    """

    points: tuple[PartitionPoint, ...]
    local: bool
    network: Network
    warning: str = ""


Cover = Callable[[Sequence["PartitionPoint"]], Sequence[str]]
"""Names of the points, of those given, that cover what is to be covered."""


def choose_cuts(
    graph: ir.Model, partition: str, target: Target, cover: Cover, *, inside_blocks: bool = False
) -> Cuts:
    """Return the cuts and the device's half.

    Args:
        graph: The float graph after the passes.
        partition: ``auto``, or names of partition points or of their tensors, ``local`` among them, joined by commas.
        target: The board that must hold it, for ``auto``.
        cover: Chooses for ``auto`` among the points that the board can run and hold.
        inside_blocks: Points may lie inside blocks.

    Raises:
        ClioError: no such point; an operator before it does not run on the device; nothing fits the board.
    """
    nearest, reachable = _reachable(graph, inside_blocks)
    if split_names(partition) == [AUTO]:
        return _automatic(graph, reachable, target, cover)
    return named_cuts(graph, partition, nearest)


def named_cuts(graph: ir.Model, partition: str, nearest: str = "") -> Cuts:
    """Return the cuts of some names, whatever the board, and the device's half; `nearest` as for :func:`lower`.

    Raises:
        ClioError: no such point, or an operator before it does not run on the device.
    """
    from clio_cc.lower import lower
    from clio_cc.partition import find_point, partition_points

    names = split_names(partition)
    known = [point for point in partition_points(graph, inside_blocks=True) if point.kind == "features"]
    found = {
        point.node_index: point for name in names if name != LOCAL for point in [find_point(known, name)]
    }
    points = tuple(point for _, point in sorted(found.items()))
    nearest = nearest or _reachable(graph, False)[0]
    return Cuts(points, LOCAL in names, lower(graph, points, local=LOCAL in names, nearest=nearest))


def _reachable(graph: ir.Model, inside_blocks: bool) -> tuple[str, list[PartitionPoint]]:
    """The points before the first operator that the device lacks, and the name of the last of them."""
    from clio_cc.inspection import inspect_model
    from clio_cc.lower import device_supports
    from clio_cc.partition import partition_points

    layers = inspect_model(graph, device_supports).layers
    stop = next((index for index, layer in enumerate(layers) if not layer.device), len(layers))
    points = [p for p in partition_points(graph, inside_blocks=inside_blocks) if p.kind == "features"]
    reachable = [point for point in points if point.node_index <= stop]
    return (reachable[-1].name if reachable else ""), reachable


def split_names(partition: str) -> list[str]:
    """Return the names that ``--partition`` joins by commas; ClioError for what can be none."""
    names = [name.strip() for name in partition.split(",")]
    if "" in names:
        raise ClioError(
            f"empty name in '{partition}'", "--partition", "join names of partition points by commas"
        )
    if AUTO in names and len(names) > 1:
        raise ClioError(
            "'auto' stands alone: it chooses the partition points itself",
            "--partition",
            "give auto, or names of partition points",
        )
    if RAW in names:
        raise ClioError(
            "a cut at 'input' leaves nothing for the device", hint="no need to compile: send the input"
        )
    return names


def _automatic(graph: ir.Model, reachable: Sequence[PartitionPoint], target: Target, cover: Cover) -> Cuts:
    from clio_cc.holding import reasons_too_large
    from clio_cc.lower import lower

    too_large = reasons_too_large(graph, reachable, target)
    fitting = [point for point in reachable if not too_large[point]]
    if not fitting:
        if reachable:
            raise _nothing_fits([lower(graph, [point]) for point in reachable], target)
        # One layer, or an operator that the device lacks: lower says which.
        return Cuts((), True, lower(graph))
    chosen = set(cover(fitting))
    points = tuple(point for point in fitting if point.name in chosen)
    warning = ""
    if not points:
        points = (min(fitting, key=lambda point: (point.bytes, point.macs_before)),)
        warning = (
            f"no partition point meets the deadline on {target.name} anywhere in the range of bandwidths: "
            f"'{points[0].name}' sends the fewest bytes; `clio-cc plan --deadline` says what can be met"
        )
    return Cuts(points, False, lower(graph, points), warning)


def _nothing_fits(networks: Sequence[Network], target: Target) -> ClioError:
    """Say what the cut that needs least would need."""
    programs = [(network.taps[-1].partition, skeleton(network)) for network in networks]
    needs = [(plan_arena(program).bytes, table_bytes(program), name) for name, program in programs]
    arena, tables, name = min(needs, key=lambda need: need[0] + need[1])
    ram, flash = int(target.ram_bytes.value), int(target.flash_bytes.value)
    has = f"{ram} bytes of RAM" if target.runs_from_ram else f"{ram} bytes of RAM and {flash} of flash"
    message = f"no partition point fits {target.name}, which has {has}: the smallest, '{name}', needs "
    return ClioError(
        f"{message}{arena} for tensors and {tables} for tables", hint="choose a board with more memory"
    )


def fit(program: Program, target: Target, optimize: str = LATENCY) -> Program | None:
    """Return the program in bands of rows, so that it fits the board's memory, or None if none will do.

    Tables and arena are exact here; code and stack, which only a compiler knows, are allowed for.

    Args:
        program: The device's half.
        target: The board.
        optimize: ``latency`` for no more bands than it needs to fit, ``ram`` for those that leave the most memory.
    """

    def room(made: Program) -> int:
        return arena_limit(made, target)

    search = BandSearch(program, room)
    return search.smallest() if optimize == RAM else search.fitting()


def arena_limit(program: Program, target: Target) -> int:
    """Return the bytes that are left for the arena; negative if tables and code do not fit even so."""
    tables, ram = table_bytes(program) + code_allowance(program), int(target.ram_bytes.value) - STACK_BYTES
    if target.runs_from_ram:
        return ram - tables
    return ram if tables <= target.flash_bytes.value else -1


def refuse_too_large(network: Network, target: Target) -> None:
    """Raise ClioError if the arena or the tables alone are more than the board has."""
    program = skeleton(network)
    if fit(program, target) is None:
        arena = plan_arena(program)
        check_fits(Footprint(arena.bytes, None, None, table_bytes(program)), arena, target)


def code_allowance(program: Program) -> int:
    """Return the bytes that the code may take, generously: no kernel seen so far came to more on average."""
    kernels = {kernel.key for op in program.operators if (kernel := op.kernel()) is not None}
    return 4096 + 2048 * len(kernels) + 48 * len(program.operators)


def skeleton(network: Network) -> Program:
    """Return the Program before quantization: shapes, tables and scratch as they will be, numbers without meaning."""
    from clio_cc.operators.softmax import OUTPUT_SCALE
    from clio_cc.quantization.emit import emit, emit_conv
    from clio_cc.quantization.layers import ConvLayer, SoftmaxLayer
    from clio_cc.quantize import taps_of

    shapes = network.shapes
    tensors = {name: Tensor(name, shapes[name], 1.0) for name in network.inputs}
    operators: list[Operator] = []
    rng = np.random.default_rng(0)  # equal tables are stored once: these must differ as the real ones do
    for layer in network.layers:
        inputs = [tensors[name] for name in layer.inputs]
        scale = OUTPUT_SCALE if isinstance(layer, SoftmaxLayer) else 1.0
        output = tensors[layer.output] = Tensor(layer.output, layer.shape, scale)
        if isinstance(layer, ConvLayer):
            weight = rng.integers(-1, 2, layer.weight.shape).astype(np.int8)
            zeros = np.zeros(len(weight), np.int32)
            within = network.within_bits(layer, output.scale)
            operators.append(
                emit_conv(within, inputs[0], output, weight, np.ones(len(weight)), zeros, "shift")
            )
        else:
            operators.append(emit(layer, inputs, output, "shift"))
    inputs_of = tuple(tensors[name] for name in network.inputs)
    return Program(inputs_of, tuple(operators), network.outputs, taps_of(network, tensors))
