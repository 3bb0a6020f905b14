"""TIR to C: a thin front to TVM's IR builder, and the lowering from a scheduled PrimFunc to plain C.

microTVM left TVM in 0.19. What it stood on is still there and used here: TIR, schedules, tensorization, the C
code generator. The packed-call ABI that ``tvm.compile(..., target="c")`` wraps around every function has no
place on a microcontroller; :func:`to_c` stops the lowering before it and takes the function out by way of a
host/device split.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.ir import IRModule
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T
from tvm.target import Target

NAME = "kernel"


@dataclass
class Builder:
    """A PrimFunc under construction: `arguments` are its buffers, `func` is there once the block is left."""

    arguments: list[Any]
    func: Any = None


@contextmanager
def prim_func_of(
    *parameters: tuple[str, tuple[int, ...], str], offset_factor: int = 0, strided: tuple[str, ...] = ()
) -> Iterator[Builder]:
    """Open a PrimFunc with the parameters (name, shape, dtype).

    An intrinsic's buffers need ``offset_factor=1``; those in `strided` may be slices along their second axis.
    """

    def buffer(name: str, shape: tuple[int, ...], dtype: str) -> Any:
        strides = None
        if name in strided:
            inner = [math.prod(shape[i:]) for i in range(2, len(shape) + 1)]
            strides = [tirx.Var("step", "int32"), *inner]
        return T.arg(name, T.buffer(shape, dtype, strides=strides, offset_factor=offset_factor))

    with IRBuilder() as ir:
        with T.prim_func(s_tir=True):
            T.func_name(NAME)
            builder = Builder([buffer(*parameter) for parameter in parameters])
            with T.sblock("root"):
                yield builder
        builder.func = ir.get()


@contextmanager
def prim_func(*parameters: tuple[tuple[int, ...], str]) -> Iterator[Builder]:
    """Open a PrimFunc with the parameters (shape, dtype), named ``p0, p1, …``: TVM sorts them by name."""
    assert len(parameters) <= 10, "p10 would sort before p2"
    with prim_func_of(*((f"p{i}", shape, dtype) for i, (shape, dtype) in enumerate(parameters))) as builder:
        yield builder


@contextmanager
def block() -> Iterator[None]:
    """Open an opaque block, which statements under a loop must lie in."""
    with T.sblock("body"):
        yield


def store(buffer: Any, value: Any, *index: Any) -> None:
    """Emit ``buffer[index] = value``."""
    T.buffer_store(buffer, value, list(index))


def call(name: str, *arguments: Any) -> None:
    """Emit a call of a C function for its effect."""
    T.evaluate(T.call_extern("int32", name, *arguments))


def at(buffer: Any, *index: Any) -> Any:
    """Return the address of an element, for :func:`call`."""
    return T.address_of(buffer[index if len(index) > 1 else index[0]])


def int32(value: Any) -> Any:
    """Return `value` cast to int32."""
    return T.cast(value, "int32")


def int8(value: Any) -> Any:
    """Return `value` cast to int8."""
    return T.cast(value, "int8")


def clamp(value: Any, lo: int, hi: int) -> Any:
    """Return an int32 clamped, by the micro-kernel that the target has for this range."""
    if (lo, hi) == (-128, 127):
        return T.call_extern("int32", "clio_saturate", value)
    if (lo, hi) == (0, 127):
        return T.call_extern("int32", "clio_saturate_relu", value)
    return T.call_extern("int32", "clio_clamp", value, lo, hi)


def rescaled(acc: Any, shift: Any, multiplier: Any | None, lo: int, hi: int) -> Any:
    """Return what an accumulator becomes, as int32.

    In mode shift the rounding constant is already in `acc`; with a `multiplier` it is not.
    """
    if multiplier is None:
        return clamp(acc >> shift, lo, hi)
    return clamp(T.call_extern("int32", "clio_mulshift", acc, multiplier, shift), lo, hi)


def requantize(acc: Any, shift: Any, multiplier: Any | None, lo: int, hi: int) -> Any:
    """Return :func:`rescaled` as int8."""
    return int8(rescaled(acc, shift, multiplier, lo, hi))


def to_c(func: Any, name: str) -> str:
    """Return the definition of `func` as a C99 function: ``void name(pointers…)``, nothing else.

    Tables and inputs, everything that it does not write, come as const pointers.
    """
    target = Target("c")
    lowered = _lowering(target)(IRModule({NAME: func.with_attr("global_symbol", NAME)}))[NAME]
    region = tirx.PrimFunc(lowered.params, tirx.AttrStmt(target, "target", 0, lowered.body), None)
    region = region.with_attr("target", Target("llvm")).with_attr("global_symbol", NAME)
    split = tirx.transform.SplitHostDevice()(IRModule({NAME: region}))
    device = next(split[v] for v in split.get_global_vars() if v.name_hint.endswith("_kernel"))
    module = tirx.transform.LowerIntrin()(IRModule({NAME: device.with_attr("global_symbol", NAME)}))
    source: str = tvm.get_global_func("target.build.c")(module, target).inspect_source()
    return _clean(source, name, [f"{p.dtype}_t* {p.name}_ptr" for p in func.params])


def _lowering(target: Any) -> Any:
    st, tx = s_tir.transform, tirx.transform
    return tvm.transform.Sequential(
        [
            tx.BindTarget(target),
            st.CanonicalizeLoop(),
            st.LowerInitBlock(),
            st.PlanAndUpdateBufferAllocationLocation(),
            st.ConvertBlocksToOpaque(),
            st.CompactBufferAllocation(),
            st.LowerMatchBuffer(),
            tx.StmtSimplify(),
            st.LowerOpaqueBlock(),
            tx.FlattenBuffer(),
            tx.NarrowDataType(32),
            st.LoopPartition(),
            tx.VectorizeLoop(),
            tx.StorageRewrite(),
            tx.UnrollLoop(),
            tx.StmtSimplify(),
            tx.RemoveNoOp(),
            st.RewriteUnsafeSelect(),
            tx.CommonSubexprElim(),
        ]
    )


_DEFINITION = re.compile(
    rf"^TVM_DLL int32_t {NAME}\(([^)]*)\) \{{\n(.*)^  return 0;\n\}}\n", re.MULTILINE | re.DOTALL
)


def _clean(source: str, name: str, parameters: list[str]) -> str:
    """Take the one function definition out of what TVM printed, and give it a bare-metal signature.

    TVM leaves out the `parameters` that the body does not read; the caller passes them all.
    """
    found = _DEFINITION.search(source)
    if found is None:
        raise RuntimeError(f"TVM's C generator printed something else than expected:\n{source}")
    printed, body = found.group(1).split(", "), found.group(2)
    if not set(printed) <= set(parameters):
        raise RuntimeError(f"TVM's C generator printed other parameters than {parameters}:\n{source}")
    if re.search(
        r"[%/] \(?-", body
    ):  # see window(): TVM 0.27 comes to negative divisors by a wrong simplification
        raise RuntimeError(f"TVM divides by a negative number:\n{source}")
    typed = [_const_unless_written(parameter, body) for parameter in parameters]
    return f"void {name}({', '.join(typed)}) {{\n{body}}}\n"


def _const_unless_written(parameter: str, body: str) -> str:
    pointer, variable = parameter.rsplit(" ", 1)
    written = re.search(rf"^\s*{variable}\[.*\] = |clio_\w+\(\(&\({variable}\[", body, re.MULTILINE)
    return f"{pointer} {variable}" if written else f"const {pointer} {variable}"


@contextmanager
def loop(extent: Any, start: Any = 0) -> Iterator[Any]:
    """Open a serial loop of `extent` iterations from `start`; a loop of one iteration is no loop."""
    if isinstance(extent, int) and extent == 1:
        yield T.int32(start) if isinstance(start, int) else start
        return
    with T.serial(start, start + extent) as variable:
        yield variable


def window(
    position: Any, outputs: int, taps: int, stride: int, dilation: int, pad: int, size: int
) -> tuple[Any, Any, Any]:
    """Return (first input coordinate, first tap, number of taps inside) for output `position` along one axis.

    The first coordinate belongs to the first tap inside; the number may be 0. Plain constants where no output
    position has a tap in the padding.
    """
    origin = position * stride - pad
    if pad == 0 and (outputs - 1) * stride + dilation * (taps - 1) < size:
        return origin, 0, taps
    if dilation == 1:
        first, beyond = T.max(0, -origin), T.min(taps, size - origin)
    else:
        # Rounded up as -floor(-x): of floor((c - v) / d) TVM 0.27 makes c / d + floor(v / -d), which is something else.
        first = T.max(0, -(origin // dilation))
        beyond = T.min(taps, -((origin - size) // dilation))
    if pad > dilation * (taps - 1):  # a whole window may lie in the padding before the image
        first = T.min(first, taps)
    return origin + first * dilation, first, T.max(0, beyond - first)


def tiles(extent: int, tile: int) -> list[tuple[int, int, int]]:
    """Cut `extent` into (start, tiles, tile): whole tiles, then what is left as one smaller tile."""
    whole = extent // tile
    parts = [(0, whole, tile), (whole * tile, 1, extent - whole * tile)]
    return [part for part in parts if part[1] and part[2]]


def segments(
    outputs: int, taps: int, stride: int, dilation: int, pad: int, size: int
) -> list[tuple[int, int]]:
    """Cut the output positions along one axis into (start, count).

    Windows that begin before the image, windows wholly inside, the rest; empty parts are left out. In a
    loop over those wholly inside TVM reduces what :func:`window` returns to constants.
    """
    before = min(-(-pad // stride), outputs)
    whole = max(0, (size - 1 + pad - dilation * (taps - 1)) // stride + 1)
    cuts = [0, before, min(max(before, whole), outputs), outputs]
    return [(start, end - start) for start, end in pairwise(cuts) if end > start]


def inside(tap: Any, first: Any, count: Any) -> Any:
    """Return whether `tap` is one of `count` taps from `first`; True where that is known now."""
    if isinstance(first, int):
        return True
    return T.And(tap >= first, tap < first + count)


def both(a: Any, b: Any) -> Any:
    """Return ``a and b``, either of which may be the constant True."""
    if a is True or b is True:
        return b if a is True else a
    return T.And(a, b)


def either(condition: Any, then: Callable[[], None], otherwise: Callable[[], None]) -> None:
    """Emit ``if (condition) then else otherwise``; `then` alone where the condition is the constant True."""
    if condition is True:
        then()
        return
    with T.If(condition):
        with T.Then():
            then()
        with T.Else():
            otherwise()
