"""The example network, compiled in this process: once per set of options, as it takes seconds."""

from __future__ import annotations

import functools
from pathlib import Path

from clio_cc.compiler import Compiled, Options, compile_model

FOLDER = Path(__file__).resolve().parent.parent / "examples/digits"
MODEL = FOLDER / "digits.onnx"
CALIBRATION = FOLDER / "digits-calibration.npz"


@functools.cache
def compiled(
    target: str = "stm32f7", partition: str = "auto", requant: str = "shift", optimize: str = "latency"
) -> Compiled:
    """Return the example compiled with its calibration data."""
    options = Options(
        MODEL, target, CALIBRATION, samples=64, partition=partition, requant=requant, optimize=optimize
    )
    return compile_model(options, lambda stage, done, of: None)
