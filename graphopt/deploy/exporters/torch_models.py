"""Modules of PyTorch: from a factory, or from a saved program; exported by either exporter."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .loaded import ExportError, Loaded

__all__ = ["export_torch", "flat_tensors", "load_factory", "load_program"]

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
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
        if error.name and name.startswith(error.name):
            raise ExportError(f"there is no module `{name}`") from error
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


def export_torch(loaded: Loaded, out: Path, *, exporter: str, opset: int | None) -> dict[str, Any]:
    """Write ONNX; where one exporter fails, the other is tried.

    Args:
        loaded: The module.
        out: The file.
        exporter: ``dynamo``, ``torchscript``, or ``auto`` for both in that order.
        opset: Version of the operators; ``None``: the exporter's choice.

    Returns:
        The exporter that managed it, what the ones before said, and what it is not sure of.

    Raises:
        ExportError: None managed it.
    """
    ways = {"dynamo": _dynamo, "torchscript": _torchscript}
    tried = list(ways) if exporter == "auto" else [exporter]
    failures: dict[str, str] = {}
    for name in tried:
        try:
            doubts = ways[name](loaded, out, opset)
        except Exception as error:  # noqa: BLE001 - exporters raise what they like
            failures[name] = _first_line(error)
            _remove_parts(out)
            continue
        return {"exporter": name, "failures": failures, "doubts": doubts}
    raise ExportError("; ".join(f"{name}: {said}" for name, said in failures.items()))


def _first_line(error: BaseException) -> str:
    while error.__cause__ is not None:  # the first that went wrong says most
        error = error.__cause__
    said = _COLOUR.sub("", f"{type(error).__name__}: {_first(str(error))}")
    return said[:500]


def _remove_parts(out: Path) -> None:
    for path in (out, out.with_name(f"{out.name}.data")):
        with contextlib.suppress(OSError):
            path.unlink()


def _dynamo(loaded: Loaded, out: Path, opset: int | None) -> list[str]:
    import torch

    names = loaded.argument_names()
    shapes = {name: loaded.dynamic_shapes.get(name) for name in names}
    settings: dict[str, Any] = {"opset_version": opset} if opset else {}
    if any(shapes.values()):
        settings["dynamic_shapes"] = tuple(shapes.values())
    if loaded.input_names:
        settings["input_names"] = list(loaded.input_names)
    if loaded.output_names:
        settings["output_names"] = list(loaded.output_names)
    torch.onnx.export(loaded.module, loaded.args, str(out), dynamo=True, verbose=False, **settings)
    return []


def _torchscript(loaded: Loaded, out: Path, opset: int | None) -> list[str]:
    import torch

    names = list(loaded.input_names) or _flat_names(loaded)
    axes: dict[str, dict[int, str]] = {}
    flat = [
        shape
        for name in loaded.argument_names()
        for shape in _flat_axes(loaded.dynamic_shapes.get(name))
    ]
    for name, shape in zip(names, flat, strict=False):
        if shape:
            axes[name] = {axis: str(size) for axis, size in dict(shape).items() if size}
    outputs = list(loaded.output_names) or None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", torch.jit.TracerWarning)
        torch.onnx.export(
            loaded.module,
            loaded.args,
            str(out),
            dynamo=False,
            input_names=names,
            output_names=outputs,
            dynamic_axes=axes,
            opset_version=opset or 17,
        )
    doubts = [one for one in caught if issubclass(one.category, torch.jit.TracerWarning)]
    return [f"{Path(one.filename).name}:{one.lineno}: {_first(str(one.message))}" for one in doubts]


def _first(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def _flat_names(loaded: Loaded) -> list[str]:
    found = []
    for name, arg in zip(loaded.argument_names(), loaded.args, strict=True):
        tensors = flat_tensors(arg)
        several = isinstance(arg, list | tuple)
        found += [f"{name}_{index}" if several else name for index in range(len(tensors))]
    return found


def _flat_axes(axes: Any) -> list[Any]:
    return list(axes) if isinstance(axes, list | tuple) else [axes]
