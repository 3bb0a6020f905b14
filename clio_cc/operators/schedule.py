"""How a kernel walks through its work: chosen per shape, by instructions and memory, never by meaning."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """One way to compute an operator. All ways give the same bits.

    Attributes:
        kernel: Family of kernels: ``matmul``, ``depthwise`` …
        tile: Pixels × output channels computed together.
    """

    kernel: str
    tile: tuple[int, int]

    def __str__(self) -> str:
        return f"{self.kernel} {self.tile[0]}x{self.tile[1]}"
