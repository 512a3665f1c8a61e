"""Exporters of PyTorch, and those that a source brings along."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from .loaded import ExportError, Loaded, Opset
from .masks import traceable_masks
from .optimum_exporter import has_optimum
from .torch_models import flat_tensors

__all__ = ["export_torch"]

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_OLDER_OPSET = 17
"""What the older exporter writes unless told: the first with LayerNormalization."""
_NEWER_OPSET = 20
"""What the newer one writes unless told, with PyTorch 2.13."""

Way = Callable[[Path, Opset], tuple[Path, list[str]]]


def export_torch(
    loaded: Loaded,
    out: Path,
    *,
    exporter: str,
    opset: Opset,
    without: Collection[str] = (),
) -> dict[str, Any]:
    """Write ONNX; where one exporter fails, the next is tried.

    Args:
        loaded: The module.
        out: The file; an exporter may write another one beside it.
        exporter: ``optimum``, ``dynamo``, ``torchscript``, or ``auto`` for all in that order.
        opset: Version of the operators.
        without: Exporters that are not tried: what they wrote was wrong.

    Returns:
        The exporter that managed it, its file, what the ones before said, and what it is not sure
        of.

    Raises:
        ExportError: None managed it.
        ModuleNotFoundError: An exporter that is asked for by name is not installed.
    """
    ways = _ways(loaded)
    if exporter != "auto" and exporter not in ways:
        raise ExportError(f"{exporter} takes models of Hugging Face only")
    tried = [exporter]
    if exporter == "auto":
        absent = set(without) if has_optimum() else {"optimum", *without}
        tried = [name for name in ways if name not in absent]
    failures: dict[str, str] = {}
    for name in tried:
        try:
            path, doubts = ways[name](out, opset)
        except Exception as error:
            # Asked for by name there is no other to try, and what is missing can be installed.
            if exporter == name and isinstance(error, ModuleNotFoundError):
                raise
            failures[name] = _first_line(error)
            _remove_parts(out)
            continue
        return {"exporter": name, "file": str(path), "failures": failures, "doubts": doubts}
    raise ExportError("; ".join(f"{name}: {said}" for name, said in failures.items()))


def _ways(loaded: Loaded) -> Mapping[str, Way]:
    brought = {name: partial(_brought, way) for name, way in loaded.exporters.items()}
    return {**brought, "dynamo": partial(_dynamo, loaded), "torchscript": partial(_traced, loaded)}


def _brought(way: Callable[[Path, Opset], Path], out: Path, opset: Opset) -> tuple[Path, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        path = way(out.with_name("brought"), opset)
    return path, _doubts(caught)


def _first_line(error: BaseException) -> str:
    while error.__cause__ is not None:  # the first that went wrong says most
        error = error.__cause__
    said = _COLOUR.sub("", f"{type(error).__name__}: {_first(str(error))}")
    return said[:500]


def _remove_parts(out: Path) -> None:
    for path in (out, out.with_name(f"{out.name}.data")):
        with contextlib.suppress(OSError):
            path.unlink()


def _dynamo(loaded: Loaded, out: Path, opset: Opset) -> tuple[Path, list[str]]:
    import torch

    names = loaded.argument_names()
    shapes = {name: loaded.dynamic_shapes.get(name) for name in names}
    settings: dict[str, Any] = {}
    if opset != Opset():  # else what this PyTorch does best
        settings["opset_version"] = opset.chosen(_NEWER_OPSET)
    if any(shapes.values()):
        by_position = tuple(shapes.values())
        settings["dynamic_shapes"] = (by_position,) if loaded.arguments else by_position
    if loaded.input_names:
        settings["input_names"] = list(loaded.input_names)
    if loaded.output_names:
        settings["output_names"] = list(loaded.output_names)
    torch.onnx.export(loaded.module, loaded.args, str(out), dynamo=True, verbose=False, **settings)
    return out, []


def _traced(loaded: Loaded, out: Path, opset: Opset) -> tuple[Path, list[str]]:
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
    with warnings.catch_warnings(record=True) as caught, traceable_masks():
        # Python shows a warning once for each line: a second export in this process would hide its
        # doubts.
        warnings.simplefilter("always", torch.jit.TracerWarning)
        torch.onnx.export(
            loaded.module,
            loaded.args,
            str(out),
            dynamo=False,
            input_names=names,
            output_names=outputs,
            dynamic_axes=axes,
            opset_version=opset.chosen(_OLDER_OPSET),
        )
    return out, _doubts(caught)


def _doubts(caught: Collection[warnings.WarningMessage]) -> list[str]:
    """Return where a trace decided once for all inputs."""
    import torch

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
