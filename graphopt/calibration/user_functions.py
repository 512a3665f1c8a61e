"""Functions of the user, named as ``module:function``: how they are found, and how they fail."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from graphopt.errors import GraphoptError, InputError

__all__ = ["calling", "import_function"]


def import_function(reference: str, *, what: str, failure: type[InputError]) -> Callable[..., Any]:
    """Return the function that ``module:function`` names.

    Args:
        reference: The two names; the current directory is searched first, as under ``python -m``.
        what: What the function is for, as messages call it.
        failure: The error to raise.

    Raises:
        InputError: There is no such module or function, or the module fails when it is imported.
    """
    module_name, _, attribute = reference.partition(":")
    try:
        with calling(module_name, what=what, failure=failure):
            found: Any = importlib.import_module(module_name)
    except failure as error:
        if not isinstance(error.__cause__, ModuleNotFoundError):
            raise
        raise failure(
            f"{what} cannot be found at `{reference}`",
            why=f"neither a file, nor a module: {error.__cause__}",
            hint=f"run from the folder that holds `{module_name.split('.')[0]}.py`, or give a file",
        ) from error.__cause__
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        kind = "" if found is None else f", only a {type(found).__name__}"
        raise failure(
            f"{what} cannot be found at `{reference}`",
            why=f"module `{module_name}` has no function `{attribute}`{kind}",
            hint="give `module:function`, with the name of a function",
        )
    function: Callable[..., Any] = found
    return function


@contextmanager
def calling(name: str, *, what: str, failure: type[InputError]) -> Iterator[None]:
    """Run code of the user: it may import what lies beside it, and its bugs are not ours.

    Args:
        name: Of the module or function.
        what: What it is for, as messages call it.
        failure: The error to raise.

    Raises:
        InputError: The code raised something; errors of graphopt in it stay what they are.
    """
    here = os.getcwd()  # noqa: PTH109 - an entry of the module path is text
    sys.path.insert(0, here)
    # A module that was written a moment ago is not found otherwise: folders are listed once.
    importlib.invalidate_caches()
    try:
        yield
    except GraphoptError:
        raise
    except Exception as error:  # the code is not ours: it may raise anything
        raise failure(
            f"{what} cannot be had from `{name}`",
            why=f"it raised {type(error).__name__}: {error}",
            hint="run the same command with `--traceback` to see where",
        ) from error
    finally:
        with suppress(ValueError):  # the code may have changed the path itself
            sys.path.remove(here)
