"""The benchmark of device code: what it compares, and that README and the figures in the repository are its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from scripts import benchmark

from clio_cc.targets import find_target

ROOT = Path(__file__).resolve().parent.parent
MARKED = ("vww", "mbv2_32", "mbv2_96")

script = benchmark("device_instructions")
NETS = benchmark("networks").NETS
ROWS = script.from_json(script.RESULTS.read_text())


def test_readme_shows_the_figures_beside_the_script() -> None:
    readme = (ROOT / "README.md").read_text()
    assert script.with_tables(readme, ROWS) == readme
    assert script.with_tables(readme, ROWS[:3]) != readme


def test_figures_as_text_and_back() -> None:
    assert script.from_json(script.to_json(ROWS, layers=True)) == ROWS


def test_every_network_board_and_way_is_there() -> None:
    found = {(row.net, row.board, row.way) for row in ROWS}
    assert len(found) == len(ROWS) == len(NETS) * len(script.BOARDS) * len(script.WAYS)


@pytest.mark.parametrize(
    "row", [r for r in ROWS if r.ratio_to_cmsis_nn is not None], ids=lambda r: f"{r.net}-{r.board}-{r.way}"
)
def test_half_of_cmsis_nn(row: script.Row) -> None:  # type: ignore[name-defined]
    if row.way != "untuned":
        assert row.ratio_to_cmsis_nn < 0.5
        assert row.code_bytes < 24 * 1024
    if row.way == "latency":
        compared = [layer for layer in row.layers if layer.cmsis_nn is not None]
        assert sum(layer.macs for layer in compared) == row.macs  # every layer found its counterpart
        assert all(layer.instructions <= layer.cmsis_nn for layer in compared)
        if row.net in MARKED:
            assert row.arena_to_anchor <= 1
    if row.way == "ram":
        assert row.arena_to_anchor <= 0.8


def test_the_figures_are_those_of_this_code(tmp_path: Path, tool: Callable[[str], str]) -> None:
    """Another version of gcc may count a little differently."""
    tool("arm-none-eabi-gcc")
    tool("qemu-system-arm")
    net = next(net for net in NETS if net.name == "digits")
    for row in script.measure(net, [find_target("stm32f7")], tmp_path):
        (known,) = (
            each for each in ROWS if (each.net, each.board, each.way) == (row.net, row.board, row.way)
        )
        assert row.instructions == pytest.approx(known.instructions, rel=0.02)
        assert row.arena_bytes == known.arena_bytes
        assert row.code_bytes == pytest.approx(known.code_bytes, rel=0.05)
