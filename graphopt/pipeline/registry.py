"""Finding passes by name: the files of ``graphopt/passes``, then plug-ins.

A name is a file: ``fold-constants`` is ``graphopt/passes/fold_constants.py`` and the class
``FoldConstants`` in it. Other distributions add passes through the entry-point group
``graphopt.passes``. Nothing is imported but the pass that is asked for.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import pkgutil
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from graphopt import passes
from graphopt.errors import PassError, UnknownNameError, UsageError

if TYPE_CHECKING:
    from graphopt.rewrite import Pass

__all__ = ["find_pass", "pass_names", "pass_owner", "pass_summary"]

_LISTING = "graphopt passes"


def pass_names() -> tuple[str, ...]:
    """Return the name of every pass, sorted; no pass is imported."""
    return tuple(sorted({*_files(), *(point.name for point in plug_ins())}))


def pass_owner(name: str) -> str:
    """Return who provides a pass: a module, or ``distribution: module:Class`` for a plug-in.

    Raises:
        UnknownNameError: There is no such pass.
        UsageError: Two owners claim the name.
    """
    return _owner_text(_owner(name))


def find_pass(name: str) -> type[Pass]:
    """Return the class of a pass.

    Raises:
        UnknownNameError: There is no such pass; the nearest names are the hint.
        UsageError: Two owners claim the name.
        PassError: The plug-in cannot be imported, or the owner does not keep the naming rule.
    """
    from graphopt.rewrite import Pass

    owner = _owner(name)
    if isinstance(owner, EntryPoint):
        found = _loaded(owner)
    else:
        found = getattr(importlib.import_module(owner), class_name(name), None)
    if not (
        isinstance(found, type) and issubclass(found, Pass) and getattr(found, "name", "") == name
    ):
        raise PassError(
            f"`{_owner_text(owner)}` does not define pass `{name}`",
            why=f"expected a class `{class_name(name)}` derived from `graphopt.rewrite.Pass` "
            f'with `name = "{name}"`',
        )
    return found


def pass_summary(name: str) -> str:
    """Return the first line of a pass's docstring, read from its source without importing it.

    Raises:
        UnknownNameError: There is no such pass.
        UsageError: Two owners claim the name.
    """
    owner = _owner(name)
    if isinstance(owner, EntryPoint):
        module, cls = owner.value.split(":")[0].strip(), owner.attr or ""
    else:
        module, cls = owner, class_name(name)
    try:
        spec = importlib.util.find_spec(module)
    except ImportError:  # of the package around it; `find_pass` tells whose it is
        return ""
    if spec is None or spec.origin is None:
        return ""
    return _class_summary(Path(spec.origin).read_text(encoding="utf-8"), cls)


@cache
def plug_ins() -> tuple[EntryPoint, ...]:
    """Return the passes of other distributions; what is installed is looked up once."""
    found = entry_points(group="graphopt.passes")
    return tuple(sorted(found, key=lambda point: (point.name, point.value)))


def class_name(pass_name: str) -> str:
    """Return the class name that the naming rule demands: ``FoldConstants``."""
    return "".join(word.capitalize() for word in pass_name.split("-"))


def _class_summary(source: str, cls: str) -> str:
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef) and node.name == cls:
            return (ast.get_docstring(node) or "").split("\n", 1)[0]
    return ""


@cache  # a folder of the installed package: read once, not once for each pass of a pipeline
def _files() -> dict[str, str]:
    """Map each pass that has a file to its module."""
    stems = (found.name for found in pkgutil.iter_modules(passes.__path__))
    return {
        stem.replace("_", "-"): f"{passes.__name__}.{stem}"
        for stem in stems
        if not stem.startswith("_")
    }


def _loaded(plug_in: EntryPoint) -> object:
    try:
        return plug_in.load()
    except (ImportError, AttributeError) as error:
        raise PassError(
            f"plug-in pass `{plug_in.name}` cannot be imported",
            where=f"`{_owner_text(plug_in)}`",
            why=str(error),
            hint="install what it needs, or uninstall the distribution that provides it",
        ) from error


def _owner(name: str) -> str | EntryPoint:
    owners: list[str | EntryPoint] = [point for point in plug_ins() if point.name == name]
    if module := _files().get(name):
        owners.insert(0, module)
    if not owners:
        raise UnknownNameError("pass", name, pass_names(), listing=_LISTING)
    if len(owners) > 1:
        raise UsageError(
            f"pass `{name}` has more than one owner",
            why="provided by " + " and by ".join(f"`{_owner_text(owner)}`" for owner in owners),
            hint="uninstall all but one of them, or rename the pass of a plug-in",
        )
    return owners[0]


def _owner_text(owner: str | EntryPoint) -> str:
    if isinstance(owner, str):
        return owner
    distribution = owner.dist.name if owner.dist is not None else "unknown distribution"
    return f"{distribution}: {owner.value}"
