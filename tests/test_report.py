"""report.html: well-formed, self-contained, escaped, and the same figures as in the tables."""

from __future__ import annotations

import hashlib
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from conftest import Done
from digits import compiled

from clio_cc import planner, results
from clio_cc.accuracy import AccuracyRow
from clio_cc.arena import plan_arena
from clio_cc.inspection import Inspection, Layer, Point
from clio_cc.operators.base import Tensor
from clio_cc.profile import modelled
from clio_cc.program import Program
from clio_cc.radios import find_link
from clio_cc.report import markup, names
from clio_cc.report.axes import Logarithmic
from clio_cc.report.curves import Scale, steps_of
from clio_cc.report.facts import Facts
from clio_cc.report.page import STALE, render
from clio_cc.report.style import CSS
from clio_cc.targets import find_target
from clio_cc.units import BandwidthRange

Clio = Callable[..., Done]

SECTIONS = (
    "answers",
    "network",
    "curves",
    "plan",
    "accuracy",
    "memory",
    "quantization",
    "profile",
    "reproduce",
)
EVIL = """<script>alert("1")</script>&'`\x01"""
TARGET = find_target("gap8")


# --- facts by hand --------------------------------------------------------------------------------


def facts(
    points: int = 3,
    layers: int = 12,
    name: str = "layer",
    accuracy: bool = True,
    bandwidth: tuple[int, int] = (50_000, 2_000_000),
    deadline_us: int = 300_000,
    link: str | None = None,
    local: bool = False,
) -> Facts:
    """A network of equal layers, cut at places that are evenly spread."""
    every = tuple(
        Layer(f"{name}{i}", "Conv", (1, 16, 8, 8), 4_000_000, 100, 1024, True, "") for i in range(layers)
    )
    chosen = [round((i + 1) * (layers - 1) / (points + 1)) for i in range(points)]
    found = [
        Point(f"point{i}", f"t{i}", (1, 16, 8, 8), 1024, 4_000_000 * i, "features", "layer", False, True, "")
        for i in range(1, layers)
    ]
    partitions: list[dict[str, Any]] = [
        {
            "name": f"point{after}", "layer": every[after - 1].name, "slices": [1, 2, 4, 8, 16], "units": 16,
            "unit_bytes": 64 * (points - number), "unit_bits": 8, "macs": 4_000_000 * after,
            "residual": [0.8, 0.5, 0.3, 0.1, 0.0],
            "encoder": {"method": "rotation", "layer": None, "macs": 0, "head_macs": 0},
        }
        for number, after in enumerate(chosen)
    ]  # fmt: skip
    error = {"name": "", "kind": "Conv", "format": "Q3.4", "sqnr_db": 30.5, "saturated": 0.01}
    manifest: dict[str, Any] = {
        "schema": 1, "tool": "clio-cc 0", "target": "gap8", "model": {"name": f"{name}.onnx", "sha256": "00"},
        "options": {"samples": 512, "link": None}, "input_bytes": 3072, "layers": [each.name for each in every],
        "local": local, "partitions": partitions, "warnings": [], "files": {},
        "device": {"ram_bytes": 1424, "arena_bytes": 1024, "stack_bytes": 400, "flash_bytes": 5000, "table_bytes": 3000},
        "quantization": {
            "calibration_samples": 9, "report_samples": 8,
            "layers": [error | {"name": each.name} for each in every],
        },
    }  # fmt: skip
    rows = tuple(
        AccuracyRow(
            p["name"],
            count,
            count * p["unit_bytes"],
            "accuracy",
            0.45 + count / 40 - i / 20 * (count == 16),
            100,
        )
        for i, p in enumerate(partitions)
        for count in p["slices"]
    )
    rows = rows if accuracy else ()
    profile = modelled(every, TARGET.macs_per_s, partitions=partitions)
    made = planner.make_plan(
        profile,
        planner.read_points(manifest),
        BandwidthRange(*bandwidth),
        deadline_us=deadline_us,
        input_bytes=3072,
        link=None if link is None else find_link(link),
        device_power_mw=TARGET.power_mw,
        accuracy=rows,
        local=local,
    )
    return Facts(
        manifest=manifest,
        target=TARGET,
        network=Inspection(every, tuple(found)),
        places={f"t{i}": i for i in range(layers)},
        blocks=[tuple(each.name for each in every[i : i + 4]) for i in range(0, layers, 4)],
        program=Program((Tensor("in", (8, 8, 16), 1.0),), (), ("in",)),
        profile=profile,
        accuracy=rows,
        plan=json.loads(made.to_text()),
    )


# --- reading a page -------------------------------------------------------------------------------


class Balanced(HTMLParser):
    """Fails on tags that do not match, as a browser's parser would have to guess."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ("meta", "br", "path", "circle")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def parsed(page: str) -> ET.Element:
    """The page as XML, having been read as HTML."""
    reader = Balanced()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    start = "<!DOCTYPE html>\n"
    assert page.startswith(start)
    return ET.fromstring(page.removeprefix(start))


def find(root: ET.Element, tag: str, **attributes: str) -> list[ET.Element]:
    """Elements of this tag; `class_` stands for one of the classes."""
    kind = attributes.pop("class_", None)
    return [
        each
        for each in root.iter(tag)
        if (kind is None or kind in each.get("class", "").split())
        and all(each.get(key) == value for key, value in attributes.items())
    ]


def words(element: ET.Element) -> str:
    return " ".join("".join(element.itertext()).replace("\u00a0", " ").split())


def table(root: ET.Element, caption: str) -> list[list[str]]:
    """The cells of a table's rows."""
    [found] = [each for each in root.iter("table") if words(find(each, "caption")[0]) == caption]
    return [[words(cell) for cell in row.iter("td")] for row in find(found, "tbody")[0].iter("tr")]


def drawing(root: ET.Element, kind: str) -> ET.Element:
    [found] = [each for each in find(root, "div", class_="plot") if kind in each.get("class", "").split()]
    return found


def percent(text: str | None) -> float:
    assert text is not None
    assert text.endswith("%")
    return float(text.removesuffix("%"))


# --- the page -------------------------------------------------------------------------------------


def check_is_sound(page: str) -> ET.Element:
    """What must hold of every page."""
    root = parsed(page)
    assert len(page.encode()) < 1_000_000
    ids = [each.get("id") for each in root.iter() if each.get("id")]
    assert len(ids) == len(set(ids))
    assert [key for key in ids if key in SECTIONS] == list(SECTIONS)
    assert not {each.tag for each in root.iter()} & {
        "link",
        "img",
        "iframe",
        "object",
        "image",
        "use",
        "base",
    }
    for each in root.iter():
        for key, value in each.attrib.items():
            assert not key.startswith("on"), key
            if key in ("href", "src", "xlink:href", "action"):
                assert value.startswith("#"), value
                assert value[1:] in ids
    assert len(find(root, "script")) == 1
    assert not re.findall(r"@import|url\((?!#)|https?:", page)
    for each in find(root, "svg", role="img"):
        assert words(find(each, "title")[0])
        assert words(find(each, "desc")[0])
    for each in root.iter("table"):
        widths = {len(list(row)) for row in each.iter("tr")}
        assert len(widths) == 1, words(each)[:80]
    for each in root.iter():
        for key in ("x", "y", "width", "height", "x1", "x2", "y1", "y2"):
            value = each.get(key, "")
            assert not value.endswith("%") or -0.001 <= percent(value) <= 100.001, (each.tag, key, value)
    return root


@pytest.mark.parametrize(
    "options",
    [
        {"points": 0, "local": True},
        {"points": 1},
        {"points": 30, "layers": 200},
        {"layers": 200, "name": "module/" * 30},
        {"accuracy": False},
        {"points": 0, "local": True, "accuracy": False},
        {"deadline_us": 1000},
        {"bandwidth": (250_000, 250_000)},
        {"bandwidth": (1, 10**10)},
        {"bandwidth": (5_000, 250_000), "link": "ble-2m"},
        {"local": True, "link": "clio-ble", "bandwidth": (50_000, 2_000_000)},
        {"name": EVIL},
    ],
    ids=str,
)
def test_every_page_is_sound(options: Mapping[str, Any]) -> None:
    page = render(facts(**options))
    check_is_sound(page)
    assert page == render(facts(**options))


def test_nothing_is_there_yet() -> None:
    root = check_is_sound(
        render(replace(facts(), plan=None, profile=(), accuracy=(), problems=("a problem",)))
    )
    assert "There is no plan: run clio-cc plan." in words(find(root, "section", id="plan")[0])
    assert "There is no profile: run clio-cc profile." in words(find(root, "section", id="profile")[0])
    assert words(find(root, "aside")[0]) == "Warningsa problem"


def test_names_are_escaped() -> None:
    page = render(facts(name=EVIL))
    root = parsed(page)
    assert "<script>alert" not in page
    assert len(find(root, "script")) == 1
    shown = EVIL.replace("\x01", "\ufffd")
    assert find(root, "span", title=f"{shown}0") or f"{shown}0" in "".join(root.itertext())
    assert "".join(find(root, "h1")[0].itertext()).startswith(f"{shown}.onnx on ")


@pytest.mark.parametrize(
    "text", ["<", ">", "&", '"', "'", "a<b>&c", "\x00", "\ud800", "\ufffe", "\xfc\xd7\u65e5"]
)
def test_escaping(text: str) -> None:
    element = ET.fromstring(markup.el("p", text, title=text))
    expected = re.sub("[\x00\ud800\ufffe]", "\ufffd", text)
    assert (element.text, element.get("title")) == (expected, expected)


def test_markup() -> None:
    assert markup.el("p", 12345, None, ["a", markup.el("br")], class_="x", aria_label="y", id=None) == (
        '<p class="x" aria-label="y">12,345a<br/></p>'
    )
    assert markup.short("a" * 30 + "b" * 30, 10) == (
        f'<span class="name" title="{"a" * 30 + "b" * 30}">aaa…bbbbbb</span>'
    )
    assert markup.paragraph("a` run `clio-cc a<b` now") == "<p>a` run <code>clio-cc a&lt;b</code> now</p>"


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (markup.size(12_501_632), "12,501,632 B"),
        (markup.large(12_501_632), "12.5 M"),
        (markup.bps(174_345), "174.3 kbit/s"),
        (markup.bps(48), "48 bit/s"),
        (markup.time(300_000), "300 ms"),
        (markup.time(812.5), "812.5 µs"),
        (markup.time(1_500_000), "1.5 s"),
        (markup.energy(None), "unknown"),
        (markup.energy(25_790), "25.79 mJ"),
        (markup.percent(0.792), "79.20 %"),
        (markup.percent(None), "unknown"),
        (markup.several(1, "unit"), "1 unit"),
        (markup.several(1200, "unit"), "1,200 units"),
        (markup.plain(33.3333333), "33.333"),
        (markup.plain(100), "100"),
    ],
)
def test_numbers(found: str, expected: str) -> None:
    assert found.replace("\u00a0", " ") == expected


# --- the same figures as in the tables ----------------------------------------------------------------


def test_tables_show_what_the_files_hold() -> None:
    made = facts()
    assert made.plan is not None
    root = parsed(render(made))
    shown = table(root, "Accuracy per bytes")
    assert [(r[0].split()[1], r[1], r[2], r[3], r[6]) for r in shown] == [
        (row.partition, f"{row.slices} of 16", f"{row.bytes:,}", f"{100 * row.value:.2f} %", str(row.samples))
        for row in made.accuracy
    ]
    assert [row[5] for row in shown[:5]] == ["80.0 %", "50.0 %", "30.0 %", "10.0 %", "0.0 %"]
    ranges = table(root, "The plan's ranges")
    assert [row[2].split()[1] for row in ranges] == [r["partition"] for r in made.plan["ranges"]]
    assert [row[4] for row in ranges] == [f"{r['bytes']:,}" for r in made.plan["ranges"]]
    assert [row[5] for row in ranges] == [f"{r['latency_us'] / 1000:.4g} ms" for r in made.plan["ranges"]]
    assert [row[7] for row in ranges] == [f"{100 * r['accuracy']:.2f} %" for r in made.plan["ranges"]]
    times = table(root, "Time per layer")
    assert [(row[0], row[2], row[3], row[6]) for row in times[:-1]] == [
        (row.layer, f"{row.macs:,}", f"{row.device_us:,.1f} µs", f"{row.cloud_us:,.1f} µs")
        for row in made.profile
    ]
    assert times[-1][2] == "48,000,000"
    cuts = table(root, "The cuts that were compiled")
    assert [(row[2], row[3], row[4], row[6]) for row in cuts] == [
        ("16", f"{p['unit_bytes']:,}", f"{16 * p['unit_bytes']:,}", f"{p['macs']:,}") for p in made.partitions
    ]
    errors = table(root, "Quantization error per operator")
    assert errors[3] == ["layer3", "Conv", "Q3.4", "30.5", "", "1.00 %"]


def test_how_units_are_made_in_words() -> None:
    entry = facts().partitions[0]
    assert names.how(entry) == "rotated channels, nothing extra to compute"
    encoder = {"method": "rotation", "layer": "point3/units", "macs": 1200}
    wanted = f"rotated channels of 4 bits a value, an extra 1{markup.TIMES}1 convolution of 1,200 MACs"
    assert names.how({**entry, "encoder": encoder, "unit_bits": 4}) == wanted


def test_choices_in_words() -> None:
    made = facts()
    choices = [
        ("local", 0),
        ("input", 1),
        ("jpeg", 75),
        ("point3", 4),
        ("point3/4bit", 16),
        ("point3/4bit", 0),
    ]
    assert [names.words(made, *choice) for choice in choices] == [
        "all on the device", "raw input", "JPEG, quality 75", "point3, 4 of 16 units", "point3, 16 units with 4 bits",
        "point3, all units with 4 bits",
    ]  # fmt: skip
    assert [names.brief(made, *choice) for choice in choices[:5]] == [
        "local",
        "raw",
        "JPEG 75",
        "1: 4",
        "1: 4 bit",
    ]


def test_memory_is_what_the_manifest_says() -> None:
    root = parsed(render(facts()))
    ram = {row[0]: row[1] for row in table(root, "RAM")}
    # GAP8 runs from RAM: code and tables count there, too.
    assert ram == {
        "arena": "1,024", "stack": "400", "code": "2,000", "tables (weights)": "3,000", "used": "6,424",
        "on the board": "524,288",
    }  # fmt: skip
    assert {row[0]: row[1] for row in table(root, "Flash")}["used"] == "5,000"


def test_the_arena_is_drawn_as_planned() -> None:
    program = compiled("stm32f7").program
    arena = plan_arena(program)
    made = replace(facts(points=0, local=True), program=replace(program, taps=()))
    root = parsed(render(made))
    boxes = [
        each for each in drawing(root, "arena").iter("svg") if find(each, "rect") and each.get("role") is None
    ]
    assert len(boxes) == len(arena.buffers)
    count = len(program.operators)
    for each, buffer in zip(boxes, arena.buffers, strict=True):
        name, within = buffer.tensors[0]
        x, y, width, height = (percent(each.get(key)) for key in ("x", "y", "width", "height"))
        bottom = (100 - y - height) / 100 * arena.bytes
        assert bottom == pytest.approx(arena.offsets[name] - within, abs=0.02 * arena.bytes / 100)
        assert height / 100 * arena.bytes == pytest.approx(buffer.bytes, abs=0.02 * arena.bytes / 100)
        last = min(buffer.last + 1, count)
        assert (x, x + width) == pytest.approx(
            (100 * (buffer.first + 1) / (count + 1), 100 * (last + 1) / (count + 1)), abs=0.01
        )


# --- geometry -------------------------------------------------------------------------------------


def test_axis_places() -> None:
    axis = Logarithmic.over(1_000, 100_000)
    assert [axis.at(v) for v in (1_000, 10_000, 100_000, 1, 10**9)] == pytest.approx([0, 50, 100, 0, 100])
    assert axis.ticks() == [1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000]
    assert Logarithmic.over(1, 10**9).ticks() == [1, 100, 10_000, 1_000_000, 100_000_000]
    assert Logarithmic.over(300, 300).at(300) == pytest.approx(50)


def marks(root: ET.Element) -> Iterator[tuple[str, float, float]]:
    """(title, x, y from the bottom) of each mark among the curves."""
    for each in drawing(root, "curves").iter("svg"):
        for path in each.findall("path"):
            yield words(path), percent(each.get("x")), 100 - percent(each.get("y"))


@pytest.mark.parametrize("link", [None, "ble-2m"])
def test_marks_stand_where_the_plan_says(link: str | None) -> None:
    made = facts(link=link, bandwidth=(20_000, 700_000))
    assert made.plan is not None
    low, high = made.plan["bandwidth"]
    root = parsed(render(made))
    ticks = [float(words(t).removesuffix("%")) for t in find(drawing(root, "curves"), "text", class_="left")]
    places = [100 - percent(t.get("y")) for t in find(drawing(root, "curves"), "text", class_="left")]
    slope = (ticks[-1] - ticks[0]) / (places[-1] - places[0])
    seen = set()
    for title, x, y in marks(root):
        match = re.match(r"(point\d+): (\d+) units?, ([\d,]+) B, ", title)
        assert match is not None, title
        step = next(s for s in made.plan["steps"] if (s["partition"], str(s["slices"])) == match.groups()[:2])
        seen.add((step["partition"], step["slices"]))
        bandwidth = low * (high / low) ** (x / 100)
        assert bandwidth == pytest.approx(max(step["from_bps"], low), rel=1e-3)
        assert ticks[0] + slope * (y - places[0]) == pytest.approx(100 * step["accuracy"], abs=0.01)
        assert match[3] == f"{step['bytes']:,}"
    inside = {(s["partition"], s["slices"]) for s in made.plan["steps"] if low < (s["from_bps"] or 0) <= high}
    assert inside <= seen
    assert len(inside) > 5
    at_low = {
        s["partition"] for s in made.plan["steps"] if s["from_bps"] is not None and s["from_bps"] <= low
    }
    assert {name for name, _ in seen - inside} == at_low


def test_of_what_is_in_reach_at_the_low_end_only_the_best_is_marked() -> None:
    made = facts(bandwidth=(1_000_000, 2_000_000))
    assert made.plan is not None
    for name in made.numbers:
        first, *others = steps_of(made.plan, name)
        assert first["slices"] == 16
        assert not others


def test_the_envelope_is_the_plan() -> None:
    made = facts(bandwidth=(20_000, 700_000))
    assert made.plan is not None
    scale = Scale(made, made.plan)
    root = parsed(render(made))
    level = [
        each
        for each in find(drawing(root, "curves"), "line", class_="envelope")
        if each.get("y1") == each.get("y2")
    ]
    assert len(level) == len(made.plan["ranges"]) > 3
    for each, wanted in zip(level, made.plan["ranges"], strict=True):
        ends = percent(each.get("x1")), percent(each.get("x2"))
        assert ends == pytest.approx(
            (scale.x.at(wanted["from_bps"]), scale.x.at(wanted["to_bps"])), abs=0.001
        )
        assert 100 - percent(each.get("y1")) == pytest.approx(scale.y.at(wanted["accuracy"]), abs=0.001)


def test_strips_cover_the_range_with_holes() -> None:
    made = facts(bandwidth=(2_000, 700_000), deadline_us=100_000)
    assert made.plan is not None
    assert made.plan["holes"]
    root = parsed(render(made))
    strip = find(root, "section", id="plan")[0].find("div")
    assert strip is not None
    assert "strip" in strip.get("class", "").split()
    pieces = sorted(
        (percent(each.get("x")), percent(each.get("width")), find(each, "rect")[0].get("class"))
        for each in strip.iter("svg")
        if each.get("role") is None
    )
    assert [kind == "hole" for _, _, kind in pieces] == [True, *[False] * len(made.plan["ranges"])]
    at = 0.0
    for x, width, _ in pieces:
        assert x == pytest.approx(at, abs=0.01)
        at = x + width
    assert at == pytest.approx(100, abs=0.01)
    text = words(find(root, "section", id="plan")[0])
    assert "Holes: nothing meets the deadline of 100 ms from 2 kbit/s to " in text


def test_unreachable_deadline() -> None:
    text = words(parsed(render(facts(deadline_us=1000))))
    assert "Nothing meets the deadline of 1 ms from 50 kbit/s to 2 Mbit/s." in text
    assert (
        "Not drawn, as they meet the deadline of 1 ms nowhere up to 2 Mbit/s: point3, point6, point8." in text
    )


def test_without_accuracy_the_share_of_units_is_drawn() -> None:
    made = facts(accuracy=False)
    root = parsed(render(made))
    assert "Accuracy was not evaluated: the share of units" in words(find(root, "section", id="curves")[0])
    last = [title for title, _, y in marks(root) if y == 100]
    assert all(": 16 units" in title for title in last)
    assert last


def test_agreement_is_called_optimistic() -> None:
    made = facts()
    root = parsed(render(replace(made, accuracy=[replace(row, metric="agreement") for row in made.accuracy])))
    text = words(find(root, "section", id="curves")[0])
    assert "It says nothing about how often that answer is right, and is optimistic" in text
    assert "Agreement with the original network is optimistic" in words(
        find(root, "section", id="answers")[0]
    )


# --- looks ----------------------------------------------------------------------------------------


def luminance(color: str) -> float:
    """WCAG 2.2."""
    digits = color if len(color) == 6 else "".join(2 * digit for digit in color)
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_contrast_in_light_and_dark() -> None:
    light, dark = (
        dict(re.findall(r"--(\w+):#([0-9a-f]+)", rules))
        for rules in re.findall(r":root\{(.*?)\}", CSS, re.DOTALL)
    )
    for palette in (light, dark):
        assert len([name for name in palette if re.fullmatch(r"c\d", name)]) == 8
        for name in ("text", "soft", "link", *(f"c{i}" for i in range(8))):
            a, b = sorted((luminance(palette[name]), luminance(palette["page"])))
            assert (b + 0.05) / (a + 0.05) >= 4.5, name
            if name.startswith("c"):
                a, b = sorted((luminance(palette[name]), luminance(palette["on"])))
                assert (b + 0.05) / (a + 0.05) >= 4.5, f"on {name}"


# --- files ----------------------------------------------------------------------------------------


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "clio-out"
    compiled("stm32f7").files.write(folder)
    return folder


def page_of(out: Path) -> str:
    """The page, whose digest is the manifest's."""
    content = (out / "report.html").read_bytes()
    assert results.read_manifest(out)["files"]["report.html"] == hashlib.sha256(content).hexdigest()
    return content.decode()


def test_compile_writes_what_report_would(out: Path, clio: Clio) -> None:
    first = page_of(out)
    check_is_sound(first)
    assert clio("report", out) == Done(0, f"wrote {out}/report.html\n", "")
    assert page_of(out) == first
    (out / "report.html").unlink()
    assert clio("report", out).code == 0
    assert page_of(out) == first
    assert str(out) not in first


def test_the_page_follows_the_tables(out: Path, clio: Clio) -> None:
    assert clio("plan", out, "--bandwidth", "100:3k").code == 0
    assert "From 100\u00a0bit/s to 3\u00a0kbit/s" in page_of(out)
    assert STALE.replace("`", "") not in words(parsed(page_of(out)))
    rows = [replace(row, value=row.value / 2) for row in results.read_accuracy(out)]
    results.write_accuracy(out, rows)
    page = page_of(out)
    assert f"{50 * rows[-1].value:.2f}" not in page
    assert [row[3] for row in table(parsed(page), "Agreement per bytes")] == [
        f"{100 * row.value:.2f} %" for row in rows if row.partition in page and row.slices
    ]
    assert "Profile or accuracy have changed since this plan was made: run clio-cc plan again." in words(
        parsed(page)
    )
    assert clio("plan", out).code == 0
    assert "have changed since" not in page_of(out)


def test_tables_at_fault_are_named(out: Path, clio: Clio) -> None:
    text = (out / "profile.csv").read_text()
    (out / "profile.csv").write_text(text.replace("device_us", "device_ms", 1))
    (out / "plan.json").write_text("{}")
    done = clio("report", out)
    assert done.code == 0
    assert "clio-cc: warning: profile.csv:1: the first line must be" in done.err
    assert "clio-cc: warning: plan.json: not a plan of this clio-cc\n  hint: run `clio-cc plan`\n" in done.err
    warnings = words(find(check_is_sound(page_of(out)), "aside")[0])
    assert "profile.csv:1: the first line must be" in warnings
    assert str(out) not in page_of(out)


def test_no_folder_of_compile(tmp_path: Path, clio: Clio) -> None:
    done = clio("report", tmp_path)
    hint = "  hint: run `clio-cc compile MODEL --target BOARD` first\n"
    assert done == Done(
        1, "", f"clio-cc: error: '{tmp_path}' is not a folder that clio-cc compile wrote\n{hint}"
    )


def test_random_inputs_are_warned_of() -> None:
    made = facts()
    warned = replace(made, manifest={**made.manifest, "warnings": ["no calibration data: <formats>"]})
    root = parsed(render(warned))
    assert words(find(root, "aside")[0]) == "Warningsno calibration data: <formats>"
