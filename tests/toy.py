"""A hand-written device project (tests/data/toy_device) with a target's glue."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from clio_cc.project import ProjectFiles, device_glue, project_files
from clio_cc.targets import HOST, TARGETS, Board, Target

TOY = Path(__file__).parent / "data" / "toy_device"
STACK_BYTES = 256
OUTPUTS = tuple(
    (bytes.fromhex(text),) for text in ("0b0b9c0be6e6dae6", "8ac34be50b0b5e0b", "a6fa3ce6e60be60b")
)

# Every emulated board with the target that it stands for.
EMULATED = tuple((target.emulated, target) for target in TARGETS)
RUNNABLE: tuple[tuple[Board, Target], ...] = ((HOST, TARGETS[1]), *EMULATED)
LINKABLE = (*RUNNABLE, *((target.firmware, target) for target in TARGETS if target.firmware is not None))


def board_id(value: object) -> str:
    """Parameter id: the name of a board or target."""
    return str(getattr(value, "name", value))


def toy_files() -> dict[str, bytes]:
    """The hand-written files."""
    files = sorted(path for path in TOY.rglob("*") if path.is_file())
    return {path.relative_to(TOY).as_posix(): path.read_bytes() for path in files}


def toy_project(
    target: Target,
    replace: Mapping[str, tuple[str, str]] | None = None,
    arena_bytes: int = 32,
    stack_bytes: int = STACK_BYTES,
) -> ProjectFiles:
    """The toy as a device project; `replace` maps a file to (old text, new text), which must occur."""
    files = toy_files()
    for path, (old, new) in (replace or {}).items():
        text = files[path].decode()
        assert old in text
        files[path] = text.replace(old, new).encode()
    glue = device_glue(
        target, model="toy", tool="clio-cc 0", arena_bytes=arena_bytes, stack_bytes=stack_bytes
    )
    return project_files(glue, files)
