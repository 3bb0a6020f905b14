"""CLIO's checkable figure: how far down MobileNetV2's partition points reach on GAP8 within 300 ms.

    python benchmarks/clio_figure.py [--cloud-ms 5] [--json]

CLIO (MobiCom'20, section 4.1): with every second channel for early partition points and every fourth for later ones,
points after layers 3, 5 and 8 "extend the bandwidth range" to 195, 175 and 98 kbit/s. A point reaches down to

    bits of its smallest slice / (300 ms - MACs before it / 525 MMAC/s - time in the cloud)

MACs and shapes follow from table 2 of Sandler et al. (MobileNetV2, CVPR'18) and are those of torchvision's
``features.k``; tests compare them with an exported model. Printed beside the paper's figures, for both ways to count
layers: what our arithmetic gives for slices of 1, 2 and 4 channels, and which slice or which compute time would give
the paper's figure. Then the planner's covers for 50k:2M.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from clio_cc.plan import Plan
from clio_cc.planner import PlanPoint, make_plan
from clio_cc.profile import ProfileRow
from clio_cc.units import BandwidthRange

MACS_PER_S = 525_000_000
DEADLINE_US = 300_000
RANGE = BandwidthRange(50_000, 2_000_000)
PAPER_KBPS = {3: 195, 5: 175, 8: 98}
INPUT_BYTES = 3 * 224 * 224
BOTTLENECKS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, channels, repetitions, stride of the first; Sandler et al., table 2."""


@dataclass(frozen=True)
class Block:
    """One entry of ``features``: its output, and multiply-accumulates up to and including it."""

    name: str
    channels: int
    side: int
    macs: int

    @property
    def unit_bytes(self) -> int:
        """One channel in int8."""
        return self.side * self.side

    @property
    def step(self) -> int:
        """Channels of the smallest slice: two early, four later. CLIO gives no border; ours lies at 28x28."""
        return 2 if self.side >= 28 else 4

    @property
    def device_us(self) -> float:
        """On GAP8."""
        return self.macs / MACS_PER_S * 1e6


@dataclass(frozen=True)
class Row:
    """A figure of the paper, and ours for one way to count layers.

    Attributes:
        kbps: Ours, for slices of 1, 2 and 4 channels; None where the time is over.
        paper_channels: The slice that would give the paper's figure after the same compute time.
        paper_compute_ms: The compute time that would give it for the smallest slice.
    """

    layer: int
    counted_from: int
    block: str
    shape: str
    macs: int
    compute_ms: float
    channel_bytes: int
    step: int
    kbps: dict[int, float | None]
    paper_kbps: int
    paper_channels: float
    paper_compute_ms: float


def blocks() -> list[Block]:
    """MobileNetV2 1.0 at 224x224 from its first convolution to its last."""
    side, channels, macs = 112, 32, 112 * 112 * 32 * 27
    found = [Block("features.0", channels, side, macs)]
    for expansion, wide, repetitions, stride in BOTTLENECKS:
        for index in range(repetitions):
            hidden = channels * expansion
            macs += 0 if expansion == 1 else side * side * channels * hidden
            side //= stride if index == 0 else 1
            macs += side * side * hidden * (9 + wide)
            channels = wide
            found.append(Block(f"features.{len(found)}", channels, side, macs))
    found.append(Block("features.18", 1280, side, macs + side * side * channels * 1280))
    return found


def rows(cloud_us: float = 0) -> list[Row]:
    """The paper's three figures, layers counted from 0 (``features.k``) and from 1."""
    return [
        _row(layer, counted_from, blocks()[layer - counted_from], kbps, cloud_us)
        for (layer, kbps), counted_from in itertools.product(PAPER_KBPS.items(), (0, 1))
    ]


def _row(layer: int, counted_from: int, block: Block, paper_kbps: int, cloud_us: float) -> Row:
    compute_us = block.device_us + cloud_us
    left_us = DEADLINE_US - compute_us
    channel_bits = block.unit_bytes * 8
    return Row(
        layer,
        counted_from,
        block.name,
        f"{block.channels}x{block.side}x{block.side}",
        block.macs,
        round(compute_us / 1000, 1),
        block.unit_bytes,
        block.step,
        {n: round(n * channel_bits / left_us * 1000, 1) if left_us > 0 else None for n in (1, 2, 4)},
        paper_kbps,
        round(paper_kbps * left_us / 1000 / channel_bits, 2),
        round((DEADLINE_US - block.step * channel_bits / paper_kbps * 1000) / 1000, 1),
    )


def plan(cloud_us: float = 0) -> Plan:
    """Our plan with a partition point after every block, and the slices of the paper."""
    found = blocks()
    before = [0, *(block.macs for block in found)]
    profile = [
        ProfileRow(
            block.name, "Block", macs, 0, 0, round(macs / MACS_PER_S * 1e6, 3), "525 MMAC/s", 0.0, "none"
        )
        for block, macs in zip(found, (b - a for a, b in itertools.pairwise(before)), strict=True)
    ]
    # The whole network's remaining 1.28 M MACs are in the cloud, where no time passes but what was asked for.
    profile.append(
        ProfileRow("classifier", "Gemm", 1_280_000, 0, 0, 2438.095, "525 MMAC/s", cloud_us, "--cloud-ms")
    )
    points = [
        PlanPoint(b.name, b.name, tuple(range(b.step, b.channels + 1, b.step)), b.unit_bytes) for b in found
    ]
    return make_plan(profile, points, RANGE, deadline_us=DEADLINE_US, input_bytes=INPUT_BYTES)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--cloud-ms", type=float, default=0.0, help="time in the cloud (default 0)")
    parser.add_argument("--json", action="store_true", dest="as_json")
    options = parser.parse_args()
    found, made = rows(options.cloud_ms * 1000), plan(options.cloud_ms * 1000)
    if options.as_json:
        intervals = [asdict(each) for each in made.intervals]
        covers = {"cover": made.cover, "adaptive_cover": made.adaptive_cover, "holes": made.holes}
        print(json.dumps({"rows": [asdict(r) for r in found], "intervals": intervals, **covers}, indent=2))
        return
    for line in (*_table(found), "", *_covers(made)):
        print(line)


def _table(found: Sequence[Row]) -> list[str]:
    lines = [
        "| layer | block | shape | MMAC before | compute ms | B per channel | kbps: 1 | 2 | 4 channels | paper "
        "| would take channels | or, with the paper's slice, compute ms |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in found:
        ours = " | ".join("-" if kbps is None else f"{kbps:g}" for kbps in r.kbps.values())
        lines.append(
            f"| {r.layer}, from {r.counted_from} | {r.block} | {r.shape} | {r.macs / 1e6:.1f} | {r.compute_ms} | "
            f"{r.channel_bytes} | {ours} | {r.paper_kbps} | {r.paper_channels} | {r.paper_compute_ms} |"
        )
    return lines


def _covers(made: Plan) -> list[str]:
    lines = ["| point | from kbps | all channels from kbps |", "|---|---|---|"]
    for i in made.intervals:
        every = "above the range" if i.all_from_bps is None else f"{i.all_from_bps / 1000:.1f}"
        lines.append(f"| {i.partition} | {i.from_bps / 1000:.1f} | {every} |")
    lines += ["", f"cover: {', '.join(made.cover)}", f"adaptive cover: {', '.join(made.adaptive_cover)}"]
    return [*lines, *(f"hole: {low / 1000:g} to {high / 1000:g} kbps" for low, high in made.holes)]


if __name__ == "__main__":
    main()
