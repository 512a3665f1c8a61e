"""The operands of fused attention, made of what an attention was found to be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.analysis.attention_blocks import Attention
from graphopt.analysis.attention_masks import Addend, Masks
from graphopt.analysis.head_splits import Heads
from graphopt.analysis.operands import reshape_target
from graphopt.analysis.symbolic_table import SymbolicTable
from graphopt.ir import opset_version
from graphopt.rewrite import Change

__all__ = ["AttentionOperands"]

_AXES_INPUT_SINCE = 13
_SHAPE_RANGE_SINCE = 15


class AttentionOperands:
    """Writes what a fused operator reads, and what is left to do with its result.

    Args:
        model: The model of the attention.
        found: The attention.
        shapes: Shapes of the values.
        change: The rewrite that the nodes belong to.

    Attributes:
        read: The values that the new nodes read.
    """

    def __init__(
        self, model: ir.Model, found: Attention, shapes: SymbolicTable, change: Change
    ) -> None:
        self._inputs = tuple(model.graph.inputs)
        self._found, self._shapes, self._change = found, shapes, change
        self._version = opset_version(model)
        self.read: list[ir.Value] = []
        self._parts: dict[ir.Value, tuple[ir.Value, ...]] = {}

    def node(
        self,
        kind: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Any] | None = None,
        *,
        outputs: int = 1,
        domain: str = "",
        before: ir.Node | None = None,
    ) -> tuple[ir.Value, ...]:
        """Create a node and take note of what it reads, in `read`."""
        self.read += [value for value in inputs if value is not None]
        return self._change.multi_output_node(
            kind, inputs, outputs, attributes=attributes, domain=domain, before=before
        )

    def _node(
        self,
        kind: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Any] | None = None,
    ) -> ir.Value:
        return self.node(kind, inputs, attributes)[0]

    # -- masks -------------------------------------------------------------------------------

    def bias(self, masks: Masks) -> ir.Value | None:
        """Return the sum of all that is added to the scores, (B or 1, H or 1, S, T)."""
        if not masks.added:
            return None
        values = [self._laid_out(one) for one in masks.added]
        total = reduce(lambda one, other: self._node("Add", [one, other]), values)
        length = self._found.scores[2]
        # The operators broadcast over batch and heads, and not over queries.
        if masks.dims[2] != 1 or length == 1:
            return total
        one = self._numbers([1])
        target = [self._numbers([1, 1]), self._size(length, self._found.query, 1), one]
        return self._node("Expand", [total, self._joined(target)])

    def _laid_out(self, addend: Addend) -> ir.Value:
        value, layout = self._as_number(addend), addend.layout
        known = self._shapes.of(addend.value)
        rank = len(known.dims) if known is not None and known.dims is not None else len(layout.dims)
        if layout.form == "unsqueeze":
            return self._with_axes("Unsqueeze", value, range(len(layout.dims) - rank))
        if layout.form == "squeeze":
            return self._with_axes("Squeeze", value, [0])
        if layout.form in ("join", "split"):
            sizes = [dim for dim in layout.dims[1:] if isinstance(dim, int)]
            if len(sizes) == len(layout.dims) - 1:
                return self._reshaped(value, [-1, *sizes])
            value = self._with_axes("Unsqueeze", value, [0])  # so that 0 copies the last two
            return self._reshaped(value, [-1, self._found.query.count, 0, 0])
        return self._tiled(addend, value, rank) if layout.form == "tile" else value

    def _as_number(self, addend: Addend) -> ir.Value:
        if addend.choice is None:
            return addend.value
        dtype = self._shapes.of(self._found.softmax.inputs[0])
        assert dtype is not None
        assert dtype.dtype is not None
        # An Add takes two of one type, and this is added to scores, or to other masks of them.
        kind = dtype.dtype.numpy()
        number = self._change.initializer(np.array(addend.choice.number, kind), name="masked")
        zero = self._change.initializer(np.array(0, kind), name="kept")
        given = [number, zero] if addend.choice.is_number_first else [zero, number]
        return self._node("Where", [addend.value, *given])

    def _tiled(self, addend: Addend, value: ir.Value, rank: int) -> ir.Value:
        """Repeat a mask for windows, (1, w, H, S, T) or (w, H, S, T), for every image."""
        view = self._view_of(addend)
        if rank > len(addend.layout.dims):
            value = self._with_axes("Squeeze", value, [0])
        images, windows = view[0], view[1]
        assert isinstance(windows, int)
        if isinstance(images, int) or self._input_axis(images) is not None:
            count = self._size(images, self._found.query, 0)
        else:
            joined = self._size(None, self._found.query, 0)
            count = self._node("Div", [joined, self._numbers([windows])])
        return self._node("Tile", [value, self._joined([count, self._numbers([1, 1, 1])])])

    def _view_of(self, addend: Addend) -> Sequence[int | str | None]:
        of = [one for one in self._found.masks if one.value is addend.value]
        view = addend.choice.view if addend.choice else of[0].view
        return view or self._found.product

    # -- heads -------------------------------------------------------------------------------

    def rows(self, heads: Heads, source: ir.Value | None = None) -> ir.Value:
        """Return queries, keys or values of shape (B, S, H * d)."""
        value = source or heads.source
        if heads.is_time_first:
            return self._node("Transpose", [value], {"perm": [1, 0, 2]})
        if heads.flat is not None:
            return self._node("Reshape", [value, self._row_target(heads, heads.flat)])
        if not heads.is_split:
            return value
        turned = self._node("Transpose", [value], {"perm": [0, 2, 1, 3]})
        return self._reshaped(turned, [0, 0, heads.count * heads.size])

    def _row_target(self, heads: Heads, split: ir.Node) -> ir.Value:
        """Return what `split` asks for, with the heads merged."""
        target, width = split.inputs[1], self._numbers([heads.count * heads.size])
        asked = reshape_target(split)
        if asked is not None:
            return self._numbers([*asked[0][:2], heads.count * heads.size])
        assert target is not None
        bounds = [self._numbers([number]) for number in (0, 2, 0)]
        return self._joined([self._node("Slice", [target, *bounds]), width])

    def parts(self, whole: ir.Value, attributes: Mapping[str, Any]) -> tuple[ir.Value, ...]:
        """Return the three parts of ``whole``, split once."""
        if whole not in self._parts:
            self._parts[whole] = self.node("Split", [whole], attributes, outputs=3)
        return self._parts[whole]

    def split(self, heads: Heads) -> ir.Value:
        """Return keys or values of shape (B, H, T, d)."""
        if heads.is_split:
            return heads.source
        parted = self._reshaped(self.rows(heads), [0, 0, heads.count, heads.size])
        return self._node("Transpose", [parted], {"perm": [0, 2, 1, 3]})

    def result(self, fused: ir.Value, values: Heads) -> ir.Value:
        """Return what takes the place of the merged heads, from (B, S, H * e).

        Args:
            fused: What the operator computes.
            values: What the weights are multiplied with, past included.
        """
        found = self._found
        if found.is_guarded:
            # Where no key counts or a score overflows, weights are NaN, and so is the context.
            nan = self._node("IsNaN", [fused])
            fused = self._node("Where", [nan, self._without_weight(values), fused])
        if found.is_time_first:
            fused = self._node("Transpose", [fused], {"perm": [1, 0, 2]})
        if found.is_settled:
            return fused
        merge = found.merge
        return self._node("Reshape", [fused, merge.inputs[1]], attributes=dict(merge.attributes))

    def _without_weight(self, values: Heads) -> ir.Value:
        """Return the context of weights that are all 0, (B, 1, H * e): NaN where a value is."""
        known = self._shapes.of(self._found.result)
        kind = known.dtype.numpy() if known is not None and known.dtype else np.float32
        zero = self._change.initializer(np.array(0, kind), name="weightless")
        if not values.is_split:
            total = self._with_axes("ReduceSum", self.rows(values), [1])
            return self._node("Mul", [total, zero])
        total = self._node("Mul", [self._with_axes("ReduceSum", values.source, [2]), zero])
        return self._reshaped(total, [0, 1, values.count * values.size])

    # -- sizes -------------------------------------------------------------------------------

    def _numbers(self, numbers: Sequence[int]) -> ir.Value:
        return self._change.initializer(np.array(numbers, np.int64), name="sizes")

    def _joined(self, parts: Sequence[ir.Value]) -> ir.Value:
        return self._node("Concat", parts, {"axis": 0})

    def _reshaped(self, value: ir.Value, target: Sequence[int]) -> ir.Value:
        return self._node("Reshape", [value, self._numbers(target)])

    def _with_axes(self, kind: str, value: ir.Value, axes: Sequence[int]) -> ir.Value:
        if self._version < _AXES_INPUT_SINCE:
            return self._node(kind, [value], {"axes": list(axes)})
        return self._node(kind, [value, self._numbers(list(axes))])

    def _size(self, dim: int | str | None, heads: Heads, axis: int) -> ir.Value:
        """Return a dimension as a vector, of an input of the model where one has it.

        All attentions then ask the same, which is done once.
        """
        if isinstance(dim, int):
            return self._numbers([dim])
        source, place = self._input_axis(dim) or (heads.source, self._source_axis(heads, axis))
        if self._version >= _SHAPE_RANGE_SINCE:
            return self._node("Shape", [source], {"start": place, "end": place + 1})
        shape = self._node("Shape", [source])
        return self._node("Gather", [shape, self._numbers([place])])

    def _input_axis(self, dim: int | str | None) -> tuple[ir.Value, int] | None:
        for value in self._inputs:
            known = self._shapes.of(value)
            if dim is not None and known is not None and known.dims and dim in known.dims:
                return value, known.dims.index(dim)
        return None

    @staticmethod
    def _source_axis(heads: Heads, axis: int) -> int:
        """Return where the source has axis 0, B, or 1, S, of the heads."""
        if heads.is_split:
            return (0, 2)[axis]
        return 1 - axis if heads.is_time_first else axis
