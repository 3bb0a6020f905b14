"""What a split competes with: the raw input, a JPEG of it, or all channels at the cut with fewer bits.

All of them are answered by the float model, which flatters the last, whose front runs on the device.

JPEG: Pillow, 4:2:0, standard tables. Its bytes are those of the entropy-coded scan: the header, with the tables,
is the same for every image of a quality and size, so both sides can know it. Tables fitted to the data would make
it somewhat smaller.

Fewer bits: H. Li, C. Hu, J. Jiang, Z. Wang, Y. Wen, W. Zhu, "JALAD: Joint Accuracy- and Latency-Aware Deep
Structure Decoupling for Edge-Cloud Execution", ICPADS 2018: every value of the tensor at the cut as one of 2**bits
levels between its smallest and largest, which travel too, as two floats. Without an entropy coder behind it.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from clio_cc import graph
from clio_cc.accuracy import JPEG, AccuracyRow
from clio_cc.batch import any_batch
from clio_cc.float_run import Runner
from clio_cc.judge import Judge
from clio_cc.plan import RAW
from clio_cc.qformat import quantize

if TYPE_CHECKING:
    import onnx_ir as ir

QUALITIES = (5, 10, 20, 30, 50, 75, 90)
BITS = (2, 3, 4, 5, 6, 7)
JPEG_BYTES = "the entropy-coded scan of a JPEG: its header, the same for every image, is known to both sides"
_RANGE_BYTES = 8  # smallest and largest value of a tensor, as floats
_TENSOR_VALUES = 2**24  # of the largest tensor of one batch
_LARGEST_BATCH = 32

Floats = npt.NDArray[np.float32]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class Original:
    """The float model with its data.

    Attributes:
        model: The float graph, batch 1.
        inputs: ``[n, ...]`` by input name.
        run: `model` for any number of samples.
    """

    model: ir.Model
    inputs: Mapping[str, Floats]
    run: Runner

    @property
    def samples(self) -> int:
        """How many there are."""
        return len(next(iter(self.inputs.values())))

    def batches(self) -> Iterator[tuple[int, dict[str, Floats]]]:
        """Yield all samples in parts that fit memory, each with the number of its first sample."""
        values = [*self.model.graph.inputs, *(out for node in self.model.graph for out in node.outputs)]
        largest = max((graph.size(value) for value in values if graph.static_shape(value)), default=1)
        step = batch_size(largest)
        for first in range(0, self.samples, step):
            yield first, {name: x[first : first + step] for name, x in self.inputs.items()}

    def answers(self, progress: Progress) -> list[npt.NDArray[Any]]:
        """Return the model's outputs for all samples, ``[n, ...]`` each."""
        parts = []
        for first, batch in self.batches():
            parts.append(self.run(batch))
            progress("original", first + _count(batch), self.samples)
        return [np.concatenate(values) for values in zip(*parts, strict=True)]


def batch_size(largest: int) -> int:
    """Return how many samples to compute at once, from the number of values of the largest tensor."""
    return int(np.clip(_TENSOR_VALUES // max(1, largest), 1, _LARGEST_BATCH))


def raw_input(
    original: Original, judge: Judge, scales: Mapping[str, float], progress: Progress
) -> AccuracyRow:
    """The input is sent as the device would take it, int8, in steps of `scales` per input name."""
    lost = 0.0
    for first, batch in original.batches():
        sent = {name: quantize(x, scales[name]) * np.float32(scales[name]) for name, x in batch.items()}
        lost += judge.lost(first, original.run(sent))
        progress(RAW, first + _count(batch), judge.samples)
    size = sum(x[0].size for x in original.inputs.values())
    return AccuracyRow(RAW, 1, size, judge.metric, judge.value(lost), judge.samples)


# --- JPEG ---------------------------------------------------------------------------------------------------------


def no_jpeg(original: Original, image_scale: float) -> str:
    """Return why the input cannot be sent as a JPEG; '' if it can."""
    (x, *others) = original.inputs.values()
    if others or x.ndim != 4 or not {x.shape[1], x.shape[3]} & {1, 3}:
        return "no JPEG: the input is not an image of one or three channels"
    low, high = float(x.min()) * image_scale, float(x.max()) * image_scale
    if low < -0.5 or high > 255.5 or high <= 1:
        return (
            f"no JPEG: inputs times --image-scale run from {low:.4g} to {high:.4g}, pixels run from 0 to 255"
        )
    return ""


def jpeg(original: Original, judge: Judge, image_scale: float, progress: Progress) -> tuple[AccuracyRow, ...]:
    """A JPEG of the input is sent, one row per quality; see :func:`no_jpeg` for whether it can be.

    Args:
        image_scale: Pixels of 0 to 255 were divided by this.
    """
    ((name, _),) = original.inputs.items()
    lost, sizes = dict.fromkeys(QUALITIES, 0.0), dict.fromkeys(QUALITIES, 0)
    for first, batch in original.batches():
        pixels = np.clip(np.rint(batch[name] * image_scale), 0, 255).astype(np.uint8)
        for quality in QUALITIES:
            coded = [_coded(image, quality) for image in pixels]
            images = np.stack([image for image, _ in coded]).astype(np.float32) / np.float32(image_scale)
            lost[quality] += judge.lost(first, original.run({name: images}))
            sizes[quality] += sum(size for _, size in coded)
        progress(JPEG, first + _count(batch), judge.samples)
    return tuple(
        AccuracyRow(
            JPEG, q, math.ceil(sizes[q] / judge.samples), judge.metric, judge.value(lost[q]), judge.samples
        )
        for q in QUALITIES
    )


def _coded(image: npt.NDArray[np.uint8], quality: int) -> tuple[npt.NDArray[np.uint8], int]:
    """Return an image (CHW or HWC) as it comes out of a JPEG, and the bytes of the JPEG's scan."""
    from PIL import Image

    first = image.shape[0] in (1, 3)
    rows = image.transpose(1, 2, 0) if first else image
    picture = Image.fromarray(rows[..., 0] if rows.shape[2] == 1 else np.ascontiguousarray(rows))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality, subsampling="4:2:0")
    decoded = np.asarray(Image.open(file)).reshape(rows.shape)
    return decoded.transpose(2, 0, 1) if first else decoded, scan_bytes(file.getvalue())


def scan_bytes(data: bytes) -> int:
    """Return the size of a baseline JPEG's entropy-coded scan: what lies between the last header and the end marker."""
    at = 2
    while data[at + 1] != 0xDA:  # start of scan
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return len(data) - (at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")) - 2


# --- fewer bits -----------------------------------------------------------------------------------------------------


def fewer_bits(
    original: Original, judge: Judge, partition: str, tensor: str, progress: Progress
) -> tuple[AccuracyRow, ...]:
    """All channels of the float graph's tensor at a cut are sent with fewer bits, one row per number of bits."""
    names = [str(value.name) for value in original.model.graph.outputs]
    head = Runner(any_batch(graph.extract(original.model, list(original.inputs), [tensor])))
    tail = Runner(any_batch(graph.extract(original.model, [tensor], names)))
    lost = dict.fromkeys(BITS, 0.0)
    shape: Sequence[int] = ()
    for first, batch in original.batches():
        (values,) = head(batch)
        shape = values.shape[1:]
        for bits in BITS:
            lost[bits] += judge.lost(first, tail({tensor: with_levels(values, bits)}))
        progress(f"{partition}, fewer bits", first + _count(batch), judge.samples)
    return tuple(
        AccuracyRow(
            f"{partition}/{bits}bit",
            shape[0],
            math.ceil(math.prod(shape) * bits / 8) + _RANGE_BYTES,
            judge.metric,
            judge.value(lost[bits]),
            judge.samples,
        )
        for bits in BITS
    )


def with_levels(values: Floats, bits: int) -> Floats:
    """Return each sample with its values moved to the nearest of 2**bits levels between its smallest and largest."""
    axes = tuple(range(1, values.ndim))
    low = values.min(axis=axes, keepdims=True)
    step = (values.max(axis=axes, keepdims=True) - low) / np.float32(2**bits - 1)
    return np.asarray(low + np.rint((values - low) / np.where(step > 0, step, 1)) * step, np.float32)


def _count(batch: Mapping[str, Floats]) -> int:
    return len(next(iter(batch.values())))
