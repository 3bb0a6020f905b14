"""What a schedule costs on a board, in executed instructions: measured where the shape was tuned, else by a model of it.

``targets/<board>/schedules.json`` ships with the package and holds both; ``python benchmarks/tuning.py`` measures on the
emulated boards and writes it anew. Compiling only reads it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from clio_cc.operators.conv import Conv
from clio_cc.operators.schedule import Schedule
from clio_cc.qformat import FloatArray
from clio_cc.targets import Target

Pair = tuple[int, int]


@dataclass(frozen=True)
class Shape:
    """What the instructions of a Conv depend on: fields as in Conv, `image` its input's (height, width, channels)."""

    image: tuple[int, int, int]
    weight: tuple[int, int, int, int]
    stride: Pair
    dilation: Pair
    pads: tuple[int, int, int, int]
    groups: int

    @staticmethod
    def of(op: Conv) -> Shape:
        """Return that of `op`."""
        cout, kh, kw, cin = op.weight.shape
        return Shape(op.image_in, (cout, kh, kw, cin), op.stride, op.dilation, op.pads, op.groups)


@dataclass(frozen=True, eq=False)
class Costs:
    """Of one board.

    Attributes:
        measured: Shape → schedule's text → instructions.
        model: Schedule's text → coefficients of :func:`features`, from :func:`fit_model`.
    """

    measured: Mapping[Shape, Mapping[str, int]] = field(default_factory=dict)
    model: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def instructions(self, op: Conv, schedule: Schedule) -> float | None:
        """Return what `schedule` of `op` costs; None where nothing is known of it."""
        known = self.measured.get(Shape.of(op), {}).get(str(schedule))
        return self.modelled(op, schedule) if known is None else float(known)

    def modelled(self, op: Conv, schedule: Schedule) -> float | None:
        """Return what the model says, whether or not the shape was measured."""
        coefficients = self.model.get(str(schedule))
        return None if coefficients is None else float(np.dot(features(op, schedule), np.array(coefficients)))

    def to_json(self) -> str:
        """Return the text of a board's file."""
        shapes = [
            json.dumps({**asdict(shape), "instructions": dict(sorted(self.measured[shape].items()))})
            for shape in sorted(self.measured, key=repr)
        ]
        models = [f"{json.dumps(name)}: {json.dumps(values)}" for name, values in sorted(self.model.items())]
        lines = ['{"measured": [', ",\n".join(shapes), '],"model": {', ",\n".join(models), "}}"]
        return "\n".join(lines) + "\n"

    @staticmethod
    def from_json(text: str) -> Costs:
        """Return the value of :meth:`to_json`."""
        found = json.loads(text)
        measured = {}
        for each in found["measured"]:
            instructions = each.pop("instructions")
            measured[Shape(**{name: _frozen(value) for name, value in each.items()})] = instructions
        return Costs(measured, {name: tuple(values) for name, values in found["model"].items()})


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def costs_path(target: Target) -> str:
    """Return where a board's file lies below ``targets/``."""
    return f"{target.name}/schedules.json"


@cache
def costs_of(target: Target) -> Costs:
    """Return what ships with a board; empty where it was never tuned."""
    file = resources.files("clio_cc.targets").joinpath(costs_path(target))
    return Costs.from_json(file.read_text("utf-8")) if file.is_file() else Costs()


FEATURES = (
    "whole tiles",
    "left-over pixels",
    "outputs",
    "gathered",
    "input",
    "weights",
    "row starts",
    "once",
)
"""What :func:`features` counts: multiply-accumulates in whole tiles and in what is left of rows, outputs, bytes of
receptive fields, bytes of the input, weights, rows of four channels."""


def features(op: Conv, schedule: Schedule) -> FloatArray:
    """Return the counts of `FEATURES`, of which a schedule's instructions are a linear function, nearly."""
    (height, width, channels), (out_h, out_w, cout) = op.image_in, op.image_out
    flat = op.weight.shape[1:3] == (1, 1)
    rows, row = (1, out_h * out_w) if flat else (out_h, out_w)
    left = rows * (row % schedule.tile[0])
    window = int(op.weight.size) // cout
    pixels = out_h * out_w
    gathered = pixels * window * (1 if not op.depthwise else cout)
    counts = (
        (pixels - left) * cout * window,
        left * cout * window,
        pixels * cout,
        gathered,
        height * width * channels,
        int(op.weight.size),
        rows * -(-cout // 4),
        1,
    )
    return np.array(counts, np.float64)


def fit_model(measured: Sequence[tuple[Conv, Schedule, int]]) -> dict[str, tuple[float, ...]]:
    """Return for every schedule the coefficients that fit what was measured of it, by least squares of relative errors.

    Coefficients are rounded to four digits, so that a file is readable and the same on every machine.
    """
    groups: dict[str, list[tuple[FloatArray, int]]] = {}
    for op, schedule, count in measured:
        groups.setdefault(str(schedule), []).append((features(op, schedule), count))
    model = {}
    for name, rows in groups.items():
        counts = np.array([count for _, count in rows], np.float64)
        matrix = np.stack([row for row, _ in rows]) / counts[:, None]
        scale = np.maximum(np.linalg.norm(matrix, axis=0), 1e-12)
        ridge = np.eye(len(FEATURES)) * 1e-3
        solved = np.linalg.lstsq(
            np.concatenate([matrix / scale, ridge]),
            np.concatenate([np.ones(len(rows)), np.zeros(len(FEATURES))]),
            rcond=None,
        )[0]
        model[name] = tuple(float(f"{value:.4g}") for value in solved / scale)
    return model
