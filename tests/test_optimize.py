"""``--optimize latency|ram``: what each comes to, and that both say so."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from boards import assert_bit_exact
from digits import MODEL, compiled

from clio_cc import execution, terminal
from clio_cc.arena import plan_arena
from clio_cc.arena_check import check_arena
from clio_cc.band_search import MOST_EXTRA_MACS
from clio_cc.compiler import front_end
from clio_cc.cut import LATENCY, OPTIMIZATIONS, RAM, arena_limit, fit, skeleton
from clio_cc.lower import lower
from clio_cc.partition import partition_points
from clio_cc.program import Program
from clio_cc.targets import TARGETS, Target, find_target

Tool = Callable[[str], str]


def fitted(program: Program, target: Target, optimize: str) -> Program:
    """The program in bands, before schedules are chosen."""
    found = fit(program, target, optimize)
    assert found is not None
    return found


@pytest.mark.parametrize("optimize", OPTIMIZATIONS)
def test_the_manifest_tells_both_and_which(optimize: str) -> None:
    result = compiled(partition="local", optimize=optimize)
    device = result.manifest["device"]
    assert result.manifest["options"]["optimize"] == device["optimize"] == optimize
    figures = {each["optimize"]: each for each in device["tradeoff"]}
    assert list(figures) == list(OPTIMIZATIONS)
    chosen = figures[optimize]
    assert (device["arena_bytes"], device["macs"]) == (chosen["arena_bytes"], chosen["macs"])
    assert figures[RAM]["arena_bytes"] < figures[LATENCY]["arena_bytes"]
    assert figures[LATENCY]["macs"] < figures[RAM]["macs"]


def test_the_other_choices_figures_are_those_that_it_has() -> None:
    one, other = (
        compiled(partition="local", optimize=each).manifest["device"]["tradeoff"] for each in OPTIMIZATIONS
    )
    assert one == other


def test_both_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    result = compiled(partition="local", optimize=RAM)
    terminal.print_compiled(result, Path("clio-out"))
    latency, ram = result.manifest["device"]["tradeoff"]
    table = capsys.readouterr().out.split("Optimized for ram\n")[1].splitlines()[:3]
    assert [re.split(r"\s{2,}", line.strip()) for line in table] == [
        ["--optimize", "arena B", "device MACs", "instructions of convolutions"],
        *(
            [each["optimize"], *(f"{each[key]:,}" for key in ("arena_bytes", "macs", "conv_instructions"))]
            for each in (latency, ram)
        ),
    ]


def test_bands_of_digits_are_bit_exact_on_every_board(tmp_path: Path, tool: Tool) -> None:
    for command in ("arm-none-eabi-gcc", "riscv64-unknown-elf-gcc", "qemu-system-arm", "qemu-system-riscv32"):
        tool(command)
    program = compiled(partition="local", optimize=RAM).program
    assert any(op.kind == "RowStack" for op in program.operators)
    assert_bit_exact(program, execution.random_inputs(program, 2), tmp_path)


def test_where_code_lies_in_ram_bands_must_be_worth_theirs() -> None:
    gap8 = find_target("gap8")
    program = skeleton(lower(front_end(MODEL)))
    assert fitted(program, gap8, RAM) is program


# --- networks beside the checkout ---------------------------------------------------------------------

NETS = {  # file below data/, shape of the tensor to stop at, most bytes for latency and for ram
    "resnet8": ("models/resnet8_cifar10.onnx", (), 49_728, 39_782),
    "dscnn": ("models/dscnn_kws.onnx", (), 16_000, 12_800),
    "vww": ("models/mobilenetv1_025_vww96.onnx", (), 55_296, 44_236),
    "mbv2_32": ("models_structure/mobilenetv2_cifar_bn_op13.onnx", (1, 64, 8, 8), 319_488, 255_590),
    "mbv2_96": ("models/mobilenetv2_imagenette96.onnx", (1, 64, 6, 6), 276_480, 221_184),
}


def load(shared: Path, net: str, folder: Path) -> Program:
    """A network up to the tensor of a shape, or all of it; a file without weights is filled."""
    name, shape, _, _ = NETS[net]
    path = shared / "data" / name
    if "structure" in name:
        filled = folder / "filled.onnx"
        subprocess.run([sys.executable, shared / "tools/fill_weights.py", path, filled], check=True)
        path = filled
    graph = front_end(path)
    points = [point for point in partition_points(graph) if point.shape == shape]
    return skeleton(lower(graph, points[:1]))


@pytest.mark.parametrize("net", NETS)
def test_memory_marks(net: str, shared: Path, tmp_path: Path) -> None:
    """RAM of CMSIS-NN's plan for latency, 0.8 of it for ram (../shared/bench/anchors.md)."""
    program, target = load(shared, net, tmp_path), find_target("stm32f7")
    found = {optimize: fitted(program, target, optimize) for optimize in OPTIMIZATIONS}
    arenas = {optimize: plan_arena(each) for optimize, each in found.items()}
    for optimize, most in zip(OPTIMIZATIONS, NETS[net][2:], strict=True):
        assert arenas[optimize].bytes <= most
        check_arena(found[optimize], arenas[optimize])
    assert found[LATENCY] is program
    assert arenas[RAM].bytes <= arenas[LATENCY].bytes
    assert found[RAM].macs <= (1 + MOST_EXTRA_MACS) * program.macs
    again = fitted(program, target, RAM)
    assert again.describe() == found[RAM].describe()


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_no_board_needs_more_for_ram(target: Target, shared: Path, tmp_path: Path) -> None:
    program = load(shared, "mbv2_96", tmp_path)
    latency, ram = (fitted(program, target, optimize) for optimize in OPTIMIZATIONS)
    free = [arena_limit(each, target) - plan_arena(each).bytes for each in (latency, ram)]
    assert 0 <= free[0] <= free[1]
