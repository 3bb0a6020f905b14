"""Seeded random operators of every family, edge shapes included, for bit-exactness on every board."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from clio_cc.operators.base import Operator, Tensor
from clio_cc.operators.conv import Conv
from clio_cc.operators.elementwise import Add, Mul, rescale_terms
from clio_cc.operators.movement import Concat, Pad, Reshape, Transpose
from clio_cc.operators.pool import AveragePool, MaxPool, rescale_ratio
from clio_cc.operators.softmax import OUTPUT_SCALE, Softmax, exponentials
from clio_cc.operators.table import Table
from clio_cc.program import Program
from clio_cc.qformat import Requantize, requantize_by_multiplier

Random = np.random.Generator
CLAMPS = ((-128, 127), (0, 127), (0, 96), (-7, 100))


def program_of(family: str, count: int, seed: int = 0) -> Program:
    """Return a Program of `count` unrelated operators of one family, each with inputs of its own, no two shapes alike."""
    rng = np.random.default_rng([seed, *family.encode()])
    operators: list[Operator] = []
    seen = set()
    while len(operators) < count:
        op = FAMILIES[family](rng, len(operators))
        kernel = op.kernel() if op is not None else None
        key = kernel.key if kernel is not None else None
        if op is None or (key is not None and key in seen):
            continue
        seen.add(key)
        operators.append(op)
    inputs = tuple(tensor for op in operators for tensor in op.inputs)
    return Program(inputs, tuple(operators), tuple(op.output.name for op in operators))


def _ints(rng: Random, low: int, high: int, count: int) -> tuple[int, ...]:
    return tuple(int(v) for v in rng.integers(low, high + 1, count))


def _tensor(index: int, role: str, shape: tuple[int, ...], scale: float = 1.0) -> Tensor:
    return Tensor(f"{role}{index}", shape, scale)


def _clamp(rng: Random) -> tuple[int, int]:
    return CLAMPS[rng.integers(len(CLAMPS))]


def _requantize(rng: Random, channels: int) -> Requantize:
    lo, hi = _clamp(rng)
    if rng.random() < 0.6:
        return Requantize(rng.integers(0, 14, channels), None, lo, hi)
    if rng.random() < 0.2:  # the ends of the range
        return Requantize(rng.choice([33, 34, 62], channels), rng.choice([0, 1, 2**31 - 1], channels), lo, hi)
    return requantize_by_multiplier(np.exp2(rng.uniform(-14, -2.1, channels)), lo, hi)


def _window(rng: Random, size: int) -> tuple[int, int, int, int, int, int] | None:
    """Taps, stride, dilation, pads before and after along one axis, and the output size; None if nothing comes out."""
    taps, stride, dilation = int(rng.integers(1, 6)), int(rng.integers(1, 4)), int(rng.choice([1, 1, 2, 3]))
    reach = dilation * (taps - 1) + 1
    before, after = (int(v) for v in rng.integers(0, reach, 2)) if rng.random() < 0.7 else (0, 0)
    out = (size + before + after - reach) // stride + 1
    return (taps, stride, dilation, before, after, out) if size + before + after >= reach else None


def _conv(
    rng: Random, index: int, groups: int, cin: int, cout: int, *, taps: tuple[int, int] | None = None
) -> Conv | None:
    size = _ints(rng, 1, 9, 2)
    rows, columns = _window(rng, size[0]), _window(rng, size[1])
    if rows is None or columns is None:
        return None
    if taps is not None:  # plain windows over an image that may be a band of a larger one
        rows, columns = (
            (k, 1, 1, int(before), int(after), int(extent + before + after) - k + 1)
            for k, extent, (before, after) in zip(taps, size, rng.integers(0, 3, (2, 2)), strict=True)
        )
        if min(rows[-1], columns[-1]) < 1:
            return None
    elif rng.random() < 0.25:
        rows, columns = (1, 1, 1, 0, 0, size[0]), (1, 1, 1, 0, 0, size[1])
    (kh, sh, dh, top, bottom, out_h), (kw, sw, dw, left, right, out_w) = rows, columns
    weight = rng.integers(-128, 128, (cout, kh, kw, cin // groups)).astype(np.int8)
    return Conv(
        name=f"conv{index}",
        kind="Conv",
        inputs=(_tensor(index, "x", (*size, cin)),),
        output=_tensor(index, "y", (out_h, out_w, cout)),
        weight=weight,
        bias=rng.integers(-20000, 20000, cout).astype(np.int32),
        requantize=_requantize(rng, cout),
        stride=(sh, sw),
        dilation=(dh, dw),
        pads=(top, left, bottom, right),
        groups=groups,
    )


def conv(rng: Random, index: int) -> Conv | None:
    """One group."""
    return _conv(rng, index, 1, *_ints(rng, 1, 20, 2))


def grouped(rng: Random, index: int) -> Conv | None:
    """2 to 4 groups, channel multipliers included."""
    groups = int(rng.integers(2, 5))
    per_in, per_out = _ints(rng, 1, 6, 2)
    return _conv(rng, index, groups, groups * per_in, groups * per_out) if per_in * per_out > 1 else None


def depthwise(rng: Random, index: int) -> Conv | None:
    """One filter per channel."""
    channels = int(rng.integers(2, 14))
    return _conv(rng, index, channels, channels, channels)


def planar(rng: Random, index: int) -> Conv | None:
    """Depthwise 3×3 by the planar kernel."""
    channels = int(rng.integers(4, 14))
    return _by_kernel(rng, _conv(rng, index, channels, channels, channels, taps=(3, 3)), "planar")


def wide(rng: Random, index: int) -> Conv | None:
    """One group, an even number of outputs, by the kernel with widened weights."""
    cin, half = _ints(rng, 1, 20, 2)
    return _by_kernel(rng, _conv(rng, index, 1, cin, 2 * half), "wide")


def _by_kernel(rng: Random, op: Conv | None, kernel: str) -> Conv | None:
    """`op` by a schedule of `kernel`, None where there is none."""
    schedules = [each for each in op.schedules if each.kernel == kernel] if op is not None else []
    return replace(op, schedule=schedules[int(rng.integers(len(schedules)))]) if op and schedules else None


def gemm(rng: Random, index: int) -> Conv:
    """A matrix product of vectors."""
    features, outputs = _ints(rng, 1, 70, 2)
    return Conv(
        name=f"gemm{index}",
        kind="Gemm",
        inputs=(_tensor(index, "x", (features,)),),
        output=_tensor(index, "y", (outputs,)),
        weight=rng.integers(-128, 128, (outputs, 1, 1, features)).astype(np.int8),
        bias=rng.integers(-20000, 20000, outputs).astype(np.int32),
        requantize=_requantize(rng, outputs),
    )


def _image(rng: Random) -> tuple[int, int, int]:
    height, width, channels = _ints(rng, 1, 8, 3)
    return height, width, channels * int(rng.choice([1, 4]))


def _pair(rng: Random, index: int) -> tuple[tuple[Tensor, Tensor], Tensor]:
    shape: tuple[int, ...] = _image(rng) if rng.random() < 0.8 else _ints(rng, 1, 60, 1)
    second = (1, 1, shape[-1]) if len(shape) == 3 and rng.random() < 0.3 else shape
    return (_tensor(index, "a", shape), _tensor(index, "b", second)), _tensor(index, "y", shape)


def add(rng: Random, index: int) -> Add:
    """Both modes' multipliers."""
    inputs, output = _pair(rng, index)
    scales = (
        [2.0 ** -int(n) for n in rng.integers(0, 6, 2)]
        if rng.random() < 0.5
        else rng.uniform(0.2, 3, 2).tolist()
    )
    (m0, m1), shift = rescale_terms(scales, 1.0 if rng.random() < 0.5 else 0.25)
    lo, hi = _clamp(rng)
    requantize = Requantize(np.array([shift]), None, lo, hi)
    return Add(
        name=f"add{index}",
        kind="Add",
        inputs=inputs,
        output=output,
        multipliers=(m0, m1),
        requantize=requantize,
    )


def mul(rng: Random, index: int) -> Mul:
    """Per channel and element by element."""
    inputs, output = _pair(rng, index)
    return Mul(name=f"mul{index}", kind="Mul", inputs=inputs, output=output, requantize=_requantize(rng, 1))


def _pooled(rng: Random, index: int) -> dict[str, object] | None:
    shape = _image(rng)
    rows, columns = _window(rng, shape[0]), _window(rng, shape[1])
    if rng.random() < 0.2:  # global
        rows, columns = (shape[0], 1, 1, 0, 0, 1), (shape[1], 1, 1, 0, 0, 1)
    if rows is None or columns is None:
        return None
    (kh, sh, dh, top, bottom, out_h), (kw, sw, dw, left, right, out_w) = rows, columns
    return {
        "name": f"pool{index}",
        "inputs": (_tensor(index, "x", shape),),
        "output": _tensor(index, "y", (out_h, out_w, shape[2])),
        "window": (kh, kw),
        "stride": (sh, sw),
        "dilation": (dh, dw),
        "pads": (top, left, bottom, right),
    }


def max_pool(rng: Random, index: int) -> MaxPool | None:
    """Padding must never win."""
    fields = _pooled(rng, index)
    return MaxPool(kind="MaxPool", **fields) if fields else None  # type: ignore[arg-type]


def average_pool(rng: Random, index: int) -> AveragePool | None:
    """Padding counted or not, any ratio of scales; every window sees the image."""
    fields = _pooled(rng, index)
    if fields is None:
        return None
    window: tuple[int, int] = fields["window"]  # type: ignore[assignment]
    output_scale = float(rng.choice([0.25, 0.5, 1.0, 2.0, 0.3, 0.77]))
    numerator, denominator = rescale_ratio(1.0, output_scale, window[0] * window[1])
    op = AveragePool(
        kind="AveragePool",
        numerator=numerator,
        denominator=denominator,
        count_padding=bool(rng.random() < 0.5),
        **fields,  # type: ignore[arg-type]
    )
    return op if op.counts().min() > 0 else None


def table(rng: Random, index: int) -> Table:
    """A random table."""
    shape = _image(rng) if rng.random() < 0.8 else _ints(rng, 1, 900, 1)
    values = rng.integers(-128, 128, 256).astype(np.int8)
    x, y = _tensor(index, "x", shape), _tensor(index, "y", shape)
    return Table(name=f"table{index}", kind="Tanh", inputs=(x,), output=y, table=values)


def concat(rng: Random, index: int) -> Concat:
    """Any axis, up to four inputs, rescaled or copied."""
    axis, count = int(rng.integers(0, 3)), int(rng.integers(1, 5))
    shape = list(_image(rng))
    sizes = _ints(rng, 1, 7, count)
    inputs = [
        _tensor(index, f"x{i}_", (*shape[:axis], size, *shape[axis + 1 :])) for i, size in enumerate(sizes)
    ]
    shape[axis] = sum(sizes)
    scales = (
        [2.0 ** -int(n) for n in rng.integers(0, 5, count)]
        if rng.random() < 0.6
        else rng.uniform(0.2, 3, count)
    )
    multipliers, shift = rescale_terms([float(s) for s in scales], 1.0)
    return Concat(
        name=f"concat{index}",
        kind="Concat",
        inputs=tuple(inputs),
        output=_tensor(index, "y", tuple(shape)),
        axis=axis,
        multipliers=multipliers,
        requantize=Requantize(np.array([shift])),
    )


def pad(rng: Random, index: int) -> Pad:
    """Any border, any value."""
    height, width, channels = _image(rng)
    top, left, bottom, right = _ints(rng, 0, 4, 4)
    return Pad(
        name=f"pad{index}",
        kind="Pad",
        inputs=(_tensor(index, "x", (height, width, channels)),),
        output=_tensor(index, "y", (height + top + bottom, width + left + right, channels)),
        pads=(top, left, bottom, right),
        value=int(rng.integers(-128, 128)),
    )


def transpose(rng: Random, index: int) -> Transpose:
    """Two to four axes."""
    shape = _ints(rng, 1, 7, int(rng.integers(2, 5)))
    permutation = tuple(int(axis) for axis in rng.permutation(len(shape)))
    output = _tensor(index, "y", tuple(shape[axis] for axis in permutation))
    x = _tensor(index, "x", shape)
    return Transpose(name=f"t{index}", kind="Transpose", inputs=(x,), output=output, permutation=permutation)


def reshape(rng: Random, index: int) -> Reshape:
    """No code: the output is the input's bytes."""
    shape = _image(rng)
    y = _tensor(index, "y", (int(np.prod(shape)),))
    return Reshape(name=f"r{index}", kind="Reshape", inputs=(_tensor(index, "x", shape),), output=y)


def softmax(rng: Random, index: int) -> Softmax:
    """From one class to many, flat to steep."""
    classes = int(rng.integers(1, 1200))
    return Softmax(
        name=f"softmax{index}",
        kind="Softmax",
        inputs=(_tensor(index, "x", (classes,)),),
        output=_tensor(index, "y", (classes,), OUTPUT_SCALE),
        table=exponentials(2.0 ** -int(rng.integers(0, 7))),
    )


FAMILIES: dict[str, Callable[[Random, int], Operator | None]] = {
    function.__name__: function
    for function in (
        conv, grouped, depthwise, planar, wide, gemm, add, mul, max_pool, average_pool, table, concat, pad, transpose,
        reshape, softmax,
    )
}  # fmt: skip


def every_family(count: int, seed: int = 0) -> Program:
    """Return one Program with `count` operators of every family."""
    programs = {family: program_of(family, count, seed) for family in FAMILIES}
    operators = tuple(_renamed(op, family) for family, p in programs.items() for op in p.operators)
    inputs = tuple(_prefixed(tensor, family) for family, p in programs.items() for tensor in p.inputs)
    return Program(inputs, operators, tuple(op.output.name for op in operators))


def _renamed(op: Operator, family: str) -> Operator:
    inputs = tuple(_prefixed(tensor, family) for tensor in op.inputs)
    return replace(op, name=f"{family}_{op.name}", inputs=inputs, output=_prefixed(op.output, family))


def _prefixed(tensor: Tensor, family: str) -> Tensor:
    return replace(tensor, name=f"{family}_{tensor.name}")
