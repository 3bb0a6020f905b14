"""Calibration: read sample inputs, run the float graph on them, keep what quantization needs to know of
every tensor."""

from __future__ import annotations

import logging
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from clio_cc import graph
from clio_cc.errors import ClioError
from clio_cc.quantization.layers import Float, Network

logger = logging.getLogger(__name__)

MOST_SAMPLES = 512
MAC_BUDGET = 16e9  # multiply-accumulates of the float run: some seconds on two cores
KEPT_VALUES = 2**18  # per tensor: plenty for a histogram's mean square error
BATCH_BYTES = 128e6  # of all recorded tensors of one batch
THREADS = 2  # fixed, whatever the machine has: sums must come out the same in every run
NO_DATA = "no calibration data: formats and accuracy mean nothing until real data is given with --calibration"
_DAMAGED = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)
_IMAGES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Samples:
    """Inputs to calibrate with.

    Attributes:
        inputs: By input name, float32 ``[count, *shape of the graph's input without its batch]``.
        warning: What the user must be told; '' if all is well.
        labels: Class per sample where the data has them (`y` of a file, folders per class of images), else None.
    """

    inputs: Mapping[str, npt.NDArray[np.float32]]
    warning: str = ""
    labels: npt.NDArray[np.int64] | None = None

    @property
    def count(self) -> int:
        """Number of samples."""
        return min((len(x) for x in self.inputs.values()), default=0)

    def take(self, count: int) -> Samples:
        """Return at most `count` samples, evenly spread over all."""
        chosen = np.linspace(0, self.count - 1, min(count, self.count)).astype(np.int64)
        labels = None if self.labels is None else self.labels[chosen]
        return Samples({name: x[chosen] for name, x in self.inputs.items()}, self.warning, labels)


@dataclass(frozen=True, eq=False)
class Statistics:
    """What calibration saw of one tensor, in device layout; a channel is an index of the last axis.

    Attributes:
        low: Smallest value per channel.
        high: Largest value per channel.
        rows: Some of the values, float32 ``[rows, channels]``, evenly spread over samples and drawn at random within each.
    """

    low: Float
    high: Float
    rows: npt.NDArray[np.float32]

    @property
    def largest(self) -> Float:
        """Largest magnitude per channel."""
        return np.maximum(np.abs(self.low), np.abs(self.high))


# --- reading --------------------------------------------------------------------------------------------------------


def load_samples(
    model: ir.Model, path: Path | None, *, scale: float = 1.0, most: int | None = None
) -> Samples:
    """Return sample inputs for a model.

    Args:
        model: A loaded model, batch 1.
        path: A ``.npz`` with `x` (one array per input name, where there are several inputs) and perhaps `y`,
            a ``.npy``, or a folder of images, which are resized to the input; None for seeded random numbers. Where all
            images of a folder lie in its subfolders, and these are several, each is a class: the classes are 0, 1, …
            in order of the subfolders' names, as torchvision's ``ImageFolder`` has them.
        scale: Divide pixels of images (not arrays) by this.
        most: Keep at most that many, evenly spread; None for all.

    Raises:
        ClioError: the file cannot be read, or does not fit the model's inputs.
    """
    dims = {str(value.name): graph.shape(value) for value in model.graph.inputs}
    if path is None:
        return Samples(_random_inputs(dims, 64), NO_DATA)
    if path.is_dir():
        inputs, labels = _read_images(path, dims, scale, most)
    else:
        inputs, labels = _read_arrays(path, dims)
    for name, x in inputs.items():
        _check_samples(path, name, x, dims[name])
    samples = Samples({name: np.asarray(x, np.float32) for name, x in inputs.items()}, "", labels)
    return samples if most is None else samples.take(most)


def _random_inputs(dims: Mapping[str, tuple[int, ...]], count: int) -> dict[str, npt.NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal((count, *shape[1:])).astype(np.float32) for name, shape in dims.items()}


def _read_arrays(
    path: Path, dims: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, npt.NDArray[np.generic]], npt.NDArray[np.int64] | None]:
    try:
        with path.open("rb") as file:
            found = _arrays_of(path, np.load(file, allow_pickle=False))
    except FileNotFoundError:
        raise ClioError("no such file", str(path)) from None
    except _DAMAGED as error:
        hint = "give a .npz with an array x, a .npy, or a folder of images"
        raise ClioError("is not a numpy file", str(path), hint) from error
    wanted = {"x": next(iter(dims))} if len(dims) == 1 else {name: name for name in dims}
    _check_names(path, list(found), list(wanted))
    arrays = {name: found[key] for key, name in wanted.items()}
    return arrays, _checked_labels(path, found.get("y"), len(next(iter(arrays.values()))))


def _arrays_of(path: Path, loaded: Any) -> dict[str, npt.NDArray[np.generic]]:
    """The arrays of what numpy loaded; the one of a ``.npy`` is called x."""
    if isinstance(loaded, np.ndarray):
        return {"x": loaded}
    try:
        return {name: loaded[name] for name in loaded.files}
    except _DAMAGED as error:
        raise ClioError("is damaged, or holds other things than numbers", str(path)) from error


def _checked_labels(
    path: Path, labels: npt.NDArray[np.generic] | None, count: int
) -> npt.NDArray[np.int64] | None:
    if labels is None:
        return None
    if not np.issubdtype(labels.dtype, np.number) or np.iscomplexobj(labels) or labels.shape != (count,):
        raise ClioError(f"labels y must be one number for each of {count} samples", str(path))
    numbers: npt.NDArray[Any] = labels
    whole = np.isfinite(numbers) & (numbers == np.round(numbers))
    if not whole.all():
        sample = int(np.argmin(whole))
        raise ClioError(
            f"labels y must be whole numbers, got {numbers[sample]:g} for sample {sample}", str(path)
        )
    return numbers.astype(np.int64)


def _check_names(path: Path, found: Sequence[str], wanted: Sequence[str]) -> None:
    missing = [name for name in wanted if name not in found]
    if missing:
        raise ClioError(f"has no array '{missing[0]}', only {', '.join(found) or 'nothing'}", str(path))


def _check_samples(path: Path, name: str, x: npt.NDArray[np.generic], dims: tuple[int, ...]) -> None:
    wanted = ", ".join(["n", *map(str, dims[1:])])
    if x.shape[1:] != dims[1:] or x.ndim != len(dims):
        hint = f"give x of shape ({wanted})"
        for axes in ((0, 2, 3, 1), (0, 3, 1, 2)):
            if x.ndim == len(dims) == 4 and tuple(x.shape[a] for a in axes)[1:] == dims[1:]:
                hint = f"x.transpose{axes} has the right shape"
        given = ", ".join(map(str, x.shape))
        raise ClioError(f"has shape ({given}), input '{name}' needs ({wanted})", str(path), hint)
    if not len(x):
        raise ClioError("holds no samples", str(path))
    if not (np.issubdtype(x.dtype, np.number) or x.dtype == np.bool_) or np.iscomplexobj(x):
        raise ClioError(f"must hold numbers, got {x.dtype}", str(path))
    with np.errstate(over="ignore"):
        finite = np.isfinite(x.astype(np.float32, copy=False)).all()
    if not finite:
        raise ClioError("holds NaN or infinite values", str(path))


def _read_images(
    path: Path, dims: Mapping[str, tuple[int, ...]], scale: float, most: int | None
) -> tuple[dict[str, npt.NDArray[np.generic]], npt.NDArray[np.int64] | None]:
    files = sorted(f for f in path.rglob("*") if f.suffix.lower() in _IMAGES and not _is_hidden(f, path))
    if not files:
        raise ClioError("holds no images", str(path), f"file names must end in one of {' '.join(_IMAGES)}")
    name, shape = next(iter(dims.items()))
    first = len(shape) == 4 and shape[1] in (1, 3)
    channels = shape[1] if first else shape[-1]
    if len(dims) != 1 or len(shape) != 4 or channels not in (1, 3):
        raise ClioError(
            f"images do not fit input '{name}' of shape {shape}", str(path), "give a .npz with an array x"
        )
    height, width = shape[2:] if first else shape[1:3]
    labels = _folder_labels(path, files)
    count = len(files) if most is None else min(most, len(files))
    chosen = np.linspace(0, len(files) - 1, count).astype(int)
    images = [_pixels(files[index], (height, width, channels)) / scale for index in chosen]
    stack = np.stack(images)
    arrays: dict[str, npt.NDArray[np.generic]] = {name: stack.transpose(0, 3, 1, 2) if first else stack}
    return arrays, None if labels is None else labels[chosen]


def _is_hidden(file: Path, folder: Path) -> bool:
    """Whether it, or what it lies in, is called as thumbnails and copies of attributes are."""
    return any(part.startswith(".") for part in file.relative_to(folder).parts)


def _pixels(file: Path, shape: tuple[int, int, int]) -> npt.NDArray[np.float32]:
    """An image resized to height and width, 0 to 255, in one or three channels."""
    from PIL import Image, UnidentifiedImageError

    height, width, channels = shape
    try:
        image = Image.open(file).convert("RGB" if channels == 3 else "L")
    except (OSError, UnidentifiedImageError) as error:
        raise ClioError("is not a readable image", str(file)) from error
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized, np.float32).reshape(shape)


def _folder_labels(path: Path, files: Sequence[Path]) -> npt.NDArray[np.int64] | None:
    """Return the class of each image of a folder; None where images lie in it directly, or in one subfolder only.

    A subfolder without images is refused: left out, it would shift the classes behind it, and counted, so would one that
    was never meant to be a class.
    """
    folders = sorted(each.name for each in path.iterdir() if each.is_dir() and not _is_hidden(each, path))
    places = [file.relative_to(path).parts for file in files]
    if len(folders) < 2 or any(len(parts) == 1 for parts in places):
        return None
    empty = [name for name in folders if name not in {parts[0] for parts in places}]
    if empty:
        raise ClioError(
            f"folder '{empty[0]}' holds no images",
            str(path),
            "each folder beside the others is a class: remove it",
        )
    return np.array([folders.index(parts[0]) for parts in places], np.int64)


# --- running --------------------------------------------------------------------------------------------------------


def samples_within_budget(network: Network, samples: Samples, budget: float = MAC_BUDGET) -> Samples:
    """Return as many samples as calibration uses: fewer for larger networks, never more than 512."""
    return samples.take(int(np.clip(budget / max(1, network.macs), 16, MOST_SAMPLES)))


def calibrate(
    model: ir.Model, network: Network, samples: Samples, progress: Progress | None = None
) -> dict[str, Statistics]:
    """Run the float graph in onnxruntime and return what each tensor of the network looked like, by name.

    Args:
        model: The canonical float graph that `network` was lowered from.
        network: Its device half; only its tensors are recorded.
        samples: As :func:`samples_within_budget` gives them.
        progress: Called with (samples done, samples in all) after each batch.
    """
    known = graph.value_names(model.graph) - network.encoded
    names = [name for name in network.layouts if name in known]
    made = [layer for layer in network.layers if layer.output not in known] if network.encoded else []
    session = open_session(batched(model, network.inputs, names))
    recorded = sum(int(np.prod(network.layouts[name].shape)) for name in names)
    batch = int(np.clip(BATCH_BYTES / (4 * recorded), 1, 32))
    recorders = {
        name: _Recorder(index, samples.count) for index, name in enumerate([*names, *sorted(network.encoded)])
    }
    for start in range(0, samples.count, batch):
        feed = {name: samples.inputs[name][start : start + batch] for name in network.inputs}
        found = run_session(session, feed, names)
        values = {name: network.layouts[name].to_device(found[name]) for name in names}
        for layer in made:
            values[layer.output] = layer.evaluate([values[name] for name in layer.inputs])
        for name, recorder in recorders.items():
            recorder.record(values[name])
        if progress is not None:
            progress(min(start + batch, samples.count), samples.count)
    found_statistics = {name: recorder.statistics() for name, recorder in recorders.items()}
    for name, seen in found_statistics.items():
        if not np.isfinite(seen.largest).all():
            hint = "check the calibration data, or cut the network before it"
            raise ClioError(f"calibration drives tensor '{name}' to infinity or NaN", hint=hint)
    return found_statistics


class _Recorder:
    """Collects one tensor's statistics batch by batch."""

    def __init__(self, index: int, samples: int) -> None:
        self._rng = np.random.default_rng([0, index])
        self._samples = samples
        self._low: Float | None = None
        self._high: Float | None = None
        self._rows: list[npt.NDArray[np.float32]] = []

    def record(self, values: npt.NDArray[np.generic]) -> None:
        channels = values.shape[-1]
        flat = np.asarray(values, np.float32).reshape(len(values), -1, channels)
        low, high = flat.min(axis=(0, 1)), flat.max(axis=(0, 1))
        self._low = low if self._low is None else np.minimum(self._low, low)
        self._high = high if self._high is None else np.maximum(self._high, high)
        pixels = flat.shape[1]
        count = min(pixels, max(1, KEPT_VALUES // (self._samples * channels)))
        chosen = (
            self._rng.integers(pixels, size=(len(flat), count)) if count < pixels else np.arange(pixels)[None]
        )
        self._rows.append(flat[np.arange(len(flat))[:, None], chosen].reshape(-1, channels))

    def statistics(self) -> Statistics:
        assert self._low is not None and self._high is not None
        return Statistics(self._low, self._high, np.concatenate(self._rows))


def batched(model: ir.Model, inputs: Sequence[str], outputs: Sequence[str]) -> onnx.ModelProto:
    """Return the part of a float graph between some tensors, for batches of any size.

    A Reshape to ``(1, …)`` becomes one to ``(-1, …)``, which the device requires to mean the same.
    """
    known = [str(value.name) for value in model.graph.inputs]
    computed = [name for name in outputs if name not in known]
    part = graph.extract(model, [str(value.name) for value in model.graph.inputs], computed)
    for node in part.graph:
        shape = graph.constant(graph.input_at(node, 1)) if graph.is_op(node, "Reshape") else None
        if shape is not None and shape[0] == 1 and min(shape.tolist()) > 0:
            free = np.array([-1, *shape[1:]], np.int64)
            node.replace_input_with(1, graph.add_constant(part.graph, f"{node.name}_any_batch", free))
    proto = graph.to_proto(part)
    unused = [value for value in proto.graph.input if value.name not in inputs]
    for value in unused:
        proto.graph.input.remove(value)
    for value in [*proto.graph.input, *proto.graph.output]:
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del proto.graph.value_info[:]
    return proto


def open_session(proto: onnx.ModelProto) -> object:
    """Return an onnxruntime session on the CPU with a fixed number of threads; None if there is nothing to compute."""
    if not proto.graph.node:
        return None
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = THREADS, 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def run_session(
    session: object, feed: Mapping[str, npt.NDArray[np.float32]], names: Sequence[str]
) -> dict[str, npt.NDArray[np.float32]]:
    """Run a session; `names` may include its inputs, which come back as they are."""
    computed = [name for name in names if name not in feed]
    if not computed:
        return dict(feed)
    results = session.run(computed, {name: np.ascontiguousarray(x) for name, x in feed.items()})  # type: ignore[attr-defined]
    return dict(feed) | dict(zip(computed, results, strict=True))
