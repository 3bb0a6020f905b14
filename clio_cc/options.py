"""What the planner chooses from: partition points with numbers of units, their times from a profile, their costs.

Times are whole nanoseconds (finer figures are rounded up, so that a deadline that holds here holds), energies picojoules
as fractions: mW · ns = pJ. Latency is device + transfer + cloud, energy is device + radio (CLIO §3.4).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from clio_cc.accuracy import FEWER_BITS, JPEG, AccuracyRow
from clio_cc.errors import ClioError
from clio_cc.link import ConnectionEvents, Stream, exact
from clio_cc.plan import LOCAL, RAW, Choice
from clio_cc.profile import ENCODE, ProfileRow, encode_name

_PROFILE = "profile.csv"


@dataclass(frozen=True)
class PlanPoint:
    """A partition point as the planner sees it.

    Attributes:
        name: Of the partition point.
        layer: The last layer on the device's side; None if the raw input is sent.
        slices: Allowed numbers of units, ascending.
        unit_bytes: Bytes of one unit on the wire.
        units: How many there are; 0 means as many as the largest of `slices`.
    """

    name: str
    layer: str | None
    slices: tuple[int, ...]
    unit_bytes: int
    units: int = 0

    def __post_init__(self) -> None:
        if not self.slices or min(self.slices) < 1 or self.unit_bytes < 1:
            raise ValueError(f"partition point {self.name} sends nothing")

    @property
    def all_units(self) -> int:
        """Units of the whole tensor."""
        return self.units or max(self.slices)


def read_points(manifest: Mapping[str, Any], where: str = "manifest.json") -> tuple[PlanPoint, ...]:
    """The ``partitions`` of a manifest; ``local`` is none.

    ``layer`` (the last layer on the device's side) may be absent where the partition is called like its
    layer, and for the raw input.

    Raises:
        ClioError: The manifest does not look like that.
    """
    try:
        return tuple(
            PlanPoint(
                name=str(entry["name"]),
                layer=None if entry["name"] == RAW else entry.get("layer", entry["name"]),
                slices=tuple(sorted(int(count) for count in entry["slices"])),
                unit_bytes=int(entry["unit_bytes"]),
                units=int(entry.get("units", 0)),
            )
            for entry in manifest["partitions"]
            if entry["name"] != LOCAL
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ClioError("not a manifest of this clio-cc", where, "compile again") from error


@dataclass(frozen=True)
class Option:
    """A point and a number of units.

    Attributes:
        merit: What it is chosen by: the accuracy, or where that is not known the highest that fewer units of this
            point reach (more data never makes the answer worse), or -1; then the share of units, where not known.
    """

    partition: str
    slices: int
    bytes: int
    device_ns: int
    cloud_ns: int
    accuracy: float | None
    merit: tuple[float, float]

    @property
    def compute_ns(self) -> int:
        """Time apart from the transfer."""
        return self.device_ns + self.cloud_ns


def merit(accuracy: float | None, share: float, at_least: float = -1.0) -> tuple[float, float]:
    """See :class:`Option`; `at_least` is what less data reaches."""
    return (at_least, share) if accuracy is None else (accuracy, 0.0)


@dataclass(frozen=True)
class Times:
    """Device and cloud times of every cut, by sums over a profile.

    Attributes:
        index: Layer → number of layers up to and including it, without `Encode` rows.
        device_ns: Time of the first n layers on the device; None from the first that it cannot run.
        cloud_ns: Time of all but the first n layers in the cloud.
        encoders: The profile's `Encode` rows by name.
    """

    index: Mapping[str, int]
    device_ns: tuple[int | None, ...]
    cloud_ns: tuple[int, ...]
    encoders: Mapping[str, ProfileRow]
    blocking: str = ""

    @staticmethod
    def of(profile: Sequence[ProfileRow]) -> Times:
        """Sum up a profile, whose rows are in order of execution."""
        layers = [row for row in profile if row.op != ENCODE]
        device: list[int | None] = [0]
        for row in layers:
            before = device[-1]
            device.append(None if before is None or row.device_us is None else before + _ns(row.device_us))
        cloud = list(itertools.accumulate((_ns(row.cloud_us) for row in reversed(layers)), initial=0))
        return Times(
            {row.layer: number for number, row in enumerate(layers, start=1)},
            tuple(device),
            tuple(reversed(cloud)),
            {row.layer: row for row in profile if row.op == ENCODE},
            next((row.layer for row in layers if row.device_us is None), ""),
        )

    def cut(self, point: PlanPoint) -> tuple[int, int]:
        """Device and cloud time of a cut without its encoder."""
        if point.layer is None:
            return 0, self.cloud_ns[0]
        if point.layer not in self.index:
            raise ClioError(
                f"layer '{point.layer}' of partition point '{point.name}' is not in the profile", _PROFILE
            )
        number = self.index[point.layer]
        device_ns = self.device_ns[number]
        if device_ns is None:
            raise ClioError(_needs_time(point, self.blocking), _PROFILE)
        return device_ns, self.cloud_ns[number]

    def encode(self, point: PlanPoint) -> tuple[int, int]:
        """What ordering the units adds on the device, and decoding them in the cloud."""
        row = self.encoders.get(encode_name(point.name))
        if row is None:
            return 0, 0
        if row.device_us is None:
            raise ClioError(_needs_time(point, row.layer), _PROFILE)
        return _ns(row.device_us), _ns(row.cloud_us)


def _needs_time(point: PlanPoint, layer: str) -> str:
    return f"partition point '{point.name}' needs a device_us for layer '{layer}', which has none"


def _ns(us: float) -> int:
    return math.ceil(exact(us) * 1000)


def point_options(
    point: PlanPoint, times: Times, accuracy: Mapping[tuple[str, int], float]
) -> tuple[Option, ...]:
    """A point with each allowed number of units."""
    device_ns, cloud_ns = (
        plain + extra for plain, extra in zip(times.cut(point), times.encode(point), strict=True)
    )
    found = []
    at_least = -1.0
    for slices in point.slices:
        known = accuracy.get((point.name, slices))
        chosen_by = merit(known, slices / point.all_units, at_least)
        at_least = max(at_least, chosen_by[0])
        found.append(
            Option(point.name, slices, slices * point.unit_bytes, device_ns, cloud_ns, known, chosen_by)
        )
    return tuple(found)


def local_option(times: Times, accuracy: Mapping[tuple[str, int], float]) -> Option | None:
    """The whole network on the device, if it can run it."""
    device_ns = times.device_ns[-1]
    if device_ns is None:
        return None
    known = accuracy.get((LOCAL, 0))
    return Option(LOCAL, 0, 0, device_ns, 0, known, merit(known, 1.0))


def known_accuracy(rows: Sequence[AccuracyRow]) -> dict[tuple[str, int], float]:
    """(partition, slices) → accuracy."""
    return {(row.partition, row.slices): row.value for row in rows}


def check_accuracy(rows: Sequence[AccuracyRow], points: Sequence[PlanPoint], where: str) -> None:
    """Raise a :class:`ClioError` for rows of other partition points, or of other sizes."""
    by_name = {point.name: point for point in points}
    for row in rows:
        match = FEWER_BITS.fullmatch(row.partition)
        if row.partition in (LOCAL, RAW, JPEG) or (match is not None and match[1] in by_name):
            continue
        hint = "compile and evaluate again"
        if row.partition not in by_name:
            raise ClioError(f"'{row.partition}' is no partition point of this folder", where, hint)
        size = row.slices * by_name[row.partition].unit_bytes
        if row.bytes != size:
            raise ClioError(
                f"{row.slices} slices of '{row.partition}' are {size} bytes, got {row.bytes}", where, hint
            )


@dataclass(frozen=True)
class Costs:
    """What decides: the link, powers, and what must not be exceeded.

    Attributes:
        transfer: How bytes travel.
        device_mw: While computing; None if not known.
        radio_mw: While a transfer lasts, with `radio_pj_per_byte` for what is sent; None if not known.
        deadline_ns: None if only energy counts.
        budget_pj: None if only time counts.
    """

    transfer: Stream | ConnectionEvents = field(default_factory=Stream)
    device_mw: Fraction | None = None
    radio_mw: Fraction | None = None
    radio_pj_per_byte: Fraction = Fraction(0)
    deadline_ns: int | None = None
    budget_pj: Fraction | None = None

    def latency_ns(self, option: Option, bps: int) -> Fraction | int:
        """From the input's arrival to the result in the cloud."""
        return option.compute_ns + self.transfer.time_ns(option.bytes, bps)

    def fixed_pj(self, option: Option) -> Fraction | None:
        """Energy apart from what the radio draws for as long as the transfer lasts; None if not known."""
        if self.device_mw is None or (option.bytes and self.radio_mw is None):
            return None
        return option.device_ns * self.device_mw + option.bytes * self.radio_pj_per_byte

    def energy_pj(self, option: Option, bps: int) -> Fraction | None:
        """Energy of device and radio; a radio that sends nothing needs no figure."""
        fixed_pj = self.fixed_pj(option)
        if fixed_pj is None or not option.bytes or self.radio_mw is None:
            return fixed_pj
        return fixed_pj + self.radio_mw * self.transfer.time_ns(option.bytes, bps)

    def from_bps(self, option: Option) -> int | None:
        """Lowest whole bandwidth that meets deadline and budget; None if none does.

        More bandwidth shortens the transfer, so what is met at one bandwidth is met at every higher one.
        """
        most: list[Fraction | int] = []
        if self.deadline_ns is not None:
            most.append(self.deadline_ns - option.compute_ns)
        if self.budget_pj is not None:
            fixed_pj = self.fixed_pj(option)
            if fixed_pj is None or fixed_pj > self.budget_pj:
                return None
            if option.bytes and self.radio_mw:
                most.append((self.budget_pj - fixed_pj) / self.radio_mw)
        if not most:
            return 1
        return self._from_bps(option, min(most))

    def _from_bps(self, option: Option, most_ns: Fraction | int) -> int | None:
        if option.bytes == 0:
            return 1 if most_ns >= 0 else None
        return self.transfer.from_bps(option.bytes, most_ns)

    def choice(self, option: Option, bps: int) -> Choice:
        """An option with its figures at a bandwidth."""
        return Choice(
            option.partition,
            option.slices,
            option.bytes,
            rounded_us(self.latency_ns(option, bps)),
            rounded_uj(self.energy_pj(option, bps)),
            option.accuracy,
        )


def rounded_us(ns: Fraction | int) -> float:
    """Microseconds with three digits."""
    return round(float(Fraction(ns) / 1000), 3)


def rounded_uj(pj: Fraction | None) -> float | None:
    """Microjoules with three digits."""
    return None if pj is None else round(float(pj / 10**6), 3)
