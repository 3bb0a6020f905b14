"""A Program as JSON and back, so that `verify` can interpret what `compile` wrote.

Every dataclass becomes an object with its class name under ``"is"``; arrays are base64 of little-endian bytes.
"""

from __future__ import annotations

import base64
import dataclasses
import json
from typing import Any

import numpy as np

from clio_cc.errors import ClioError
from clio_cc.operators.base import Operator, Tensor
from clio_cc.operators.conv import Conv
from clio_cc.operators.elementwise import Add, Mul
from clio_cc.operators.movement import Concat, Pad, Reshape, RowSlice, RowStack, Transpose
from clio_cc.operators.pool import AveragePool, MaxPool
from clio_cc.operators.schedule import Schedule
from clio_cc.operators.softmax import Softmax
from clio_cc.operators.table import Table
from clio_cc.program import Program, Tap
from clio_cc.qformat import Requantize

OPERATORS: tuple[type[Operator], ...] = (
    Conv, Add, Mul, MaxPool, AveragePool, Table, Concat, Pad, Reshape, RowSlice, RowStack, Transpose, Softmax,
)  # fmt: skip
_CLASSES = {cls.__name__: cls for cls in (*OPERATORS, Program, Schedule, Tap, Tensor, Requantize)}


def to_json(program: Program) -> str:
    """Return the Program as JSON text; the same Program always gives the same text."""
    return json.dumps(_encode(program), indent=1) + "\n"


def from_json(text: str, where: str) -> Program:
    """Return the Program of :func:`to_json`.

    Raises:
        ClioError: the text is not such a Program; `where` names the file.
    """
    try:
        program = _decode(json.loads(text))
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise ClioError(f"not a program of this clio-cc: {error}", where, "compile again") from error
    if not isinstance(program, Program):
        raise ClioError("not a program of this clio-cc", where, "compile again")
    return program


def _encode(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: _encode(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"is": type(value).__name__, **fields}
    if isinstance(value, np.ndarray):
        little = np.ascontiguousarray(value, value.dtype.newbyteorder("<"))
        data = base64.b64encode(little.tobytes()).decode()
        return {"is": "array", "dtype": str(value.dtype), "shape": list(value.shape), "data": data}
    if isinstance(value, tuple | list):
        return [_encode(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_decode(item) for item in value)
    if not isinstance(value, dict):
        return value
    kind = value["is"]
    if kind == "array":
        flat = np.frombuffer(base64.b64decode(value["data"]), np.dtype(value["dtype"]).newbyteorder("<"))
        return flat.astype(value["dtype"]).reshape(value["shape"])
    return _CLASSES[kind](**{name: _decode(item) for name, item in value.items() if name != "is"})
