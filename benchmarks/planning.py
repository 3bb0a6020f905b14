"""Processor time of planning: 400 candidate points with 16 slice counts each, a deadline, all strategies, all reasons.

    python benchmarks/planning.py [--points 400] [--counts 16] [--json]

Each row is a link and what is known; the mark is one second. Exits with 1 if a row misses it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from dataclasses import asdict, dataclass
from fractions import Fraction

from clio_cc.accuracy import AccuracyRow
from clio_cc.planner import PlanPoint, make_plan
from clio_cc.profile import ProfileRow
from clio_cc.radios import find_link
from clio_cc.targets.facts import Figure
from clio_cc.units import BandwidthRange

MARK_S = 1.0
LINKS = ("clio-wifi", "ble-2m")
Problem = tuple[list[ProfileRow], list[PlanPoint], list[AccuracyRow]]


@dataclass(frozen=True)
class Row:
    """One plan, and what it took (the fastest of three)."""

    link: str
    accuracies: bool
    budget: bool
    options: int
    ranges: int
    seconds: float


def problem(points: int = 400, counts: int = 16) -> Problem:
    """A long network whose tensors shrink: later points send less and compute more, so that each is best somewhere."""
    profile, found, accuracy = [], [], []
    for i in range(points):
        layer, name, size = f"layer{i}", f"point{i}", max(20_000 - 49 * i, 100)
        profile += [
            ProfileRow(layer, "Conv", 0, 0, 0, 500 + i % 7 / 8, "made up", 20.125 + i % 3, "made up"),
            ProfileRow(f"{name}/units", "Encode", 0, 0, 0, 40.5, "made up", 8.25, "made up"),
        ]
        point = PlanPoint(name, layer, tuple(range(2, 2 * counts + 1, 2)), size // (2 * counts) + 1)
        found.append(point)
        accuracy += [
            AccuracyRow(
                name, k, k * point.unit_bytes, "accuracy", round(0.9 - 0.5 / k - i % 13 / 1000, 4), 1000
            )
            for k in point.slices
        ]
    return profile, found, accuracy


def measure(made_up: Problem, link: str, accuracies: bool, budget: bool, repeats: int = 3) -> Row:
    """Plan, and keep the fastest of a few times."""
    profile, points, accuracy = made_up
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        plan = make_plan(
            profile,
            points,
            BandwidthRange(50_000, 1_000_000),
            budget_uj=Fraction(15_000) if budget else None,
            input_bytes=150_528,
            link=find_link(link),
            device_power_mw=Figure(50, "made up"),
            accuracy=accuracy if accuracies else (),
            local=True,
        )
        seconds.append(time.process_time() - start)
    options = sum(len(point.slices) for point in points) + 1
    return Row(link, accuracies, budget, options, len(plan.ranges), round(min(seconds), 3))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--points", type=int, default=400)
    parser.add_argument("--counts", type=int, default=16)
    parser.add_argument("--json", action="store_true", dest="as_json")
    options = parser.parse_args()
    made_up = problem(options.points, options.counts)
    found = [measure(made_up, *each) for each in itertools.product(LINKS, (True, False), (False, True))]
    if options.as_json:
        print(json.dumps([asdict(row) for row in found], indent=2))
    else:
        print("| link | accuracies | energy budget | options | ranges | seconds |\n|---|---|---|---|---|---|")
        for row in found:
            known = ["known" if row.accuracies else "unknown", "yes" if row.budget else "no"]
            print(f"| {row.link} | {' | '.join(known)} | {row.options} | {row.ranges} | {row.seconds:.2f} |")
    if max(row.seconds for row in found) > MARK_S:
        sys.exit(1)


if __name__ == "__main__":
    main()
