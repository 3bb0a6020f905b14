"""What a schedule costs on a board, in executed instructions: measured where the shape was tuned, else by a model of it.

``targets/<board>/schedules.json`` ships with the package and holds both; ``python benchmarks/tuning.py`` measures on the
emulated boards and writes it anew. Compiling only reads it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from clio_cc.operators import matmul, wide
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
        model: Name of a model → coefficients of the counts of :func:`work`, from :func:`fit_model`.
    """

    measured: Mapping[Shape, Mapping[str, int]] = field(default_factory=dict)
    model: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def instructions(self, op: Conv, schedule: Schedule) -> float | None:
        """Return what `schedule` of `op` costs; None where nothing is known of it."""
        known = self.measured.get(Shape.of(op), {}).get(str(schedule))
        return self.modelled(op, schedule) if known is None else float(known)

    def modelled(self, op: Conv, schedule: Schedule) -> float | None:
        """Return what the model says, whether or not the shape was measured."""
        name, counts = work(op, schedule)
        coefficients = self.model.get(name)
        return None if coefficients is None else float(counts @ np.array(coefficients))

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


def work(op: Conv, schedule: Schedule) -> tuple[str, FloatArray]:
    """Return the name of the model of a schedule, and the counts of which its instructions are nearly a linear function."""
    name, counts = _WORK[schedule.kernel](op, schedule)
    return name, np.array([*counts, 1], np.float64)


def _matmul_work(op: Conv, schedule: Schedule) -> tuple[str, list[int]]:
    """Products and ends of whole tiles and of what is left of rows; runs and lanes gathered."""
    image, runs = matmul.Image.of(op), matmul.runs_of(op)
    pixels, channels = schedule.tile
    tiles = op.groups * -(-op.image_out[2] // op.groups // channels)
    lanes, whole, left = runs.count * runs.lanes, image.out_h * (image.out_w // pixels), image.out_w % pixels
    gathers = image.out_h * image.out_w * op.groups
    return f"matmul {pixels}x{channels}", [
        whole * pixels * tiles * channels * lanes,
        image.out_h * left * tiles * channels * lanes,
        whole * tiles,
        image.out_h * min(left, 1) * tiles,
        gathers * runs.count,
        gathers * lanes,
    ]


def _wide_work(op: Conv, schedule: Schedule) -> tuple[str, list[int]]:
    """Products, ends of tiles, pairs of pixels, their lanes, the bytes put together beforehand, weights widened."""
    layout, (out_h, out_w, cout) = wide.Layout.of(op, schedule), op.image_out
    pairs, parts = -(-out_h * out_w // wide.PIXELS), cout // layout.channels
    directly = op.weight.shape[2] * op.weight.shape[3] % 4 == 0
    staged = out_h * out_w - (_inside(op) if directly else 0)
    return f"wide {layout.tile}", [
        pairs * cout * layout.lanes,
        pairs * cout // layout.tile,
        pairs * parts,
        pairs * parts * layout.lanes,
        staged * parts * layout.lanes,
        cout * layout.lanes,
    ]


def _depthwise_work(op: Conv, schedule: Schedule) -> tuple[str, list[int]]:
    """Products, outputs, rows of four channels, outputs at the border."""
    out_h, out_w, channels = op.image_out
    counts = [op.macs, op.output.bytes, out_h * -(-channels // 4), (out_h * out_w - _inside(op)) * channels]
    return str(schedule), counts


def _planar_work(op: Conv, schedule: Schedule) -> tuple[str, list[int]]:
    """Products, outputs, inputs, rows and bands of four channels."""
    out_h, _, channels = op.image_out
    parts = -(-channels // 4)
    return "planar", [
        op.macs,
        op.output.bytes,
        op.inputs[0].bytes,
        out_h * parts,
        parts * out_h // schedule.tile[0],
    ]


def _inside(op: Conv) -> int:
    """Output pixels whose windows lie wholly inside the image."""
    inside = 1
    for axis in range(2):
        first = np.arange(op.image_out[axis]) * op.stride[axis] - op.pads[axis]
        last = first + op.dilation[axis] * (op.weight.shape[1 + axis] - 1)
        inside *= int(np.count_nonzero((first >= 0) & (last < op.image_in[axis])))
    return inside


_WORK = {
    "matmul": _matmul_work,
    "wide": _wide_work,
    "depthwise": _depthwise_work,
    "planar": _planar_work,
}


def fit_model(measured: Iterable[tuple[Conv, Schedule, int]]) -> dict[str, tuple[float, ...]]:
    """Return the coefficients of every model that fit what was measured, by least squares of relative errors.

    They are rounded to four digits, so that a file is readable and the same on every machine.
    """
    groups: dict[str, list[tuple[FloatArray, int]]] = {}
    for op, schedule, instructions in measured:
        name, counts = work(op, schedule)
        groups.setdefault(name, []).append((counts, instructions))
    return {name: _solved(rows) for name, rows in groups.items()}


def _solved(rows: Sequence[tuple[FloatArray, int]]) -> tuple[float, ...]:
    """Least squares with no coefficient below 0: nothing that a loop does takes instructions away."""
    matrix = np.stack([counts / instructions for counts, instructions in rows])
    scale = np.maximum(np.linalg.norm(matrix, axis=0), 1e-12)
    used = np.arange(matrix.shape[1])
    while True:
        ridge = np.eye(len(used)) * 1e-3  # counts that always go together have no one solution
        target = np.concatenate([np.ones(len(rows)), np.zeros(len(used))])
        columns = matrix[:, used] / scale[used]
        solved = np.linalg.lstsq(np.concatenate([columns, ridge]), target, rcond=None)[0]
        if solved.min() >= 0:
            break
        used = np.delete(used, int(np.argmin(solved)))
    found = np.zeros(matrix.shape[1])
    found[used] = solved / scale[used]
    return tuple(float(f"{value:.4g}") for value in found)
