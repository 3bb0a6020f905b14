"""What all tests share: markers, the hypothesis profile, data, tools and golden files."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = Path(__file__).resolve().parent / "golden"

# The same examples on every run: a failure is reproduced by running the test again. No deadline, as machines
# differ.
settings.register_profile(
    "clio",
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("clio")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write golden files instead of comparing")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes more than a minute (leave out with -m 'not slow')")


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of models and data that are not part of the repository; skips the test where it is absent."""
    for place in (ROOT.parent / "shared", ROOT / "shared"):
        if (place / "data").is_dir():
            return place
    pytest.skip("no ../shared beside the checkout")


@pytest.fixture(scope="session")
def tool() -> Callable[[str], str]:
    """Path of a compiler or emulator by its command name: ``tool("arm-none-eabi-gcc")``.

    One that is missing skips the test on a laptop and fails it where CI is set.
    """

    def find(command: str) -> str:
        path = shutil.which(command)
        if path is not None:
            return path
        message = f"{command} is not installed (see make tools)"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)

    return find


@dataclass(frozen=True)
class Done:
    """What a command printed, and how it ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def clio(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    """Run the command line in this process: ``clio("targets", "--json")``. A crash is raised."""
    from clio_cc import cli

    def run(*arguments: object) -> Done:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["clio-cc", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
            sys.exit(0)
        code = ended.value.code
        assert isinstance(code, int | None)
        printed = capsys.readouterr()
        return Done(code or 0, printed.out, printed.err)

    return run


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compare a text with a file of tests/golden: ``golden("help.txt", text)``; --update-golden writes it."""

    def compare(name: str, text: str) -> None:
        path = GOLDEN / name
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", newline="\n")
        assert path.is_file(), f"{path} is missing: run pytest --update-golden and look at what it wrote"
        assert text == path.read_text(encoding="utf-8")

    return compare
