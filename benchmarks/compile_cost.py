"""Wall time, processor time and peak memory of ``clio-cc compile``, calibration included.

    python benchmarks/compile_cost.py [--json] [--net NAME …] [--out FILE]

Each row is one run in a process of its own, cross compiler included. The larger networks lie beside the repository
(../shared/data); without them only the example of the repository is measured. Exits with 1 if a
row misses its mark or does not compile.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
DIGITS = ROOT / "examples/digits"
SAMPLES = 512
PEAK_MARK_BYTES = 2_000_000_000


@dataclass(frozen=True)
class Net:
    """A network to compile.

    Attributes:
        model: Writes or finds the ONNX file; gets a folder to work in.
        calibration: The same for the `.npz` with 512 samples.
        needs: What must be there.
        wall_mark_s: At most that many seconds; None without a mark.
    """

    name: str
    needs: Path
    model: Callable[[Path], Path]
    calibration: Callable[[Path], Path]
    wall_mark_s: float | None = None
    board: str = "stm32f7"


@dataclass(frozen=True)
class Row:
    """One run. `calibration` is the number of samples, 0 where none were given; `error` is '' if it compiled."""

    net: str
    board: str
    calibration: int
    wall_s: float
    cpu_s: float
    peak_bytes: int
    wall_mark_s: float | None
    error: str

    @property
    def missed(self) -> bool:
        """Not compiled, or slower or larger than the mark."""
        return (
            bool(self.error)
            or self.peak_bytes >= PEAK_MARK_BYTES
            or self.wall_s > (self.wall_mark_s or float("inf"))
        )


def _cifar10(folder: Path) -> Path:
    """Training images, as `make_npz.py` unpacks them."""
    path = folder / "cifar10.npz"
    _run_tool("make_npz.py", "cifar10_train", path, "--count", str(SAMPLES), "--layout", "nhwc")
    return path


def _noise_224(folder: Path) -> Path:
    """Seeded noise: the weights are random too, and neither changes what is computed."""
    path = folder / "noise224.npz"
    np.savez(path, x=np.random.default_rng(0).random((SAMPLES, 3, 224, 224), np.float32))
    return path


def _filled_v2(folder: Path) -> Path:
    path = folder / "mobilenetv2_224.onnx"
    _run_tool("fill_weights.py", SHARED / "data/models_structure" / path.name, path)
    return path


def _run_tool(name: str, *words: str | Path) -> None:
    subprocess.run([sys.executable, SHARED / "tools" / name, *words], check=True, stdout=subprocess.DEVNULL)


NETS = (
    Net("digits", DIGITS, lambda _: DIGITS / "digits.onnx", lambda _: DIGITS / "digits-calibration.npz"),
    Net("resnet8", SHARED, lambda _: SHARED / "data/models/resnet8_cifar10.onnx", _cifar10, 20),
    Net("mobilenetv2_224", SHARED, _filled_v2, _noise_224, 120, "nrf5340"),
)


def measure(net: Net, folder: Path) -> Iterator[Row]:
    """Yield a row without calibration data and one with."""
    model = net.model(folder)
    for samples, options in ((0, []), (SAMPLES, ["--calibration", str(net.calibration(folder))])):
        words = [
            "compile",
            str(model),
            "--target",
            net.board,
            "--out",
            str(folder / "out"),
            "--json",
            *options,
        ]
        wall_s, cpu_s, peak_bytes, error = _spend([sys.executable, "-m", "clio_cc.cli", *words])
        wall_s, cpu_s = round(wall_s, 1), round(cpu_s, 1)
        yield Row(net.name, net.board, samples, wall_s, cpu_s, peak_bytes, net.wall_mark_s, error)


def _spend(command: Sequence[str]) -> tuple[float, float, int, str]:
    """Run a command; return wall and processor seconds, peak resident bytes of its largest process, and its error if any."""
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    messages = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    unit = 1 if sys.platform == "darwin" else 1024
    error = messages.strip() if process.returncode else ""
    return time.monotonic() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit, error


def _print_rows(rows: Sequence[Row]) -> None:
    print(
        "| net | board | calibration samples | wall s | mark s | CPU s | peak MB |\n|---|---|---|---|---|---|---|"
    )
    for row in rows:
        mark = "" if row.wall_mark_s is None else f"{row.wall_mark_s:.0f}"
        print(
            f"| {row.net} | {row.board} | {row.calibration or 'none'} | {row.wall_s:.1f} | {mark} "
            f"| {row.cpu_s:.1f} | {row.peak_bytes / 1e6:,.0f} |{' MISSED' if row.missed else ''}"
        )
    for error in dict.fromkeys(row.error for row in rows if row.error):
        print(f"\n{error}")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--net", action="append", choices=[net.name for net in NETS])
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--out", type=Path, help="also write the JSON into this file")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for net in NETS:
            if net.needs.exists() and net.name in (args.net or [net.name]):
                rows += list(measure(net, Path(folder)))
    text = json.dumps([asdict(row) for row in rows], indent=2) + "\n"
    if args.out:
        args.out.write_text(text)
    if args.json:
        print(text, end="")
    else:
        _print_rows(rows)
    sys.exit(any(row.missed for row in rows))


if __name__ == "__main__":
    main()
