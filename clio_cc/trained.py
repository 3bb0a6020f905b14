"""What training found for the split, inside the model file that it is for.

``clio-cc train`` writes the network with its new weights, and beside it what no ONNX operator says: encoders and heads of
the partition points, and the formats that the device computes in. Arrays are initializers that no node reads,
``clio_cc/<point>/encoder/weight`` and so on; the rest is JSON in the model's metadata. One file, so that nothing can get
lost; a tool that drops unused initializers is found out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from clio_cc.errors import ClioError
from clio_cc.heads import Heads
from clio_cc.load import read_proto
from clio_cc.packing import UNIT_BITS
from clio_cc.qformat import fraction_bits
from clio_cc.quantization.formats import Formats
from clio_cc.quantization.layers import ConvLayer, Float, Network

KEY = "clio_cc.trained"
"""Of the model's metadata."""
PREFIX = "clio_cc/"
"""Of the initializers' names."""
SCHEMA = 1
MOST_EXPONENT = 60  # of a scale: nothing that is called int8 lies further from 1
_PARTS = ("encoder/weight", "encoder/bias", "heads/weight", "heads/bias")
_WRITE_AGAIN = "compile the file that `clio-cc train` wrote"


@dataclass(frozen=True, eq=False)
class TrainedPoint:
    """A partition point with its trained units and heads.

    Attributes:
        name: Of the partition point.
        tensor: The graph's tensor that units are made of: the point's, or what goes into the activation that writes that.
        counts: Numbers of units that may be sent, ascending.
        weight: ``[units, channels]``: units are ``weight @ channels + bias``; as many as the last of `counts`.
        bias: ``[units]``.
        heads: What restores the channels of `tensor`, a row for each of `counts`.
        bits: Of a value of a unit: 8, 6 or 4.

    Raises:
        ValueError: these do not fit together.
    """

    name: str
    tensor: str
    counts: tuple[int, ...]
    weight: Float
    bias: Float
    heads: Heads
    bits: int = 8

    def __post_init__(self) -> None:
        if not self.counts or self.counts[0] < 1 or list(self.counts) != sorted(set(self.counts)):
            raise ValueError(f"its slices {list(self.counts)} do not ascend from 1 up")
        if self.heads.counts != self.counts:
            raise ValueError(
                f"its heads are for the slices {list(self.heads.counts)}, not {list(self.counts)}"
            )
        if self.bits not in UNIT_BITS:
            raise ValueError(f"its units have {self.bits} bits, not one of {UNIT_BITS}")
        window = self.heads.window
        if window < 1 or window % 2 == 0:
            raise ValueError(f"its heads have a window of {window}, which is not odd")
        units = self.counts[-1]
        channels = self.weight.size // units
        wanted = (
            (units, channels),
            (units,),
            (1 + len(self.counts), channels, units * window**2),
            (1 + len(self.counts), channels),
        )
        for part, array, shape in zip(_PARTS, self.arrays(), wanted, strict=True):
            if array.shape != shape:
                raise ValueError(f"'{self._name_of(part)}' has the shape {array.shape}, expected {shape}")
            if not np.isfinite(array).all():
                raise ValueError(f"'{self._name_of(part)}' holds NaN or infinite values")
        if units > channels:
            raise ValueError(f"it has {units} units of {channels} channels")

    def arrays(self) -> tuple[Float, Float, Float, Float]:
        """Return what is stored as initializers."""
        return self.weight, self.bias, self.heads.weight, self.heads.bias

    @property
    def units(self) -> str:
        """Name of the device's tensor that holds the units."""
        return f"{self.name}/units"

    def initializers(self) -> list[onnx.TensorProto]:
        """Return the arrays, float32, as the model file holds them."""
        return [
            numpy_helper.from_array(np.ascontiguousarray(array, np.float32), self._name_of(part))
            for part, array in zip(_PARTS, self.arrays(), strict=True)
        ]

    def _name_of(self, part: str) -> str:
        return f"{PREFIX}{self.name}/{part}"


@dataclass(frozen=True, eq=False)
class Trained:
    """What training found for the split.

    Attributes:
        points: In order of execution; none where only the whole network was trained for the device.
        scales: A power of two per tensor of the device, by its name in :class:`~clio_cc.quantization.layers.Network`; empty
            if training was in floating point only.
        weight_scales: ``[cout]`` powers of two per Conv and Gemm, by the name of the tensor that it writes.
        local: Whether the whole network on the device was trained, too.
        record: What was done, as JSON: options, epochs, seed.

    Raises:
        ValueError: these do not fit together.
    """

    points: tuple[TrainedPoint, ...]
    scales: Mapping[str, float] = field(default_factory=dict)
    weight_scales: Mapping[str, Float] = field(default_factory=dict)
    local: bool = False
    record: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [point.name for point in self.points]
        if len(set(names)) < len(names):
            raise ValueError(f"its partition points are {names}: one of them twice")
        for name, scale in self.scales.items():
            _exponent(scale, f"tensor '{name}'")
        for name, scales in self.weight_scales.items():
            for each in np.asarray(scales).reshape(-1):
                _exponent(float(each), f"the weights of tensor '{name}'")
        for point in self.points:
            if point.bits != 8 and point.units not in self.scales:
                raise ValueError(
                    f"partition point '{point.name}' has units of {point.bits} bits without a scale"
                )

    def point(self, name: str) -> TrainedPoint | None:
        """Return the point of that name; None where it was not trained."""
        return next((point for point in self.points if point.name == name), None)

    def formats(self, units: Mapping[str, int]) -> Formats:
        """Return what quantization must keep to where each point makes so many units, all of them or the first."""
        weights = dict(self.weight_scales)
        for point in self.points:
            if point.units in weights:
                weights[point.units] = weights[point.units][: units.get(point.name)]
        return Formats(self.scales, weights)

    def without_formats(self, network: Network) -> list[str]:
        """Return names of Convs and Gemms that trained units come through and whose formats were not trained.

        Where training was in floating point only there are none to miss.
        """
        ends = {point.units for point in self.points}
        through = [i + 1 for i, layer in enumerate(network.layers) if layer.output in ends and self.scales]
        return [
            layer.name
            for layer in network.layers[: max(through, default=0)]
            if isinstance(layer, ConvLayer)
            and layer.output not in self.weight_scales
            and (layer.output in ends or layer.output not in network.encoded)
        ]


def embed(proto: onnx.ModelProto, trained: Trained) -> None:
    """Put what training found into the model, in place of what was there before. Arrays become float32."""
    kept = [tensor for tensor in proto.graph.initializer if not tensor.name.startswith(PREFIX)]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    for point in trained.points:
        proto.graph.initializer.extend(point.initializers())
    entries = [entry for entry in proto.metadata_props if entry.key != KEY]
    del proto.metadata_props[:]
    proto.metadata_props.extend(entries)
    proto.metadata_props.add(key=KEY, value=json.dumps(_to_json(trained), ensure_ascii=False))


def read_trained(path: Path) -> Trained | None:
    """Return what training left in a model file; None if it was not trained for slices.

    Raises:
        ClioError: there is less than was written, or other than can be.
    """
    proto = read_proto(path)
    text = next((entry.value for entry in proto.metadata_props if entry.key == KEY), None)
    if text is None:
        return None
    try:
        value = json.loads(text)
        schema = value["schema"]
    except (ValueError, TypeError, KeyError):
        raise _damaged(path, f"its metadata '{KEY}' is not what was written") from None
    if schema != SCHEMA:
        message = (
            f"was trained by another version of clio-cc: '{KEY}' has schema {schema}, this one reads {SCHEMA}"
        )
        raise ClioError(message, path.name, "train again, or compile with that version")
    stored = {tensor.name: tensor for tensor in proto.graph.initializer if tensor.name.startswith(PREFIX)}
    try:
        points = tuple(_point(entry, stored, path) for entry in value["points"])
        scales = {str(name): _power(bits) for name, bits in value["scales"].items()}
        weights = {str(name): np.array([*map(_power, bits)]) for name, bits in value["weight_scales"].items()}
        return Trained(points, scales, weights, value["local"] is True, dict(value["record"]))
    except ValueError as error:
        raise _damaged(path, str(error)) from error
    except (TypeError, KeyError, AttributeError):
        raise _damaged(path, f"its metadata '{KEY}' is not what was written") from None


# --- JSON ----------------------------------------------------------------------------------------------


def _to_json(trained: Trained) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "points": [
            {
                "name": point.name,
                "tensor": point.tensor,
                "slices": list(point.counts),
                "window": point.heads.window,
                "bits": point.bits,
            }
            for point in trained.points
        ],
        "scales": {name: _exponent(scale, name) for name, scale in sorted(trained.scales.items())},
        "weight_scales": {
            name: [_exponent(float(scale), name) for scale in scales]
            for name, scales in sorted(trained.weight_scales.items())
        },
        "local": trained.local,
        "record": dict(trained.record),
    }


def _point(entry: Mapping[str, Any], stored: Mapping[str, onnx.TensorProto], path: Path) -> TrainedPoint:
    name, counts = str(entry["name"]), tuple(map(_integer, entry["slices"]))
    arrays: list[npt.NDArray[np.float32]] = []
    for part in _PARTS:
        tensor = stored.get(f"{PREFIX}{name}/{part}")
        if tensor is None:
            message = f"was trained for slices at '{name}', but lacks its weights '{PREFIX}{name}/{part}'"
            raise ClioError(message, path.name, f"another tool has removed them: {_WRITE_AGAIN}")
        arrays.append(np.asarray(numpy_helper.to_array(tensor, str(path.parent)), np.float32))
    heads = Heads(counts, _integer(entry["window"]), *arrays[2:])
    try:
        bits = _integer(entry["bits"])
        return TrainedPoint(name, str(entry["tensor"]), counts, arrays[0], arrays[1], heads, bits)
    except ValueError as error:
        raise ValueError(f"partition point '{name}': {error}") from error


def _damaged(path: Path, reason: str) -> ClioError:
    message = f"what training left in it is damaged: {reason}"
    return ClioError(message, path.name, f"another tool has changed it: {_WRITE_AGAIN}")


def _integer(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{value!r} is not an integer")
    return value


def _power(exponent: object) -> float:
    if abs(_integer(exponent)) > MOST_EXPONENT:
        raise ValueError(f"2**{exponent} is no scale")
    return math.ldexp(1.0, _integer(exponent))


def _exponent(scale: float, what: str) -> int:
    """The power of two that a scale is."""
    bits = fraction_bits(scale)
    if bits is None or abs(bits) > MOST_EXPONENT:
        raise ValueError(f"the scale {scale:g} of {what} is not a power of two from 2**-60 to 2**60")
    return -bits
