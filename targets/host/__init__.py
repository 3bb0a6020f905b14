"""The machine that clio-cc runs on, as a board for the device project."""

from __future__ import annotations

from clio_cc.targets.facts import Board, Compiler

HOST = Board(
    name="host",
    core="host",
    compiler=Compiler("gcc", packages=("gcc", "libc6-dev")),
    files=(("board.c", "host/board.c"),),
)
