"""Quantization: a float Network and calibration → a Program, and a report of what each layer lost.

    calibrate → equalize → formats by loss → walk

The walk runs the float and the integer network side by side over some calibration samples. At each Conv the
weights are rounded for the inputs that the integer network really gives it, and the bias absorbs what is
left of the mean error; so every layer makes up for the ones before it. It also measures the error of every
operator.

Where formats are given, as training found them, nothing is chosen: weights and biases are rounded to their
scales, and that is all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from clio_cc.calibrate import Progress, Samples, Statistics, calibrate, samples_within_budget
from clio_cc.errors import ClioError
from clio_cc.operators.base import Operator, Tensor
from clio_cc.operators.conv import Conv
from clio_cc.operators.softmax import OUTPUT_SCALE
from clio_cc.packing import packed_bytes
from clio_cc.program import Program, Tap
from clio_cc.qformat import INT8_MAX, INT8_MIN, INT32_MAX, Int8Array, describe_scale, quantize
from clio_cc.quantization.emit import emit, emit_conv, smallest_scale
from clio_cc.quantization.equalize import equalize
from clio_cc.quantization.formats import Formats, Mode, activation_scale, power_at_least, weight_scales
from clio_cc.quantization.layers import ENCODE, ConvLayer, Float, Layer, Network, SoftmaxLayer
from clio_cc.quantization.rounding import round_weights

WALK_MACS = 5e9  # multiply-accumulates of the walk, in float and again in integers
WALK_SAMPLES = (8, 128)
_FIELDS_PER_INPUT, _FIELDS = 16, (4096, 16384)  # receptive fields per layer from which weights are rounded
_FIELD_VALUES = 2**25  # at most, of one layer: 128 MB
_BLOCK = 1024  # inputs that are rounded together; the work grows with the square


@dataclass(frozen=True)
class LayerReport:
    """What one operator's output lost against the float network.

    Attributes:
        name: Of the operator.
        kind: Of the operator.
        format: Of the output, ``Q3.4`` or a scale.
        sqnr_db: Signal power over error power in dB, all operators before it quantized too; 200 at most.
        saturated: Share of output values at an end of int8 (or of the clamp, where that is not the layer's own).
    """

    name: str
    kind: str
    format: str
    sqnr_db: float
    saturated: float

    def as_json(self) -> dict[str, object]:
        """Return the fields for the manifest."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Quantized:
    """The result.

    Attributes:
        program: The device's half in integers.
        network: The float network that the program approximates, equalized.
        layers: One report per operator, in order.
        samples: Number of samples that the layers' reports are measured on.
        calibration_samples: Number of samples whose ranges were recorded.
    """

    program: Program
    network: Network
    layers: tuple[LayerReport, ...]
    samples: int
    calibration_samples: int

    def quantize_inputs(self, inputs: Mapping[str, npt.NDArray[np.floating]]) -> list[Int8Array]:
        """Return float inputs in graph layout (``[n, ...]``) as the program takes them."""
        return [
            quantize(
                np.asarray(self.network.layouts[tensor.name].to_device(inputs[tensor.name]), np.float64),
                tensor.scale,
            )
            for tensor in self.program.inputs
        ]

    def dequantize_outputs(self, outputs: list[Int8Array]) -> list[npt.NDArray[np.float32]]:
        """Return the program's outputs as floats in graph layout."""
        tensors = self.program.tensors
        return [
            np.asarray(self.network.layouts[name].to_graph(value), np.float32)
            * np.float32(tensors[name].scale)
            for name, value in zip(self.program.outputs, outputs, strict=True)
        ]


def quantize_model(
    model: ir.Model,
    network: Network,
    samples: Samples,
    mode: Mode = "shift",
    progress: Progress | None = None,
    formats: Formats | None = None,
) -> Quantized:
    """Quantize the device's half of a float graph.

    Args:
        model: The canonical float graph.
        network: Its device half, from :func:`clio_cc.lower.lower`.
        samples: Calibration inputs; more than needed are thinned out.
        mode: ``shift`` for powers of two, ``mulshift`` for any scale.
        progress: Called with (steps done, steps in all).
        formats: Scales to keep to, in mode ``shift``; all others are chosen.

    Raises:
        ClioError: an operator cannot be quantized, or not by the scales given; names it.
    """
    given = formats or Formats()
    chosen = samples_within_budget(network, samples)
    steps = chosen.count + len(network.layers)
    report = progress or _silent
    statistics = calibrate(model, network, chosen, lambda done, _: report(done, steps))
    equalized, statistics, _ = equalize(network, statistics, mode, _fixed(network, given))
    walk = chosen.take(int(np.clip(WALK_MACS / max(1, network.macs), *WALK_SAMPLES)))
    inputs = {name: network.layouts[name].to_device(walk.inputs[name]) for name in network.inputs}
    quantizer = _Quantizer(equalized, statistics, mode, given)
    quantizer.run(inputs, lambda done: report(chosen.count + done, steps))
    program = Program(
        tuple(quantizer.tensors[name] for name in network.inputs),
        tuple(quantizer.operators),
        network.outputs,
        taps_of(equalized, quantizer.tensors),
    )
    return Quantized(program, equalized, tuple(quantizer.reports), walk.count, chosen.count)


def _silent(_done: int, _total: int) -> None:
    """No progress wanted."""


def _fixed(network: Network, given: Formats) -> set[str]:
    """Tensors that must not be rescaled: those with a given scale, and those around weights with one."""
    around = [layer for layer in network.layers if layer.output in given.weight_scales]
    return {*given.scales, *(name for layer in around for name in (*layer.inputs, layer.output))}


def taps_of(network: Network, tensors: Mapping[str, Tensor]) -> tuple[Tap, ...]:
    """Return a network's taps over the Program's tensors, by name."""
    taps = []
    for cut in network.taps:
        tensor = tensors[cut.tensor]
        channels = tensor.shape[-1]
        units = len(cut.order) or channels
        unit_bytes = packed_bytes(tensor.bytes // channels, cut.bits)
        taps.append(Tap(cut.partition, cut.tensor, units, unit_bytes, cut.order, cut.bits))
    return tuple(taps)


@dataclass(eq=False)
class _Quantizer:
    """The walk: what it knows of every tensor so far."""

    network: Network
    statistics: Mapping[str, Statistics]
    mode: Mode
    given: Formats
    tensors: dict[str, Tensor] = field(default_factory=dict)
    operators: list[Operator] = field(default_factory=list)
    reports: list[LayerReport] = field(default_factory=list)

    def run(self, inputs: Mapping[str, Float], progress: Callable[[int], None]) -> None:
        exact: dict[str, Float] = {}
        steps: dict[str, Int8Array] = {}
        for name, x in inputs.items():
            scale = self.given.scales.get(name) or self.scale_of(name, x)
            self.tensors[name] = Tensor(name, self.network.layouts[name].shape, scale)
            exact[name] = x
            steps[name] = quantize(x, self.tensors[name].scale)
        last_use = {name: i for i, layer in enumerate(self.network.layers) for name in layer.inputs}
        for index, layer in enumerate(self.network.layers):
            float_inputs = [exact[name] for name in layer.inputs]
            int_inputs = [steps[name] for name in layer.inputs]
            try:
                if isinstance(layer, ConvLayer):
                    op, wanted, got = self.conv(layer, float_inputs[0], int_inputs[0])
                else:
                    op, wanted, got = self.other(layer, float_inputs, int_inputs)
            except (ValueError, OverflowError) as error:
                raise ClioError(
                    f"cannot be quantized: {error}", f"node '{layer.name}' ({layer.kind})"
                ) from error
            self.operators.append(op)
            self.reports.append(_report(op, wanted, got, _importance(layer)))
            exact[layer.output], steps[layer.output] = wanted, got
            for name in [name for name in exact if last_use.get(name, -1) <= index]:
                del exact[name], steps[name]
            progress(index + 1)

    def scale_of(self, name: str, values: Float) -> float:
        """Return a tensor's scale, where none is given.

        The one with the least error over all calibration, or in `values` where nothing was recorded.
        """
        seen = self.statistics.get(name)
        if seen is None:
            return activation_scale(values, float(np.abs(values).max()), self.mode)
        return activation_scale(seen.rows, float(seen.largest.max()), self.mode)

    def other(
        self, layer: Layer, exact: list[Float], steps: list[Int8Array]
    ) -> tuple[Operator, Float, Int8Array]:
        wanted = layer.evaluate(exact)
        inputs = [self.tensors[name] for name in layer.inputs]
        given = self.given.scales.get(layer.output)
        if isinstance(layer, SoftmaxLayer) or layer.keeps_scale:
            scale = OUTPUT_SCALE if isinstance(layer, SoftmaxLayer) else inputs[0].scale
            if given not in (None, scale):
                raise ValueError(f"its output has the scale {scale:g}, not the given {given:g}")
        else:
            finest = self.allowed(smallest_scale(layer, inputs, self.mode))
            scale = given or max(self.scale_of(layer.output, wanted), finest)
        output = self.tensors[layer.output] = Tensor(layer.output, layer.shape, scale)
        op = emit(layer, inputs, output, self.mode)
        return op, wanted, op.evaluate(steps)

    def allowed(self, scale: float) -> float:
        """Return the finest scale of this mode that is not below `scale`."""
        return power_at_least(scale) if self.mode == "shift" and scale > 0 else scale

    def conv(self, layer: ConvLayer, exact: Float, steps: Int8Array) -> tuple[Operator, Float, Int8Array]:
        given = self.given.weight_scales.get(layer.output)
        if given is not None:
            return self.given_conv(layer, given, exact, steps)
        as_given = layer.output in self.given.scales
        if as_given and layer.kind.split("+")[0] in ("Conv", "Gemm"):
            raise ValueError("the scale of its output is given, those of its weights are not")
        x = self.tensors[layer.inputs[0]]
        fields = _fields(layer, steps)
        flat = layer.weight.reshape(len(layer.weight), -1)
        per_group = len(flat) // layer.groups
        power = np.repeat(np.square(fields).sum(axis=1, dtype=np.float64), per_group, axis=0)
        scale = weight_scales(flat, power + 1e-9 * power.mean() + 1e-30, self.mode)
        linear = layer.linear([exact])
        wanted = layer.clamp(linear)
        output_scale = max(
            self.scale_of(layer.output, wanted), self.allowed(_finest_output(x.scale * scale, self.mode))
        )
        scale = _bounded(scale, flat, layer.bias, x.scale, output_scale)
        grouped, scales = flat.reshape(layer.groups, per_group, -1), scale.reshape(layer.groups, per_group)
        parts = []
        for start in range(0, grouped.shape[2], _BLOCK):
            seen = fields[:, :, start : start + _BLOCK]
            gram = np.asarray(seen.transpose(0, 2, 1) @ seen, np.float64)
            parts.append(round_weights(grouped[:, :, start : start + _BLOCK], scales, gram))
        weight: Int8Array = np.concatenate(parts, axis=2).reshape(layer.weight.shape).astype(np.int8)
        output = self.tensors[layer.output] = Tensor(layer.output, layer.shape, output_scale)
        layer = self.network.within_bits(layer, output_scale)
        step = x.scale * scale
        bias = np.floor(layer.bias / step + 0.5).astype(np.int64)
        op = emit_conv(layer, x, output, weight, scale, bias, self.mode)
        acc = op.accumulate(steps)
        axes = tuple(range(acc.ndim - 1))
        missing = (
            linear.reshape(acc.shape).mean(axis=axes, dtype=np.float64)
            - acc.mean(axis=axes, dtype=np.float64) * step
        )
        # A constant for each channel was trained without formats of its own: to correct it would be to change it.
        correction = np.floor(missing / step + 0.5).astype(np.int64) * (not as_given)
        op = emit_conv(layer, x, output, weight, scale, bias + correction, self.mode)
        got = op.requantize.apply(acc + correction.astype(np.int32))
        return op, wanted, got.reshape(len(got), *layer.shape)

    def given_conv(
        self, layer: ConvLayer, scale: Float, exact: Float, steps: Int8Array
    ) -> tuple[Operator, Float, Int8Array]:
        """Quantize as training did: what it rounded so, and nothing else, was what it trained."""
        x, wanted = self.tensors[layer.inputs[0]], layer.evaluate([exact])
        if scale.shape != layer.bias.shape:
            raise ValueError(f"{len(scale)} scales of weights are given for {len(layer.bias)} channels")
        step = x.scale * scale
        output_scale = self.given.scales.get(layer.output) or max(
            self.scale_of(layer.output, wanted), self.allowed(_finest_output(step, self.mode))
        )
        if step.max() > output_scale:
            worst = float(scale[step.argmax()])
            message = (
                f"the given scales of its input and weights, {x.scale:g} and {worst:g}, come to more than "
            )
            raise ValueError(f"{message}that of its output, {output_scale:g}")
        output = self.tensors[layer.output] = Tensor(layer.output, layer.shape, output_scale)
        bias = np.floor(layer.bias / step + 0.5)
        if np.abs(bias).max() > INT32_MAX:
            raise OverflowError(
                f"its bias comes to {np.abs(bias).max():.4g} steps of the given scales, beyond int32"
            )
        weight = quantize(layer.weight, scale[:, None, None, None])
        within = self.network.within_bits(layer, output_scale)
        op = emit_conv(within, x, output, weight, scale, bias.astype(np.int64), self.mode)
        return op, wanted, op.evaluate([steps])


def _fields(layer: ConvLayer, steps: Int8Array) -> Float:
    """Return what some output pixels of a Conv see, ``[groups, fields, inputs]`` float32.

    Drawn at random: evenly spaced ones would see the same columns of every image.
    """
    rng = np.random.default_rng(0)
    size = (len(steps), *layer.pixels)
    every, inputs = int(np.prod(size)), layer.weight[0].size
    most = max(1, _FIELD_VALUES // (inputs * layer.groups))
    wanted = min(int(np.clip(_FIELDS_PER_INPUT * inputs, *_FIELDS)), most)
    chosen = np.arange(every) if every <= wanted else np.sort(rng.choice(every, wanted, replace=False))
    where = np.unravel_index(chosen, size)
    windows = np.stack([window[where] for window in layer.windows(steps)], axis=1)  # [fields, taps, channels]
    split = windows.reshape(*windows.shape[:2], layer.groups, -1).transpose(2, 0, 1, 3)
    return np.asarray(split.reshape(layer.groups, len(windows), -1), np.float32)


def _finest_output(accumulator_scale: Float, mode: Mode) -> float:
    """Return the finest output scale that the requantization reaches: a shift right, or a multiplier below 1/4."""
    return float(accumulator_scale.max()) * (1 if mode == "shift" else 4.01)


def _bounded(scale: Float, weight: Float, bias: Float, input_scale: float, output_scale: float) -> Float:
    """Return weight scales coarse enough for an int32 accumulator: fewer bits in a channel that would overflow it.

    Products stay below 2**30 and the bias below 2**28 steps, and the shift is at most 24, for any int8 input.
    """
    for_products = np.abs(weight).sum(axis=1) * 128 * 2.0**-30
    for_bias = np.abs(bias) * 2.0**-28 / input_scale
    for_shift = output_scale * 2.0**-24 / input_scale
    least = np.maximum(np.maximum(for_products, for_bias), for_shift)
    factor = np.maximum(np.ceil(np.log2(np.maximum(least / scale, 1e-30))), 0)
    return np.asarray(scale * 2.0**factor)


def _importance(layer: Layer) -> Float:
    """What a step of each channel of a layer's output counts in its report.

    An encoder stretches every unit to the whole of int8, those of little variance most: their errors count as they do for
    the channels that the units stand for.
    """
    if not isinstance(layer, ConvLayer) or layer.kind.split("+")[-1] != ENCODE:
        return np.ones(1)
    gain = np.sqrt(np.square(layer.weight).reshape(len(layer.weight), -1).sum(axis=1))
    return np.asarray(1 / np.maximum(gain, 1e-30 + 1e-9 * gain.max()))


def _report(op: Operator, wanted: Float, got: Int8Array, importance: Float) -> LayerReport:
    scale = op.output.scale
    error = wanted - got.astype(np.float32) * np.float32(scale)
    signal = float(np.square(wanted * importance, dtype=np.float64).sum())
    noise = float(np.square(error * importance, dtype=np.float64).sum())
    ratio = 10 * np.log10(max(signal, 1e-30) / max(noise, 1e-30))
    lo, hi = (op.requantize.lo, op.requantize.hi) if isinstance(op, Conv) else (INT8_MIN, INT8_MAX)
    kind = op.kind
    of_format = (lo, hi) == (INT8_MIN, INT8_MAX) or kind.split("+")[-1] == ENCODE  # not of an activation
    ends = (got == hi) | (got == lo) if of_format else got == INT8_MAX
    return LayerReport(
        op.name,
        kind,
        describe_scale(scale),
        round(float(np.clip(ratio, -200, 200)), 2),
        round(float(ends.mean()), 6),
    )
