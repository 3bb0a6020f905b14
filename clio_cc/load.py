"""Read a model file and bring it into the one form that everything behind works on.

ONNX of opset 7 or later, external data, dynamic batch → checked, batch 1, opset 21, simplified, every shape
known.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx.external_data_helper
import onnx.inliner
import onnx.version_converter
import onnx_ir as ir
import onnxsim
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import numpy_helper

from clio_cc.errors import ClioError, raise_collected
from clio_cc.point_names import MODULES_KEY

logger = logging.getLogger(__name__)

OPSET = 21
"""The opset of every model behind this module: the first where Gelu and GroupNormalization are operators and
onnxruntime 1.18 still reads it.
"""
IR_VERSION = 10
"""The ONNX file version that goes with it."""
_OLDEST = 7
# Here an infinite constant is a bound, a mask or a fill, not a broken weight.
_MAY_BE_INFINITE = frozenset(
    ("Clip", "Min", "Max", "Where", "Pad", "Add", "Less", "Greater", "Equal", "Expand", "ConstantOfShape")
)


def load_model(path: Path) -> ir.Model:
    """Load, check and simplify a model.

    Args:
        path: An ONNX file (protobuf); external data is looked for beside it.

    Returns:
        A valid float model of opset 21 with batch 1; the shapes of all tensors are known as far as ONNX can
        infer them.

    Raises:
        ClioError: The file cannot be read, is not a complete and valid ONNX model, has a dynamic dimension
        other than the batch,
            or holds NaN or infinite weights.
    """
    proto = read_proto(path)
    where = path.name
    _check_opset(proto, where)
    _load_external(proto, path)
    _check_weights(proto, where)
    proto.ir_version = IR_VERSION
    _drop_initialized_inputs(proto.graph)
    _pin_batch(proto.graph, where)
    _check_valid(proto, where)
    modules = _modules(proto.graph)
    proto = _simplified(_converted(proto, where), where)
    for node in proto.graph.node:
        if node.name in modules:
            node.metadata_props.add(key=MODULES_KEY, value=modules[node.name])
    _check_computes(proto.graph, where)
    return ir.from_proto(proto)


def model_sha256(path: Path) -> str:
    """SHA-256 in hexadecimal of the file's bytes, then of its external data files', ordered by name."""
    digest = hashlib.sha256(_read(path))
    for location in sorted({location for _, location, _ in _external(read_proto(path))}):
        digest.update(_read(path.parent / location))
    return digest.hexdigest()


# --- reading --------------------------------------------------------------------------------------


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ClioError("no such file", str(path)) from None
    except OSError as error:
        raise ClioError(f"cannot be read: {error.strerror}", str(path)) from None


def read_proto(path: Path) -> onnx.ModelProto:
    """Parse a model file without looking at external data; ClioError if it is not ONNX or ends early."""
    data = _read(path)
    if not data:
        raise ClioError("is empty, expected an ONNX model", path.name)
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError:
        proto.Clear()
    if proto.ir_version and proto.HasField("graph") and proto.opset_import:
        return proto
    missing = missing_bytes(data)
    if missing:
        raise ClioError(
            f"is truncated: it ends at byte {len(data)}, at least {missing} more are missing",
            path.name,
            "copy or export the model again",
        )
    raise ClioError("is not an ONNX model", path.name, "export the model to ONNX first")


def missing_bytes(data: bytes) -> int:
    """How many bytes a cut-off ONNX file lacks at least; 0 if it is whole or not ONNX at all.

    A file is a sequence of fields (key, length, bytes); the last one of a cut file is announced longer than
    what follows.
    """
    at, fields, names = 0, 0, onnx.ModelProto.DESCRIPTOR.fields_by_number
    while at < len(data):
        key, at = _varint(data, at)
        field = names.get(key >> 3)
        if (
            field is None or key & 7 not in (0, 2) or (fields == 0 and key != 8)
        ):  # every exporter writes ir_version first
            return 0
        length, at = _varint(data, at)
        if at > len(data):
            return 1 if fields else 0
        at += length if key & 7 == 2 else 0
        fields += 1
    return at - len(data) if at > len(data) else int(fields > 0)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A protobuf varint and the position behind it: beyond the end if the data stops in the middle."""
    value = shift = 0
    while at < len(data):
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
    return value, len(data) + 1


# --- external data --------------------------------------------------------------------------------


def _tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    yield from proto.graph.initializer
    for node in proto.graph.node:
        yield from (
            attribute.t for attribute in node.attribute if attribute.type == onnx.AttributeProto.TENSOR
        )


def _external(proto: onnx.ModelProto) -> list[tuple[onnx.TensorProto, str, int]]:
    """(tensor, file, bytes that the file must have) of every tensor stored outside."""
    found = []
    for tensor in _tensors(proto):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            end = int(entries.get("offset", 0)) + int(entries.get("length", 0))
            found.append((tensor, entries.get("location", ""), end))
    return found


def _load_external(proto: onnx.ModelProto, path: Path) -> None:
    needed: dict[str, tuple[str, int]] = {}
    for tensor, location, end in _external(proto):
        name, most = needed.get(location, (tensor.name, 0))
        needed[location] = (name, max(most, end))
    errors = []
    for location, (name, end) in sorted(needed.items()):
        file = path.parent / location
        if not location or Path(location).is_absolute() or ".." in Path(location).parts:
            errors.append(
                f"external data file '{location}' of initializer '{name}' lies outside the model's folder"
            )
        elif not file.is_file():
            errors.append(f"external data file '{location}' is missing (initializer '{name}')")
        elif file.stat().st_size < end:
            held = file.stat().st_size
            errors.append(
                f"external data file '{location}' is truncated: it has {held} bytes, {end} are needed"
            )
    raise_collected(errors, path.name, "keep the data files beside the model, under their names")
    if needed:
        onnx.external_data_helper.load_external_data_for_model(proto, str(path.parent))


# --- checks ---------------------------------------------------------------------------------------


def _check_opset(proto: onnx.ModelProto, where: str) -> None:
    version = next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), None)
    if version is None:
        raise ClioError("does not import the standard ONNX operators", where)
    newest = onnx.defs.onnx_opset_version()
    if not _OLDEST <= version <= newest:
        message = f"has opset {version}, this version of clio-cc reads {_OLDEST} to {newest}"
        raise ClioError(message, where, f"export the model with opset {OPSET}")


def _check_weights(proto: onnx.ModelProto, where: str) -> None:
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in proto.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    constants = [
        (node.output[0], a.t)
        for node in proto.graph.node
        if node.op_type == "Constant"
        for a in node.attribute
        if a.name == "value"
    ]
    errors = []
    for name, tensor in [*((tensor.name, tensor) for tensor in proto.graph.initializer), *constants]:
        if tensor.data_type not in (
            onnx.TensorProto.FLOAT,
            onnx.TensorProto.DOUBLE,
            onnx.TensorProto.FLOAT16,
        ):
            continue
        users = readers.get(name, [])
        complaint = _not_finite(
            numpy_helper.to_array(tensor), all(user.op_type in _MAY_BE_INFINITE for user in users)
        )
        if complaint:
            reader = f" of node '{users[0].name or users[0].output[0]}' ({users[0].op_type})" if users else ""
            errors.append(f"initializer '{name}'{reader} holds {complaint}")
    raise_collected(errors, where, "the training went wrong or the file is damaged; export a healthy model")


def _not_finite(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]], may_be_infinite: bool) -> str:
    if np.isfinite(array).all():
        return ""
    nan, infinite = int(np.isnan(array).sum()), 0 if may_be_infinite else int(np.isinf(array).sum())
    counts = [
        f"{count} {what} value{'s' if count > 1 else ''}"
        for count, what in ((nan, "NaN"), (infinite, "infinite"))
        if count
    ]
    return " and ".join(counts)


def _check_valid(proto: onnx.ModelProto, where: str) -> None:
    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as error:
        raise ClioError(f"is not valid ONNX: {_first_line(error)}", where) from None


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


# --- shapes ---------------------------------------------------------------------------------------


def _drop_initialized_inputs(graph: onnx.GraphProto) -> None:
    """Before IR version 4 every initializer was listed as an input too."""
    initialized = {tensor.name for tensor in graph.initializer}
    kept = [value for value in graph.input if value.name not in initialized]
    del graph.input[:]
    graph.input.extend(kept)


def _pin_batch(graph: onnx.GraphProto, where: str) -> None:
    """Set the batch of every input to 1; stored shapes of everything else are inferred anew."""
    errors = []
    for value in graph.input:
        if not value.type.HasField("tensor_type") or not value.type.tensor_type.HasField("shape"):
            errors.append(f"input '{value.name}' has no shape")
            continue
        dims = value.type.tensor_type.shape.dim
        for index, dim in enumerate(dims):
            if dim.dim_value > 0:
                if index == 0 and len(dims) > 1 and dim.dim_value != 1:
                    errors.append(
                        f"input '{value.name}' has batch {dim.dim_value}, a device runs one sample at a time"
                    )
            elif index == 0:
                dim.dim_value = 1
            else:
                label = f" ('{dim.dim_param}')" if dim.dim_param else ""
                errors.append(
                    f"input '{value.name}' has a dynamic dimension {index}{label}; "
                    "only the batch, dimension 0, may be dynamic"
                )
    raise_collected(errors, where, "export the model with a fixed input shape and batch 1")
    del graph.value_info[:]
    for value in graph.output:
        for dim in value.type.tensor_type.shape.dim:
            dim.Clear()


def _check_computes(graph: onnx.GraphProto, where: str) -> None:
    """Refuse what is no network: inputs without a batch, outputs that no operator computes."""
    computed = {name for node in graph.node if node.op_type != "Constant" for name in node.output}
    errors = [
        f"input '{value.name}' has fewer than two dimensions; the first is the batch"
        for value in graph.input
        if len(value.type.tensor_type.shape.dim) < 2
    ]
    if not graph.output:
        errors.append("the graph has no output")
    errors += [f"output '{v.name}' is constant or an input" for v in graph.output if v.name not in computed]
    raise_collected(errors, where, "export the whole network, from its input to its answer")


# --- one form -------------------------------------------------------------------------------------


def _converted(proto: onnx.ModelProto, where: str) -> onnx.ModelProto:
    """The model in our opset, local functions inlined."""
    if proto.functions:
        proto = onnx.inliner.inline_local_functions(proto)
    version = next(o.version for o in proto.opset_import if o.domain in ("", "ai.onnx"))
    if version == OPSET:
        return proto
    try:
        return onnx.version_converter.convert_version(proto, OPSET)
    except (RuntimeError, ValueError) as error:
        message = f"cannot be converted from opset {version} to {OPSET}: {_first_line(error)}"
        raise ClioError(message, where, f"export the model with opset {OPSET}") from None


def _modules(owner: onnx.GraphProto) -> dict[str, str]:
    """What the exporter says about the modules that hold a node, by its name; conversion would lose it."""
    entries = ((node.name, entry) for node in owner.node for entry in node.metadata_props)
    return {name: entry.value for name, entry in entries if name and entry.key == MODULES_KEY}


def _simplified(proto: onnx.ModelProto, where: str) -> onnx.ModelProto:
    """Constants folded and shapes inferred by onnxsim.

    Its graph optimizer stays off: what happens to nodes is the business of `clio_cc.passes`, where it can be
    watched and keeps names.
    """
    try:
        simple, _ = onnxsim.simplify(proto, perform_optimization=False, certify=False)
        inferred = onnx.shape_inference.infer_shapes(
            simple, check_type=True, strict_mode=True, data_prop=True
        )
    except (
        RuntimeError,
        ValueError,
        onnx.shape_inference.InferenceError,
        onnx.checker.ValidationError,
    ) as error:
        raise ClioError(f"is not a valid model: {_first_line(error)}", where) from None
    for node in inferred.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    del inferred.metadata_props[:]
    _check_valid(inferred, where)
    return inferred
