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
import trained_digits
from conftest import Done
from digits import CALIBRATION, MODEL

from clio_cc import graph, reference
from clio_cc.calibrate import load_samples
from clio_cc.compiler import Compiled, Options, compile_model, front_end
from clio_cc.errors import ClioError
from clio_cc.heads import Heads
from clio_cc.operators.conv import Conv
from clio_cc.partition import partition_points
from clio_cc.point_names import MODULES_KEY
from clio_cc.quantization.layers import ENCODE, ConvLayer
from clio_cc.terminal import print_compiled
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
    fields: dict[str, Any] = {
        "points": (made_up(), made_up("q.conv", counts=(2,), bits=4)),
        "scales": {"p/units": 2.0**-7, "q.conv/units": 0.25, "x": 2.0},
        "weight_scales": {"t": np.array([0.5, 2.0**-9])},
        "local": True,
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
    assert (found.scales, found.local, found.record) == (wanted.scales, wanted.local, wanted.record)
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
        (edited(bits=5), "partition point 'p': its units have 5 bits, not one of (4, 6, 8)"),
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
        (lambda: whole(points=(made_up(), made_up())), "its partition points are ['p', 'p']: one of them twice"),
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


# --- compile -------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Case:
    """The example as if trained, in one folder: the model file, what was put in, and what is in it, compiled."""

    path: Path
    trained: Trained
    result: Compiled
    out: Path


def quiet(_stage: str, _done: int, _of: int) -> None:
    """No progress."""


def options(path: Path, **changes: Any) -> Options:
    return Options(path, "stm32f7", CALIBRATION, samples=trained_digits.SAMPLES, **changes)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("trained")
    path, out = folder / "digits.onnx", folder / "out"
    trained_digits.write(path)
    trained = read_trained(path)
    assert trained is not None
    result = compile_model(options(path), quiet)
    result.files.write(out)
    return Case(path, trained, result, out)


@pytest.fixture(scope="module")
def float_only(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file without formats."""
    path = tmp_path_factory.mktemp("float") / "digits.onnx"
    trained_digits.write(path, formats=False)
    return path


def test_the_trained_points_are_what_auto_means(case: Case) -> None:
    found = json.loads(case.result.files.files["manifest.json"])
    assert found["training"] == {"epochs": 3, "seed": 7} and found["warnings"] == []
    assert [each["name"] for each in found["partitions"]] == ["block1", "pointwise"]
    for each, point in zip(found["partitions"], case.trained.points, strict=True):
        assert (each["trained"], each["encoder"]["method"], each["residual"]) == (True, "trained", None)
        assert each["slices"] == list(point.counts) and each["units"] == point.counts[-1]
        assert each["tensor"] == point.tensor and each["encoder"]["layer"] == point.units
        assert each["scale"] == case.trained.scales[point.units] and each["unit_bits"] == point.bits
        assert each["unit_bytes"] == each["shape"][2] * each["shape"][3] * point.bits // 8
        assert each["encoder"]["window"] == 3


def test_a_network_trained_as_a_whole_is_cut_as_any_other(tmp_path: Path) -> None:
    proto = graph.to_proto(front_end(MODEL))
    embed(proto, Trained((), record={"seed": 7}))
    (tmp_path / "whole.onnx").write_bytes(proto.SerializeToString(deterministic=True))
    found = compile_model(options(tmp_path / "whole.onnx"), quiet).manifest
    plain = compile_model(options(MODEL), quiet).manifest
    assert (found["training"], plain["training"]) == ({"seed": 7}, None)
    assert found["warnings"] == plain["warnings"]
    assert found["partitions"] == [
        each | {"cloud": each["cloud"].replace("digits", "whole")} for each in plain["partitions"]
    ]


def test_formats_are_the_given_ones(case: Case) -> None:
    program, network = case.result.quantized.program, case.result.quantized.network
    scales = {name: tensor.scale for name, tensor in program.tensors.items()}
    assert {name: scales[name] for name in case.trained.scales} == dict(case.trained.scales)
    layers = {layer.output: layer for layer in network.layers}
    convs = [op for op in program.operators if isinstance(op, Conv)]
    assert {op.output.name for op in convs} == set(case.trained.weight_scales)
    for op in convs:
        layer, scale = layers[op.output.name], case.trained.weight_scales[op.output.name]
        assert isinstance(layer, ConvLayer)
        x = scales[op.inputs[0].name]
        columns = scale[:, None, None, None]
        wanted = np.clip(np.floor(layer.weight / columns + 0.5), -128, 127)
        np.testing.assert_array_equal(op.weight, wanted)
        np.testing.assert_array_equal(op.bias, np.floor(layer.bias / (x * scale) + 0.5))
        np.testing.assert_array_equal(2.0**-op.requantize.shift, x * scale / op.output.scale)


def test_the_encoder_is_the_given_one_in_a_layer_of_its_own(case: Case) -> None:
    layers = {layer.name: layer for layer in case.result.quantized.network.layers}
    for point in case.trained.points:
        layer = layers[point.units]
        assert isinstance(layer, ConvLayer) and layer.kind == ENCODE
        np.testing.assert_array_equal(layer.weight[:, 0, 0], point.weight)
        np.testing.assert_array_equal(layer.bias, point.bias)
    lowest = {op.name: op.requantize.lo for op in case.result.program.operators if isinstance(op, Conv)}
    assert (lowest["block1/units"], lowest["pointwise/units"]) == (-128, -8)


def test_the_device_computes_what_was_trained(case: Case) -> None:
    """A float network that rounds every tensor to the grid, as training sees it, and the program: the same steps."""
    quantized = case.result.quantized
    [name] = quantized.network.inputs
    samples = load_samples(case.result.graph, CALIBRATION, most=32)
    x = quantized.network.layouts[name].to_device(samples.inputs[name])
    wanted = trained_digits.rounded_run(quantized.network, case.trained, x)
    got = reference.run(case.result.program, quantized.quantize_inputs(samples.inputs))
    for tap, value in zip(case.result.program.taps, got, strict=True):
        np.testing.assert_array_equal(value, wanted[tap.tensor])
    assert len(np.unique(got[0])) > 40 and (got[1].min(), got[1].max()) == (-8, 7)  # something to compare


def test_heads_in_the_cloud_are_the_given_ones(case: Case) -> None:
    for point in case.trained.points:
        proto = onnx.load_from_string(case.result.files.files[f"cloud/digits_{point.name}/1/model.onnx"])
        stored = {each.name: onnx.numpy_helper.to_array(each) for each in proto.graph.initializer}
        np.testing.assert_array_equal(stored["heads_weights"], point.heads.weight)
        np.testing.assert_array_equal(stored["heads_biases"], point.heads.bias)
        assert not any(name.startswith("clio_cc/") for name in stored)


def test_commands_behind_compile_take_it(case: Case, clio: Callable[..., Done]) -> None:
    verified = clio("verify", case.out, "--board", "host", "--inputs", "3", "--json")
    assert verified.code == 0, verified.out + verified.err
    assert json.loads(verified.out)["bit_exact"] is True
    done = clio("evaluate", case.out, "--data", CALIBRATION.parent / "digits-test.npz", "--json")
    assert done.code == 0, done.err
    results = json.loads(done.out)["results"]
    sizes = {(each["partition"], each["slices"]): each["bytes"] for each in results}
    assert sizes == {
        ("block1", 1): 64, ("block1", 4): 256, ("block1", 6): 384, ("pointwise", 2): 16, ("pointwise", 5): 40
    }  # fmt: skip
    values = {(each["partition"], each["slices"]): each["value"] for each in results}
    assert values["block1", 6] > 0.9 and values["pointwise", 5] > 0.8
    assert "trained units and heads, an extra" in (case.out / "report.html").read_text(encoding="utf-8")


def test_the_table_says_trained(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    print_compiled(case.result, case.out)
    units = [line.split()[:5] for line in capsys.readouterr().out.splitlines()]
    assert ["block1", "trained", "6", "x", "64"] in units and ["pointwise", "trained", "5", "x", "8"] in units


def test_what_was_not_trained_is_made_as_always(case: Case, tmp_path: Path) -> None:
    """Fewer counts, a point more, a layer without formats: all else is still as it was trained."""
    first = "/block1/first/relu/Relu_output_0"
    scales, weights = dict(case.trained.scales), dict(case.trained.weight_scales)
    del scales[first], weights[first]
    less = dataclasses.replace(case.trained, scales=scales, weight_scales=weights)
    path = written(tmp_path, less)
    result = compile_model(options(path, partition="block1,block2,local", slices="1,4"), quiet)
    found = json.loads(result.files.files["manifest.json"])
    assert found["warnings"] == [
        "partition point 'block2' was not trained: its units and heads are made in closed form; "
        "trained: block1, pointwise",
        "not trained were the formats of /block1/first/relu/Relu: calibration chooses them, and trained units may come "
        "out otherwise than in training",
    ]
    assert [each["trained"] for each in found["partitions"]] == [True, False]
    assert [each["slices"] for each in found["partitions"]] == [[1, 4], [1, 4]]
    point = case.trained.points[0]
    heads = onnx.load_from_string(result.files.files["cloud/trained_block1/1/model.onnx"]).graph.initializer
    stored = {each.name: onnx.numpy_helper.to_array(each) for each in heads}
    np.testing.assert_array_equal(stored["heads_weights"], point.heads.weight[:3, :, : 4 * 9])
    np.testing.assert_array_equal(stored["heads_biases"], point.heads.bias[:3])
    tensors = result.quantized.program.tensors
    assert tensors["block1/units"].shape[-1] == 4
    assert tensors["block1/units"].scale == case.trained.scales["block1/units"]
    trunk = {name: scale for name, scale in scales.items() if name in tensors}
    assert {name: tensors[name].scale for name in trunk} == trunk
    assert tensors[first].scale < case.trained.scales[first]  # which is twice what calibration would choose
    assert result.manifest["local"] is True


def test_without_formats_the_device_is_quantized_as_always(float_only: Path) -> None:
    result = compile_model(options(float_only, partition="pointwise", requant="mulshift"), quiet)
    [entry] = json.loads(result.files.files["manifest.json"])["partitions"]
    assert (entry["trained"], entry["encoder"]["method"], entry["unit_bits"]) == (True, "trained", 8)
    assert entry["encoder"]["layer"] == "pointwise/units"
    values = {row.slices: row.value for row in result.accuracy}
    assert values[5] > 0.8


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"slices": "1,2,4"},
            "--slices: partition point 'block1' was not trained for 2 units, only for 1, 4, 6\n"
            "  hint: give auto, or some of these",
        ),
        (
            {"slices": "5,7,9", "partition": "pointwise"},
            "--slices: partition point 'pointwise' was not trained for 7, 9 units, only for 2, 5\n"
            "  hint: give auto, or some of these",
        ),
        (
            {"units": "rotation"},
            "--units: units of partition point 'block1' were trained: there is no rotation of them\n"
            "  hint: give auto",
        ),
        (
            {"requant": "mulshift"},
            "--requant: 'digits.onnx' was trained for shifts: its formats are powers of two\n"
            "  hint: give shift",
        ),
    ],
)
def test_what_was_not_trained_is_refused(case: Case, changes: dict[str, str], words: str) -> None:
    with pytest.raises(ClioError) as caught:
        compile_model(options(case.path, **changes), quiet)
    assert str(caught.value) == words


def ones(channels: int, window: int) -> Heads:
    """Heads for two units."""
    weight = np.ones((2, channels, 2 * window**2), np.float32)
    return Heads((2,), window, weight, np.ones((2, channels), np.float32))


def only(**changes: Any) -> Trained:
    """For the example's block1, whose 16 channels are those of its Add and of the Relu behind it."""
    rows = {"weight": np.ones((2, 16)), "tensor": "/block1/Add_output_0", "heads": ones(16, 1)}
    return Trained((made_up("block1", counts=(2,), **{**rows, **changes}),))


def elsewhere() -> Trained:
    few = ones(32, 3)
    vector = made_up(
        "flatten", counts=(2,), tensor="/flatten/Flatten_output_0", weight=np.ones((2, 32)), heads=few
    )
    return Trained((made_up("nowhere"), vector))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            elsewhere,
            "was trained for slices at 'nowhere', which is no partition point of its graph\n"
            "  was trained for heads that see 3x3 positions at 'flatten', which is no image",
        ),
        (
            lambda: only(tensor="/stem/relu/Relu_output_0"),
            "was trained for units of tensor '/stem/relu/Relu_output_0', which is not the one at 'block1'",
        ),
        (
            lambda: only(weight=np.ones((2, 9)), heads=ones(9, 1)),
            "was trained for 9 channels at 'block1', which has 16",
        ),
    ],
)  # fmt: skip
def test_another_graph_is_refused(make: Callable[[], Trained], words: str, tmp_path: Path) -> None:
    path = written(tmp_path, make())
    with pytest.raises(ClioError) as caught:
        compile_model(options(path), quiet)
    assert str(caught.value) == f"trained.onnx: {words}{HINT}"
