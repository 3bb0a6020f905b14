"""Which choice wins where: the counterpart of CLIO's Figure 8 (MobiCom'20, section 5.5), with ordered units made here.

    python benchmarks/regimes.py [--work DIR] [--json]

MobileNetV2 on Imagenette (96x96 photos; 1,024 to calibrate, 1,339 to evaluate) for the three boards, over the paper's
four radios and two BLE connections, for 300 ms and 1 s. What competes: all on the device, the raw input, a JPEG, all
channels at a cut with fewer bits (JALAD), and a cut with the first k ordered units. Tables: the best accuracy of each
within the deadline by bandwidth, and who wins over all bandwidths; the same per radio, with what takes least energy of all
that are within a point of the winner; time and energy at equal accuracy, as in Figure 8.

Measured here: accuracies (the int8 device half, bit for bit, through the cloud's graph) and the cloud's times (float32 on
one thread of this machine). Computed: the device's times, each with its source; transfers, energies. GAP8's times are
those of the paper, by eight cores; "gap8, own code" are those of what clio-cc generates, on one core. A JPEG takes no time
and no energy to make, and no board is asked whether it could; losses, the reply and a radio's start do not count. On BLE a
transfer waits for the next event, a whole interval at worst, also where computing could hide that (CLIO, section 5.7). Fewer
bits are judged behind a device half in float, which flatters them, and clio-cc makes no firmware that sends them. One photo
is 0.07 points of accuracy, the standard error of each figure almost one point.

Takes eight minutes of processor time. With --work the compiled folders, profiles and accuracies are kept, and used again if
model and options are the same: then it takes seconds.
Needs ../shared; without it, ``regimes`` below works on any folder that compile wrote.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy: as clio-cc does

import argparse
import hashlib
import itertools
import json
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from clio_cc import accuracy as accuracies
from clio_cc import reference, results, toolchain
from clio_cc.accuracy import FEWER_BITS, JPEG, AccuracyRow
from clio_cc.calibrate import load_samples
from clio_cc.compiler import Options, compile_model, front_end
from clio_cc.cut import choose_cuts, refuse_too_large
from clio_cc.errors import ClioError
from clio_cc.evaluate import evaluate
from clio_cc.link import Link, exact
from clio_cc.load import model_sha256
from clio_cc.lower import lower
from clio_cc.operators.base import Operator
from clio_cc.operators.conv import Conv
from clio_cc.options import Costs, Option, Times, known_accuracy, local_option, merit, point_options
from clio_cc.plan import LOCAL, RAW, Plan, Strategy
from clio_cc.planner import PlanPoint, make_plan, read_points
from clio_cc.profile import ENCODE, ProfileRow, short_source
from clio_cc.profiling import EMULATED, MODEL, Request
from clio_cc.program import Program
from clio_cc.program_json import to_json
from clio_cc.quantize import quantize_model
from clio_cc.radios import find_link
from clio_cc.strategies import CLIO
from clio_cc.targets import Target, find_target
from clio_cc.units import BandwidthRange, format_bps, format_us

SHARED = Path(__file__).resolve().parent.parent.parent / "shared"
BOARDS = ("gap8", "stm32f7", "nrf5340")
POINTS = ("features.6", "features.10", "features.13")
LINKS = ("clio-lora", "clio-zigbee", "clio-ble", "clio-wifi", "ble-2m", "ble-1m-ios")
DEADLINES_US = (300_000, 1_000_000)
RANGE = BandwidthRange(10_000, 2_000_000)
BANDWIDTHS = (10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000, 2_000_000)
TARGET = 0.845
"""Accuracy that counts as good enough in the second table: two points below the float model's."""
WITHIN = 0.01
"""Accuracy that is as good: the standard error of the figures is about that."""
CALIBRATION = 1024
SPLIT, BITS = "split", "fewer bits"
KINDS = {SPLIT: CLIO, JPEG: JPEG, RAW: RAW, LOCAL: LOCAL, BITS: "jalad"}
"""What competes, and the planner's strategy."""
TITLES = {SPLIT: "split", JPEG: "JPEG", RAW: "raw input", LOCAL: "all on the device", BITS: "fewer bits"}


def silent(_stage: str, _done: int, _of: int) -> None:
    """No progress."""


# --- one board ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A compiled folder, read back.

    Attributes:
        board: For people.
        refused: Why the board cannot hold a partition point, or the whole network (`local`), by name.
        accuracy: Also of `local` where it is refused, as the int8 network would have it.
    """

    board: str
    target: Target
    profile: tuple[ProfileRow, ...]
    points: tuple[PlanPoint, ...]
    accuracy: tuple[AccuracyRow, ...]
    input_bytes: int
    refused: Mapping[str, str]

    @property
    def held(self) -> tuple[ProfileRow, ...]:
        """The profile without device times of what the board cannot hold."""
        if LOCAL not in self.refused:
            return self.profile
        cuts = {point.layer for point in self.points}
        last = max(index for index, row in enumerate(self.profile) if row.layer in cuts)
        return tuple(
            replace(row, device_us=None, device_source=self.refused[LOCAL])
            if index > last and row.op != ENCODE
            else row
            for index, row in enumerate(self.profile)
        )

    def plan(
        self, bandwidth: BandwidthRange, deadline_us: int, link: Link | None = None, any_memory: bool = False
    ) -> Plan:
        """The library's plan; with `any_memory` as if the board could hold the whole network."""
        return make_plan(
            self.profile if any_memory else self.held,
            self.points,
            bandwidth,
            deadline_us=deadline_us,
            input_bytes=self.input_bytes,
            link=link,
            device_power_mw=self.target.power_mw,
            accuracy=self.accuracy,
        )


def read_case(out: Path, refused: Mapping[str, str] | None = None, local: AccuracyRow | None = None) -> Case:
    """Read a folder that was compiled, profiled and evaluated."""
    manifest = results.read_manifest(out)
    found = results.read_accuracy(out)
    reasons = dict(refused or {})
    if not manifest["local"]:
        reasons.setdefault(LOCAL, "not compiled")
    return Case(
        str(manifest["target"]),
        find_target(manifest["target"]),
        results.read_profile(out, manifest),
        read_points(manifest),
        found if local is None else (*found, local),
        int(manifest["input_bytes"]),
        reasons,
    )


# --- which wins in time ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Offer:
    """The best that one kind of choice has at a bandwidth; its fastest if none is in time.

    `slices` is the number of units, or the quality of a JPEG.
    """

    kind: str
    partition: str
    slices: int
    bytes: int
    latency_us: float
    energy_uj: float | None
    accuracy: float | None
    in_time: bool


@dataclass(frozen=True)
class Row:
    """A board, a radio at its own rate and a deadline.

    Attributes:
        winner: A key of `offers`: the most accurate in time, of equals the one of the least energy; None if all are late.
        offers: By kind.
        thrifty: Of all that are in time and within a point of the winner, the one of the least energy.
        local_fits: Whether the board can hold the whole network; if not, that offer is only what it would be.
        split_lacks: How many times as fast the device would have to be for the split to send anything in time, and to
            reach the accuracy that is good enough; 1 or less: it does. None: no device is fast enough on this radio.
    """

    board: str
    link: str
    bps: int
    deadline_us: int
    winner: str | None
    thrifty: Offer | None
    offers: Mapping[str, Offer]
    local_fits: bool
    split_lacks: tuple[float | None, float | None]


def regimes(
    case: Case, links: Sequence[Link], deadlines_us: Sequence[int], target: float = TARGET
) -> list[Row]:
    """Who wins on a board, per radio and deadline."""
    return [_row(case, link, deadline, target) for link, deadline in itertools.product(links, deadlines_us)]


def _row(case: Case, link: Link, deadline_us: int, target: float) -> Row:
    rate = BandwidthRange(link.ceiling_bps, link.ceiling_bps)
    plan = case.plan(rate, deadline_us, link)
    fits = LOCAL not in case.refused
    strategies = {each.strategy: each for each in plan.strategies}
    if not fits:
        unlimited = case.plan(rate, deadline_us, link, any_memory=True).strategies
        strategies.update((each.strategy, each) for each in unlimited if each.strategy == LOCAL)
    offers = {kind: _offer(kind, strategies[name]) for kind, name in KINDS.items() if name in strategies}
    winner = kind_of(plan.winners[0].partition) if plan.winners else None
    thrifty = None if winner is None else _thrifty(case, link, deadline_us, offers[winner].accuracy)
    lacks = _lacks(case, link, deadline_us, 0), _lacks(case, link, deadline_us, target)
    return Row(case.board, link.name, link.ceiling_bps, deadline_us, winner, thrifty, offers, fits, lacks)


def _offer(kind: str, strategy: Strategy) -> Offer:
    best = strategy.at_low
    return Offer(
        kind, best.partition, best.slices, best.bytes, best.latency_us, best.energy_uj, best.accuracy,
        bool(strategy.ranges),
    )  # fmt: skip


def kind_of(partition: str) -> str:
    """What a choice is, by where it cuts."""
    if partition in (LOCAL, RAW, JPEG):
        return partition
    return BITS if FEWER_BITS.fullmatch(partition) else SPLIT


def _thrifty(case: Case, link: Link, deadline_us: int, best: float | None) -> Offer | None:
    costs, bps = costs_of(case, link), link.ceiling_bps
    found = [
        (energy_pj, kind, option)
        for kind, options in choices(case).items()
        for option in options
        if (kind != LOCAL or LOCAL not in case.refused)
        and costs.latency_ns(option, bps) <= deadline_us * 1000
        and (option.accuracy or 0) >= (best or 0) - WITHIN
        and (energy_pj := costs.energy_pj(option, bps)) is not None
    ]
    if not found:
        return None
    _, kind, option = min(found, key=lambda each: each[0])
    return Offer(kind, **asdict(costs.choice(option, bps)), in_time=True)


def costs_of(case: Case, link: Link) -> Costs:
    """Time and energy on a board and a radio."""
    return Costs(
        link.transfer,
        exact(case.target.power_mw.value),
        link.power_mw if link.knows_energy else None,
        link.pj_per_byte,
    )


def _lacks(case: Case, link: Link, deadline_us: int, accuracy: float) -> float | None:
    found = []
    for option in choices(case)[SPLIT]:
        transfer_ns = link.transfer.time_ns(option.bytes, link.ceiling_bps)
        left_ns = deadline_us * 1000 - option.cloud_ns - transfer_ns
        if left_ns > 0 and (option.accuracy or 0) >= accuracy:
            found.append(float(option.device_ns / left_ns))
    return round(min(found), 3) if found else None


# --- at equal accuracy ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Ratio:
    """CLIO's Figure 8: latency and energy of others over the split's, all at a given accuracy, whatever the time.

    Attributes:
        split: The fastest that is accurate enough; None if none is.
        latency: By kind, over the split's; None where that kind is not accurate enough.
        energy: Likewise, each by its most thrifty choice; None also where an energy is not known.
    """

    board: str
    link: str
    accuracy: float
    split: Offer | None
    latency: Mapping[str, float | None]
    energy: Mapping[str, float | None]


def choices(case: Case) -> dict[str, list[Option]]:
    """All options by kind, `local` as if it fitted."""
    times, known = Times.of(case.profile), known_accuracy(case.accuracy)
    local = local_option(times, known)
    in_cloud_ns = times.cloud_ns[0]

    def without_cut(row: AccuracyRow) -> Option:
        size = case.input_bytes if row.partition == RAW else row.bytes
        return Option(row.partition, row.slices, size, 0, in_cloud_ns, row.value, merit(row.value, 1))

    def with_cut(row: AccuracyRow, point: PlanPoint) -> Option:
        return Option(row.partition, row.slices, row.bytes, *times.cut(point), row.value, merit(row.value, 1))

    return {
        SPLIT: [option for point in case.points for option in point_options(point, times, known)],
        BITS: [
            with_cut(row, point)
            for row in case.accuracy
            for point in case.points
            if FEWER_BITS.fullmatch(row.partition) and _point_of(row) == point.name
        ],
        JPEG: [without_cut(row) for row in case.accuracy if row.partition == JPEG],
        RAW: [without_cut(row) for row in case.accuracy if row.partition == RAW],
        LOCAL: [] if local is None else [local],
    }


def ratios(case: Case, links: Sequence[Link], accuracy: float = TARGET) -> list[Ratio]:
    """Latency and energy at equal accuracy, per radio."""
    enough = {
        kind: [option for option in found if (option.accuracy or 0) >= accuracy]
        for kind, found in choices(case).items()
    }
    return [_ratio(case, link, accuracy, enough) for link in links]


def _ratio(case: Case, link: Link, accuracy: float, enough: Mapping[str, Sequence[Option]]) -> Ratio:
    costs, bps = costs_of(case, link), link.ceiling_bps
    latency = {
        kind: min((float(costs.latency_ns(option, bps)) for option in found), default=None)
        for kind, found in enough.items()
    }
    energy = {
        kind: min(
            (float(pj) for option in found if (pj := costs.energy_pj(option, bps)) is not None), default=None
        )
        for kind, found in enough.items()
    }
    split = None
    if enough[SPLIT]:
        fastest = costs.choice(min(enough[SPLIT], key=lambda option: costs.latency_ns(option, bps)), bps)
        split = Offer(SPLIT, **asdict(fastest), in_time=True)
    return Ratio(case.board, link.name, accuracy, split, _over_split(latency), _over_split(energy))


def _over_split(costs: Mapping[str, float | None]) -> dict[str, float | None]:
    split = costs[SPLIT]
    return {
        kind: None if cost is None or not split else round(cost / split, 3)
        for kind, cost in costs.items()
        if kind != SPLIT
    }


# --- over bandwidth -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sweep:
    """The best accuracy that one kind of choice reaches in time, per bandwidth; None where it is late."""

    board: str
    deadline_us: int
    kind: str
    accuracy: Mapping[int, float | None]


def sweeps(case: Case, deadline_us: int, bandwidths: Sequence[int] = BANDWIDTHS) -> list[Sweep]:
    """A row per kind that the board can hold and that is known."""
    by_kind: dict[str, dict[int, float | None]] = {}
    for bps in bandwidths:
        found = {each.strategy: each for each in case.plan(BandwidthRange(bps, bps), deadline_us).strategies}
        for kind, name in KINDS.items():
            if name in found:
                by_kind.setdefault(kind, {})[bps] = (
                    found[name].at_low.accuracy if found[name].ranges else None
                )
    return [Sweep(case.board, deadline_us, kind, accuracy) for kind, accuracy in by_kind.items()]


@dataclass(frozen=True)
class Span:
    """Bandwidths over which one kind of choice wins, with its choices at both ends; `kind` is None where all are late."""

    board: str
    deadline_us: int
    from_bps: int
    to_bps: int
    kind: str | None
    first: str
    last: str
    accuracy: tuple[float | None, float | None]


def spans(case: Case, deadline_us: int, bandwidth: BandwidthRange = RANGE) -> list[Span]:
    """Winners over a range of bandwidths, neighbors of one kind joined."""
    plan = case.plan(bandwidth, deadline_us)
    board, found = case.board, []
    position = bandwidth.low_bps
    for kind, group in itertools.groupby(plan.winners, key=lambda winner: kind_of(winner.partition)):
        winners = list(group)
        first, last = winners[0], winners[-1]
        if first.from_bps > position:
            found.append(_hole(board, deadline_us, position, first.from_bps))
        at_low, at_high = (choice_name(each.partition, each.slices) for each in (first, last))
        ends = (first.accuracy, last.accuracy)
        found.append(Span(board, deadline_us, first.from_bps, last.to_bps, kind, at_low, at_high, ends))
        position = last.to_bps
    if position < bandwidth.high_bps:
        found.append(_hole(board, deadline_us, position, bandwidth.high_bps))
    return found


def _hole(board: str, deadline_us: int, low: int, high: int) -> Span:
    return Span(board, deadline_us, low, high, None, "", "", (None, None))


def choice_name(partition: str, slices: int) -> str:
    """For people: ``features.10, 12 units``."""
    kind = kind_of(partition)
    if kind in (LOCAL, RAW):
        return TITLES[kind]
    if kind == SPLIT:
        return f"{partition}, {slices} unit{'s' * (slices != 1)}"
    return f"quality {slices}" if kind == JPEG else partition.replace("/", ", ")


# --- compile, profile, evaluate, each once --------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """A model with its data.

    Attributes:
        points: Partition points wanted; a board takes those that it can hold.
        image_scale: Pixels of the data were divided by this.
    """

    model: Path
    calibration: Path
    samples: int
    data: Path
    image_scale: float
    points: Sequence[str]

    def options(self, board: str, points: Sequence[str]) -> Options:
        """To compile for a board."""
        return Options(self.model, board, self.calibration, samples=self.samples, partition=",".join(points))


def prepare(job: Job, boards: Sequence[str], work: Path) -> dict[str, Case]:
    """Compile, profile and evaluate for each board, or take what is in `work` already.

    The cloud is measured once, accuracies once per program: what the boards compute is the same bit for bit.
    """
    refused = {board: _refused(job, find_target(board)) for board in boards}
    names = {board: [name for name in (*job.points, LOCAL) if name not in refused[board]] for board in boards}
    # The board that holds most comes first: what it is evaluated on serves the others.
    order = sorted(boards, key=lambda board: -len(names[board]))
    folders = {board: work / board for board in order}
    for board, out in folders.items():
        options = job.options(board, names[board])
        if not _is_compiled(out, options):
            _say(f"compiling for {board}")
            compile_model(options, silent).files.write(out)
    cloud: tuple[ProfileRow, ...] = ()
    for out in folders.values():
        cloud = _profiled(out, cloud, work / "cloud.csv") or cloud
    done: list[Path] = []
    for out in folders.values():
        _evaluated(job, out, done)
        done.append(out)
    local = None
    if any(LOCAL in reasons for reasons in refused.values()):
        local = _local(job, work / "local.csv")
    cases: dict[str, Case] = {}
    for board in boards:
        case = read_case(folders[board], refused[board], local if LOCAL in refused[board] else None)
        cases[board] = replace(case, profile=extrapolated(case.profile))
        if case.target.device_time == MODEL and not toolchain.missing_tools(case.target.emulated):
            own = f"{board}, own code"
            cases[own] = replace(
                case, board=own, profile=extrapolated(_emulated(folders[board], case.profile))
            )
    return cases


def extrapolated(rows: Sequence[ProfileRow]) -> tuple[ProfileRow, ...]:
    """Times of layers behind the last cut, which no emulated board has run, at the rate of those that one has."""
    ran = [row for row in rows if row.op != ENCODE and short_source(row.device_source) == EMULATED]
    if not ran:
        return tuple(rows)
    us_per_mac = sum(row.device_us or 0 for row in ran) / max(1, sum(row.macs for row in ran))
    return tuple(
        replace(
            row,
            device_us=round(row.macs * us_per_mac, 3),
            device_source="extrapolated: MACs at the rate of the emulated layers",
        )
        if short_source(row.device_source) == "modelled"
        else row
        for row in rows
    )


def _emulated(out: Path, rows: Sequence[ProfileRow]) -> tuple[ProfileRow, ...]:
    """The profile of what clio-cc generates, for a board that goes by a published rate of better code."""
    with tempfile.TemporaryDirectory(prefix="clio-cc-") as folder:
        copy = shutil.copytree(out, Path(folder, out.name))
        request = Request(EMULATED, cloud_table=_cloud_table(rows, rows, Path(folder, "cloud.csv")))
        return results.measure_profile(copy, request, silent).rows


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _refused(job: Job, target: Target) -> dict[str, str]:
    """Partition points, and `local`, that the board cannot hold, with the reason."""
    graph, found = front_end(job.model), {}
    for name in (*job.points, LOCAL):
        try:
            refuse_too_large(choose_cuts(graph, name, target, lambda _: ()).network, target)
        except ClioError as error:
            found[name] = error.message
    return found


def _is_compiled(out: Path, options: Options) -> bool:
    if not (out / "manifest.json").is_file():
        return False
    manifest = results.read_manifest(out)
    same = manifest["options"] == options.recorded() and manifest["model"]["sha256"] == model_sha256(
        options.model
    )
    return same and not results.changed_files(out, manifest)


def _profiled(out: Path, cloud: Sequence[ProfileRow], table: Path) -> tuple[ProfileRow, ...]:
    """Profile a folder; the cloud's times are those of the first one, if they are given."""
    rows = results.read_profile(out, results.read_manifest(out))
    if all(short_source(row.cloud_source) in ("measured", "imported", "free") for row in rows):
        return rows
    _say(f"profiling {out.name}")
    request = Request(cloud_table=_cloud_table(cloud, rows, table) if cloud else None)
    return results.measure_profile(out, request, silent).rows


def _cloud_table(measured: Sequence[ProfileRow], wanted: Sequence[ProfileRow], path: Path) -> Path:
    """Write the cloud's times of some rows as `profile` imports them."""
    names = {row.layer for row in wanted}
    lines = [f"{row.layer},{row.cloud_us}" for row in measured if row.layer in names]
    path.write_text("\n".join(["layer,cloud_us", *lines, ""]), encoding="utf-8")
    return path


def _evaluated(job: Job, out: Path, others: Sequence[Path]) -> None:
    """Evaluate a folder, unless one of the others computes and sends the same."""
    with np.load(job.data) as data:
        samples = len(data["y"])
    rows = results.read_accuracy(out)
    if rows and rows[0].metric == "accuracy" and rows[0].samples == samples:
        return
    wanted = fingerprints(out)
    for other in others:
        if wanted.items() <= fingerprints(other).items():
            _say(f"{out.name} computes and sends what {other.name} does: the same accuracies")
            kept = [row for row in results.read_accuracy(other) if _point_of(row) in {*wanted, "", LOCAL}]
            results.write_accuracy(out, kept)
            return
    _say(f"evaluating {out.name}")
    evaluate(out, job.data, image_scale=job.image_scale, progress=silent)


def _point_of(row: AccuracyRow) -> str:
    match = FEWER_BITS.fullmatch(row.partition)
    return match[1] if match else "" if row.partition in (RAW, JPEG) else row.partition


def fingerprints(out: Path) -> dict[str, str]:
    """What is computed for each partition point, on the device and in the cloud, as a digest; `local` likewise."""
    manifest, program = results.read_manifest(out), results.read_program(out)
    found = {}
    for number, (tap, entry) in enumerate(zip(program.taps, manifest["partitions"], strict=True)):
        operators = tuple(_unscheduled(program.operators[index]) for index in program.operators_to(number))
        to_tap = Program(program.inputs, operators, (tap.tensor,), (tap,))
        both = to_json(to_tap) + manifest["files"][entry["cloud"]] + str(entry["slices"])
        found[tap.partition] = hashlib.sha256(both.encode()).hexdigest()
    if manifest["local"]:
        operators = tuple(map(_unscheduled, program.operators))
        found[LOCAL] = hashlib.sha256(to_json(replace(program, operators=operators)).encode()).hexdigest()
    return found


def _unscheduled(op: Operator) -> Operator:
    """The operator without what each board chooses for itself, and which changes no bit."""
    return replace(op, schedule=None) if isinstance(op, Conv) else op


def _local(job: Job, table: Path) -> AccuracyRow:
    """The whole network in int8, whether or not a board can hold it."""
    if table.is_file():
        return accuracies.read_accuracy(table)[0]
    _say("evaluating the whole network in int8")
    graph = front_end(job.model)
    calibration = load_samples(graph, job.calibration, most=job.samples)
    quantized = quantize_model(graph, lower(graph), calibration)
    given = load_samples(graph, job.data)
    assert given.labels is not None
    right = 0
    for start in range(0, given.count, 16):
        batch = {name: x[start : start + 16] for name, x in given.inputs.items()}
        outputs = reference.run(quantized.program, quantized.quantize_inputs(batch))
        scores = quantized.dequantize_outputs(outputs)[0].reshape(len(batch[next(iter(batch))]), -1)
        right += int(np.sum(scores.argmax(axis=1) == given.labels[start : start + 16]))
    row = AccuracyRow(LOCAL, 0, 0, "accuracy", round(right / given.count, 6), given.count)
    table.write_text(accuracies.to_csv([row]), encoding="utf-8")
    return row


# --- tables ---------------------------------------------------------------------------------------


def tables(
    cases: Sequence[Case], links: Sequence[Link], deadlines_us: Sequence[int] = DEADLINES_US
) -> Iterator[str]:
    """Everything as text."""
    found = measured(cases, links, deadlines_us)
    rows = found["rows"]
    yield from _swept(found["sweeps"])
    yield ""
    yield from _over(found["ranges"])
    yield ""
    yield from _winners(rows)
    yield ""
    yield from _equal(found["equal_accuracy"])
    yield ""
    yield from _remarks(cases, rows, links)


def measured(
    cases: Sequence[Case], links: Sequence[Link], deadlines_us: Sequence[int]
) -> dict[str, list[Any]]:
    """All rows, by table."""
    each = [*itertools.product(cases, deadlines_us)]
    return {
        "sweeps": [sweep for case, deadline in each for sweep in sweeps(case, deadline)],
        "ranges": [span for case, deadline in each for span in spans(case, deadline)],
        "rows": [row for case in cases for row in regimes(case, links, deadlines_us)],
        "equal_accuracy": [ratio for case in cases for ratio in ratios(case, links)],
    }


def _swept(found: Sequence[Sweep]) -> Iterator[str]:
    """Bold: within a point of the best."""
    bandwidths = list(found[0].accuracy)
    yield f"| board | deadline | accuracy % at | {' | '.join(map(format_bps, bandwidths))} |"
    yield "|---|---|---" + "|---" * len(bandwidths) + "|"
    for (board, deadline_us), group in itertools.groupby(
        found, key=lambda each: (each.board, each.deadline_us)
    ):
        kinds = list(group)
        best = {bps: max(each.accuracy[bps] or 0 for each in kinds) for bps in bandwidths}
        for each in kinds:
            cells = [_bold(each.accuracy[bps], best[bps]) for bps in bandwidths]
            yield f"| {board} | {format_us(deadline_us)} | {TITLES[each.kind]} | {' | '.join(cells)} |"


def _bold(accuracy: float | None, best: float) -> str:
    if accuracy is None:
        return "late"
    return f"**{100 * accuracy:.1f}**" if accuracy >= best - WITHIN else f"{100 * accuracy:.1f}"


def _winners(rows: Sequence[Row]) -> Iterator[str]:
    yield (
        "| board | radio | deadline | most accurate | within a point, least energy | best split | best JPEG | raw input "
        "| all on the device |\n|---|---|---|---|---|---|---|---|---|"
    )
    for row in rows:
        cells = [_cell(row.offers.get(kind)) for kind in (SPLIT, JPEG, RAW)]
        local = _cell(row.offers.get(LOCAL))
        if not row.local_fits:
            local = f"does not fit ({local})" if LOCAL in row.offers else "does not fit"
        head = (row.board, f"{row.link}, {format_bps(row.bps)}", format_us(row.deadline_us))
        wins = [_wins(each) for each in (row.offers[row.winner] if row.winner else None, row.thrifty)]
        yield f"| {' | '.join((*head, *wins, *cells, local))} |"


def _wins(offer: Offer | None) -> str:
    if offer is None:
        return "-"
    name = choice_name(offer.partition, offer.slices)
    if offer.kind in (JPEG, BITS):
        name = f"{TITLES[offer.kind]}, {name}"
    energy = "" if offer.energy_uj is None else f", {offer.energy_uj / 1000:.2f} mJ"
    accuracy = "?" if offer.accuracy is None else f"{100 * offer.accuracy:.1f} %"
    return f"{name}: {accuracy}, {offer.bytes:,} B, {offer.latency_us / 1000:.0f} ms{energy}"


def _cell(offer: Offer | None) -> str:
    if offer is None:
        return "-"
    time = f"{offer.latency_us / 1000:.0f} ms"
    if not offer.in_time:
        return f"late: {time}"
    energy = "" if offer.energy_uj is None else f", {offer.energy_uj / 1000:.1f} mJ"
    accuracy = "?" if offer.accuracy is None else f"{100 * offer.accuracy:.1f} %"
    name = {SPLIT: f", {choice_name(offer.partition, offer.slices)}", JPEG: f", quality {offer.slices}"}
    return f"{accuracy}{name.get(offer.kind, '')}, {time}{energy}"


def _equal(found: Sequence[Ratio]) -> Iterator[str]:
    yield f"At {100 * found[0].accuracy:g} % or more, however late; ratios to the split, above 1 the split is better:"
    yield ""
    yield (
        "| board | radio | split | ms | mJ | latency: JPEG | raw | device | energy: JPEG | raw | device |\n"
        "|---|---|---|---|---|---|---|---|---|---|---|"
    )
    for each in found:
        cells = ["never as accurate", "", ""]
        if each.split is not None:
            energy = each.split.energy_uj
            name = choice_name(each.split.partition, each.split.slices)
            cells = [
                name,
                f"{each.split.latency_us / 1000:.0f}",
                "" if energy is None else f"{energy / 1000:.2f}",
            ]
        cells += [
            "-" if (ratio := by_kind.get(kind)) is None else f"{ratio:.2f}"
            for by_kind in (each.latency, each.energy)
            for kind in (JPEG, RAW, LOCAL)
        ]
        yield f"| {each.board} | {each.link} | {' | '.join(cells)} |"


def _over(found: Sequence[Span]) -> Iterator[str]:
    yield "| board | deadline | bandwidth | wins | from | to | accuracy % |\n|---|---|---|---|---|---|---|"
    for each in found:
        between = f"{format_bps(each.from_bps)} to {format_bps(each.to_bps)}"
        accuracy = " to ".join(f"{100 * value:.1f}" for value in each.accuracy if value is not None)
        name = TITLES[each.kind] if each.kind is not None else "nothing is in time"
        cells = (name, each.first, each.last, accuracy)
        yield f"| {each.board} | {format_us(each.deadline_us)} | {between} | {' | '.join(cells)} |"


def _remarks(cases: Sequence[Case], rows: Sequence[Row], links: Sequence[Link]) -> Iterator[str]:
    for case in cases:
        yield f"{case.board}: to the last cut {_spent(case.held)}; power {case.target.power_mw.source}"
        yield from sorted({f"  {row.device_source}" for row in case.held if row.device_us})
        for name, reason in case.refused.items():
            yield f"  cannot hold '{name}': {reason}"
        if LOCAL in case.refused:
            yield f"  the whole network, if it could: {_spent(case.profile)}"
        yield from _lacking([row for row in rows if row.board == case.board])
    yield from (f"{link.name}: {link.source()}" for link in links)


def _spent(profile: Sequence[ProfileRow]) -> str:
    """Device time by where it comes from; encoders, of which a run takes one, do not count."""
    us = Counter[str]()
    for row in profile:
        if row.op != ENCODE and row.device_us:
            us[short_source(row.device_source)] += round(row.device_us)
    return " and ".join(f"{spent / 1000:.0f} ms {source}" for source, spent in us.items())


def _lacking(rows: Sequence[Row]) -> Iterator[str]:
    """Where a split wins; where it is late, what it would take."""
    for deadline in sorted({row.deadline_us for row in rows}):
        at = [row for row in rows if row.deadline_us == deadline]
        accurate = [row.link for row in at if row.winner == SPLIT]
        thrifty = [row.link for row in at if row.thrifty is not None and row.thrifty.kind == SPLIT]
        yield (
            f"  {format_us(deadline)}: a split is the most accurate over {', '.join(accurate) or 'no radio'}; within a "
            f"point and of the least energy over {', '.join(thrifty) or 'no radio'}"
        )
        for row in at:
            anything, enough = row.split_lacks
            if enough is None or enough > 1:
                yield (
                    f"    {row.link}: to send a unit in time {_faster(anything)}, for {100 * TARGET:g} % {_faster(enough)}"
                )


def _faster(times: float | None) -> str:
    if times is None:
        return "no device is fast enough"
    return "it is fast enough" if times <= 1 else f"a device {times:.2f} times as fast"


# --- main -----------------------------------------------------------------------------------------


def unpack(work: Path) -> Job:
    """The network and the data of ../shared."""
    from accuracy import unpacked  # of this folder

    files = {}
    for name, count in (("imagenette96_train", CALIBRATION), ("imagenette96_test_public", None)):
        files[name] = work / f"{name}.npz"
        if not files[name].is_file():
            x, y = unpacked(name, count, 255.0)
            np.savez(files[name], x=x, y=y)
    model = SHARED / "data/models/mobilenetv2_imagenette96.onnx"
    calibration, data = files.values()
    return Job(model, calibration, CALIBRATION, data, 255.0, POINTS)


def run(work: Path, as_json: bool) -> None:
    """Measure and print."""
    cases = [*prepare(unpack(work), BOARDS, work).values()]
    links = [find_link(name) for name in LINKS]
    if not as_json:
        for line in tables(cases, links):
            print(line)
        return
    found: dict[str, Any] = {
        name: [asdict(row) for row in rows] for name, rows in measured(cases, links, DEADLINES_US).items()
    }
    found["refused"] = {case.board: dict(case.refused) for case in cases}
    found["accuracy"] = {case.board: [asdict(row) for row in case.accuracy] for case in cases}
    found["links"] = {link.name: link.source() for link in links}
    print(json.dumps(found, indent=1))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--work", type=Path, help="keep what is compiled and measured in this folder")
    options = parser.parse_args(arguments)
    if not SHARED.is_dir():
        parser.error(f"needs models and data in {SHARED}")
    if options.work is not None:
        options.work.mkdir(parents=True, exist_ok=True)
        run(options.work, options.json)
        return 0
    with tempfile.TemporaryDirectory(prefix="clio-cc-regimes-") as folder:
        run(Path(folder), options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
