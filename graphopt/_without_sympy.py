"""Import onnx-ir without the sympy that it computes with symbolic dimensions by.

onnx-ir imports sympy whole, for arithmetic of dimensions that graphopt leaves to shapes of its own:
half of the time and of the memory of every import (0.4 s and 32 MB). Stand-ins keep the place of
what is not needed until something asks for it; then the real modules are imported as ever.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["defer_sympy"]

_DEFERRED = ("sympy", "onnx_ir._symbolic_shapes")


class _StandIn(ModuleType):
    """Has the attributes of the module of its name, which is imported for the first of them."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked by the import system, of any module
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


@contextmanager
def _standing_in() -> Iterator[None]:
    stand_ins = {name: _StandIn(name) for name in _DEFERRED if name not in sys.modules}
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name, stand_in in stand_ins.items():
            if sys.modules.get(name) is stand_in:
                del sys.modules[name]


class _Finder:
    """Finds onnx-ir, once, with a loader under which the stand-ins are there."""

    def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
        if name != "onnx_ir":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                with _standing_in():
                    load(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def defer_sympy() -> None:
    """Let the first import of onnx-ir in this process do without sympy, where it is still to come.

    Nothing else changes: who imports sympy gets it, and arithmetic of `onnx_ir.SymbolicDim` works.
    """
    if "onnx_ir" not in sys.modules and "sympy" not in sys.modules:
        sys.meta_path.insert(0, _Finder())
