"""What every operator family shares: tensors, the operator's interface, and the description of its kernel."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from clio_cc.operators.schedule import Schedule
from clio_cc.qformat import Int8Array


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
        """Indices of the inputs that the output may overwrite: element i is read last when output element i is written."""
        return ()
