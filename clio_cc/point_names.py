"""What a partition point is called: the module that ends there, as people who wrote the network know it.

Converters name an operator by its path: ``/features/features.6/conv/conv.2/Conv`` (PyTorch),
``StatefulPartitionedCall/model/dense/MatMul`` (TensorFlow); PyTorch's newer exporter has plain names and keeps the
path as metadata. A cut is named by the widest module that holds its end and nothing of another block:
``features.6`` for the block above, ``features.6.conv.2`` for a cut inside it, ``dense``.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Collection, Sequence

import onnx_ir as ir

MODULES_KEY = "pkg.torch.onnx.name_scopes"
"""Metadata of a node: the modules that hold it, as the text of a Python list."""

Path = tuple[str, ...]


class ModulePaths:
    """Names for cuts of one graph."""

    def __init__(self, nodes: Sequence[ir.Node]) -> None:
        """Read the paths of all operators; a wrapper that holds all modules is left out of them."""
        paths = {node: _path(node) for node in nodes}
        depth = _wrapper_depth([path for path in paths.values() if len(path) > 1])
        self._paths = {node: path[depth:] if len(path) > 1 else path for node, path in paths.items()}
        self._sizes = Counter(path[:end] for path in self._paths.values() for end in range(1, len(path) + 1))

    def name(self, end: ir.Node, nodes: Collection[ir.Node]) -> str:
        """The widest module that holds `end` and otherwise only operators of `nodes`; else the operator itself."""
        path = self._paths[end]
        for depth in range(1, len(path) + 1):
            module = path[:depth]
            if self._sizes[module] == sum(self._paths[node][:depth] == module for node in nodes):
                return _written(module)
        return _written(path)


def clean_name(text: str) -> str:
    """A node's name as letters, digits and ``_.-``.

    Converters join the names of fused nodes by ``;`` and write paths and output numbers: the first name
    counts.
    """
    return _clean(_first(text)) or "cut"


def _clean(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", text).strip(".").lstrip("-")


def _first(text: str) -> str:
    return text.split(";")[0].split(":")[0].strip("/")


def _path(node: ir.Node) -> Path:
    """Modules from outside in, then the operator."""
    try:
        scopes = ast.literal_eval(node.metadata_props.get(MODULES_KEY, "[]"))
    except (SyntaxError, ValueError):
        scopes = []
    if isinstance(scopes, list) and any(scopes):
        return tuple(str(scope) for scope in scopes if scope)
    return tuple(part for part in _first(node.name or "").split("/") if part) or ("cut",)


def _wrapper_depth(paths: Sequence[Path]) -> int:
    """How many modules hold all others: ``StatefulPartitionedCall/model`` around everything."""
    depth = 0
    while paths and all(len(path) > depth + 1 and path[depth] == paths[0][depth] for path in paths):
        depth += 1
    return depth if any(len(path) > depth + 1 for path in paths) else 0  # one module of operators has a name


def _written(path: Path) -> str:
    """``features, features.6, conv, conv.2`` is ``features.6.conv.2``: PyTorch's children repeat their parent."""
    parts = [
        _clean(part)
        for part, child in zip(path, (*path[1:], ""), strict=True)
        if not child.startswith(f"{part}.")
    ]
    return ".".join(part for part in parts if part) or "cut"
