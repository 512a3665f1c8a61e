"""Finding, inheriting and checking target files."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from graphopt.errors import TargetError, UnknownNameError, reason_of
from graphopt.targets.document import target_of, toml_text
from graphopt.targets.profile import Target
from graphopt.targets.reasons import load_reasons
from graphopt.targets.schema import check_document

__all__ = ["explained", "inheritance", "load_target", "target_names"]

SUFFIX = ".toml"


def _folder() -> Path:
    return Path(str(resources.files("graphopt.targets")))


@cache
def target_names() -> tuple[str, ...]:
    """Return the names of the targets that come with the package, sorted."""
    return tuple(sorted(path.stem for path in _folder().glob(f"*{SUFFIX}")))


def load_target(name_or_path: str | Path) -> Target:
    """Load a target by name, or from a file.

    Args:
        name_or_path: A name of `target_names`, or a path: anything that ends in ``.toml`` or holds
            a path separator.

    Raises:
        UnknownNameError: No such target; the nearest names are the hint.
        TargetError: The file cannot be read, or breaks the schema, or extends itself.
    """
    path = _find(str(name_or_path), Path.cwd(), where=None)
    document = _resolve(path, ())
    # Those of the package are checked by its tests, and extend nothing but each other: the library
    # of schemas would cost each command 3 MB and a tenth of a second.
    if path.parent != _folder():
        check_document(document, path)
    return target_of(document, path)


def explained(target: Target, name_or_path: str | Path) -> tuple[str, dict[str, str]]:
    """Return the text of a target file with a comment above each line that its files explain.

    Args:
        target: What `load_target` returned.
        name_or_path: What it was loaded by.

    Returns:
        The text, which loads as an equal target; and the comments by dotted key.
    """
    document = target.to_dict()
    said = load_reasons(inheritance(name_or_path))
    reasons = {path: why for path, why in said.items() if _is_in(document, path)}
    return toml_text(document, reasons), {".".join(path): why for path, why in reasons.items()}


def _is_in(item: Any, path: Sequence[str]) -> bool:
    """Tell whether a document says anything at a place; what sets no limit is not in it."""
    for key in path:
        if isinstance(item, list) and key.isdecimal():
            item = item[int(key)] if int(key) < len(item) else None
        else:
            item = item.get(key) if isinstance(item, Mapping) else None
        if item is None:
            return False
    return True


def inheritance(name_or_path: str | Path) -> tuple[Path, ...]:
    """Return the file of a target and all that it extends, the innermost parent first.

    Raises:
        UnknownNameError, TargetError: As `load_target` does.
    """
    files = [_find(str(name_or_path), Path.cwd(), where=None)]
    _resolve(files[0], ())  # a circle is an error there, and would have no end here
    while (parent := _read(files[0]).get("extends")) is not None:
        files.insert(0, _find(str(parent), files[0].parent, where=str(files[0])))
    return tuple(files)


def _find(name: str, folder: Path, where: str | None) -> Path:
    """Return the file that a name, or a path relative to `folder`, stands for."""
    if not name.endswith(SUFFIX) and "/" not in name and "\\" not in name:
        if name not in target_names():
            raise UnknownNameError("target", name, target_names(), listing="graphopt targets")
        return _folder() / f"{name}{SUFFIX}"
    # Relative to the file that names it, so that a folder of targets can be moved.
    path = folder / Path(name).expanduser()
    if not path.is_file():
        raise TargetError(
            f"target file `{name}` does not exist",
            where=where,
            hint="list the targets that come with graphopt with `graphopt targets`",
        )
    return path


def _resolve(path: Path, children: tuple[Path, ...]) -> dict[str, Any]:
    """Return the document of a file merged over everything it extends."""
    # By the real path: a circle may go through links.
    if path.resolve() in children:
        chain = " -> ".join(child.name for child in (*children, path))
        raise TargetError("target extends itself", where=str(path), why=chain)
    document = _read(path)
    for key in ("name", "summary"):
        if key not in document:  # an inherited name would make two targets one
            raise TargetError(
                f"target has no `{key}`",
                where=str(path),
                hint=f'add a line such as `{key} = "my-board"`',
            )
    parent = document.pop("extends", None)
    if parent is None:
        return document
    if not isinstance(parent, str):
        raise TargetError(
            "key `extends` has a wrong value",
            where=str(path),
            why=f"found `{parent}`, expected the name or the relative path of a target",
        )
    base = _find(parent, path.parent, where=str(path))
    return _merge(_resolve(base, (*children, path.resolve())), document)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise TargetError(
            "target file is not valid TOML",
            where=str(path),
            why=str(error),
            hint="compare it with the output of `graphopt targets show cpu-int8`",
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise TargetError("target file cannot be read", where=str(path), why=reason_of(error)) from error


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge tables key by key; everything else, arrays too, replaces what was there."""
    merged = dict(base)
    for key, item in over.items():
        below = merged.get(key)
        if isinstance(item, Mapping) and isinstance(below, Mapping):
            merged[key] = _merge(below, item)
        else:
            merged[key] = item
    return merged
