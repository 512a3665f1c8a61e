"""Is a bundle whole? The manifest against its schema, the files against the manifest.

This file, `signature`, `agreement` and `on_device` become the `validate.py` of every bundle
(`validator_text`). They therefore keep to Python 3.8, numpy and onnxruntime, and import nothing
else of graphopt.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = [
    "MANIFEST",
    "MAX_MANIFEST_BYTES",
    "PREPROCESSING",
    "RAW_ITEMS",
    "SCHEMA",
    "SCHEMA_VERSION",
    "SIGNATURE",
    "Broken",
    "Wrong",
    "check_files",
    "content_faults",
    "file_sha256",
    "golden_names",
    "is_safe_name",
    "quoted",
    "read_manifest",
    "schema_faults",
    "version_key",
]

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
SIGNATURE = "manifest.json.minisig"  # signs the manifest, which therefore cannot list it
SCHEMA = "manifest.schema.json"  # lies beside this file, in a bundle too
PREPROCESSING = "preprocessing.json"  # how raw things become inputs
RAW_ITEMS = "golden/raw.json"  # what the golden inputs were made of
MAX_MANIFEST_BYTES = 64 << 20


class Broken(Exception):
    """The bundle or the device is not what the manifest says: exit status 2."""


class Wrong(Exception):
    """The bundle is whole, but gives other numbers or misses a goal: exit status 1."""


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a bundle, or raise `Broken` for the first thing wrong with it."""
    path = folder / MANIFEST
    try:
        facts = path.lstat()
        if not stat.S_ISREG(facts.st_mode) or facts.st_size > MAX_MANIFEST_BYTES:
            raise Broken(f"`{MANIFEST}` is not a regular file of reasonable size")
        manifest: dict[str, Any] = json.loads(
            path.read_text(encoding="utf-8"),
            object_pairs_hook=_unique_keys,
            parse_constant=_refuse_constant,
            parse_float=_number,
        )
        schema = json.loads(Path(__file__).with_name(SCHEMA).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Broken(f"`{Path(error.filename).name}` is missing") from None
    except OSError as error:
        name = Path(error.filename).name
        raise Broken(f"`{name}` cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise Broken(f"`{MANIFEST}` is not valid JSON: {error}") from None
    version = manifest.get("schema_version") if isinstance(manifest, dict) else None
    if isinstance(version, int) and version != SCHEMA_VERSION:
        raise Broken(f"unknown schema version {version}, expected {SCHEMA_VERSION}")
    for fault in schema_faults(manifest, schema, schema["$defs"], ""):
        raise Broken(f"`{MANIFEST}` breaks the schema: {fault}")
    for fault in content_faults(manifest):
        raise Broken(f"`{MANIFEST}` is inconsistent: {fault}")
    return manifest


def quoted(value: Any) -> str:
    """Return a value of JSON as JSON, so that all validators write it alike."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def _number(text: str) -> float:
    """Read `1.0` as `1`, as JavaScript does: one manifest, one meaning."""
    value = float(text)
    return int(value) if value.is_integer() else value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number of JSON")


def schema_faults(value: Any, schema: Any, defs: Any, where: str) -> Iterator[str]:
    """Yield how `value` breaks a JSON schema; knows the keywords that the manifest's uses."""
    schema = defs[schema["$ref"].split("/")[-1]] if "$ref" in schema else schema
    kind, here = _type_name(value), f"`{where[:-1]}`"
    kinds = schema.get("type", kind)
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kind not in kinds and not (kind == "integer" and "number" in kinds):
        yield f"{here} has the wrong type ({kind})"
    elif value not in schema.get("enum", [value]) or value != schema.get("const", value):
        yield f"{here} has the unknown value {quoted(value)}"
    elif kind == "string" and not re.fullmatch(schema.get("pattern", "(?s).*"), value):
        yield f"{here} has the malformed value {quoted(value)}"
    elif kind in ("integer", "number") and not value >= schema.get("minimum", -math.inf):
        yield f"{here} is {value}, below {schema.get('minimum')}"
    elif kind == "array":
        for index, item in enumerate(value):
            yield from schema_faults(item, schema.get("items", {}), defs, f"{where}{index}.")
    elif kind == "object":
        yield from _object_faults(value, schema, defs, where)


def _object_faults(value: Any, schema: Any, defs: Any, where: str) -> Iterator[str]:
    known, others = schema.get("properties", {}), schema.get("additionalProperties", {})
    for key in sorted(set(schema.get("required", ())) - set(value)):
        yield f"`{where}{key}` is missing"
    for key, item in value.items():
        if key not in known and others is False:
            yield f"`{where}{key}` is unknown"
        else:
            yield from schema_faults(item, known.get(key, others), defs, f"{where}{key}.")


def _type_name(value: Any) -> str:
    names = {dict: "object", list: "array", str: "string", bool: "boolean", int: "integer"}
    return names.get(type(value), "null" if value is None else "number")


def content_faults(manifest: dict[str, Any]) -> Iterator[str]:
    """Yield what a schema cannot say about a manifest."""
    files = manifest["files"]
    for name in files:
        if not is_safe_name(name):
            yield f"{quoted(name)} is not a plain relative path"
    if len({name.lower() for name in files}) != len(files):
        yield "two names differ in case alone, which is one file on some systems"
    variants = manifest.get("variants", [])
    if len({variant["name"] for variant in variants}) != len(variants):
        yield "two variants have one name"
    if variants and variants[0]["file"] != manifest["model"]["file"]:
        yield "the first variant is not the model"
    recorded = [manifest["golden"], *(variant["golden"] for variant in variants)]
    recorded.append(manifest.get("preprocessing", {"samples": 0}))
    if any(told["samples"] > len(files) for told in recorded):
        yield "it has more recorded samples than files"
        return  # a list of the names that it implies could fill the memory
    needed = [*golden_names(manifest), *_variant_files(manifest), *_raw_names(manifest)]
    for name in [manifest["model"]["file"], *needed]:
        if name not in files:
            yield f"`{name}` is needed and not among the files"
    if manifest["gates_met"] and any(gate["passed"] is False for gate in manifest["gates"]):
        yield "`gates_met` is true although a gate failed"


def golden_names(
    manifest: dict[str, Any], golden: dict[str, Any] | None = None, prefix: str = ""
) -> list[str]:
    """Return the names of the golden files that a manifest implies; `golden` is its own if None."""
    kinds = ["inputs", "original"] + (["model"] if manifest["verified_on"] else [])
    samples = range((golden or manifest["golden"])["samples"])
    return [f"{prefix}golden/{kind}/{index}.npz" for index in samples for kind in kinds]


def _raw_names(manifest: dict[str, Any]) -> list[str]:
    """Return the files of raw samples that a manifest implies; what those name is checked later."""
    told = manifest.get("preprocessing")
    if told is None:
        return []
    counted = range(told["samples"] if told["vector"] else 0)
    return [told["file"], RAW_ITEMS, *(f"golden/vectors/{index}.npz" for index in counted)]


def _variant_files(manifest: dict[str, Any]) -> Iterator[str]:
    for variant in manifest.get("variants", [])[1:]:
        yield variant["file"]
        yield from golden_names(manifest, variant["golden"], f"variants/{variant['name']}/")


def is_safe_name(name: str) -> bool:
    """Tell whether `name` is a plain relative path inside the bundle, on any system."""
    for part in name.split("/"):
        if not part or part.endswith((".", " ")) or re.search(r'[\x00-\x1f\\:*?"<>|]', part):
            return False
    return name.lower() not in (MANIFEST, SIGNATURE)


def check_files(folder: Path, manifest: dict[str, Any]) -> str:
    """Check that a bundle holds the files of its manifest, unchanged, and no others."""
    known = {*manifest["files"], MANIFEST, SIGNATURE}
    for root, folders, files in os.walk(str(folder)):
        for path in [Path(root, name) for name in folders + files]:
            name, mode = path.relative_to(folder).as_posix(), path.lstat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise Broken(f"`{name}` is a link or a special file")
            if stat.S_ISREG(mode) and name not in known:
                raise Broken(f"`{name}` is not in the manifest")
    for name, facts in sorted(manifest["files"].items()):
        path = folder / name
        if not path.is_file():
            raise Broken(f"`{name}` is missing")
        if file_sha256(path) != facts["sha256"] or path.stat().st_size != facts["size_bytes"]:
            raise Broken(f"`{name}` was changed: it is not what the manifest says")
    return f"{len(manifest['files'])} files are unchanged"


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def version_key(text: str) -> list[int]:
    """Return a version in a form that compares: `1.20` before `1.20.1` before `1.32`."""
    return [int(digits) for digits in re.findall("[0-9]+", text)[:3]]
