"""Projects in memory, templates, and the glue around a model's C code."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from toy import board_id, toy_project

from clio_cc.errors import ClioError
from clio_cc.project import ProjectFiles, check_output_folder, device_glue, fill, fill_all, project_files
from clio_cc.targets import TARGETS, Target, find_target

Tool = Callable[[str], str]


def result(**files: str) -> ProjectFiles:
    """A result of clio-cc: files by name, `_` for `/` and `__` for `.`, and their manifest."""
    made = project_files({name.replace("__", ".").replace("_", "/"): text for name, text in files.items()})
    return project_files(made.files, {"manifest.json": json.dumps({"schema": 1, "files": made.digests()})})


RESULT = result(device_src_a__c="int a;\n")


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../a", "a/../b", "a//b", "./a", "", "a/", "a\\b", "C:/a", "a\0b", "a/."]
)
def test_only_plain_relative_paths(path: str) -> None:
    with pytest.raises(ValueError, match="is not a plain relative path"):
        ProjectFiles({path: b""})


def test_no_path_twice() -> None:
    with pytest.raises(ValueError, match=r"^'src/A\.c' is written twice$"):
        project_files({"src/a.c": ""}, {"src/A.c": ""})
    with pytest.raises(ValueError, match=r"^'src' is both a file and a folder$"):
        project_files({"src": ""}, {"src/a.c": ""})


def test_order_does_not_matter() -> None:
    a, b = project_files({"b": "2", "a": "1"}), project_files({"a": "1"}, {"b": b"2"})
    assert a == b
    assert list(a.files) == ["a", "b"]
    assert a.digests() == {"a": hashlib.sha256(b"1").hexdigest(), "b": hashlib.sha256(b"2").hexdigest()}


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_write_new_empty_and_older_result(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    RESULT.write(out)
    assert tree(out) == dict(RESULT.files)
    newer = result()
    newer.write(out)
    assert tree(out) == dict(newer.files)
    empty = tmp_path / "empty"
    empty.mkdir()
    RESULT.write(empty)
    assert tree(empty) == dict(RESULT.files)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["deep", "empty"]  # nothing temporary left
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["out"]


def test_modes_are_those_of_other_files(tmp_path: Path) -> None:
    RESULT.write(tmp_path / "out")
    (tmp_path / "other").mkdir()
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize("manifest", [None, "not json", "[]", '{"name": "package"}'])
def test_other_peoples_folders_are_refused(tmp_path: Path, manifest: str | None) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    if manifest is not None:
        (tmp_path / "manifest.json").write_text(manifest)
    before = tree(tmp_path)
    with pytest.raises(ClioError) as caught:
        RESULT.write(tmp_path)
    assert str(caught.value) == (
        f"output folder '{tmp_path}' holds files that clio-cc did not write\n"
        "  hint: choose another folder with --out, or empty this one"
    )
    assert tree(tmp_path) == before


def test_a_file_and_the_current_folder_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(ClioError) as caught:
        RESULT.write(file)
    assert str(caught.value) == (
        f"output folder '{file}' is a file\n  hint: choose another folder with --out"
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ClioError) as caught:
        RESULT.write(Path())
    assert str(caught.value) == (
        "output folder '.' is the current folder or holds it\n  hint: name a folder below it"
    )


def test_unwritable_output(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "out"
    with pytest.raises(ClioError) as caught:
        RESULT.write(out)
    assert str(caught.value) == f"cannot write output folder '{out}': Not a directory"


def put(folder: Path, files: Mapping[str, str]) -> None:
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)


def test_files_beside_a_result_stay(tmp_path: Path) -> None:
    out = tmp_path / "out"
    result(device_src_a__c="1", device_src_old__c="2", profile__csv="3").write(out)
    mine = {
        "notes.md": "mine",
        "board.csv": "mine",
        "build/x": "mine",
        "device/boards/mine/board.c": "mine",
        "device/build.sh": "mine",
    }
    built = [
        *("device/build/host/clio_test", "device/build-debug/a.o"),
        *("device/boards/zephyr/build/zephyr.elf", "device/boards/gap8/BUILD/a/clio_test"),
    ]
    put(out, mine | dict.fromkeys(built, ""))
    (out / "profile.csv").write_text("edited")
    (out / "link").symlink_to("device/src")
    newer = result(device_src_a__c="new")
    check_output_folder(out)
    newer.write(out)
    assert (out / "link").readlink() == Path("device/src")
    assert tree(out) == dict(newer.files) | {path: text.encode() for path, text in mine.items()}
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    newer.write(out)  # they still stay
    assert tree(out).keys() == newer.files.keys() | mine.keys()


@pytest.mark.parametrize(
    ("edited", "named"),
    [("b", "b.c"), ("bcd", "b.c, c.c, d.c"), ("abcde", "a.c, b.c, c.c and 2 more")],
)
def test_edited_files_are_not_lost(tmp_path: Path, edited: str, named: str) -> None:
    out = tmp_path / "out"
    names = "abcde"
    result(**{f"{name}__c": "int x;" for name in names}).write(out)
    put(out, {f"{name}.c": "int y;" for name in edited})
    before = tree(out)
    words = (
        f"output folder '{out}' holds files that were edited since clio-cc wrote them: {named}\n"
        "  hint: move them away or choose another folder with --out"
    )
    for write in (check_output_folder, RESULT.write):
        with pytest.raises(ClioError) as caught:
            write(out)
        assert str(caught.value) == words
        assert tree(out) == before
    for name in edited:
        (out / f"{name}.c").unlink()
    RESULT.write(out)
    assert tree(out) == RESULT.files


@pytest.mark.parametrize("mine", ["new.c", "dir", "new.c/a"])
def test_files_where_a_new_one_belongs_are_not_lost(tmp_path: Path, mine: str) -> None:
    out = tmp_path / "out"
    RESULT.write(out)
    put(out, {mine: "mine"})
    before = tree(out)
    with pytest.raises(ClioError) as caught:
        result(new__c="new", dir_a="new").write(out)
    assert str(caught.value) == (
        f"output folder '{out}' holds files that clio-cc did not write where it now would: {mine}\n"
        "  hint: move them away or choose another folder with --out"
    )
    assert tree(out) == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_failed_write_leaves_the_older_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    RESULT.write(out)

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ClioError) as caught:
        project_files({"new": "new"}).write(out)
    assert str(caught.value) == f"cannot write output folder '{out}': No space left on device"
    assert tree(out) == dict(RESULT.files)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_failed_exchange_puts_the_older_result_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    RESULT.write(out)
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if ".new-" in self.name:
            raise PermissionError(13, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(ClioError) as caught:
        project_files({"new": "new"}).write(out)
    assert str(caught.value) == f"cannot write output folder '{out}': Permission denied"
    assert tree(out) == dict(RESULT.files)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_fill() -> None:
    assert fill("a @X@ b @Y_2@ $@ @x@ @X@", {"X": "1", "Y_2": "@X@"}) == "a 1 b @X@ $@ @x@ 1"
    with pytest.raises(ValueError, match=r"^template: no value for @Y@$"):
        fill("@X@ @Y@", {"X": "1"})
    with pytest.raises(ValueError, match=r"^template: no hole for the value Y$"):
        fill("@X@", {"X": "1", "Y": "2"})
    assert fill_all({"a": "@X@", "b": "@Y@"}, {"X": "1", "Y": "2"}) == {"a": "1", "b": "2"}


@pytest.mark.parametrize("target", TARGETS, ids=board_id)
def test_glue(target: Target) -> None:
    glue = device_glue(target, model="toy", tool="clio-cc 0", arena_bytes=32, stack_bytes=256)
    again = device_glue(target, model="toy", tool="clio-cc 0", arena_bytes=32, stack_bytes=256)
    assert glue == again
    boards = {path.split("/")[1] for path in glue if path.startswith("boards/")}
    real = {"gap8": {"gap8"}, "stm32f7": {"stm32f7"}, "nrf5340": {"nrf5340", "zephyr"}}
    assert boards == {"host", target.emulated.name} | real[target.name]
    everywhere = {
        "CMakeLists.txt",
        "Makefile",
        "README.md",
        "test/board.h",
        "test/clio_test.c",
        "test/clio_profile.c",
    }
    assert everywhere | {"src/clio_micro.h"} <= glue.keys()
    for path, text in glue.items():
        assert text.endswith("\n"), path
        assert "@" not in text.replace("$@", "").replace("$(@D)", "").replace("\t@", ""), path
    assert "The stack needs 256 bytes" in glue["README.md"]


@pytest.mark.parametrize(
    ("arena", "region"), [(32, "RAM"), ((4 << 20) - 5376, "RAM"), ((4 << 20) - 5375, "PSRAM")]
)
def test_arena_region(arena: int, region: str) -> None:
    glue = device_glue(find_target("stm32f7"), model="toy", tool="x", arena_bytes=arena, stack_bytes=256)
    assert f'REGION_ALIAS("ARENA", {region})\n' in glue["boards/mps2_an500/memory.ld"]
    assert 'REGION_ALIAS("ARENA", RAM)\n' in glue["boards/stm32f7/memory.ld"]


@pytest.mark.parametrize("target", TARGETS, ids=board_id)
def test_makefile(tool: Tool, tmp_path: Path, target: Target) -> None:
    for command in ("make", "gcc", target.emulated.compiler.command, target.emulated.qemu[0]):
        tool(command)
    device = tmp_path / "device"
    toy_project(target).write(device)
    make = [tool("make"), "-s"]
    done = subprocess.run([*make, "check"], cwd=device, check=True, capture_output=True, text=True)
    assert done.stdout == "DONE 0\n"
    done = subprocess.run([*make, "run-emulated"], cwd=device, check=True, capture_output=True, text=True)
    assert done.stdout.endswith("\nDONE 0\n")
    if target.firmware is not None:
        subprocess.run([*make, "firmware"], cwd=device, check=True)
        subprocess.run([*make, "profile"], cwd=device, check=True)
        assert (device / "build" / target.name / "clio_test.elf").is_file()
        assert (device / "build" / target.name / "clio_profile.elf").is_file()
    text = subprocess.run([*make, "help"], cwd=device, check=True, capture_output=True, text=True).stdout
    assert [line.split()[1] for line in text.splitlines()] == [
        *("host", "check", "emulated", "run-emulated", "firmware", "profile", "run-profile", "clean")
    ]


@pytest.mark.parametrize("target", TARGETS, ids=board_id)
def test_profiling_firmware(tool: Tool, tmp_path: Path, target: Target) -> None:
    for command in ("make", target.emulated.compiler.command, target.emulated.qemu[0]):
        tool(command)
    device = tmp_path / "device"
    toy_project(target).write(device)

    def made(name: str) -> list[str]:
        done = subprocess.run(
            [tool("make"), "-s", name], cwd=device, check=True, capture_output=True, text=True
        )
        return done.stdout.splitlines()

    # What the test firmware counts, each operator's under its layer, but for what calling the hooks costs.
    counted = [int(line.split()[4]) for line in made("run-emulated") if line.startswith("OP 0 ")]
    head, *rows = made("run-profile")
    names, counts = zip(*(row.rsplit(",", 1) for row in rows), strict=True)
    assert head == "layer,instructions" and names == ('"add, twice"', "relu", "lookup")
    assert [int(count) for count in counts] == pytest.approx([counted[0], 0, counted[1]], abs=8)


def test_makefile_fails_on_a_wrong_result(tool: Tool, tmp_path: Path) -> None:
    tool("gcc")
    device = tmp_path / "device"
    toy_project(TARGETS[1]).write(device)
    (device / "test" / "wrong_vectors.c").replace(device / "test" / "clio_vectors.c")
    done = subprocess.run(
        [tool("make"), "-s", "check"], cwd=device, check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "DONE 1\n")


def test_gap8_makefile_says_what_it_needs(tool: Tool, tmp_path: Path) -> None:
    toy_project(find_target("gap8")).write(tmp_path / "device")
    done = subprocess.run(
        [tool("make"), "-C", "boards/gap8"],
        cwd=tmp_path / "device",
        env={"PATH": "/usr/bin:/bin"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "RULES_DIR is not set: source the GAP SDK's sourceme.sh first" in done.stderr


def test_cmake(tool: Tool, tmp_path: Path) -> None:
    tool("gcc")
    device, out = tmp_path / "device", tmp_path / "build"
    toy_project(TARGETS[1]).write(device)
    subprocess.run([tool("cmake"), "-S", str(device), "-B", str(out)], check=True, capture_output=True)
    subprocess.run([tool("cmake"), "--build", str(out)], check=True, capture_output=True)
    subprocess.run([tool("ctest"), "--test-dir", str(out)], check=True, capture_output=True)
    assert (out / "libclio_model.a").is_file()
