"""Why each line of a target file is there: its comments, which TOML readers drop.

A comment belongs to the key, or the table, that it stands above without an empty line between, or
beside.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

__all__ = ["KeyPath", "load_reasons", "reasons_in"]

KeyPath: TypeAlias = tuple[str, ...]
"""Where a key is, from the outside in; members of arrays of tables by their number."""


def load_reasons(files: Iterable[Path]) -> dict[KeyPath, str]:
    """Return the reasons that hold for a target.

    Args:
        files: Its file and what it extends, the innermost parent first: what a child sets anew
            has the child's reason, or none.
    """
    found: dict[KeyPath, str] = {}
    for file in files:
        said = dict(_statements(file.read_text(encoding="utf-8")))
        for path, (why, is_table) in said.items():
            if not is_table:  # a value replaces what was there, tables below it included
                found = {old: text for old, text in found.items() if old[: len(path)] != path}
            elif path[-1:] == ("0",):  # the first of an array, which replaces the whole of it
                found = {
                    old: text for old, text in found.items() if old[: len(path) - 1] != path[:-1]
                }
            if why:
                found[path] = why
    return found


def reasons_in(text: str) -> Mapping[KeyPath, str]:
    """Return the comments of one file by the key or table that they belong to."""
    return {path: why for path, (why, _) in _statements(text) if why}


def _statements(text: str) -> Iterator[tuple[KeyPath, tuple[str, bool]]]:
    """Yield each key and table with its comment, and whether it is a table."""
    table: KeyPath = ()
    counts: dict[KeyPath, int] = {}
    above: list[str] = []
    lines = iter(text.splitlines())
    for line in lines:
        bare = line.strip()
        if not bare or bare.startswith("#"):
            above = [*above, bare.removeprefix("#").strip()] if bare else []
            continue
        while not _is_whole(bare):  # arrays and texts may go on over several lines
            bare += "\n" + next(lines)
        statement = _divided(bare)[0]
        beside = _divided(bare.splitlines()[-1])[1]
        why = " ".join(part for part in (*above, beside) if part)
        above = []
        if statement.startswith("["):
            table = _keys(statement.strip("[]"))
            if statement.startswith("[["):
                # Members of an array of tables are headed alike: their order tells them apart.
                number = counts.get(table, 0)
                counts[table] = number + 1
                table = (*table, str(number))
            yield table, (why, True)
        else:
            yield (*table, *_keys(_divided(statement, "=")[0])), (why, False)


def _is_whole(statement: str) -> bool:
    try:
        tomllib.loads(statement)
    except tomllib.TOMLDecodeError:
        return False
    return True


def _divided(line: str, at: str = "#") -> tuple[str, str]:
    """Divide a line at the first character of a kind that stands in no text."""
    quote = ""
    for index, character in enumerate(line):
        if quote:
            is_escaped = quote == '"' and line[index - 1] == "\\"
            quote = "" if character == quote and not is_escaped else quote
        elif character in "\"'":
            quote = character
        elif character == at:
            return line[:index].strip(), line[index + 1 :].strip()
    return line.strip(), ""


def _keys(text: str) -> KeyPath:
    """Return the parts of a dotted key."""
    parts: list[str] = []
    found = tomllib.loads(f"{text} = 0")
    while isinstance(found, dict):
        ((key, found),) = found.items()
        parts.append(key)
    return tuple(parts)
