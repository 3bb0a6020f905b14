"""The micro-kernels of both headers against numpy: one firmware with many calls, on the host and every board."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from toy import RUNNABLE, TOY, board_id

from clio_cc import toolchain
from clio_cc.codegen.emit import Emitter, c_type
from clio_cc.project import device_glue, project_files
from clio_cc.targets import Board, Compiler, Target

Array = npt.NDArray[Any]

INT32 = (-(2**31), 2**31 - 1)


@dataclass(frozen=True)
class Call:
    """One call and what it must leave in its result, which begins as `before`.

    `text` says ``{r}`` for the result and ``{0}``, ``{1}`` … for `tables`.
    """

    text: str
    before: Array
    after: Array
    tables: tuple[Array, ...] = ()


def returned(text: str, value: int) -> Call:
    return Call(f"{{r}}[0] = {text}", np.array([0x55], np.int32), np.array([value], np.int32))


def literal(value: int) -> str:
    return "(-2147483647 - 1)" if value == INT32[0] else str(value)


def clamps(rng: np.random.Generator) -> Iterator[Call]:
    edges = (*INT32, -32769, -129, -128, -127, -1, 0, 1, 126, 127, 128, 255, 256, 32768)
    for value in (*edges, *map(int, rng.integers(-300, 300, 8))):
        v = literal(value)
        yield returned(f"clio_saturate({v})", min(max(value, -128), 127))
        yield returned(f"clio_saturate_relu({v})", min(max(value, 0), 127))
        yield returned(f"clio_clamp({v}, -7, 90)", min(max(value, -7), 90))


def mulshifts(rng: np.random.Generator) -> Iterator[Call]:
    values = (*INT32, -1, 0, 1, *map(int, rng.integers(*INT32, 6)))
    multipliers = (0, 1, 2**30, INT32[1], int(rng.integers(2**30, 2**31)))
    for acc, multiplier, shift in product(values, multipliers, (33, 34, 45, 61, 62)):
        exact = (acc * multiplier + 2 ** (shift - 1)) >> shift
        yield returned(f"clio_mulshift({literal(acc)}, {multiplier}, {shift})", exact)


def stores(rng: np.random.Generator) -> Iterator[Call]:
    for offset in range(4):
        values = rng.integers(-128, 128, 4) if offset else np.array([-128, 127, -1, 0])
        after = np.full(8, 0x55, np.int8)
        after[offset : offset + 4] = values
        text = f"clio_store_4({{r}} + {offset}, {', '.join(map(str, values))})"
        yield Call(text, np.full(8, 0x55, np.int8), after)


def stores_clamped(rng: np.random.Generator) -> Iterator[Call]:
    edges = (*INT32, -32769, -129, -128, -1, 0, 1, 96, 100, 127, 128, 255, 32768)
    bounds = ((-128, 127), (0, 127), (0, 96), (-128, 100), (-100, 127), (-7, 90), (3, 90), (-90, -5))
    for (lo, hi), offset in product(bounds, range(4)):
        values = rng.choice([*edges, *rng.integers(-200, 200, 12)], 4)
        after = np.full(8, 0x55, np.int8)
        after[offset : offset + 4] = np.clip(values, lo, hi)
        text = f"clio_store_4_clamped({{r}} + {offset}, {', '.join(map(literal, values))}, {lo}, {hi})"
        yield Call(text, np.full(8, 0x55, np.int8), after)
        word = int8s(rng, (4,), False).astype(np.int8)
        clamped = np.clip(word, lo, hi).astype(np.int8)
        bits = int.from_bytes(word.tobytes(), "little")
        expected = np.frombuffer(clamped.tobytes(), np.uint32)
        call = f"{{r}}[0] = clio_clamp_4({bits}u, {lo}, {hi})"
        yield Call(call, np.array([0x55], np.uint32), expected)


def shifts(rng: np.random.Generator) -> Iterator[Call]:
    for (lo, hi), shift in product(((0, 127), (-128, 127), (0, 96), (-128, 100), (0, 0)), (1, 11, 20)):
        room = 127 - hi << shift
        edges = [INT32[0] + room, INT32[1] - room, -1, 0, 1, (hi + 1) << shift, -129 << shift]
        values = [
            v
            for v in (*edges, *map(int, rng.integers(-300 << 11, 300 << 11, 9)))
            if INT32[0] <= v + room <= INT32[1]
        ]
        expected = [min(max(v >> shift, lo), hi) for v in values]
        words = [literal(v + room) for v in values]
        for word, value in zip(words, expected, strict=True):
            yield returned(f"clio_shifted({word}, {shift}, {lo}, {hi})", value)
        for offset in range(4):
            after = np.full(8, 0x55, np.int8)
            after[offset : offset + 4] = expected[offset : offset + 4]
            four = ", ".join(words[offset : offset + 4])
            text = f"clio_store_4_shifted({{r}} + {offset}, {four}, {shift}, {lo}, {hi})"
            yield Call(text, np.full(8, 0x55, np.int8), after)


def in_lane_order(values: Array) -> Array:
    """Blocks of four int16 lanes, zeros up to a whole block."""
    blocks = np.pad(values.astype(np.int16), (0, -len(values) % 4)).reshape(-1, 4)
    return blocks[:, [0, 2, 1, 3]]


def gathered(text: str, values: Array, step: int, source: Array) -> Call:
    """`values` land in blocks `step` apart; nothing between and behind them may change."""
    blocks = in_lane_order(values)
    before = np.full(max(len(blocks), 1) * step + 4, 0x5555, np.int16)
    after = before.copy()
    for index, block in enumerate(blocks):
        after[index * step : index * step + 4] = block
    return Call(text, before, after, (source,))


def gathers(rng: np.random.Generator) -> Iterator[Call]:
    source = rng.integers(-128, 128, 32).astype(np.int8)
    source[:4] = (-128, 127, -1, 0)
    for count, offset, step in product(range(18), range(4), (4, 12)):
        text = f"clio_gather({{r}}, {step}, {{0}} + {offset}, {count})"
        yield gathered(text, source[offset : offset + count], step, source)
    for before, count, after in product(
        (0, 1, 2, 3, 4, 5, 9), (0, 1, 2, 3, 4, 5, 7, 8, 13), (0, 1, 2, 3, 4, 6)
    ):
        values = np.concatenate([np.zeros(before), source[1 : 1 + count], np.zeros(after)])
        text = f"clio_gather_padded({{r}}, 8, {{0}} + 1, {before}, {count}, {after})"
        yield gathered(text, values, 8, source)


def int8s(rng: np.random.Generator, shape: tuple[int, ...], extreme: bool) -> Array:
    return rng.choice([-128, 127], shape) if extreme else rng.integers(-128, 128, shape)


def matmuls(rng: np.random.Generator) -> Iterator[Call]:
    for pixels, channels, k, extreme in product((1, 2, 3), (1, 2), (4, 8, 12, 16, 20, 36, 64), (False, True)):
        slots = 3 if k == 12 else pixels  # a tile of fewer pixels than the buffer has slots
        columns = int8s(rng, (slots, k), extreme)
        weight = int8s(rng, (channels, k), extreme)
        acc = rng.integers(-1000, 1000, (pixels, channels))
        sums = acc + columns[:pixels] @ weight.T
        lanes = np.stack([in_lane_order(row) for row in columns], axis=1)
        packed = weight.reshape(channels, k // 4, 4).transpose(1, 0, 2).astype(np.int8)
        text = f"clio_matmul_{pixels}x{channels}({{r}}, {{0}}, {slots * 4}, {{1}}, {k})"
        yield Call(text, acc.astype(np.int32), sums.astype(np.int32), (lanes, packed))


def as_int16(values: Array) -> Array:
    return values.astype(np.int32).view(np.int16)


def widened(weight: Array, bias: Array, shift: Array) -> Array:
    """One tile of channels: biases, for every two lanes those of each channel, shifts."""
    pairs = np.stack([in_lane_order(row) for row in weight], axis=1).reshape(-1, len(weight), 2, 2)
    return np.concatenate([as_int16(bias), pairs.transpose(0, 2, 1, 3).reshape(-1), as_int16(shift)])


def widens(rng: np.random.Generator) -> Iterator[Call]:
    for tile, tiles, k in product((2, 4), (1, 3), (4, 8, 20)):
        weight = int8s(rng, (tiles, tile, k), tiles == 1).astype(np.int8)
        bias = rng.integers(*INT32, (tiles, tile)).astype(np.int32)
        shift = rng.integers(0, 32, (tiles, tile)).astype(np.int8)
        after = np.concatenate([widened(*each) for each in zip(weight, bias, shift, strict=True)])
        packed = weight.reshape(tiles, tile, k // 4, 4).transpose(0, 2, 1, 3)
        text = f"clio_widen_{tile}({{r}}, {{0}}, {{1}}, {{2}}, {k}, {tiles * tile})"
        yield Call(text, np.full(after.size, 0x5555, np.int16), after, (packed, bias, shift))


def pairs_gathered(pixels: Array) -> Array:
    return np.stack([in_lane_order(pixel).reshape(-1, 2) for pixel in pixels], axis=1)


def wide_gathers(rng: np.random.Generator) -> Iterator[Call]:
    source = rng.integers(-128, 128, 256).astype(np.int8)
    source[:4] = (-128, 127, -1, 0)
    for count, pixel, rows, offset in product((4, 8, 12, 16, 20, 28, 44), (0, 3, 44), (1, 3), (0, 1)):
        starts = offset + np.arange(rows) * 50
        after = pairs_gathered(
            np.stack([np.concatenate([source[s + p : s + p + count] for s in starts]) for p in (0, pixel)])
        )
        text = f"clio_gather_2({{r}}, {{0}} + {offset}, {pixel}, {count}, {rows}, 50)"
        yield Call(text, np.full(after.shape, 0x5555, np.int16), after, (source,))
    stage = source[:72].view(np.int16)
    after = pairs_gathered(source[:72].reshape(2, 36))
    yield Call("clio_gather_staged({r}, {0}, 36)", np.zeros(after.shape, np.int16), after, (stage,))


def copies(rng: np.random.Generator) -> Iterator[Call]:
    source = rng.integers(-128, 128, 32).astype(np.int8)
    for at, count in product((0, 3), (0, 1, 3, 4, 9)):
        expected = np.full(32, 0x55, np.int8)
        expected[at : at + count] = source[1 : 1 + count]
        text = f"clio_copy({{r}}, {at}, {{0}} + 1, {count})"
        yield Call(text, np.full(16, 0x5555, np.int16), expected.view(np.int16), (source,))


def stagings(rng: np.random.Generator) -> Iterator[Call]:
    source = rng.integers(-128, 128, 200).astype(np.int8)
    edges = ((0, 0), (1, 0), (0, 6), (5, 3))
    shapes = ((0, 1), (1, 0), (1, 3), (1, 4), (1, 9), (2, 1), (3, 6))
    for (above, below), (before, after), (pieces, piece) in product(edges, edges, shapes):
        rows = (above + piece) % 4
        inside = [[source[1 + 50 * r + 9 * i :][:piece] for i in range(pieces)] for r in range(rows)]
        field = [np.concatenate([np.zeros(before), *row, np.zeros(after)]) for row in inside]
        staged = np.concatenate([np.zeros(above), *field, np.zeros(below)])
        expected = np.full(160, 0x55, np.int8)
        expected[3 : 3 + len(staged)] = staged
        text = (
            f"clio_stage({{r}}, 3, {{0}} + 1, {above}, {rows}, {below}, 50, "
            f"{before}, {pieces}, {piece}, {after}, 9)"
        )
        yield Call(text, np.full(80, 0x5555, np.int16), expected.view(np.int16), (source,))


def wides(rng: np.random.Generator) -> Iterator[Call]:
    clamps = (("signed", -128, 127, ""), ("relu", 0, 127, ""), ("relu_to", 0, 96, ", 96"),
              ("clamp", -128, 100, ", -128, 100"), ("clamp", 0, 127, ", 0, 127"), ("clamp", 5, 90, ", 5, 90"))  # fmt: skip
    lanes = (8, 12, 16, 20, 24, 28, 32, 36, 40, 44, 72)
    for tile, k, (name, lo, hi, bounds), extreme in product((2, 4), lanes, clamps, (False, True)):
        tiles = 1 if extreme else 3
        columns, weight = int8s(rng, (2, k), extreme), int8s(rng, (tiles * tile, k), extreme)
        bias = rng.integers(-30000, 30000, tiles * tile)
        # What does not fit 16 bits is for those without a lower bound of 0 only.
        small = 9 if name.startswith("relu") else 0
        shift = rng.integers(small, 13, tiles * tile)
        y = np.clip((columns @ weight.T + bias) >> shift, lo, hi).astype(np.int8)
        table = np.concatenate(
            [
                widened(weight[c : c + tile], bias[c : c + tile], shift[c : c + tile])
                for c in range(0, len(weight), tile)
            ]
        )
        step = 0 if k == 12 else len(weight) + 4
        before = np.full(2 * len(weight) + 8, 0x55, np.int8)
        after = before.copy()
        after[step : step + len(weight)] = y[1]
        after[: len(weight)] = y[0]
        text = f"clio_wide_2x{tile}_{name}({{r}}, {{0}}, {{1}}, {k}, {len(weight)}, {step}{bounds})"
        yield Call(text, before, after, (pairs_gathered(columns), table))


def depthwises(rng: np.random.Generator) -> Iterator[Call]:
    windows = ((0, 3), (3, 0), (1, 1), (2, 3), (3, 3), (3, 2), (3, 1), (5, 5), (1, 4))
    for channels, (rows, columns), spread in product((1, 2, 3, 4), windows, (5, 9)):
        x = int8s(rng, (6, 6, spread), spread == 9)
        w = int8s(rng, (5, 6, 4), spread == 9)
        acc = rng.integers(-1000, 1000, channels)
        # From an odd address, every second row where there are enough; the window is a part of a filter of 5 × 6.
        every = 2 if rows <= 3 else 1
        seen = x[: every * rows : every, :columns, 1 : 1 + channels]
        products = seen * w[:rows, :columns, :channels]
        sums = acc + products.sum(axis=(0, 1))
        packed = w[:, :, [0, 2, 1, 3]].astype(np.int16)
        strides = f"{every * 6 * spread}, {spread}, 24"
        text = f"clio_depthwise_{channels}({{r}}, {{0}} + 1, {{1}}, {rows}, {columns}, {strides})"
        yield Call(text, acc.astype(np.int32), sums.astype(np.int32), (x.astype(np.int8), packed))


def pairs(rng: np.random.Generator) -> Iterator[Call]:
    for rows, (column, step), extreme in product(range(4), ((5, 1), (5, 2), (10, 1), (5, 3)), (False, True)):
        x = int8s(rng, (3, 9, 5), extreme)
        w = int8s(rng, (3, 3, 4), extreme)
        acc = rng.integers(-1000, 1000, (2, 4))
        sums = acc.copy()
        for pixel, r, t in product(range(2), range(rows), range(3)):
            sums[pixel] += x[r, t * column // 5 + pixel * step, 1:] * w[r, t]
        packed = w[:, :, [0, 2, 1, 3]].astype(np.int16)
        text = f"clio_depthwise_pair({{r}}, {{0}} + 1, {{1}}, {rows}, 45, {column}, {step * 5})"
        yield Call(text, acc.astype(np.int32), sums.astype(np.int32), (x.astype(np.int8), packed))


def written(text: str, values: Array, tables: tuple[Array, ...]) -> Call:
    """`values` at byte 1 of a result in which nothing else changes."""
    before = np.full(len(values) + 6, 0x55, np.int8)
    after = before.copy()
    after[1 : 1 + len(values)] = values
    return Call(text, before, after, tables)


def elementwise(rng: np.random.Generator) -> Iterator[Call]:
    """Every way to add bytes, on all pairs of what matters to a rounding or a saturation."""
    edges = np.array([-128, -127, -126, -125, -65, -64, -3, -2, -1, 0, 1, 2, 3, 63, 64, 126, 127], np.int8)
    a, b = (values.reshape(-1) for values in np.meshgrid(edges, edges))
    bounds = ((-128, 127), (0, 127), (0, 96), (-100, 90))
    for index, (doubled, more) in enumerate(product(range(4), range(4))):
        shift, (lo, hi) = doubled + more, bounds[index % 4]
        total = (a.astype(int) << doubled) + b + ((1 << shift) >> 1) >> shift
        text = f"clio_add_bytes({{r}} + 1, {{0}}, {{1}}, {len(a)}, {doubled}, {shift}, {lo}, {hi})"
        yield written(text, np.clip(total, lo, hi), (a, b))
    x, y = int8s(rng, (23,), False).astype(np.int8), int8s(rng, (23,), False).astype(np.int8)
    for count, (lo, hi), shift in product((0, 1, 3, 4, 11, 19), bounds, (0, 1, 13)):
        u, v, half = x[1 : 1 + count].astype(int), y[2 : 2 + count].astype(int), (1 << shift) >> 1
        end = f"{shift}, {lo}, {hi})"
        for text, total in (
            (f"clio_add({{r}} + 1, {{0}} + 1, {{1}} + 2, {count}, 32767, -77, {end}", u * 32767 - v * 77),
            (f"clio_mul({{r}} + 1, {{0}} + 1, {{1}} + 2, {count}, {end}", u * v),
            (f"clio_rescale({{r}} + 1, {{0}} + 1, {count}, 129, {end}", u * 129),
        ):
            yield written(text, np.clip(total + half >> shift, lo, hi), (x, y))
    for count in range(23):
        yield written(f"clio_move({{r}} + 1, {{0}}, {count})", x[:count], (x,))


def pools(rng: np.random.Generator) -> Iterator[Call]:
    for (rows, columns), spread in product(((0, 3), (3, 0), (1, 1), (2, 3), (3, 7), (16, 16)), (4, 5)):
        x = rng.integers(-128, 128, (17, 17, spread)).astype(np.int8)
        if rows == 16:
            x[:] = (-128, 127, -128, 5, 0)[:spread]
        seen = x[:rows, :columns, :4].reshape(-1, 4).astype(int)
        window = f"{{0}}, {rows}, {columns}, {17 * spread}, {spread})"
        before = np.full(5, 0x5555, np.int32)
        yield Call(
            f"clio_sum_4({{r}}, {window}", before, np.append(seen.sum(axis=0), 0x5555).astype(np.int32), (x,)
        )
        yield written(f"clio_max_4({{r}} + 1, {window}", seen.max(axis=0, initial=-128), (x,))


FAMILIES = (
    clamps,
    mulshifts,
    stores,
    stores_clamped,
    shifts,
    gathers,
    matmuls,
    widens,
    wide_gathers,
    copies,
    stagings,
    wides,
    depthwises,
    pairs,
    elementwise,
    pools,
)


def calls() -> list[Call]:
    return [call for family in FAMILIES for call in family(np.random.default_rng(7))]


def write_project(todo: list[Call], target: Target, folder: Path) -> Path:
    """A device project whose only output is all results, one behind the other."""
    tables, kernels = Emitter(), Emitter()
    kernels.lines('#include "clio_kernels.h"\n#include "clio_micro.h"')
    tables.lines("#include <stdint.h>")
    numbers: dict[tuple[str, bytes], int] = {}

    def table(values: Array) -> str:
        """The name of a table in another file, where the compiler of the calls cannot see what is in it."""
        key = (str(values.dtype), values.tobytes())
        if key not in numbers:
            numbers[key] = len(numbers)
            # Alignment in the declaration too: x86-64's ABI promises 16 for an array that says nothing.
            name = f"t{numbers[key]}[{values.size}]"
            declaration = f"const {c_type(values.dtype)} {name} __attribute__((aligned(8)))"
            kernels.line(f"extern {declaration};")
            tables.line(f"extern {declaration};")
            tables.array(declaration, values)
        return f"t{numbers[key]}"

    bodies = Emitter()
    for index, call in enumerate(todo):
        start, names = table(call.before), [table(values) for values in call.tables]
        size = call.before.nbytes
        bodies.line(f"static __attribute__((noinline)) void call{index}(int8_t *out) {{")
        bodies.line(f"    {c_type(call.before.dtype)} r[{call.before.size}] __attribute__((aligned(8)));")
        bodies.line(f"    memcpy(r, {start}, {size});")
        bodies.line(f"    {call.text.format(*names, r='r')};")
        bodies.line(f"    memcpy(out, r, {size});")
        bodies.line("}")
    bodies.line("void clio_calls(int8_t *out) {")
    total = 0
    for index, call in enumerate(todo):
        bodies.line(f"    call{index}(out + {total});")
        total += call.before.nbytes
    bodies.line("}")
    sources = {
        "include/clio_model.h": (TOY / "include/clio_model.h")
        .read_text()
        .replace("CLIO_INPUTS 2", "CLIO_INPUTS 1")
        .replace("CLIO_OPS 2", "CLIO_OPS 1")
        .replace("OUTPUT0_BYTES 8", f"OUTPUT0_BYTES {total}")
        .replace("ARENA_BYTES 32", f"ARENA_BYTES {total}"),
        "src/clio_kernels.h": "#include <stdint.h>\nvoid clio_calls(int8_t *out);\n",
        "src/clio_kernels.c": kernels.text() + bodies.text(),
        "src/clio_tables.c": tables.text(),
        "src/clio_model.c": MODEL,
        "test/clio_vectors.c": VECTORS,
    }
    glue = device_glue(target, model="micro", tool="clio-cc test", arena_bytes=total, stack_bytes=4096)
    project_files(sources, glue).write(folder)
    return folder


MODEL = """\
#include "clio_model.h"

#include "clio_kernels.h"

static int8_t input[8], results[CLIO_OUTPUT0_BYTES];

int8_t *clio_input(uint32_t index) {
    return input + index;
}

const int8_t *clio_output(uint32_t index) {
    return results + index;
}

uint32_t clio_input_bytes(uint32_t index) {
    return 8u + 0u * index;
}

uint32_t clio_output_bytes(uint32_t index) {
    return CLIO_OUTPUT0_BYTES + 0u * index;
}

void clio_run(void) {
    clio_calls(results);
}
"""
VECTORS = """\
#include <stdint.h>

extern const uint32_t clio_vector_count;
extern const int8_t clio_vectors[];
extern const uint32_t clio_expected[];

const uint32_t clio_vector_count = 1;
const int8_t clio_vectors[] = {0, 0, 0, 0, 0, 0, 0, 0};
const uint32_t clio_expected[] = {0};
"""


@pytest.mark.parametrize(("board", "target"), RUNNABLE, ids=board_id)
def test_every_call(tool: Callable[[str], str], tmp_path: Path, board: Board, target: Target) -> None:
    for command in toolchain.missing_tools(board):
        tool(command)
    todo = calls()
    device = write_project(todo, target, tmp_path / "device")
    for optimize in ("-O3", "-Os"):
        flags = ["-Wpedantic", optimize]
        built = toolchain.build(device, board, tmp_path / optimize, hook=False, extra_flags=flags)
        check(todo, toolchain.run(built, timeout_s=120).outputs[0][0])


def test_every_call_with_clang(tool: Callable[[str], str], tmp_path: Path) -> None:
    tool("clang")
    todo, (board, target) = calls(), RUNNABLE[0]
    device = write_project(todo, target, tmp_path / "device")
    # Undefined behavior traps; that needs no run-time library.
    flags = ["-Wpedantic", "-O1", "-fsanitize=undefined", "-fsanitize-undefined-trap-on-error"]
    clang = Compiler("clang", ("clang",))
    built = toolchain.build(device, board, tmp_path / "build", hook=False, compiler=clang, extra_flags=flags)
    check(todo, toolchain.run(built, timeout_s=120).outputs[0][0])


def check(todo: list[Call], results: bytes) -> None:
    assert len(results) == sum(call.after.nbytes for call in todo)
    wrong, at = [], 0
    for call in todo:
        got = np.frombuffer(results, call.after.dtype, call.after.size, at)
        at += call.after.nbytes
        if not np.array_equal(got, call.after.reshape(-1)):
            wrong.append(f"{call.text}: {got} instead of {call.after.reshape(-1)}")
    assert not wrong, "\n".join(wrong[:10])


def test_check_finds_a_wrong_byte() -> None:
    todo = calls()[:3]
    right = b"".join(call.after.tobytes() for call in todo)
    check(todo, right)
    with pytest.raises(AssertionError, match="clio_saturate_relu"):
        check(todo, right[:4] + b"\x01" + right[5:])
