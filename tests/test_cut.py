"""Which partition points are taken: those asked for, or those that a cover chooses among what the board can hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx_ir as ir
import pytest
from graph_text import parse

from clio_cc.cut import Cuts, choose_cuts
from clio_cc.errors import ClioError
from clio_cc.partition import PartitionPoint
from clio_cc.passes.runner import run_passes
from clio_cc.targets import Target, find_target

NET = """
    m (float[1,3,8,8] x, float[4,3,3,3] w1, float[4,4,3,3] w2, float[4,4,3,3] w3, float[8,4,3,3] w4, float[5,8,1,1] w5) =>
      (float[a,b,c,d] y)
    {
        c1 = Conv<pads=[1,1,1,1]>(x, w1) r1 = Relu(c1)
        c2 = Conv<pads=[1,1,1,1]>(r1, w2) r2 = Relu(c2) c3 = Conv<pads=[1,1,1,1]>(r2, w3) a = Add(c3, r1) r3 = Relu(a)
        c4 = Conv<strides=[2,2]>(r3, w4) r4 = Relu(c4) y = Conv(r4, w5)
    }
"""
BOARD = find_target("stm32f7")


def model(text: str = NET) -> ir.Model:
    found = parse(text)
    run_passes(found)
    return found


def all_of(points: Sequence[PartitionPoint]) -> list[str]:
    return [point.name for point in points]


def cut(partition: str, *, board: Target = BOARD, inside_blocks: bool = False, text: str = NET) -> Cuts:
    return choose_cuts(model(text), partition, board, all_of, inside_blocks=inside_blocks)


def tensors(cuts: Cuts) -> list[str]:
    return [point.tensor for point in cuts.points]


def refusal(partition: str, *, board: Target = BOARD, text: str = NET) -> str:
    with pytest.raises(ClioError) as caught:
        cut(partition, board=board, text=text)
    return str(caught.value)


def small(ram: int, flash: int = 1 << 20) -> Target:
    """The board with other memories."""
    return replace(
        BOARD,
        ram_bytes=replace(BOARD.ram_bytes, value=ram),
        flash_bytes=replace(BOARD.flash_bytes, value=flash),
    )


# --- auto ---------------------------------------------------------------------------------------------


def test_auto_offers_what_ends_at_blocks_and_takes_what_covers() -> None:
    offered: list[str] = []

    def cover(points: Sequence[PartitionPoint]) -> list[str]:
        offered.extend(point.tensor for point in points)
        return [points[-1].name, points[0].name]

    cuts = choose_cuts(model(), "auto", BOARD, cover)
    assert offered == ["r1", "r3", "r4"]
    assert tensors(cuts) == ["r1", "r4"]  # in order of execution
    assert [tap.partition for tap in cuts.network.taps] == [point.name for point in cuts.points]
    assert (cuts.local, cuts.warning) == (False, "")


def test_auto_offers_points_inside_blocks_if_asked() -> None:
    assert tensors(cut("auto")) == ["r1", "r3", "r4"]
    assert tensors(cut("auto", inside_blocks=True)) == ["c1", "r1", "a", "r3", "c4", "r4"]


def test_auto_without_a_cover_takes_what_sends_least_and_says_so() -> None:
    cuts = choose_cuts(model(), "auto", BOARD, lambda points: [])
    assert tensors(cuts) == ["r4"]
    assert cuts.warning == (
        "no partition point meets the deadline on stm32f7 anywhere in the range of bandwidths: "
        f"'{cuts.points[0].name}' sends the fewest bytes; `clio-cc plan --deadline` says what can be met"
    )


def test_auto_stops_at_what_the_device_cannot_run() -> None:
    text = NET.replace("r3 = Relu(a)", "n = InstanceNormalization(a, g, h) r3 = Relu(n)")
    text = text.replace("w5) =>", "w5, float[4] g, float[4] h) =>")
    assert tensors(cut("auto", text=text)) == ["r1", "a"]


def test_auto_passes_by_what_the_board_cannot_hold() -> None:
    """A tensor that is sent must lie there whole; on the way to another, bands of rows may do."""
    wide = (
        "m (float[1,3,64,64] x, float[4,3,4,4] w1, float[64,4,1,1] w2, float[4,64,1,1] w3, float[2,4,9,9] w4) =>"
        " (float[a,b,c,d] y)"
        "{ c1 = Conv<strides=[4,4]>(x, w1) r1 = Relu(c1) c2 = Conv(r1, w2) r2 = Relu(c2)"
        "  c3 = Conv(r2, w3) r3 = Relu(c3) y = Conv(r3, w4) }"
    )
    assert tensors(cut("auto", text=wide)) == ["r1", "r2", "r3"]
    assert tensors(cut("auto", board=small(16_000), text=wide)) == ["r1", "r3"]


def test_nothing_fits() -> None:
    words = refusal("auto", board=small(400))
    assert words == (
        "no partition point fits stm32f7, which has 400 bytes of RAM and 1048576 of flash: the smallest, "
        "'r1', needs 504 for tensors and 164 for tables\n  hint: choose a board with more memory"
    )


def test_one_layer_stays_on_the_device() -> None:
    cuts = cut("auto", text="m (float[1,3,8,8] x, float[4,3,3,3] w) => (float[a,b,c,d] y) { y = Conv(x, w) }")
    assert (cuts.points, cuts.local, cuts.network.taps) == ((), True, ())


# --- by name ------------------------------------------------------------------------------------------


def test_names_are_those_of_points_or_tensors_in_any_order() -> None:
    names = [point.name for point in cut("auto").points]
    for text in (",".join(names), ",".join(reversed(names)), "r4, r1 ,r3", "r3,r1,r4,r1"):
        cuts = cut(text)
        assert [point.name for point in cuts.points] == names
        assert cuts.network.outputs == ("r1", "r3", "r4")
        assert not cuts.local


def test_names_inside_blocks_need_no_option() -> None:
    assert tensors(cut("a,c4")) == ["a", "c4"]


def test_local_alone_and_beside_points() -> None:
    alone = cut("local")
    assert (alone.points, alone.local, alone.network.outputs) == ((), True, ("y",))
    beside = cut("r3,local,r1")
    assert (tensors(beside), beside.local) == (["r1", "r3"], True)
    assert beside.network.outputs == ("r1", "r3", "y")
    assert [tap.tensor for tap in beside.network.taps] == ["r1", "r3"]


def test_names_that_are_none() -> None:
    for text, name in (("q", "q"), ("r1,q", "q"), ("c2", "c2")):
        words = refusal(text)
        assert words.startswith(f"unknown partition point '{name}'\n  hint: "), words
    assert refusal("r1,qqq") == (
        "unknown partition point 'qqq'\n  hint: 'clio-cc inspect MODEL' lists the partition points"
    )
    for text in ("input", "r1,input"):
        assert refusal(text) == (
            "a cut at 'input' leaves nothing for the device\n  hint: no need to compile: send the input"
        )


def test_auto_is_no_name_among_others() -> None:
    for text in ("auto,r1", "r1, auto", "auto,auto"):
        assert refusal(text) == (
            "--partition: 'auto' stands alone: it chooses the partition points itself\n"
            "  hint: give auto, or names of partition points"
        )
    assert tensors(cut(" auto")) == tensors(cut("auto"))


def test_empty_names() -> None:
    for text in ("", "r1,", "r1,,r3", "auto,"):
        assert refusal(text) == (
            f"--partition: empty name in '{text}'\n  hint: join names of partition points by commas"
        )
