"""The C files of a Program: kernels, tables, the straight-line ``clio_run`` and its public API, test vectors."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from clio_cc import reference
from clio_cc.arena import Arena, scratch_name
from clio_cc.codegen.emit import Emitter, c_type
from clio_cc.codegen.zones import GUARD_BYTES
from clio_cc.operators.base import Kernel, Operator, Tensor
from clio_cc.packing import pack_units
from clio_cc.program import Program
from clio_cc.qformat import Int8Array, IntArray, describe_scale

Progress = Callable[[int, int], None]

ALIGNED = """\
/* Tables and the arena are read by words. */
#if defined(__GNUC__)
#define CLIO_ALIGNED __attribute__((aligned(8)))
#else
#define CLIO_ALIGNED
#endif
"""


@dataclass(frozen=True, eq=False)
class Code:
    """A Program's operators bound to C functions and tables.

    Attributes:
        kernels: (C name, kernel, operators that call it), each function once, in order of first use.
        calls: For every operator the C name of its kernel, None where there is nothing to call.
        tables: C name → contents; equal contents are stored once.
        table_names: For every operator the C names of its tables, in parameter order.
        users: C name of a table → what it is, for the comment.
    """

    kernels: tuple[tuple[str, Kernel, tuple[Operator, ...]], ...]
    calls: tuple[str | None, ...]
    tables: Mapping[str, npt.NDArray[Any]]
    table_names: tuple[tuple[str, ...], ...]
    users: Mapping[str, str]


def bind(program: Program) -> Code:
    """Give every distinct kernel and table a C name."""
    functions: dict[tuple[Any, ...], tuple[str, Kernel, list[Operator]]] = {}
    names_by_content: dict[tuple[str, bytes], str] = {}
    tables: dict[str, npt.NDArray[Any]] = {}
    users: dict[str, str] = {}
    calls: list[str | None] = []
    table_names: list[tuple[str, ...]] = []
    for index, op in enumerate(program.operators):
        kernel = op.kernel()
        if kernel is None:
            calls.append(None)
            table_names.append(())
            continue
        name, _, callers = functions.setdefault(
            kernel.key, (f"clio_k{len(functions)}_{kernel.key[0].lower()}", kernel, [])
        )
        callers.append(op)
        calls.append(name)
        mine = []
        for role, values in kernel.tables:
            content = (str(values.dtype), values.tobytes())
            if content not in names_by_content:
                table = names_by_content[content] = f"clio_op{index}_{role}"
                tables[table], users[table] = values, f"{role} of {describe(op)}"
            mine.append(names_by_content[content])
        table_names.append(tuple(mine))
    for index, tap in enumerate(program.taps):
        if tap.order:
            table = _order_table(index)
            tables[table] = np.array(tap.order, np.uint16)
            users[table] = (
                f"channels of {tap.tensor} that partition point {tap.partition} sends, in this order"
            )
    kernels = tuple((name, kernel, tuple(callers)) for name, kernel, callers in functions.values())
    return Code(kernels, tuple(calls), tables, tuple(table_names), users)


def _order_table(tap: int) -> str:
    return f"clio_tap{tap}_order"


def device_sources(
    program: Program, arena: Arena, front_matter: str, progress: Progress | None = None
) -> dict[str, str]:
    """Return path below ``device/`` → text of the files that depend on the Program, test vectors apart.

    `front_matter` says tool, command and model digest in every file's first comment; `progress` is told (done, of)
    as kernels are generated.
    """
    code = bind(program)
    kernels_c, kernels_h = _kernels(code, front_matter, progress)
    tables_c, tables_h = _tables(code, front_matter)
    return {
        "include/clio_model.h": _header(program, arena, front_matter),
        "src/clio_model.c": _model(program, arena, code, front_matter),
        "src/clio_kernels.c": kernels_c,
        "src/clio_kernels.h": kernels_h,
        "src/clio_tables.c": tables_c,
        "src/clio_tables.h": tables_h,
    }


def describe(op: Operator) -> str:
    """Return an operator in one line, for comments: node, kind, shapes, Q-formats."""
    inputs = ", ".join(_describe_tensor(t) for t in op.inputs)
    return f"{op.name}: {op.kind} {inputs} -> {_describe_tensor(op.output)}"


def _describe_tensor(tensor: Tensor) -> str:
    return f"{'x'.join(map(str, tensor.shape))} {describe_scale(tensor.scale)}"


def _kernels(code: Code, front_matter: str, progress: Progress | None) -> tuple[str, str]:
    from clio_cc.codegen.tir import to_c

    source, header = Emitter(), Emitter()
    source.comment(f"{front_matter}\nKernels: TIR scheduled for each shape, printed by TVM's C generator.")
    source.lines('#include "clio_kernels.h"\n\n#include "clio_micro.h"')
    header.comment(front_matter)
    header.lines("#ifndef CLIO_KERNELS_H\n#define CLIO_KERNELS_H\n\n#include <stdint.h>\n")
    for number, (name, kernel, callers) in enumerate(code.kernels):
        definition = to_c(kernel.build(), name)
        source.line()
        source.comment("\n".join(describe(op) for op in callers))
        source.lines(_unused_parameters_named(definition))
        header.line(definition.split(" {\n", 1)[0] + ";")
        if progress is not None:
            progress(number + 1, len(code.kernels))
    header.lines("\n#endif")
    return source.text(), header.text()


def _unused_parameters_named(definition: str) -> str:
    """Mark parameters that a kernel happens not to read, so that -Wextra stays silent."""
    signature, body = definition.split(" {\n", 1)
    names = re.findall(r"(\w+)[,)]", signature.split("(", 1)[1])
    unused = "".join(f"  (void){name};\n" for name in names if not re.search(rf"\b{name}\b", body))
    return f"{signature} {{\n{unused}{body}"


def _tables(code: Code, front_matter: str) -> tuple[str, str]:
    source, header = Emitter(), Emitter()
    source.comment(f"{front_matter}\nConstant tables, all const: they stay in flash.")
    source.lines('#include "clio_tables.h"')
    header.comment(front_matter)
    header.lines(f"#ifndef CLIO_TABLES_H\n#define CLIO_TABLES_H\n\n#include <stdint.h>\n\n{ALIGNED}")
    for name, values in code.tables.items():
        declaration = f"const {c_type(values.dtype)} {name}[{values.size}]"
        source.line()
        source.comment(code.users[name])
        source.array(f"{declaration} CLIO_ALIGNED", values)
        header.line(f"extern {declaration} CLIO_ALIGNED;")
    header.lines("\n#endif")
    return source.text(), header.text()


def _header(program: Program, arena: Arena, front_matter: str) -> str:
    tensors = program.tensors
    outputs = [tensors[name] for name in program.outputs]
    out = Emitter()
    out.comment(
        f"{front_matter}\n\n"
        "One model per image. Write each input, run, read the outputs; nothing is allocated, nothing is reentrant.\n"
        "Tensors are int8, zero point 0: real value = q * scale. Images are (height, width, channels)."
    )
    out.lines(
        """#ifndef CLIO_MODEL_H
#define CLIO_MODEL_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
"""
    )
    out.line()
    out.line(f"#define CLIO_INPUTS {len(program.inputs)}")
    out.line(f"#define CLIO_OUTPUTS {len(outputs)}")
    out.line(f"#define CLIO_OPS {len(program.operators)}")
    out.line(f"#define CLIO_TAPS {len(program.taps)}")
    out.line(f"#define CLIO_ARENA_BYTES {arena.bytes}")
    for role, group in (("INPUT", program.inputs), ("OUTPUT", outputs)):
        for index, tensor in enumerate(group):
            out.line()
            out.comment(f"{role.lower()} {index}: {tensor.name}, {_describe_tensor(tensor)}")
            out.line(f"#define CLIO_{role}{index}_BYTES {tensor.bytes}")
    out.lines(
        """
/* Where to write input `index` before every run: its bytes are reused during the run. Null beyond the last. */
int8_t *clio_input(uint32_t index);
uint32_t clio_input_bytes(uint32_t index);

/* Runs everything that the device can do. */
void clio_run(void);

/* Output `index` in the device's own order. Null beyond the last. */
const int8_t *clio_output(uint32_t index);
uint32_t clio_output_bytes(uint32_t index);
"""
    )
    out.line()
    if program.taps:
        _tap_declarations(out, program)
    else:
        out.comment("Outputs stay until the next run or write to an input.")
    out.lines(
        """
#ifdef CLIO_OP_HOOK
/* Yours, with -DCLIO_OP_HOOK: called before and after every operator, for timing and for comparing with the reference. */
void clio_op_begin(uint32_t op);
void clio_op_end(uint32_t op, const int8_t *output, uint32_t bytes);

/* Overwrites the arena, inputs and all, so that no test passes by what an earlier run has left. */
void clio_forget(void);
#endif

#ifdef CLIO_RED_ZONES
/* Tests only: the arena between two guards. */
#define CLIO_GUARD_BYTES """
        f"{GUARD_BYTES}"
        """
extern int8_t clio_guarded_arena[];
#endif

#ifdef __cplusplus
}
#endif

#endif"""
    )
    return out.text()


def _tap_declarations(out: Emitter, program: Program) -> None:
    tensors = program.tensors
    for index, tap in enumerate(program.taps):
        scale = describe_scale(tensors[tap.tensor].scale)
        size = f"{tap.unit_bytes} bytes" + (f" ({tap.bits} bits a value)" if tap.bits < 8 else "")
        out.comment(f"tap {index}, partition point {tap.partition}: {tap.units} units of {size}, {scale}")
        out.line(f"#define CLIO_TAP{index}_UNITS {tap.units}")
        out.line(f"#define CLIO_TAP{index}_UNIT_BYTES {tap.unit_bytes}")
    out.line(f"#define CLIO_LARGEST_UNIT_BYTES {max(tap.unit_bytes for tap in program.taps)}")
    lasting = [index for index, name in enumerate(program.outputs) if name in program.lasting]
    kept = f"output{'s' if len(lasting) > 1 else ''} {', '.join(map(str, lasting))}"
    rule = "Values of fewer than 8 bits lie side by side, from the lowest bit of the first byte on.\n * "
    packed = rule if _packs(program) else ""
    out.lines(
        f"""
/* Runs only what partition point `tap` needs. clio_run_to(CLIO_TAPS) is clio_run(); nothing happens beyond. */
void clio_run_to(uint32_t tap);

/* What can be read, until the next run or write to an input:
 *   after clio_run_to(tap)   output `tap` and the units of `tap`, which are made of it;
 *   after clio_run()         {kept}, and its units if it is a tap's.
 * Everything else has been overwritten. */

/* Units of partition point `tap`, and bytes of each. 0 beyond the last. */
uint32_t clio_units(uint32_t tap);
uint32_t clio_unit_bytes(uint32_t tap);

/* Copies unit `unit` of partition point `tap` (one channel, row by row) to `to`: what the cloud's half takes.
 * {packed}Does nothing beyond the last. */
void clio_unit(uint32_t tap, uint32_t unit, int8_t *to);
"""
    )


def _packs(program: Program) -> bool:
    """Whether values of some taps have fewer than 8 bits."""
    return any(tap.bits < 8 for tap in program.taps)


def _model(program: Program, arena: Arena, code: Code, front_matter: str) -> str:
    tensors, out = program.tensors, Emitter()
    out.comment(f"{front_matter}\nThe arena and the straight line through the operators.")
    out.lines(
        """#include "clio_model.h"

#include "clio_kernels.h"
#include "clio_tables.h"

/* A board may say where the arena goes, e.g. -DCLIO_ARENA_ATTRIBUTE='__attribute__((section(".fast")))'. */
#ifndef CLIO_ARENA_ATTRIBUTE
#define CLIO_ARENA_ATTRIBUTE
#endif

#ifdef CLIO_OP_HOOK
#define CLIO_BEGIN(op) clio_op_begin(op)
#define CLIO_END(op, output, bytes) clio_op_end(op, output, bytes)
#else
#define CLIO_BEGIN(op) ((void)0)
#define CLIO_END(op, output, bytes) ((void)0)
#endif
"""
    )
    out.lines(
        """#ifdef CLIO_RED_ZONES
int8_t clio_guarded_arena[CLIO_ARENA_BYTES + 2 * CLIO_GUARD_BYTES] CLIO_ALIGNED CLIO_ARENA_ATTRIBUTE;
#define clio_arena (clio_guarded_arena + CLIO_GUARD_BYTES)
#else
static int8_t clio_arena[CLIO_ARENA_BYTES] CLIO_ALIGNED CLIO_ARENA_ATTRIBUTE;
#endif"""
    )
    out.line()
    _runs(out, program, arena, code)
    out.lines(
        """
#ifdef CLIO_OP_HOOK
void clio_forget(void) {
    uint32_t i;
    for (i = 0; i < CLIO_ARENA_BYTES; i++) {
        clio_arena[i] = -91;
    }
}
#endif"""
    )
    outputs = [tensors[name] for name in program.outputs]
    _accessors(out, "input", "int8_t *", program.inputs, arena)
    _accessors(out, "output", "const int8_t *", outputs, arena)
    if program.taps:
        _unit(out, program, arena)
    return out.text()


def _runs(out: Emitter, program: Program, arena: Arena, code: Code) -> None:
    """Print ``clio_run`` and ``clio_run_to``: what every run needs as it is, the rest in blocks for some runs only."""
    needed = _needed_by(program)
    everything = len(program.taps)
    for_all = (1 << (everything + 1)) - 1
    by_taps = any(runs != for_all for runs in needed)
    with out.block("void clio_run_to(uint32_t tap) {" if by_taps else "void clio_run(void) {"):
        if by_taps:
            out.line("/* The bit of this run in the masks below, which say what runs need a block. */")
            out.line("const uint32_t run = tap <= CLIO_TAPS ? 1u << tap : 0u;")
            out.lines("if (run == 0u) {\n    return;\n}")
        for runs, group in groupby(enumerate(program.operators), key=lambda pair: needed[pair[0]]):
            with nullcontext() if runs == for_all else out.block(f"if ((run & 0x{runs:x}u) != 0u) {{"):
                if runs != for_all:
                    names = [tap.partition for index, tap in enumerate(program.taps) if runs >> index & 1]
                    out.comment(" and ".join(filter(None, [", ".join(names), "clio_run"])))
                for index, op in group:
                    _call(out, index, op, arena, code)
    if by_taps:
        out.line()
        with out.block("void clio_run(void) {"):
            out.line("clio_run_to(CLIO_TAPS);")
    elif program.taps:
        out.line()
        with out.block("void clio_run_to(uint32_t tap) {"), out.block("if (tap <= CLIO_TAPS) {"):
            out.line("clio_run();")


def _needed_by(program: Program) -> list[int]:
    """Return, for every operator, the runs that need it: bit t for tap t, and a bit more for everything."""
    needed = [1 << len(program.taps)] * len(program.operators)
    for tap in range(len(program.taps)):
        for op in program.operators_to(tap):
            needed[op] |= 1 << tap
    return needed


def _call(out: Emitter, index: int, op: Operator, arena: Arena, code: Code) -> None:
    out.comment(f"{index} {describe(op)}")
    name, kernel = code.calls[index], op.kernel()
    place = f"clio_arena + {arena.offsets[op.output.name]}"
    out.line(f"CLIO_BEGIN({index});")
    if name is not None and kernel is not None:
        arguments = [f"clio_arena + {arena.offsets[t.name]}" for t in op.inputs]
        arguments += code.table_names[index]
        if kernel.scratch_bytes:
            arguments.append(f"(int16_t *)(void *)(clio_arena + {arena.offsets[scratch_name(op)]})")
        out.line(f"{name}({', '.join([*arguments, place])});")
    out.line(f"CLIO_END({index}, {place}, {op.output.bytes});")


def _accessors(out: Emitter, role: str, pointer: str, tensors: Sequence[Tensor], arena: Arena) -> None:
    out.line()
    with out.block(f"{pointer}clio_{role}(uint32_t index) {{"), out.block("switch (index) {"):
        for index, tensor in enumerate(tensors):
            out.line(f"case {index}: return clio_arena + {arena.offsets[tensor.name]};")
        out.line("default: return 0;")
    out.line()
    with out.block(f"uint32_t clio_{role}_bytes(uint32_t index) {{"), out.block("switch (index) {"):
        for index, tensor in enumerate(tensors):
            out.line(f"case {index}: return {tensor.bytes};")
        out.line("default: return 0;")


def _unit(out: Emitter, program: Program, arena: Arena) -> None:
    for function, values in (
        ("clio_units", [tap.units for tap in program.taps]),
        ("clio_unit_bytes", [tap.unit_bytes for tap in program.taps]),
    ):
        out.line()
        with out.block(f"uint32_t {function}(uint32_t tap) {{"), out.block("switch (tap) {"):
            for index, value in enumerate(values):
                out.line(f"case {index}: return {value};")
            out.line("default: return 0;")
    out.line()
    packs = _packs(program)
    declarations, copy = _PACKING if packs else _COPYING
    with out.block("void clio_unit(uint32_t tap, uint32_t unit, int8_t *to) {"):
        out.lines(declarations)
        out.lines("if (unit >= clio_units(tap)) {\n    return;\n}")
        with out.block("switch (tap) {"):
            for index, tap in enumerate(program.taps):
                channel = f"{_order_table(index)}[unit]" if tap.order else "unit"
                place, tensor = arena.offsets[tap.tensor], program.tensors[tap.tensor]
                channels = tensor.shape[-1]
                size = f"values = {tensor.bytes // channels}; bits = {tap.bits}; " if packs else ""
                out.line(
                    f"case {index}: from = clio_arena + {place} + {channel}; channels = {channels}; {size}break;"
                )
            out.line("default: return;")
        out.lines(copy)


_COPYING = (
    """\
const uint32_t bytes = clio_unit_bytes(tap);
const int8_t *from;
uint32_t channels, i;""",
    """\
for (i = 0; i < bytes; i++) {
    to[i] = from[i * channels];
}""",
)
"""What ``clio_unit`` declares, and how it copies a unit."""

_PACKING = (
    """\
uint8_t *byte = (uint8_t *)to;
const int8_t *from;
uint32_t channels, values, bits, i;
uint32_t waiting = 0, held = 0; /* bits that make no byte yet, and how many */""",
    """\
for (i = 0; i < values; i++) {
    waiting |= ((uint32_t)from[i * channels] & ((1u << bits) - 1u)) << held;
    held += bits;
    if (held >= 8u) {
        *byte++ = (uint8_t)waiting;
        waiting >>= 8;
        held -= 8u;
    }
}
if (held != 0u) {
    *byte = (uint8_t)waiting;
}""",
)
"""The same where values of some taps have fewer than 8 bits."""


def expected_hashes(program: Program, inputs: Sequence[Int8Array]) -> npt.NDArray[np.uint32]:
    """Return ``[vectors, operators]``: the hash of every operator's output, by the reference interpreter."""
    columns = [_hashes(value) for _, value in reference.walk(program, inputs)]
    return np.stack(columns, axis=1) if columns else np.zeros((len(inputs[0]), 0), np.uint32)


def unit_hashes(program: Program, outputs: Sequence[Int8Array]) -> tuple[tuple[int, ...], ...]:
    """Return, for every vector, the hash of all units of each tap as they travel, one unit after the other.

    Args:
        outputs: What :func:`clio_cc.reference.run` returned.
    """
    sent = [
        pack_units(reference.units_of(tap, value), tap.bits)
        for tap, value in zip(program.taps, outputs, strict=False)
    ]
    columns = [_hashes(units).tolist() for units in sent]
    return tuple(zip(*columns, strict=True))


def _hashes(batch: npt.NDArray[Any]) -> npt.NDArray[np.uint32]:
    """CRC-32 of every element of a batch, as the test firmware computes it."""
    return np.array([zlib.crc32(np.ascontiguousarray(value).tobytes()) for value in batch], np.uint32)


def vectors_source(program: Program, inputs: Sequence[Int8Array], front_matter: str) -> str:
    """Return ``test/clio_vectors.c`` for a batch of int8 inputs (``[vectors, *shape]`` each)."""
    count = len(inputs[0])
    flat = np.concatenate([value.reshape(count, -1) for value in inputs], axis=1)
    hashes: IntArray = expected_hashes(program, inputs)
    out = Emitter()
    out.comment(
        f"{front_matter}\nTest vectors: inputs, and the hash of every operator's output by the reference."
    )
    out.lines("#include <stdint.h>\n")
    for declaration in ("uint32_t clio_vector_count", "int8_t clio_vectors[]", "uint32_t clio_expected[]"):
        out.line(f"extern const {declaration};")
    out.line()
    out.line(f"const uint32_t clio_vector_count = {count};")
    out.array(f"const int8_t clio_vectors[{flat.size}]", flat)
    out.array(f"const uint32_t clio_expected[{hashes.size}]", hashes)
    return out.text()
