"""Which function computes which operator in torch, by opset."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import onnx_ir as ir

__all__ = [
    "CONTRIB",
    "Call",
    "Operator",
    "Tensor",
    "UnsupportedForm",
    "find_operator",
    "operator",
    "supported_operators",
]

Tensor: TypeAlias = Any
"""A ``torch.Tensor``; torch may be absent where types are checked."""

Operator: TypeAlias = Callable[..., Any]
"""Takes a `Call` and the inputs, ``None`` for those left out; returns a tensor or several."""

CONTRIB = "com.microsoft"
_NEWEST = 28
"""Later versions of the standard may mean something else by the same operator."""

_FUNCTIONS: dict[tuple[str, str], dict[int, Operator]] = {}


class UnsupportedForm(NotImplementedError):
    """An operator is known, and an option that the node uses is not."""


@dataclass(frozen=True)
class Call:
    """A node that is about to be computed.

    Attributes:
        node: The node.
        version: Opset version of its domain.
        attributes: By name, as Python values; graphs stay `ir.Graph`.
        run_graph: Computes a subgraph of the node: the graph, values of its inputs, in order.
    """

    node: ir.Node
    version: int
    attributes: Mapping[str, Any]
    run_graph: Callable[[ir.Graph, Sequence[Tensor]], list[Tensor]] = field(repr=False)

    def get(self, name: str, default: Any = None) -> Any:
        """Return an attribute, or ``default`` where the node does not have it."""
        return self.attributes.get(name, default)

    def axes(self, given: Tensor | None, default: Sequence[int] | None = None) -> list[int] | None:
        """Return the axes of a node, from an input in newer opsets, an attribute in older ones."""
        if given is not None:
            return [int(axis) for axis in given.reshape(-1).tolist()]
        found = self.get("axes", default)
        return None if found is None else [int(axis) for axis in found]

    def wants(self, output: int) -> bool:
        """Tell whether an output of the node has a name, so that somebody may read it."""
        return output < len(self.node.outputs) and bool(self.node.outputs[output].name)


def operator(*names: str, since: int = 1, domain: str = "") -> Callable[[Operator], Operator]:
    """Register a function for operators, from an opset version of their domain on.

    Args:
        names: Operators.
        since: Oldest version that the function is right for.
        domain: Of the operators.
    """

    def register(function: Operator) -> Operator:
        for name in names:
            versions = _FUNCTIONS.setdefault((domain, name), {})
            assert since not in versions, name
            versions[since] = function
        return function

    return register


def find_operator(domain: str, name: str, version: int) -> Operator | None:
    """Return the function of an operator, or ``None`` where none is right for that version."""
    _load()
    if domain == "" and version > _NEWEST:
        return None
    versions = _FUNCTIONS.get((domain, name), {})
    fitting = [since for since in versions if since <= version]
    return versions[max(fitting)] if fitting else None


def supported_operators() -> dict[tuple[str, str], int]:
    """Return the oldest supported version of each operator, by domain and name.

    Raises:
        ModuleNotFoundError: torch is not installed.
    """
    _load()
    return {key: min(versions) for key, versions in sorted(_FUNCTIONS.items())}


def _load() -> None:
    """Import the modules beside this one, once: they import torch and register functions."""
    package = __name__.rpartition(".")[0]
    if not _FUNCTIONS:
        path = importlib.import_module(package).__path__
        for module in sorted(info.name for info in pkgutil.iter_modules(path)):
            importlib.import_module(f"{package}.{module}")
