"""A module of a framework, ready to be exported, and inputs of several sizes for it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["ExportError", "Loaded", "Opset", "varied"]

_GROWN = (0, 1, 3)
"""By how much open sizes grow from case to case; the first is the example itself."""


class ExportError(Exception):
    """What cannot be exported, said for a person; the text is all that is told of it."""


@dataclass(frozen=True)
class Opset:
    """Which version of the operators a file is to have.

    Attributes:
        exact: This one; ``None``: the exporter's choice.
        newest: The choice is at most this one, where what reads the file ends; ``None``: any.
    """

    exact: int | None = None
    newest: int | None = None

    def chosen(self, default: int) -> int:
        """Return the version for an exporter that writes ``default`` unless told."""
        return self.exact or min(default, self.newest or default)


@dataclass
class Loaded:
    """A PyTorch module and how to call it.

    Attributes:
        module: The module.
        args: Example inputs, by position: tensors, or lists and tuples of them.
        dynamic_shapes: Per input and axis the name of the size that may change, as
            ``{"ids": {0: "batch", 1: "sequence"}}``; inputs that are lists have a list there.
        input_names: Names of the tensors; those of the arguments where none are given.
        output_names: Names of the results; the exporter's where none are given.
        origin: What is said of the source in the model.
        arguments: Names of the arguments where ``forward`` takes ``*args``.
        cases: Inputs of several sizes, the example first; the example's, grown, where none are
            given.
        implied: What another exporter may ask for beside the inputs, from the inputs by name: what
            the framework takes for granted.
        exporters: Exporters that are asked before PyTorch's, by name: each writes under a folder
            at a version of the operators, and returns the file.
    """

    module: Any
    args: tuple[Any, ...]
    dynamic_shapes: Mapping[str, Any] = field(default_factory=dict)
    input_names: Sequence[str] = ()
    output_names: Sequence[str] = ()
    origin: dict[str, str] = field(default_factory=dict)
    arguments: Sequence[str] = ()
    cases: Sequence[tuple[Any, ...]] = ()
    implied: Mapping[str, Callable[[Mapping[str, Any]], Any]] = field(default_factory=dict)
    exporters: Mapping[str, Callable[[Path, Opset], Path]] = field(default_factory=dict)

    def argument_names(self) -> list[str]:
        """Return the names of the positional arguments of ``forward``."""
        if self.arguments:
            return list(self.arguments)
        found = list(inspect.signature(self.module.forward).parameters)
        return found[: len(self.args)]


def varied(loaded: Loaded) -> Iterator[tuple[Any, ...]]:
    """Yield the example, and inputs whose open sizes are larger; sizes of one name stay equal.

    Values are those of the example, repeated in order, so that they stay valid whatever they mean.
    """
    if loaded.cases:
        yield from loaded.cases
        return
    names = loaded.argument_names()
    shapes = [loaded.dynamic_shapes.get(name) for name in names]
    is_open = any(_names_in(shape) for shape in shapes)
    for grown in _GROWN if is_open else _GROWN[:1]:
        yield tuple(_grown(arg, axes, grown) for arg, axes in zip(loaded.args, shapes, strict=True))


def _names_in(axes: Any) -> bool:
    if isinstance(axes, Mapping):
        return any(axes.values())
    return isinstance(axes, list | tuple) and any(map(_names_in, axes))


def _grown(arg: Any, axes: Any, by: int) -> Any:
    import torch

    if isinstance(arg, list | tuple):
        inner = axes if isinstance(axes, list | tuple) else [None] * len(arg)
        return type(arg)(_grown(one, some, by) for one, some in zip(arg, inner, strict=True))
    if not isinstance(arg, torch.Tensor) or not axes:
        return arg
    # Seeded by nothing: the same sizes grow by the same amount wherever they stand.
    for axis, name in dict(axes).items():
        if name:
            size = arg.shape[axis]
            arg = arg.index_select(axis, torch.arange(size + by) % size)
    return arg
