"""Projects: files in memory until the end, templates with ``@NAME@`` holes, the glue around a model's C."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from clio_cc.artifacts import ACCURACY, MANIFEST, PLAN, PROFILE, REPORT
from clio_cc.errors import ClioError
from clio_cc.targets import HOST, Board, Memory, Target

_HOLE = re.compile(r"@([A-Z][A-Z0-9_]*)@")

# The C files that the code generator writes; the rest of a device project is glue from here.
MODEL_SOURCES = ("src/clio_model.c", "src/clio_tables.c", "src/clio_kernels.c")
TEST_SOURCES = ("test/clio_test.c", "test/clio_vectors.c")
ZONES = "test/clio_zones.c"
PROFILE_SOURCES = ("test/clio_profile.c", "test/clio_layers.c", "test/clio_vectors.c")

# -O3 is what the reference instruction counts were measured with. The sections let the linker drop what an
# application does not call, and let sections.ld place the arena.
CFLAGS = ("-std=c99", "-O3", "-Wall", "-Wextra", "-Werror", "-ffunction-sections", "-fdata-sections")
LDFLAGS = ("-Wl,--gc-sections",)

# Of the files that compile writes, those that other commands replace and people may edit.
EDITABLE = frozenset((PROFILE, ACCURACY, PLAN, REPORT))

_AWAY = "move them away or choose another folder with --out"

# Stack beside clio_run's: start-up, the test firmware and its hooks (under 300 bytes), one exception frame
# with FPU registers (104 bytes) and its handler.
FIRMWARE_STACK_BYTES = 1024


@dataclass(frozen=True)
class ProjectFiles:
    """A folder's files: relative POSIX path → content, sorted by path.

    Raises:
        ValueError: A path is absolute, leaves the folder, or is both a file and a folder.
    """

    files: Mapping[str, bytes]

    def __post_init__(self) -> None:
        for path in self.files:
            _check_path(path)
            for parent in PurePosixPath(path).parents:
                if str(parent) in self.files:
                    raise ValueError(f"'{parent}' is both a file and a folder")
        object.__setattr__(self, "files", MappingProxyType(dict(sorted(self.files.items()))))

    def digests(self) -> dict[str, str]:
        """Path → SHA-256 in hex, sorted by path."""
        return {path: hashlib.sha256(content).hexdigest() for path, content in self.files.items()}

    def write(self, folder: Path) -> None:
        """Write all files: `folder` is either what it was or complete; an older result is replaced.

        Files beside those of an older result stay, but for builds of the device project.

        Raises:
            ClioError: `folder` holds something else than a result of clio-cc, or files that people edited or put
                where others are to be written; or it cannot be written.
        """
        try:
            _replace_folder(folder, self.files)
        except OSError as error:
            raise ClioError(f"cannot write output folder '{folder}': {error.strerror}") from error


def project_files(*groups: Mapping[str, bytes | str]) -> ProjectFiles:
    """One project from several groups of files; text becomes UTF-8.

    Raises:
        ValueError: Two groups hold the same path (letter case does not count), or a path is not allowed.
    """
    files: dict[str, bytes] = {}
    seen: set[str] = set()
    for group in groups:
        for path, content in group.items():
            if path.lower() in seen:
                raise ValueError(f"'{path}' is written twice")
            seen.add(path.lower())
            files[path] = content.encode() if isinstance(content, str) else content
    return ProjectFiles(files)


def _check_path(path: str) -> None:
    parts = path.split("/")
    if "\\" in path or "\0" in path or ":" in path or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"'{path}' is not a plain relative path")


def _replace_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    target = folder.resolve()
    _check_replaceable(folder, target)
    if target.parent.is_file():  # mkdir would only say that the file exists
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    kept = _kept_files(target)
    _check_places(folder, kept, files)
    target.parent.mkdir(parents=True, exist_ok=True)
    # Siblings, because a rename is atomic only within one file system; the process id keeps two runs apart.
    fresh = target.with_name(f".{target.name}.new-{os.getpid()}")
    stale = target.with_name(f".{target.name}.old-{os.getpid()}")
    try:
        for path, content in files.items():
            file = fresh / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        fresh.mkdir(exist_ok=True)  # a project without files
        for path in kept:  # copied, not moved: until the exchange nothing is missing
            (fresh / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(target / path, fresh / path, follow_symlinks=False)
        if target.exists():
            target.rename(stale)
        try:
            fresh.rename(target)
        except OSError:
            if stale.exists():
                stale.rename(target)
            raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    shutil.rmtree(stale, ignore_errors=True)


def check_output_folder(folder: Path) -> None:
    """Raise what :meth:`ProjectFiles.write` would raise, as far as it can be known before the work is done.

    Raises:
        ClioError: `folder` holds something else than a result of clio-cc, or files of it that people edited; or it
            cannot be written.
    """
    target = folder.resolve()
    try:
        _check_replaceable(folder, target)
        holder = next(parent for parent in target.parents if parent.exists())
        if not holder.is_dir() or not os.access(holder, os.W_OK | os.X_OK):
            code = errno.EACCES if holder.is_dir() else errno.ENOTDIR
            raise OSError(code, os.strerror(code))
    except OSError as error:
        raise ClioError(f"cannot write output folder '{folder}': {error.strerror}") from error


def edited_files(folder: Path, digests: Mapping[str, str]) -> list[str]:
    """Return the files that are there with another content than was written, but for those of `EDITABLE`."""
    return [
        path
        for path, digest in digests.items()
        if path not in EDITABLE
        and (folder / path).is_file()
        and hashlib.sha256((folder / path).read_bytes()).hexdigest() != digest
    ]


def _check_replaceable(folder: Path, target: Path) -> None:
    if target == Path.cwd() or target in Path.cwd().parents:
        raise ClioError(
            f"output folder '{folder}' is the current folder or holds it", hint="name a folder below it"
        )
    if target.exists() and not target.is_dir():
        raise ClioError(f"output folder '{folder}' is a file", hint="choose another folder with --out")
    if target.is_dir() and any(target.iterdir()) and _digests(target) is None:
        raise ClioError(
            f"output folder '{folder}' holds files that clio-cc did not write",
            hint="choose another folder with --out, or empty this one",
        )
    edited = edited_files(target, _digests(target) or {})
    if edited:
        raise ClioError(
            f"output folder '{folder}' holds files that were edited since clio-cc wrote them: {_some(edited)}",
            hint=_AWAY,
        )


def _check_places(folder: Path, kept: Sequence[str], files: Mapping[str, bytes]) -> None:
    """Refuse files to keep where a file or folder is to be written."""
    folders = {str(parent) for path in files for parent in PurePosixPath(path).parents}
    taken = [
        path
        for path in kept
        if path in files
        or path in folders
        or any(str(parent) in files for parent in PurePosixPath(path).parents)
    ]
    if taken:
        raise ClioError(
            f"output folder '{folder}' holds files that clio-cc did not write where it now would: {_some(taken)}",
            hint=_AWAY,
        )


def _some(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    return ", ".join(paths[:3]) + more


def _digests(folder: Path) -> dict[str, str] | None:
    """What an older result's manifest says of its files; None if there is no such manifest."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(manifest, dict) or "schema" not in manifest:
        return None
    files = manifest.get("files")
    return files if isinstance(files, dict) else {}


def _kept_files(folder: Path) -> list[str]:
    """Files in an older result that clio-cc did not write; no builds of the device project."""
    written = {MANIFEST, *(_digests(folder) or {})}
    found = (path.relative_to(folder).as_posix() for path in _files_below(folder))
    return sorted(path for path in found if path not in written and not _is_built(path))


def _files_below(folder: Path) -> Iterator[Path]:
    """Files and links; links to folders are not followed."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_dir() and not path.is_symlink():
            yield from _files_below(path)
        elif path.is_file() or path.is_symlink():  # no sockets, no pipes
            yield path


def _is_built(path: str) -> bool:
    """Whether the Makefile, CMake, Zephyr's west (build) or GAP8's SDK (BUILD) made it."""
    top, *folders = path.split("/")[:-1] or [""]
    return top == "device" and any(name.lower().startswith("build") for name in folders)


def fill(template: str, holes: Mapping[str, str]) -> str:
    """The template with every ``@NAME@`` replaced.

    Raises:
        ValueError: A hole has no value, or a value no hole.
    """
    return fill_all({"template": template}, holes)["template"]


def fill_all(templates: Mapping[str, str], holes: Mapping[str, str]) -> dict[str, str]:
    """Several templates with the same holes; each value is used in at least one of them.

    Raises:
        ValueError: A hole has no value, or a value no hole.
    """
    used: set[str] = set()
    filled: dict[str, str] = {}
    for name, template in templates.items():
        found = set(_HOLE.findall(template))
        unknown = sorted(found - holes.keys())
        if unknown:
            raise ValueError(f"{name}: no value for @{unknown[0]}@")
        used |= found
        filled[name] = _HOLE.sub(lambda match: holes[match.group(1)], template)
    unused = sorted(holes.keys() - used)
    if unused:
        raise ValueError(f"{', '.join(templates)}: no hole for the value {unused[0]}")
    return filled


def template_text(path: str) -> str:
    """A template below ``targets/``, e.g. ``runtime/board.h``."""
    return resources.files("clio_cc.targets").joinpath(path).read_text("utf-8")


def device_glue(
    target: Target, *, model: str, tool: str, arena_bytes: int, stack_bytes: int
) -> dict[str, str]:
    """What the code generator does not write of a device project: boards, test firmware, build files.

    Args:
        model: Name for comments and the README, one line.
        tool: Name and version of the generator, e.g. ``clio-cc 0.1.0``.
        arena_bytes: Size of ``clio_arena``; decides in which region of an emulated board it lies.
        stack_bytes: Stack that clio_run uses at most, from :func:`clio_cc.toolchain.stack_bytes`.

    Returns:
        Path relative to ``device/`` → text. Beside it belong the files of `MODEL_SOURCES`,
        ``include/clio_model.h``, ``test/clio_vectors.c``, ``test/clio_zones.c`` and ``test/clio_layers.c``.
    """
    boards: list[Board] = [board for board in (HOST, target.emulated, target.firmware) if board is not None]
    templates = {
        "test/board.h": "runtime/board.h",
        "test/clio_test.c": "runtime/clio_test.c",
        "test/clio_profile.c": "runtime/clio_profile.c",
        "CMakeLists.txt": "runtime/CMakeLists.txt",
        "Makefile": "runtime/Makefile.in",
        **{f"boards/{board.name}/{file}": template for board in boards for file, template in board.files},
        **dict((*target.micro_kernels, *target.files)),
    }
    holes = {
        "TOOL": tool,
        "MODEL": model,
        "TARGET_TITLE": target.title,
        "STACK_BYTES": str(stack_bytes),
        "MAIN_STACK_BYTES": str(stack_bytes + FIRMWARE_STACK_BYTES),
        "CFLAGS": " ".join(CFLAGS),
        "LDFLAGS": " ".join(LDFLAGS),
        "MODEL_SOURCES": " ".join(MODEL_SOURCES),
        "TEST_SOURCES": " ".join(TEST_SOURCES),
        "PROFILE_SOURCES": " ".join(PROFILE_SOURCES),
        "HOST_SOURCES": " ".join(HOST.sources),
        **_emulated_holes(target),
        "FIRMWARE_RULE": _firmware_rule(target),
    }
    texts = {path: template_text(name) for path, name in templates.items()}
    texts["README.md"] = (
        template_text("runtime/README.md") + "\n" + template_text(f"{target.name}/integration.md")
    )
    glue = fill_all(texts, holes)
    for board in boards:
        if board.memory is not None:
            glue[f"boards/{board.name}/memory.ld"] = memory_script(
                board, board.memory, arena_bytes, stack_bytes
            )
    return glue


def _emulated_holes(target: Target) -> dict[str, str]:
    board = target.emulated
    return {
        "EMULATED_BOARD": board.name,
        "EMULATED_CORE": board.core,
        "EMULATED_SOURCES": " ".join(board.sources),
        "EMULATED_CC": board.compiler.command,
        "EMULATED_FLAGS": " ".join(board.compiler.flags),
        "EMULATED_LDFLAGS": " ".join((*board.compiler.link_flags, *script_flags(board))),
        "QEMU": " ".join((*board.qemu, *board.icount)),
    }


def script_flags(board: Board) -> tuple[str, ...]:
    """Linker options that select the board's linker script, relative to the device project."""
    return (
        (f"-Lboards/{board.name}", f"-Tboards/{board.name}/sections.ld") if board.memory is not None else ()
    )


def _firmware_rule(target: Target) -> str:
    board = target.firmware
    if board is None:
        return (
            f"# Needs the vendor's SDK; see boards/{target.name}/Makefile.\n"
            f"firmware:\n\t$(MAKE) -C boards/{target.name} clean all\n\n"
            f"profile:\n\t$(MAKE) -C boards/{target.name} PROFILE=1 clean all"
        )
    flags = " ".join((*board.compiler.flags, *board.compiler.link_flags, *script_flags(board)))
    return (
        f"FIRMWARE_CC ?= {board.compiler.command}\n"
        f"firmware: build/{board.name}/clio_test.elf\n"
        f"profile: build/{board.name}/clio_profile.elf\n\n"
        f"build/{board.name}/clio_test.elf: $(TEST)\n"
        f"build/{board.name}/clio_profile.elf: $(PROFILE)\n"
        f"build/{board.name}/%.elf: $(MODEL) {' '.join(board.sources)} $(HEADERS)\n"
        "\tmkdir -p $(@D)\n"
        f"\t$(FIRMWARE_CC) $(CFLAGS) $(TEST_FLAGS) -Iboards/{board.name} {flags} $(LDFLAGS) "
        "-Wl,-Map=$@.map -o $@ $(filter %.c %.S,$^)"
    )


def memory_script(board: Board, memory: Memory, arena_bytes: int, stack_bytes: int) -> str:
    """The board's ``memory.ld``: its regions, and which of them hold code, tables, data and the arena."""
    names = {
        "CODE": memory.code,
        "TABLES": memory.tables,
        "DATA": memory.data,
        "ARENA": _arena_region(memory, arena_bytes, stack_bytes),
    }
    regions = "".join(
        f"    {region.name} (rwx) : ORIGIN = 0x{region.origin:08x}, LENGTH = {region.length}\n"
        for region in memory.regions
    )
    aliases = "".join(f'REGION_ALIAS("{alias}", {name})\n' for alias, name in names.items())
    return f"/* Memory of {board.name} ({board.core}). */\nMEMORY\n{{\n{regions}}}\n\n{aliases}"


def _arena_region(memory: Memory, arena_bytes: int, stack_bytes: int) -> str:
    # 4096 for the test firmware's own data. Where no region is large enough the linker says by how much.
    beside = {memory.data: stack_bytes + FIRMWARE_STACK_BYTES + 4096}
    fitting = (
        name for name in memory.arena if arena_bytes + beside.get(name, 0) <= memory.region(name).length
    )
    return next(fitting, memory.arena[-1])
