"""Names of a package that are imported when somebody first asks for them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["attach"]


def attach(
    package: str, homes: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Return ``__getattr__``, ``__dir__`` and ``__all__`` of a package (PEP 562).

    A large room costs who needs a part of it only that part. Type checkers do not see these names:
    the package imports them once more under ``TYPE_CHECKING``.

    Args:
        package: The package's ``__name__``.
        homes: By module below the package, the names that come from it.
    """
    home_of = {name: home for home, names in homes.items() for name in names}

    def find(name: str) -> Any:
        if name not in home_of:
            raise AttributeError(f"module `{package}` has no attribute `{name}`")
        found = getattr(importlib.import_module(f"{package}.{home_of[name]}"), name)
        setattr(sys.modules[package], name, found)  # the next reader does not come here again
        return found

    def listed() -> list[str]:
        return sorted(home_of)

    return find, listed, sorted(home_of)
