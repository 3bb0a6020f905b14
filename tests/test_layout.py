"""The shape of the code: layers, what may print, and what a wheel holds."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("clio_cc", "passes", "targets")
Found = tuple[str, int]


def sources(*folders: str) -> list[Path]:
    """Python files below `folders`; the links clio_cc/passes and clio_cc/targets are not followed."""
    linked = {ROOT / "clio_cc" / "passes", ROOT / "clio_cc" / "targets"}
    files = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return [path for path in files if not linked & set(path.parents)]


def imports(tree: ast.AST) -> Iterator[Found]:
    """Names of all modules that are imported, anywhere in the file, with their lines.

    ``from a import b`` counts as ``a`` and ``a.b``, as b may be a module.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield module, node.lineno
            yield from ((f"{module}.{alias.name}", node.lineno) for alias in node.names)


def within(module: str, package: str) -> bool:
    """Whether `module` is `package` or lies inside."""
    return module == package or module.startswith(package + ".")


def offenders(files: list[Path], forbidden: tuple[str, ...]) -> list[str]:
    """``file:line: module`` for each import of a forbidden module."""
    return [
        f"{path.relative_to(ROOT)}:{line}: {module}"
        for path in files
        for module, line in imports(ast.parse(path.read_text(encoding="utf-8")))
        if any(within(module, package) for package in forbidden)
    ]


def test_imports_are_seen() -> None:
    text = "import a.b\nfrom c import d\ndef f():\n    from e.g import h\n    from . import i\n"
    names = [module for module, _ in imports(ast.parse(text))]
    assert names == ["a.b", "c", "c.d", "e.g", "e.g.h", ".", "..i"]
    assert sources("passes")
    assert sources("targets")
    assert not [path for path in sources("clio_cc") if path.parent.name in ("passes", "targets")]


def test_no_bare_passes_or_targets() -> None:
    assert not offenders(sources(*PARTS, "tests", "examples", "benchmarks"), ("passes", "targets", "."))


def test_passes_do_not_know_boards() -> None:
    assert not offenders(sources("passes"), ("clio_cc.targets",))


def test_boards_do_not_know_passes() -> None:
    assert not offenders(sources("targets"), ("clio_cc.passes",))


def test_nothing_below_imports_the_driver() -> None:
    files = sources("passes", "targets", "clio_cc/operators", "clio_cc/codegen")
    assert not offenders(files, ("clio_cc.cli", "clio_cc.compiler"))


def test_nobody_imports_the_command_line() -> None:
    files = [path for path in sources(*PARTS) if path.name != "__main__.py"]
    assert not offenders(files, ("clio_cc.cli",))


def test_only_training_needs_its_extra() -> None:
    files = [path for path in sources(*PARTS) if path.parent.name != "training"]
    assert not offenders(files, ("matplotlib", "torch"))


def prints(tree: ast.AST) -> Iterator[Found]:
    """Calls of print and uses of sys.stdout or sys.stderr, with their lines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
            yield "print", node.lineno
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in ("sys.stdout", "sys.stderr"):
            yield ast.unparse(node), node.lineno


def test_prints_are_seen() -> None:
    text = "import sys\nprint(1)\nsys.stderr.write('')\nlog.stdout\nblueprint(2)\n"
    assert list(prints(ast.parse(text))) == [("print", 2), ("sys.stderr", 3)]


def test_only_the_command_line_prints() -> None:
    may = {ROOT / "clio_cc" / name for name in ("cli.py", "cli_train.py", "terminal.py")}
    files = [path for path in sources(*PARTS) if path not in may]
    found = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in files
        for name, line in prints(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not found
    assert not offenders(files, ("rich", "typer"))


def test_the_command_line_starts_without_heavy_packages() -> None:
    heavy = {"matplotlib", "onnx", "onnxruntime", "onnxsim", "torch", "tvm"}
    code = f"import sys, clio_cc.cli; print(*sorted({heavy} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout.strip()) == (0, ""), run.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy, so that what an earlier build left in the checkout cannot get into it."""
    copy = tmp_path_factory.mktemp("wheel")
    for name in PARTS:
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=ignore)
    for path in ROOT.iterdir():
        if path.name in ("pyproject.toml", "LICENSE", "README.md"):
            shutil.copy(path, copy)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "-w",
        "dist",
        ".",
    ]
    run = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    (found,) = (copy / "dist").glob("*.whl")
    return found


def wheel_files(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_wheel_has_one_top_level_name(wheel: Path) -> None:
    names = {name.split("/")[0] for name in wheel_files(wheel)}
    assert {name for name in names if not name.endswith(".dist-info")} == {"clio_cc"}


def test_wheel_holds_every_module_and_template(wheel: Path) -> None:
    linked = {ROOT / "clio_cc" / "passes", ROOT / "clio_cc" / "targets"}
    expected = set()
    for part in PARTS:
        prefix = "" if part == "clio_cc" else "clio_cc/"
        for path in (ROOT / part).rglob("*"):
            ours = path.is_file() and "__pycache__" not in path.parts and not linked & {path, *path.parents}
            if ours:
                expected.add(prefix + path.relative_to(ROOT).as_posix())
    held = {name for name in wheel_files(wheel) if ".dist-info/" not in name}
    assert sorted(expected - held) == [], "list the package or the kind of file in pyproject.toml"
    assert sorted(held - expected) == []


def test_wheel_imports_and_names_its_command(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import clio_cc, clio_cc.passes, clio_cc.targets\n"
        "from importlib.metadata import entry_points\n"
        "print(clio_cc.__file__, clio_cc.targets.__file__)\n"
        "print(*{e.value for e in entry_points(group='console_scripts') if e.name == 'clio-cc'})\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    files, command = run.stdout.splitlines()
    assert files == f"{tmp_path}/clio_cc/__init__.py {tmp_path}/clio_cc/targets/__init__.py"
    assert command == "clio_cc.cli:main"
