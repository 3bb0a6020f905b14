"""Links as files: what `clio-cc links --json` prints for one link is what ``--link FILE`` reads, in JSON or TOML.

A figure is ``{"value": 51, "source": "where it comes from"}``, or the bare number, whose source is then the file.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from clio_cc.errors import ClioError, raise_collected
from clio_cc.link import ConnectionEvents, Link
from clio_cc.targets.facts import Figure

_FIGURES = ("bandwidth_bps", "sending_mw", "energy_nj_per_byte", "idle_uw")
_LINK = tuple(field.name for field in fields(Link))
_CONNECTION = tuple(field.name for field in fields(ConnectionEvents))
_MOST = 1e12
_HINT = "`clio-cc links --json` prints links in this form"


def to_json(link: Link) -> dict[str, Any]:
    """The object of a link file, and of ``links --json``, where `ceiling_bps` says what it comes to."""
    return {name: value for name, value in asdict(link).items() if value not in (None, "")} | {
        "ceiling_bps": link.ceiling_bps
    }


def read_link(path: Path) -> Link:
    """Read a link from a ``.json`` or ``.toml`` file.

    Raises:
        ClioError: It cannot be read, or fields are at fault: all of them are named.
    """
    data = _load(path)
    errors: list[str] = []
    values: dict[str, Any] = {
        "name": _text(data, "name", errors, needed=True),
        "title": _text(data, "title", errors) or str(data.get("name", "")),
        "note": _text(data, "note", errors),
        **{name: _figure(data, name, path, errors) for name in _FIGURES},
        "connection": _connection(data, path, errors),
    }
    errors += [f"unknown field '{name}'" for name in data if name not in (*_LINK, "ceiling_bps")]
    if ("bandwidth_bps" in data) == ("connection" in data):
        errors.append("give either bandwidth_bps or connection")
    if values["bandwidth_bps"] is not None and not float(values["bandwidth_bps"].value).is_integer():
        errors.append(f"bandwidth_bps must be a whole number, got {values['bandwidth_bps'].value:g}")
    raise_collected((f"{path}: {mistake}" for mistake in errors), hint=_HINT)
    return Link(**values)


def _load(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ClioError("no such file", str(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ClioError("cannot be read as UTF-8 text", str(path)) from error
    is_toml = path.suffix.lower() == ".toml"
    read: Callable[[str], Any] = tomllib.loads if is_toml else json.loads
    try:
        data = read(text)
    except (ValueError, RecursionError) as error:
        raise ClioError(f"is no {'TOML' if is_toml else 'JSON'}: {error}", str(path)) from error
    if not isinstance(data, dict):
        raise ClioError("must hold one link, an object with a name", str(path), _HINT)
    return data


def _text(data: Mapping[str, Any], name: str, errors: list[str], needed: bool = False) -> str:
    value = data.get(name, "")
    if not isinstance(value, str) or (needed and not value):
        errors.append(f"{name} must be a text" + (f", got {value!r}" if name in data else ""))
        return ""
    return value


def _figure(data: Mapping[str, Any], name: str, path: Path, errors: list[str]) -> Figure | None:
    if name not in data:
        return None
    given: Any = data[name]
    value: Any = given
    source: Any = str(path)
    if isinstance(given, Mapping):
        value, source = given.get("value"), given.get("source")
        if not isinstance(source, str) or not source:
            errors.append(f"{name}.source must say where {name} comes from")
            source = "?"
        errors += [f"unknown field '{name}.{key}'" for key in given if key not in ("value", "source")]
    if not _is_number(value) or not 0 < value <= _MOST:
        errors.append(f"{name} must be a number above 0 and at most {_MOST:g}, got {value!r}")
        return None
    return Figure(value, source)


def _connection(data: Mapping[str, Any], path: Path, errors: list[str]) -> ConnectionEvents | None:
    if "connection" not in data:
        return None
    given = data["connection"]
    if not isinstance(given, Mapping):
        errors.append(f"connection must be an object, got {given!r}")
        return None
    values = {"packets": None, "acknowledged": False, "loss": 0.0, "source": str(path), **given}
    found = [f"unknown field 'connection.{name}'" for name in given if name not in _CONNECTION]
    for name, (holds, words) in _KINDS.items():
        if name not in values:
            found.append(f"connection.{name} is missing")
        elif not holds(values[name]):
            found.append(f"connection.{name} must be {words}, got {values[name]!r}")
    made = None
    if not found:
        try:
            made = ConnectionEvents(**values)
        except ValueError as error:
            found = [f"connection.{mistake}" for mistake in error.args]
    errors += found
    return made


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "phy": (lambda value: isinstance(value, str), "a text"),
    "payload": (_is_whole, "a whole number"),
    "interval_us": (_is_whole, "a whole number"),
    "packets": (lambda value: value is None or _is_whole(value), "a whole number or null"),
    "acknowledged": (lambda value: isinstance(value, bool), "true or false"),
    "loss": (_is_number, "a number"),
    "source": (lambda value: isinstance(value, str) and value != "", "a text"),
}
"""Fields of a connection: what holds, in words."""
