"""Tables that scripts write into documents. A module for the scripts beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def with_tables(text: str, script: str, tables: Mapping[str, Sequence[str]]) -> str:
    """Return a document with the lines of each table between ``<!-- SCRIPT: TABLE -->`` and ``<!-- end -->``.

    Args:
        text: The document; what it has no mark for is left out.
        script: Name of the file that the tables come from.
        tables: Lines by name.
    """
    end = "<!-- end -->"
    for name, lines in tables.items():
        begin = f"<!-- {script}: {name} -->"
        before, found, rest = text.partition(begin)
        if found:
            text = "\n".join([before + begin, *lines, end]) + rest.partition(end)[2]
    return text
