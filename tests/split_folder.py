"""A hand-written output folder: two layers in integers that are exact in floats, cut between them, and a cloud graph."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from graph_text import parse_proto
from onnx import numpy_helper

from clio_cc.operators.base import Tensor
from clio_cc.operators.conv import Conv
from clio_cc.program import Program, Tap
from clio_cc.program_json import to_json
from clio_cc.qformat import Requantize

Array = npt.NDArray[Any]

CHANNELS, CLASSES, ORDER, SLICES = 4, 4, (2, 0, 3, 1), (1, 2, 4)
CLOUD = "cloud/front/1/model.onnx"
_RNG = np.random.default_rng(3)
FIRST = _RNG.integers(-2, 3, (CHANNELS, 3, 1, 1)).astype(np.int8)
SECOND = _RNG.integers(-2, 3, (CLASSES, CHANNELS, 4, 4)).astype(np.int8)
BY_COUNT = _RNG.integers(-99, 99, (CHANNELS + 1, CLASSES, 1, 1)).astype(np.float32)
"""What the cloud adds to the scores for each count received: none for all units."""
BY_COUNT[CHANNELS] = 0


def samples(count: int) -> Array:
    """Return seeded images ``[count, 3, 4, 4]`` of whole numbers from 0 to 15."""
    return np.random.default_rng(5).integers(0, 16, (count, 3, 4, 4)).astype(np.float32)


def features(x: Array) -> Array:
    """Return what crosses the cut, channels in the graph's order."""
    return np.asarray(np.maximum(0, np.einsum("oc,nchw->nohw", FIRST[:, :, 0, 0].astype(np.float64), x)))


def scores(r: Array) -> Array:
    """Return the class scores ``[count, classes]``."""
    return np.asarray(np.einsum("ochw,nchw->no", SECOND.astype(np.float64), r))


def program() -> Program:
    """The whole network on the device; its scores are rounded to steps of 64."""
    x, r, y = (
        Tensor("x", (4, 4, 3), 1.0),
        Tensor("r", (4, 4, CHANNELS), 1.0),
        Tensor("y", (1, 1, CLASSES), 64.0),
    )
    zeros, exact, rounded = np.zeros(4, np.int32), np.zeros(4, np.int32), np.full(4, 6, np.int32)
    first = Conv(
        name="conv", kind="Conv+Relu", inputs=(x,), output=r, weight=FIRST.transpose(0, 2, 3, 1), bias=zeros,
        requantize=Requantize(exact, None, 0, 127),
    )  # fmt: skip
    second = Conv(
        name="conv2", kind="Conv", inputs=(r,), output=y, weight=SECOND.transpose(0, 2, 3, 1), bias=zeros,
        requantize=Requantize(rounded),
    )  # fmt: skip
    return Program((x,), (first, second), ("r", "y"), (Tap("front", "r", CHANNELS, 16, ORDER),))


def float_model() -> onnx.ModelProto:
    """The original."""
    text = (
        f"m (float[1,3,4,4] x) => (float[1,{CLASSES},1,1] y) {{ a = Conv(x, w) r = Relu(a) y = Conv(r, v) }}"
    )
    model = parse_proto(text)
    model.graph.initializer.append(numpy_helper.from_array(FIRST.astype(np.float32), "w"))
    model.graph.initializer.append(numpy_helper.from_array(SECOND.astype(np.float32), "v"))
    return onnx.shape_inference.infer_shapes(model)


def cloud_model() -> onnx.ModelProto:
    """The second layer on units in their order; every count has its own bias."""
    text = (
        f"m (int8[N,{CHANNELS},4,4] x_units, int64[N] x_received) => (float[N,{CLASSES},1,1] y)"
        "{ f = Cast<to=1>(x_units) s = Conv(f, v) b = Gather<axis=0>(t, x_received) y = Add(s, b) }"
    )
    model = parse_proto(text)
    for value, name in zip(model.graph.input, ("units", "received"), strict=True):
        value.name = name
    model.graph.node[0].input[0], model.graph.node[2].input[1] = "units", "received"
    weight = SECOND[:, list(ORDER)].astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weight, "v"))
    model.graph.initializer.append(numpy_helper.from_array(BY_COUNT, "t"))
    return model


def expected(x: Array, count: int) -> Array:
    """Return the class that the cloud answers when `count` units arrive."""
    r = features(x)
    r[:, list(ORDER[count:])] = 0
    return np.asarray((scores(r) + BY_COUNT[count, :, 0, 0]).argmax(axis=1))


def manifest() -> dict[str, Any]:
    """What `compile` would say, without digests."""
    crossing = {"scale": 1.0, "graph_shape": [1, CHANNELS, 4, 4], "order": [2, 3, 1]}
    answer = {"scale": 64.0, "graph_shape": [1, CLASSES, 1, 1], "order": [2, 3, 1]}
    point = {
        "name": "front", "tensor": "r", "shape": [1, CHANNELS, 4, 4], "layer": "conv", "slices": [*SLICES],
        "units": CHANNELS, "unit_bytes": 16, "scale": 1.0, "order": [*ORDER], "cloud": CLOUD,
    }  # fmt: skip
    return {
        "schema": 1,
        "local": True,
        "input_bytes": 48,
        "inputs": [{"name": "x", "shape": [4, 4, 3], "scale": 1.0, "graph_shape": [1, 3, 4, 4], "order": [2, 3, 1]}],
        "outputs": [
            {"name": "r", "shape": [4, 4, CHANNELS], **crossing},
            {"name": "y", "shape": [1, 1, CLASSES], **answer},
        ],
        "partitions": [point],
        "files": {},
    }  # fmt: skip


def digest(content: bytes) -> str:
    """As the manifest has it."""
    return hashlib.sha256(content).hexdigest()


def write(out: Path) -> Path:
    """Write the folder; returns it."""
    files = {
        "program.json": to_json(program()).encode(),
        "float.onnx": float_model().SerializeToString(),
        CLOUD: cloud_model().SerializeToString(),
    }
    made = manifest()
    for name, content in files.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(content)
        made["files"][name] = digest(content)
    (out / "manifest.json").write_text(json.dumps(made))
    return out
