"""A target profile to and from the plain tables of its file."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graphopt.targets.profile import (
    ENOUGH_DB,
    Candidate,
    DeviceProfile,
    Package,
    Precision,
    Provider,
    RuntimeProfile,
    Stage,
    Target,
)

__all__ = ["document_of", "target_of", "toml_text"]

_COMMENT_WIDTH = 96


def target_of(document: Mapping[str, Any], path: Path | None = None) -> Target:
    """Return the target that a checked document describes."""
    runtime = dict(document["runtime"])
    providers = tuple(Provider(**item) for item in runtime.pop("providers"))
    package = dict(document.get("package", {}))
    return Target(
        name=document["name"],
        summary=document["summary"],
        runtime=RuntimeProfile(providers=providers, **runtime),
        device=_device(document.get("device", {})),
        precision=Precision(**document.get("precision", {})),
        stages=tuple(_stage(name, item) for name, item in document.get("pipeline", {}).items()),
        candidates=tuple(
            Candidate(name=name, **item) for name, item in document["candidates"].items()
        ),
        gates={
            name: float(limit)
            for name, limit in document.get("gates", {}).items()
            # `name = false` takes an inherited gate away: TOML has no null.
            if limit is not False
        },
        package=Package(**{**package, "include": tuple(package.get("include", ()))}),
        worth_of_3_db=float(document.get("worth_of_3_db", 1.0)),
        enough_db=float(document.get("enough_db", ENOUGH_DB)),
        path=path,
    )


def _device(fields: Mapping[str, Any]) -> DeviceProfile:
    arrays = {key: tuple(fields.get(key, ())) for key in ("architectures", "features")}
    return DeviceProfile(**{**fields, **arrays})


def _stage(name: str, item: str | Mapping[str, Any]) -> Stage:
    return Stage(name=name, passes=item) if isinstance(item, str) else Stage(name=name, **item)


def document_of(target: Target) -> dict[str, Any]:
    """Return the tables of a file that loads as an equal target; only what is set is in it."""
    runtime = target.runtime
    document: dict[str, Any] = {
        "name": target.name,
        "summary": target.summary,
        # What is as by default is left out, so that a file that is shown says what somebody
        # decided.
        **({} if target.worth_of_3_db == 1.0 else {"worth_of_3_db": target.worth_of_3_db}),
        **({} if target.enough_db == ENOUGH_DB else {"enough_db": target.enough_db}),
        "runtime": {
            "threads": runtime.threads,
            "optimization": runtime.optimization,
            **({} if runtime.order == "default" else {"order": runtime.order}),
            "config": dict(runtime.config),
            "providers": [
                {"name": item.name, "options": dict(item.options)} for item in runtime.providers
            ],
        },
        "device": {key: item for key, item in _known(vars(target.device)).items() if item},
        "precision": _known(vars(target.precision)),
        "pipeline": {
            item.name: {
                "passes": item.passes,
                "enabled": item.enabled,
                **({"last": True} if item.last else {}),
            }
            for item in target.stages
        },
        "candidates": {
            item.name: {key: part for key, part in vars(item).items() if key != "name"}
            for item in target.candidates
        },
        "gates": dict(target.gates),
        "package": _known(vars(target.package)),
    }
    return document


def _known(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: list(part) if isinstance(part, tuple) else part
        for key, part in fields.items()
        if part is not None
    }


def toml_text(
    document: Mapping[str, Any], reasons: Mapping[tuple[str, ...], str] | None = None
) -> str:
    """Write a document as TOML: values first, then tables, then arrays of tables.

    Args:
        document: Of a target.
        reasons: Comments by key or table, which go above it.
    """
    return "\n".join(_table_lines(document, (), reasons or {})).strip() + "\n"


def _table_lines(
    table: Mapping[str, Any], path: tuple[str, ...], reasons: Mapping[tuple[str, ...], str]
) -> list[str]:
    tables = {key: item for key, item in table.items() if isinstance(item, Mapping)}
    arrays = {key: item for key, item in table.items() if _is_array_of_tables(item)}
    lines: list[str] = []
    for key in table:
        if key not in tables and key not in arrays:
            lines += _comment((*path, key), reasons)
            lines.append(f"{_toml_key(key)} = {_toml_value(table[key])}")
    for key, item in tables.items():
        if item:
            lines += _inner_table((*path, key), item, reasons)
    for key, items in arrays.items():
        for number, item in enumerate(items):
            place = (*path, key, str(number))
            header = f"[[{_toml_path(*path, key)}]]"
            lines += ["", *_comment(place, reasons), header, *_table_lines(item, place, reasons)]
    return lines


def _inner_table(
    path: tuple[str, ...], table: Mapping[str, Any], reasons: Mapping[tuple[str, ...], str]
) -> list[str]:
    inner = _table_lines(table, path, reasons)
    # A table of tables alone needs no header of its own in TOML.
    if all(isinstance(part, Mapping) for part in table.values()):
        return inner
    named = [key for key in path if not key.isdecimal()]  # a table in one of an array: TOML's way
    return ["", *_comment(path, reasons), f"[{_toml_path(*named)}]", *inner]


def _comment(path: tuple[str, ...], reasons: Mapping[tuple[str, ...], str]) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(reasons.get(path, ""), _COMMENT_WIDTH)]


def _is_array_of_tables(item: Any) -> bool:
    return isinstance(item, list) and bool(item) and isinstance(item[0], Mapping)


def _toml_path(*keys: str) -> str:
    return ".".join(_toml_key(key) for key in keys)


def _toml_key(key: str) -> str:
    return key if re.fullmatch("[A-Za-z0-9_-]+", key) else json.dumps(key)


def _toml_value(item: Any) -> str:
    if isinstance(item, list):
        return "[" + ", ".join(_toml_value(part) for part in item) + "]"
    # JSON strings, numbers and booleans are TOML ones.
    return json.dumps(item, ensure_ascii=False)
