"""What every operator family shares: tensors, the operator's interface, and the description of its kernel."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from clio_cc.operators.schedule import Schedule
from clio_cc.qformat import INT8_MAX, INT8_MIN, Int8Array, IntArray

Range = tuple[int, int]
"""The smallest and the largest value that a tensor can hold."""
INT8_RANGE: Range = (INT8_MIN, INT8_MAX)


@dataclass(frozen=True)
class Tensor:
    """An int8 tensor on the device.

    Attributes:
        name: Unique in its Program.
        shape: Without the batch; images are (height, width, channels).
        scale: Real value of one step; ``2 ** -n`` in mode shift.
    """

    name: str
    shape: tuple[int, ...]
    scale: float

    @property
    def bytes(self) -> int:
        """Size, which is also the number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True, eq=False)
class Kernel:
    """The C function behind an operator. Operators whose kernels have equal keys share one function.

    Attributes:
        key: Everything that the generated code depends on: family and shapes, never the contents of tables.
        build: Makes the scheduled TIR PrimFunc for `key`. Parameters ``p0, p1, …`` are the operator's inputs, then `tables`
            in order, then the scratch buffer if `scratch_bytes` is not 0, then the output.
        tables: Name (a C identifier suffix) and contents of the constant tables.
        scratch_bytes: Working memory needed during the call, planned in the arena, 4-byte aligned.
    """

    key: tuple[Any, ...]
    build: Callable[[], Any]
    tables: tuple[tuple[str, npt.NDArray[Any]], ...] = ()
    scratch_bytes: int = 0


NEVER = 1 << 40
"""Behind every byte, in a :class:`Sweep`."""


@dataclass(frozen=True, eq=False)
class Sweep:
    """How far a kernel has come with reading one input and writing its output, step by step.

    Kernels go through both more or less from front to back, so that the output may lie over input bytes that are not read
    any more (diagonal memory optimization, arXiv 2010.01668). Reads and writes of one step may come in any order.

    Attributes:
        reads_from: Per step: no byte of the input before this one is read in it; NEVER where nothing is.
        writes_to: Per step: when it ends, no byte of the output at or behind this one has been written. Never falls.

    Raises:
        ValueError: `writes_to` falls, or the two have different lengths.
    """

    reads_from: IntArray
    writes_to: IntArray

    def __post_init__(self) -> None:
        if self.reads_from.shape != self.writes_to.shape or np.any(np.diff(self.writes_to) < 0):
            raise ValueError("a sweep writes from front to back, and has as many reads as writes")

    @cached_property
    def lead(self) -> int:
        """Bytes by which the input must begin behind the output at least; may be negative. -NEVER if it may lie anywhere."""
        matters = (self.writes_to > 0) & (self.reads_from < NEVER)
        return int((self.writes_to - self.reads_from).max(where=matters, initial=-NEVER))

    @cached_property
    def first_read(self) -> int:
        """First byte of the input that is read at all."""
        return int(self.reads_from.min())

    @staticmethod
    def read_then_written(reads_from: npt.ArrayLike, writes_to: npt.ArrayLike) -> Sweep:
        """Return the sweep of a kernel that, tile after tile, reads all of what a tile needs and then writes it.

        Args:
            reads_from: First byte read for each tile.
            writes_to: End of the output when it is written.
        """
        reads, written = np.asarray(reads_from, np.int64), np.asarray(writes_to, np.int64)
        # The tile's writes belong to the next tile's step: they come before its reads.
        behind = np.append(reads, NEVER)
        return Sweep(behind, np.concatenate([[0], written]))


@cache
def elementwise_sweep(elements: int) -> Sweep:
    """Return the sweep of a kernel that reads element i for the last time before it writes element i, from front to back."""
    return Sweep.read_then_written(np.arange(elements), np.arange(1, elements + 1))


@dataclass(frozen=True, eq=False, kw_only=True)
class Operator(ABC):
    """One integer operator of a Program.

    Attributes:
        name: Name of the ONNX node it comes from (of the last one, when several were fused).
        kind: ONNX operator type, with what was fused into it: ``Conv+Relu``.
        inputs: Tensors it reads.
        output: The tensor it writes.
    """

    name: str
    kind: str
    inputs: tuple[Tensor, ...]
    output: Tensor

    @abstractmethod
    def evaluate(self, inputs: Sequence[Int8Array]) -> Int8Array:
        """Return the output for a batch: the normative integer semantics. Arrays are ``[batch, *shape]`` int8."""

    @abstractmethod
    def kernel(self) -> Kernel | None:
        """Return the kernel, or None where the output is the input's bytes as they lie (a reshape)."""

    def range_of_output(self, ranges: Sequence[Range]) -> Range:  # noqa: ARG002
        """Return what the output can hold at most where the inputs hold `ranges`; int8 where nothing narrower is known."""
        return INT8_RANGE

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one run."""
        return 0

    @property
    def schedules(self) -> tuple[Schedule, ...]:
        """Ways to compute it that may be chosen from, the default first; none where there is only one."""
        return ()

    @property
    def scratch_bytes(self) -> int:
        """Working memory of the kernel."""
        kernel = self.kernel()
        return 0 if kernel is None else kernel.scratch_bytes

    @property
    def in_place(self) -> tuple[int, ...]:
        """Indices of the inputs with which the output may begin: byte i is read last when the output's byte i is written."""
        return ()

    def sweep(self, index: int) -> Sweep | None:  # noqa: ARG002
        """Return how the kernel goes through input `index`, or None if the output must not lie over it at all."""
        return None
