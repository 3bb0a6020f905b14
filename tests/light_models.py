"""The light models inside the onnx wheel: real structures, weights to be filled in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.backend.test
from numpy.typing import NDArray
from onnx import numpy_helper

FOLDER = Path(onnx.backend.test.__file__).parent / "data" / "light"
NAMES = tuple(path.stem for path in sorted(FOLDER.glob("light_*.onnx")))
# A quarter of the channels of the large ones is enough to see cuts.
SHRINK = {
    f"light_{name}": 4 for name in "bvlc_alexnet densenet121 inception_v2 resnet50 vgg19 zfnet512".split()
}


def filled(name: str) -> onnx.ModelProto:
    """A light model with seeded weights."""
    return fill(onnx.load(FOLDER / f"{name}.onnx"), SHRINK.get(name, 1))


def fill(model: onnx.ModelProto, shrink: int = 1) -> onnx.ModelProto:
    """Put an initializer for each ConstantOfShape: He-scaled normals, scales and variances near 1. In place.

    Args:
        model: Weights are ConstantOfShape, as in the wheel.
        shrink: Keep one of so many channels (only where no other constant says how many there are).
    """
    rng = np.random.default_rng(0)
    graph = model.graph
    known = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    readers = {name: (node.op_type, place) for node in graph.node for place, name in enumerate(node.input)}
    kept = [node for node in graph.node if node.op_type != "ConstantOfShape"]
    for node in graph.node:
        if node.op_type == "ConstantOfShape":
            dims = [_shrunk(dim, shrink, place) for place, dim in enumerate(known[node.input[0]])]
            array = _contents(rng, dims, *readers[node.output[0]])
            graph.initializer.append(numpy_helper.from_array(array, node.output[0]))
    reshaped = {node.input[1] for node in kept if node.op_type == "Reshape"}
    for tensor in graph.initializer:
        array = known.get(tensor.name, np.zeros(0))
        if tensor.name in reshaped:
            dims = [_shrunk(dim, shrink, place) for place, dim in enumerate(array)]
            tensor.CopyFrom(numpy_helper.from_array(np.asarray(dims, np.int64), tensor.name))
        elif array.ndim == 1 and array.dtype == np.float32:  # short ones came with their contents
            tensor.CopyFrom(numpy_helper.from_array(array[: _shrunk(len(array), shrink, 0)], tensor.name))
    del graph.node[:]
    graph.node.extend(kept)
    del graph.value_info[:]
    model.ir_version = max(model.ir_version, 4)  # from there on constants need not be inputs
    constants = {tensor.name for tensor in graph.initializer}
    for value in [value for value in graph.input if value.name in constants]:
        graph.input.remove(value)
    for value in graph.output:
        value.type.tensor_type.shape.dim[1].dim_value //= shrink
    return model


def _shrunk(dim: int, shrink: int, place: int) -> int:
    """A number of channels; not the color channels, nor a window's height and width."""
    return int(dim) // shrink if place < 2 and dim > 11 else int(dim)


def _contents(rng: np.random.Generator, dims: list[int], op: str, place: int) -> NDArray[np.float32]:
    normal = rng.standard_normal(dims, np.float32)
    if op == "BatchNormalization" and place in (1, 4):
        return (1 + 0.2 * np.abs(normal)).astype(np.float32)
    if len(dims) < 2:
        return np.float32(0.05) * normal
    fan_in = int(np.prod(dims[1:]))
    return normal * np.float32(np.sqrt(2 / max(1, fan_in)))
