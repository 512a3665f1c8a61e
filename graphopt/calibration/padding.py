"""Positions that padding fills: what stands there says nothing about real inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis import infer_shapes, mask_inputs
from graphopt.analysis.symbolic_expressions import Integer, product
from graphopt.analysis.symbolic_shapes import SymbolicShapes
from graphopt.runtime import Padding

__all__ = ["is_padded", "padded_positions", "padding_of"]

Feed: TypeAlias = Mapping[str, npt.NDArray[Any]]

_MASK_RANK = 2  # (batch, sequence)


def padding_of(model: ir.Model, names: Iterable[str]) -> dict[str, Padding]:
    """Return, by value name, the mask input whose positions are axes of the value.

    A value has the positions of a mask of shape ``(batch, sequence)`` where its first axis is the
    batch and exactly one other axis the sequence, or its first axis both of them merged; sizes are
    compared as expressions over the sizes of the inputs. Where several axes could be the sequence,
    or several masks fit, nothing is assumed.
    """
    masks = [value for value in model.graph.inputs if value.name in mask_inputs(model)]
    if not masks:
        return {}
    shapes = SymbolicShapes(model, infer_shapes(model))
    sizes = {mask.name or "": shapes.dims(mask) for mask in masks}
    ranked = {name: dims for name, dims in sizes.items() if dims and len(dims) == _MASK_RANK}
    wanted = set(names)
    values = [*model.graph.inputs, *(output for node in model.graph for output in node.outputs)]
    found: dict[str, Padding] = {}
    for value in values:
        dims = shapes.dims(value) if value.name in wanted else None
        if not dims:
            continue
        fitting = [
            Padding(name, axes)
            for name, (batch, sequence) in ranked.items()
            if (axes := _axes(dims, batch, sequence)) is not None
        ]
        if len(fitting) == 1:
            found[value.name or ""] = fitting[0]
    return found


def _axes(dims: tuple[Integer, ...], batch: Integer, sequence: Integer) -> tuple[int, ...] | None:
    sequences = [axis for axis, size in enumerate(dims) if size == sequence]
    if dims[0] == batch and len([axis for axis in sequences if axis]) == 1:
        return (0, next(axis for axis in sequences if axis))
    merged = [axis for axis, size in enumerate(dims) if size == product((batch, sequence))]
    return (0,) if merged == [0] and len(dims) > 1 else None


def is_padded(feed: Feed, mask: str) -> bool:
    """Tell whether ``mask`` marks padding in a feed, beyond doubt.

    It is 0 somewhere and not everywhere; and some input of the same positions holds one and the
    same value, or row of values, wherever the mask is 0, and others elsewhere. A mask that is 1 for
    padding, as some models have it, fails that.
    """
    kept = feed[mask] != 0
    # All zeros is no padding of a text, but a mask that nobody filled in.
    if kept.all() or not kept.any():
        return False
    return any(
        array.shape[: kept.ndim] == kept.shape
        and _is_constant(array[~kept])
        and not _is_constant(array[kept])
        for name, array in feed.items()
        if name != mask
    )


def _is_constant(rows: npt.NDArray[Any]) -> bool:
    return bool(np.all(rows == rows[:1]))


def padded_positions(feed: Feed, padding: Mapping[str, Padding]) -> dict[str, Padding]:
    """Return the part of ``padding`` whose masks mark padding in a feed."""
    marking = {mask for mask in {item.mask for item in padding.values()} if is_padded(feed, mask)}
    return {name: item for name, item in padding.items() if item.mask in marking}
