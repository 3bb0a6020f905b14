"""The accuracy marks on real data, by the code of benchmarks/accuracy.py; skipped where ../shared is absent."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def accuracy(shared: Path) -> ModuleType:
    path = Path(__file__).resolve().parent.parent / "benchmarks/accuracy.py"
    spec = importlib.util.spec_from_file_location("accuracy", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["accuracy"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    module.SHARED = shared  # type: ignore[attr-defined]
    return module


@pytest.mark.parametrize("mode", ["shift", "mulshift"])
@pytest.mark.parametrize("part", ["resnet8", "dscnn", "mobilenetv1", "autoencoder", "mobilenetv2"])
def test_marks(accuracy: ModuleType, part: str, mode: str) -> None:
    if (part, mode) in (("resnet8", "mulshift"), ("mobilenetv1", "mulshift")):
        pytest.skip("no mark")
    rows = list(accuracy.PARTS[part](mode))
    missed = [accuracy.as_text(row) for row in rows if not row.reached]
    assert rows and not missed, "\n".join(missed)
