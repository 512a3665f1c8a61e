"""Modules of PyTorch: from a factory, or from a saved program."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .loaded import ExportError, Loaded

__all__ = ["flat_tensors", "load_factory", "load_program"]

_FORM = (
    "it must return (module, example inputs), (module, example inputs, dynamic shapes), or a dict "
    "with the keys `module`, `args` and, if need be, `dynamic_shapes`, `input_names`, "
    "`output_names`"
)


def load_factory(text: str) -> Loaded:
    """Import ``module:factory`` and call it.

    Raises:
        ExportError: There is no such thing, or it returned something else.
    """
    name, _, attribute = text.partition(":")
    sys.path.insert(0, os.environ.get("GRAPHOPT_FOLDER", "."))
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        # The module itself, or a package around it; one that it imports is the user's own affair,
        # and told as it is.
        if error.name and name.startswith(error.name):
            where = "neither in the folder that graphopt was started in, nor installed"
            raise ExportError(f"there is no module `{name}`, {where}") from error
        raise
    factory = getattr(module, attribute or "factory", None)
    if not callable(factory):
        raise ExportError(f"`{name}` has no function `{attribute or 'factory'}`")
    return _understood(factory())


def _understood(made: Any) -> Loaded:
    import torch

    if isinstance(made, tuple) and len(made) in (2, 3):
        made = dict(zip(("module", "args", "dynamic_shapes"), made, strict=False))
    if not isinstance(made, Mapping) or not {"module", "args"} <= set(made):
        raise ExportError(f"the factory returned `{type(made).__name__}`: {_FORM}")
    known = {"module", "args", "dynamic_shapes", "input_names", "output_names"}
    if unknown := set(made) - known:
        raise ExportError(f"the factory returned a dict with `{min(unknown)}`: {_FORM}")
    if not isinstance(made["module"], torch.nn.Module):
        raise ExportError(f"`{type(made['module']).__name__}` is no torch.nn.Module: {_FORM}")
    args = made["args"]
    args = (args,) if isinstance(args, torch.Tensor) else tuple(args)
    return Loaded(**{**made, "args": args, "dynamic_shapes": made.get("dynamic_shapes") or {}})


def load_program(path: str) -> Loaded:
    """Load a program that ``torch.export.save`` wrote; the format holds pickles.

    Raises:
        ExportError: It keeps no example inputs, or they are given by name.
    """
    import torch

    program = torch.export.load(path)
    if program.example_inputs is None or program.example_inputs[1]:
        raise ExportError("the program has no example inputs by position")
    loaded = Loaded(program.module(), tuple(program.example_inputs[0]))
    loaded.origin["program"] = Path(path).name
    return loaded


def flat_tensors(value: Any) -> list[Any]:
    """Return the tensors of nested results in order; what is no tensor is left out."""
    import torch

    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [tensor for one in value for tensor in flat_tensors(one)]
    if hasattr(value, "to_tuple"):
        return flat_tensors(value.to_tuple())
    return []
