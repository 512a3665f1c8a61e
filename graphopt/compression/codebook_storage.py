"""Indices into codebooks in a graph, and the operators that make weights of them again.

Only operators of every opset are used, and all of them on constants: a runtime that folds constants
restores a weight once, when it loads the model. A byte holds one index of 8 bits, or two of 4: of
an element of the first half of the last axis, and of its counterpart in the second half. Two
lists of 256 entries then take the place of arithmetic on bits, of which older opsets have none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt.compression.codebooks import ClusteredWeight
from graphopt.ir import constant_tensor
from graphopt.rewrite import Change

__all__ = ["StoredIndices", "can_hold_pairs", "looked_up_rows", "restored_weight", "stored_indices"]

_BYTE = 8


@dataclass(frozen=True)
class StoredIndices:
    """A clustered weight as constants of a graph.

    Attributes:
        indices: uint8; ``(outer, blocks, block, inner)`` without axes of one element, or ``(rows,
            columns)`` of a table; with 4 bits the last axis is half as long.
        books: The codebook; with 4 bits, one for each half of a byte.
        scale: ``(outer, blocks, 1, inner)`` without axes of one element but the third, or
            ``(rows, 1)`` of a table; ``None``: no scales.
        has_half_scale: Scales are float16.
        shape: Of the values that `indices` stand for.
    """

    indices: ir.Value
    books: tuple[ir.Value, ...]
    scale: ir.Value | None
    has_half_scale: bool
    shape: tuple[int, ...]


def can_hold_pairs(clustered: ClusteredWeight) -> bool:
    """Tell whether the elements of a weight come in pairs, so that 4 bits can hold each."""
    return _held_shape(clustered.indices.shape)[-1] % 2 == 0


def stored_indices(
    change: Change, clustered: ClusteredWeight, name: str, *, is_table: bool = False
) -> StoredIndices:
    """Create the constants of a clustered weight.

    Args:
        change: Where they are created.
        clustered: What they hold; with 4 bits, `can_hold_pairs`.
        name: Hint for their names.
        is_table: Rows are looked up: a row is one block.
    """
    whole = clustered.indices.shape
    shape = (whole[0], whole[2]) if is_table else _held_shape(whole)
    indices, book = clustered.indices.reshape(shape), clustered.codebook
    books = [book]
    if clustered.bits < _BYTE:
        # Halves, not neighbours: looked up by half they are joined as they are, never interleaved.
        half, levels = shape[-1] // 2, np.uint8(len(book))
        indices = indices[..., :half] * levels + indices[..., half:]
        books = [np.repeat(book, len(book)), np.tile(book, len(book))]
    scale = clustered.scale
    if scale is not None:
        outer, blocks, _, inner = whole
        held = _held_shape((outer, blocks, 1, inner))
        scale = scale.reshape((outer, 1) if is_table else held)
    return StoredIndices(
        change.initializer(np.ascontiguousarray(indices), name=f"{name}_indices"),
        tuple(change.initializer(one, name=f"{name}_codebook") for one in books),
        None if scale is None else change.initializer(scale, name=f"{name}_scale"),
        scale is not None and scale.dtype == np.float16,
        shape,
    )


def _held_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Leave out what has one element of ``(outer, blocks, block, inner)``, blocks apart."""
    outer, blocks, block, inner = shape
    return (
        *((outer,) if outer > 1 else ()),
        *((blocks,) if blocks > 1 else ()),
        block,
        *((inner,) if inner > 1 else ()),
    )


def restored_weight(
    change: Change, stored: StoredIndices, weight: ir.Value, *, before: ir.Node
) -> ir.Value:
    """Return the weight in the shape in which its readers expect it.

    Args:
        change: Where the operators are created.
        stored: What they read.
        weight: The constant that it is read instead of.
        before: Where: the first of all nodes that may read it.
    """
    name = weight.name or "weight"
    values = _looked_up(change, stored, stored.indices, name, before=before)
    found = _scaled(change, stored, stored.scale, values, before=before)
    tensor = constant_tensor(weight)
    assert tensor is not None
    shape = tensor.shape.numpy()
    if stored.shape == tuple(shape):
        return found
    whole = change.initializer(np.array(shape, np.int64), name=f"{name}_shape")
    hint = f"{name}_restored"
    return change.node("Reshape", [found, whole], name=hint, like=weight, before=before)


def looked_up_rows(change: Change, stored: StoredIndices, node: ir.Node) -> ir.Value:
    """Return what a ``Gather`` of rows returned, from the indices of a table.

    Args:
        change: Where the operators are created.
        stored: The table.
        node: The ``Gather``.
    """
    name, rows = node.name or "Gather", node.inputs[1]
    indices = change.node("Gather", [stored.indices, rows], name=f"{name}_indices", before=node)
    found = _looked_up(change, stored, indices, name, before=node)
    if stored.scale is None:
        return found
    scale = change.node("Gather", [stored.scale, rows], name=f"{name}_scale", before=node)
    return _scaled(change, stored, scale, found, before=node)


def _looked_up(
    change: Change,
    stored: StoredIndices,
    indices: ir.Value,
    name: str,
    *,
    before: ir.Node,
) -> ir.Value:
    """Return entries of the codebook; `Gather` takes indices of 32 bits and more alone."""
    to_whole = {"to": ir.DataType.INT32}
    numbers = change.node(
        "Cast", [indices], attributes=to_whole, name=f"{name}_numbers", before=before
    )
    halves = [
        change.node("Gather", [book, numbers], name=f"{name}_values", before=before)
        for book in stored.books
    ]
    if len(halves) == 1:
        return halves[0]
    last = {"axis": -1}
    return change.node("Concat", halves, attributes=last, name=f"{name}_pairs", before=before)


def _scaled(
    change: Change,
    stored: StoredIndices,
    scale: ir.Value | None,
    values: ir.Value,
    *,
    before: ir.Node,
) -> ir.Value:
    if scale is None:
        return values
    # Half precision costs a scale less than rounding to 16 values costs the weight, by far.
    if stored.has_half_scale:
        to_float, name = {"to": ir.DataType.FLOAT}, f"{scale.name}_float"
        scale = change.node("Cast", [scale], attributes=to_float, name=name, before=before)
    return change.node("Mul", [values, scale], name=f"{values.name}_scaled", before=before)
