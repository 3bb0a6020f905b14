"""What the documents say exists: commands, options, files, operators, boards."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main

from clio_cc.cli import app
from clio_cc.quantization.functions import FUNCTIONS
from clio_cc.quantization.support import DEVICE_OPERATORS
from clio_cc.targets import TARGETS

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "examples/digits/README.md",
    "examples/imagenette/README.md",
)
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def text(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def command_lines() -> Iterator[tuple[str, str]]:
    """Each line of each fenced block without a language, and clio-cc commands within running text."""
    for document in DOCUMENTS:
        for language, block in re.findall(r"^```(\w*)\n(.*?)^```$", text(document), re.MULTILINE | re.DOTALL):
            if not language:
                yield from ((document, line) for line in block.splitlines())
        yield from ((document, line) for line in re.findall(r"`(clio-cc [a-z]+ [^`]*)`", text(document)))


def rows(heading: str) -> Iterator[list[str]]:
    """Cells of each row of the first table below a heading of README, without its head."""
    section = text("README.md").split(f"## {heading}\n")[1]
    table = [line for line in section.split("\n## ")[0].splitlines() if line.startswith("|")]
    yield from ([cell.strip() for cell in line.strip("|").split("|")] for line in table[2:])


def check_clio_cc(words: list[str]) -> None:
    """Parse as the command line would, without running anything."""
    command = COMMANDS[words[0]]
    command.make_context(words[0], words[1:])


@pytest.mark.parametrize(("document", "line"), sorted(set(command_lines())))
def test_command_lines_exist(document: str, line: str) -> None:
    first, *words = shlex.split(line)
    if first == "clio-cc":
        check_clio_cc(words)
        assert not [w for w in words if w.startswith("examples/") and not (ROOT / w).is_file()]
    elif first == "make":
        targets = set(re.findall(r"^([a-z]+):", text("Makefile"), re.MULTILINE))
        assert set(words) - {"UPGRADE=--upgrade"} <= targets
    elif first == "python":
        assert (ROOT / words[0]).is_file()
        options = re.findall(r'add_argument\(\s*"(--[a-z-]+)"', text(words[0]))
        assert {word for word in words if word.startswith("--")} <= set(options)
    else:
        assert line in {". .venv/bin/activate", "pytest -n 2", "pytest --update-golden"}


def test_a_wrong_option_is_noticed() -> None:
    with pytest.raises(Exception, match=r"No such option"):
        check_clio_cc(["plan", "--bandwith", "50k:2M"])


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", text(document)):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / document).parent / path
        assert target.exists(), link
        headings = (
            re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE) if anchor else []
        )
        assert not anchor or anchor in [heading.lower().replace(" ", "-") for heading in headings]


def test_files_named_in_contributing_exist() -> None:
    """Paths in code spans, ``a/b.py`` and ``a/``; those in the table of the flow may leave out clio_cc/."""
    named = re.findall(r"`([a-z_./]+(?:\.py|\.h|/))`", text("CONTRIBUTING.md"))
    places = (
        ROOT,
        ROOT / "clio_cc",
        ROOT / "targets",
        ROOT / "tests",
        ROOT / "tests/passes",
        ROOT / "benchmarks",
    )
    assert not [name for name in named if not any((place / name).exists() for place in places)]


def test_operator_table_is_complete() -> None:
    named = [name for row in rows("What the device can run") for name in re.findall(r"`(\w+)`", row[0])]
    assert len(named) == len(set(named))
    assert set(named) == set(DEVICE_OPERATORS)
    tables = next(row for row in rows("What the device can run") if "`Tanh`" in row[0])
    assert set(re.findall(r"`(\w+)`", tables[0])) == set(FUNCTIONS) - {"Relu", "Clip"}


def test_board_table_holds_the_facts() -> None:
    for row, target in zip(rows("Boards"), TARGETS, strict=True):
        name, title, core, ram, flash, emulated, _ = row
        assert name == f"`{target.name}`"
        assert (title, core) == (target.title, target.core)
        assert ram == f"{target.ram_bytes.value:,.0f} B" + (
            ", code and tables included" if target.runs_from_ram else ""
        )
        assert flash == f"{target.flash_bytes.value:,.0f} B"
        assert f"`{target.emulated.name}`" in emulated
        assert target.emulated.core in emulated


def test_messages_shown_are_the_tools_own() -> None:
    shown = text("README.md").split("## Errors and exit codes")[1].split("```")[1]
    source = " ".join(path.read_text(encoding="utf-8") for path in (ROOT / "clio_cc").glob("*.py"))
    source += text("targets/__init__.py")
    for words in (
        "unknown target '",
        "did you mean '",
        "cut earlier with --partition, or choose a board with more memory",
    ):
        assert words in shown and words in source
