"""The Program: a straight list of integer operators over int8 tensors. It *is* the device's semantics."""

from __future__ import annotations

from dataclasses import dataclass

from clio_cc.operators.base import INT8_RANGE, Operator, Range, Tensor
from clio_cc.packing import UNIT_BITS, packed_bytes, value_range
from clio_cc.qformat import describe_scale

MOST_TAPS = 31
"""Taps of one Program: the device's code has a bit for each, and one for a run through everything."""


@dataclass(frozen=True, eq=False)
class Tap:
    """A place where data leaves for the cloud: a partition point, whose units are the channels of one tensor.

    Attributes:
        partition: Name of the partition point.
        tensor: Name of the tensor that crosses it.
        units: Number of ordered units.
        unit_bytes: Bytes of one unit on the wire.
        order: Unit k is channel ``order[k]`` of the tensor's last axis, each at most once; () for all as they lie.
        bits: Of a value on the wire: 8, 6 or 4 (:mod:`clio_cc.packing`).
    """

    partition: str
    tensor: str
    units: int
    unit_bytes: int
    order: tuple[int, ...] = ()
    bits: int = 8


@dataclass(frozen=True, eq=False)
class Program:
    """Operators in execution order. Every operator reads tensors that are inputs or were written before it.

    Attributes:
        inputs: Tensors the caller writes, NHWC without the batch.
        operators: In execution order.
        outputs: Names of the tensors that can be read after a run: those of the taps, then the graph's own outputs where
            the whole network runs on the device.
        taps: Places where data leaves for the cloud, in order of execution. A run goes to one of them, or through
            everything.
    """

    inputs: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    outputs: tuple[str, ...]
    taps: tuple[Tap, ...] = ()

    def __post_init__(self) -> None:
        known = {tensor.name for tensor in self.inputs}
        if len(known) != len(self.inputs):
            raise ValueError("two inputs have the same name")
        for op in self.operators:
            missing = [tensor.name for tensor in op.inputs if tensor.name not in known]
            if missing:
                raise ValueError(f"{op.name} reads {missing[0]}, which nothing has written")
            if op.output.name in known:
                raise ValueError(f"{op.name} writes {op.output.name} a second time")
            known.add(op.output.name)
        unknown = [name for name in self.outputs if name not in known]
        if unknown:
            raise ValueError(f"output {unknown[0]} is not a tensor of the program")
        if len(self.taps) > MOST_TAPS:
            raise ValueError(f"{len(self.taps)} taps, at most {MOST_TAPS} are possible")
        if self.outputs[: len(self.taps)] != tuple(tap.tensor for tap in self.taps):
            raise ValueError("the tensors of the taps must be the first outputs")
        for tap in self.taps:
            _check_tap(tap, self)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name, in the order in which they come to be."""
        every = [*self.inputs, *(op.output for op in self.operators)]
        return {tensor.name: tensor for tensor in every}

    @property
    def macs(self) -> int:
        """Multiply-accumulates of a run through everything."""
        return sum(op.macs for op in self.operators)

    @property
    def lasting(self) -> tuple[str, ...]:
        """Outputs that are still there after a run through everything: the graph's own, or else the last tap's."""
        return self.outputs[len(self.taps) :] or self.outputs[-1:]

    def range_of(self, tensor: str) -> Range:
        """Return the smallest and the largest value that a tensor can hold, as far as clamps say."""
        ranges: dict[str, Range] = {}
        for op in self.operators:
            ranges[op.output.name] = op.range_of_output([ranges.get(t.name, INT8_RANGE) for t in op.inputs])
        return ranges.get(tensor, INT8_RANGE)

    def operators_to(self, tap: int) -> tuple[int, ...]:
        """Return the indices of the operators that tap number `tap` needs, in order of execution."""
        wanted, found = {self.taps[tap].tensor}, []
        for index, op in reversed(list(enumerate(self.operators))):
            if op.output.name in wanted:
                wanted |= {tensor.name for tensor in op.inputs}
                found.append(index)
        return tuple(reversed(found))

    def macs_to(self, tap: int) -> int:
        """Return the multiply-accumulates of a run to tap number `tap`."""
        return sum(self.operators[index].macs for index in self.operators_to(tap))

    def describe(self) -> str:
        """Return one line per operator: name, kind, shapes and Q-formats."""
        lines = []
        for op in self.operators:
            reads = ", ".join(f"{t.name} {_dims(t)} {describe_scale(t.scale)}" for t in op.inputs)
            lines.append(
                f"{op.output.name} {_dims(op.output)} {describe_scale(op.output.scale)} = {op.kind}({reads})"
            )
        return "\n".join(lines)


def _check_tap(tap: Tap, program: Program) -> None:
    tensor = program.tensors[tap.tensor]
    channels = tensor.shape[-1]
    if tap.bits not in UNIT_BITS:
        raise ValueError(f"tap {tap.partition}: values of {tap.bits} bits, only {UNIT_BITS} are possible")
    size = packed_bytes(tensor.bytes // channels, tap.bits)
    if tap.unit_bytes != size or tap.units != (len(tap.order) or channels):
        raise ValueError(f"tap {tap.partition}: its units do not fit {tensor.name} {tensor.shape}")
    if len(set(tap.order)) != len(tap.order) or not set(tap.order) <= set(range(channels)):
        raise ValueError(f"tap {tap.partition}: its order is not one of {channels} channels")
    if tap.bits < 8:
        (low, high), (least, most) = value_range(tap.bits), program.range_of(tap.tensor)
        if least < low or most > high:
            raise ValueError(
                f"tap {tap.partition}: {tensor.name} may hold {least}..{most}, {tap.bits} bits only {low}..{high}"
            )


def _dims(tensor: Tensor) -> str:
    return "x".join(str(d) for d in tensor.shape)
