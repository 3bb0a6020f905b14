"""What training found: kept in the model file, and compiled as it is."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from digits import MODEL

from clio_cc import graph
from clio_cc.compiler import front_end
from clio_cc.errors import ClioError
from clio_cc.heads import Heads
from clio_cc.partition import partition_points
from clio_cc.point_names import MODULES_KEY
from clio_cc.trained import KEY, Trained, TrainedPoint, embed, read_trained

MODELS = Path(__file__).resolve().parent.parent.parent / "shared/data/models"
HINT = "\n  hint: another tool has changed it: compile the file that `clio-cc train` wrote"


def made_up(name: str = "p", *, counts: tuple[int, ...] = (1, 3), **changes: Any) -> TrainedPoint:
    """A point of five channels, with random weights."""
    rng, units = np.random.default_rng(0), counts[-1]

    def values(*shape: int) -> Any:
        return rng.standard_normal(shape).astype(np.float32)

    rows = 1 + len(counts)
    heads = Heads(counts, 3, values(rows, 5, units * 9), values(rows, 5))
    fields = {"weight": values(units, 5), "bias": values(units), "heads": heads} | changes
    return TrainedPoint(name, fields.pop("tensor", "t"), counts, **fields)


def whole(**changes: Any) -> Trained:
    fields = {
        "points": (made_up(), made_up("q.conv", counts=(2,), bits=4)),
        "scales": {"p/units": 2.0**-7, "q.conv/units": 0.25, "x": 2.0},
        "weight_scales": {"t": np.array([0.5, 2.0**-9])},
        "record": {"epochs": 3, "options": {"bandwidth": [50000, 2000000]}},
    } | changes
    return Trained(**fields)


def written(folder: Path, trained: Trained, change: Callable[[onnx.ModelProto], None] | None = None) -> Path:
    """The digits network with `trained` in it."""
    proto = onnx.load(MODEL)
    embed(proto, trained)
    if change is not None:
        change(proto)
    path = folder / "trained.onnx"
    path.write_bytes(proto.SerializeToString(deterministic=True))
    return path


def test_what_is_embedded_is_read(tmp_path: Path) -> None:
    wanted = whole()
    found = read_trained(written(tmp_path, wanted))
    assert found is not None
    assert (found.scales, found.record) == (wanted.scales, wanted.record)
    assert {name: list(each) for name, each in found.weight_scales.items()} == {"t": [0.5, 2.0**-9]}
    for point, other in zip(found.points, wanted.points, strict=True):
        for name in ("name", "tensor", "counts", "bits"):
            assert getattr(point, name) == getattr(other, name)
        assert (point.heads.counts, point.heads.window) == (other.heads.counts, other.heads.window)
        for array, same in zip(point.arrays(), other.arrays(), strict=True):
            assert array.dtype == np.float32 and (array == same).all()
    assert read_trained(MODEL) is None


def test_embedding_replaces_what_was_there(tmp_path: Path) -> None:
    proto = onnx.load(MODEL)
    embed(proto, whole())
    embed(proto, whole(points=(made_up("other"),), scales={}))
    once = onnx.load(MODEL)
    embed(once, whole(points=(made_up("other"),), scales={}))
    assert proto.SerializeToString(deterministic=True) == once.SerializeToString(deterministic=True)
    assert len([tensor for tensor in once.graph.initializer if tensor.name.startswith("clio_cc/")]) == 4


def test_a_model_without_its_trained_weights_is_refused(tmp_path: Path) -> None:
    def strip(proto: onnx.ModelProto) -> None:
        for tensor in list(proto.graph.initializer):
            if tensor.name.endswith("heads/weight"):
                proto.graph.initializer.remove(tensor)

    with pytest.raises(ClioError) as caught:
        read_trained(written(tmp_path, whole(), strip))
    assert str(caught.value) == (
        "trained.onnx: was trained for slices at 'p', but lacks its weights 'clio_cc/p/heads/weight'\n"
        "  hint: another tool has removed them: compile the file that `clio-cc train` wrote"
    )


def edited(**changes: Any) -> Callable[[onnx.ModelProto], None]:
    """Change the JSON; of the first point where it has such a key."""

    def change(proto: onnx.ModelProto) -> None:
        [entry] = [entry for entry in proto.metadata_props if entry.key == KEY]
        value = json.loads(entry.value)
        for name, each in changes.items():
            (value["points"][0] if name in value["points"][0] else value)[name] = each
        entry.value = json.dumps(value)

    return change


def cut_short(proto: onnx.ModelProto) -> None:
    next(entry for entry in proto.metadata_props if entry.key == KEY).value = '{"schema": 1, "points"'


def not_a_number(proto: onnx.ModelProto) -> None:
    [tensor] = [t for t in proto.graph.initializer if t.name == "clio_cc/p/encoder/bias"]
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.full(3, np.nan, np.float32), tensor.name))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (cut_short, "its metadata 'clio_cc.trained' is not what was written"),
        (edited(record=3), "its metadata 'clio_cc.trained' is not what was written"),
        (edited(bits="8"), "its metadata 'clio_cc.trained' is not what was written"),
        (edited(bits=5), "partition point 'p': its units have 5 bits, not 8, 6 or 4"),
        (edited(slices=[3, 1]), "partition point 'p': its slices [3, 1] do not ascend from 1 up"),
        (edited(slices=[0, 3]), "partition point 'p': its slices [0, 3] do not ascend from 1 up"),
        (edited(slices=[]), "partition point 'p': its slices [] do not ascend from 1 up"),
        (edited(window=2), "partition point 'p': its heads have a window of 2, which is not odd"),
        (
            edited(slices=[1, 2, 3]),
            "partition point 'p': 'clio_cc/p/heads/weight' has the shape (3, 5, 27), expected (4, 5, 27)",
        ),
        (
            edited(slices=[1, 4]),
            "partition point 'p': 'clio_cc/p/encoder/weight' has the shape (3, 5), expected (4, 3)",
        ),
        (not_a_number, "partition point 'p': 'clio_cc/p/encoder/bias' holds NaN or infinite values"),
        (edited(points=[]), "its partition points are []: none, or one twice"),
        (edited(scales={"x": 61}), "2**61 is no scale"),
        (edited(scales={}), "partition point 'q.conv' has units of 4 bits without a scale"),
    ],
)
def test_damage_is_refused(change: Callable[[onnx.ModelProto], None], words: str, tmp_path: Path) -> None:
    with pytest.raises(ClioError) as caught:
        read_trained(written(tmp_path, whole(), change))
    assert str(caught.value) == f"trained.onnx: what training left in it is damaged: {words}{HINT}"


def test_a_later_schema_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ClioError) as caught:
        read_trained(written(tmp_path, whole(), edited(schema=2)))
    assert str(caught.value) == (
        "trained.onnx: was trained by another version of clio-cc: 'clio_cc.trained' has schema 2, this one reads 1\n"
        "  hint: train again, or compile with that version"
    )


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: whole(scales={"x": 0.3}), "the scale 0.3 of tensor 'x' is not a power of two from 2**-60 to 2**60"),
        (
            lambda: whole(weight_scales={"t": np.array([0.5, 0.0])}),
            "the scale 0 of the weights of tensor 't' is not a power of two from 2**-60 to 2**60",
        ),
        (lambda: whole(points=(made_up(), made_up())), "its partition points are ['p', 'p']: none, or one twice"),
        (lambda: made_up(heads=made_up(counts=(3,)).heads), "its heads are for the slices [3], not [1, 3]"),
        (lambda: made_up(counts=(1, 6), weight=np.ones((6, 5))), "it has 6 units of 5 channels"),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_a_mistake_of_the_caller(
    make: Callable[[], object], words: str
) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
        make()


# --- the graph beside it -------------------------------------------------------------------------------


def described(model: Any) -> Any:
    """All that has a name."""
    nodes = [
        (node.name, node.op_type, [value and value.name for value in node.inputs], node.outputs[0].name)
        for node in model.graph
    ]
    points = partition_points(model, inside_blocks=True)
    return nodes, [dataclasses.astuple(point) for point in points]


def with_scopes(proto: onnx.ModelProto) -> None:
    """As PyTorch's newer exporter writes it: plain names, and modules as metadata."""
    for number, node in enumerate(proto.graph.node):
        modules = [part for part in node.name.split("/") if part]
        node.name = f"node_{number}"
        node.metadata_props.add(key=MODULES_KEY, value=repr(["", *modules]))


@pytest.mark.parametrize("name", ["digits", "scopes", "resnet8_cifar10", "mobilenetv2_imagenette96"])
def test_the_graph_that_training_writes_keeps_its_names(name: str, tmp_path: Path) -> None:
    """What training trains is the graph after the passes; its tensors' names are what formats go by."""
    source = MODEL if name in ("digits", "scopes") else MODELS / f"{name}.onnx"
    if not source.exists():
        pytest.skip(f"needs {source}")
    if name == "scopes":
        proto = onnx.load(source)
        with_scopes(proto)
        source = tmp_path / "scopes.onnx"
        onnx.save(proto, source)
    first = front_end(source)
    proto = graph.to_proto(first)
    embed(proto, whole())
    path = tmp_path / "trained.onnx"
    path.write_bytes(proto.SerializeToString(deterministic=True))
    second = front_end(path)
    assert described(second) == described(first)
    assert graph.to_bytes(second) == graph.to_bytes(first)
    if name == "scopes":
        assert [point.name for point in partition_points(second)] == [
            point.name for point in partition_points(front_end(MODEL))
        ]
