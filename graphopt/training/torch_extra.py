"""The optional dependency of this room: torch, asked for when it is needed."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from graphopt.errors import MissingExtraError

__all__ = ["check_torch", "has_torch", "require_torch"]


def has_torch() -> bool:
    """Tell whether torch is installed, without importing it."""
    return importlib.util.find_spec("torch") is not None


def check_torch(what: str) -> None:
    """Check that torch is installed, without importing it.

    Args:
        what: Who needs it, for the message: "pass `distill`".

    Raises:
        MissingExtraError: It is not installed.
    """
    if not has_torch():
        raise MissingExtraError(
            f"{what} needs torch",
            why="it computes gradients, and torch is not installed",
            hint="install it with `pip install 'graphopt[torch]'`",
        )


def require_torch(what: str) -> Any:
    """Return the module ``torch``.

    Args:
        what: Who needs it, for the message: "pass `distill`".

    Raises:
        MissingExtraError: It is not installed.
    """
    check_torch(what)
    return importlib.import_module("torch")
