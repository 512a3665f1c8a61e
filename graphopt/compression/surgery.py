"""Removing units: weights cut, shape operands and attributes told the new lengths."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis.coupling import Coupling, Factor
from graphopt.analysis.operands import gathered_indices
from graphopt.analysis.symbolic_expressions import Integer
from graphopt.compression.shape_operands import Known, NewLengths, rewritten_operand
from graphopt.ir import constant_array, constant_tensor
from graphopt.rewrite import Change

__all__ = ["Obstacle", "Surgery", "plan_surgery"]

Mask = npt.NDArray[np.bool_]
_SHAPE_OPERANDS = {"ConstantOfShape": 0, "Expand": 1, "Reshape": 1, "Resize": 3}
_DYNAMIC_SPLIT_SINCE = 13
_DYNAMIC_SLICE_SINCE = 10


class Obstacle(NamedTuple):
    """Why units cannot be removed, and where."""

    where: ir.Node
    why: str


@dataclass(frozen=True)
class Surgery:
    """Units to remove from one model.

    Attributes:
        coupling: What the model ties together.
        removed: The units that go, int64, sorted.
    """

    coupling: Coupling
    removed: npt.NDArray[np.int64]

    def kept(self, factor: Factor) -> Mask | None:
        """Return which indices of a dimension stay; ``None``: all."""
        return self.coupling.units.kept(factor, self.removed)

    def masks(self, value: ir.Value | None) -> dict[int, Mask]:
        """Return which indices stay, by axis of a value; axes that keep all are left out.

        An axis that is a product has the product's indices: those whose every part stays.
        """
        layout = self.coupling.layouts.get(value) if value is not None else None
        found = {}
        for place, axis in enumerate(layout or ()):
            parts = [self.kept(factor) for factor in axis]
            if all(part is None for part in parts):
                continue
            grid: Mask = np.ones(1, bool)
            for factor, part in zip(axis, parts, strict=True):
                if part is None and not isinstance(factor.size, int):
                    grid = np.empty(0, bool)  # of a length that only a run tells
                    break
                whole = np.ones(int(str(factor.size)), bool) if part is None else part
                grid = np.logical_and.outer(grid, whole).reshape(-1)
            found[place] = grid
        return found

    def apply(self, change: Change) -> Obstacle | None:
        """Add every operation to ``change``, or return what stands in the way."""
        nodes = list(change.model.graph)
        for node in nodes:
            obstacle = self._adapt(node, change)
            if obstacle is not None:
                return obstacle
        for use in self.coupling.uses:
            mask = self.kept(use.factor) if use.role == "counts" else None
            if mask is not None:
                change.set_attributes(use.node, {use.attribute: int(mask.sum())})
        for value in self.coupling.layouts:
            self._cut(value, change)
        return None

    def _cut(self, value: ir.Value, change: Change) -> None:
        masks = self.masks(value)
        if not masks:
            return
        tensor = constant_tensor(value)
        if tensor is None:
            self._declare(value, masks, change)
            return
        array = tensor.numpy()
        for axis, mask in masks.items():
            array = np.compress(mask, array, axis=axis)
        if value.is_initializer():
            change.set_tensor(value, array)
        else:
            change.replace(value, change.initializer(array, name=value.name or "constant"))

    @staticmethod
    def _declare(value: ir.Value, masks: Mapping[int, Mask], change: Change) -> None:
        """Keep what is declared of an activation true, and of a cache that may lose heads."""
        if value.shape is None:
            return
        dims: list[Any] = list(value.shape)
        for axis, mask in masks.items():
            dims[axis] = int(mask.sum()) if mask.size else None
        change.set_value_info(value, shape=ir.Shape(dims))

    # -- operands and attributes -------------------------------------------------------------

    def _adapt(self, node: ir.Node, change: Change) -> Obstacle | None:
        if node.op_type in _SHAPE_OPERANDS:
            return self._adapt_shape(node, change)
        if node.op_type == "Split" and any(self.masks(output) for output in node.outputs):
            return self._adapt_split(node, change)
        if node.op_type == "Slice" and self.masks(node.inputs[0]):
            return self._adapt_slice(node, change)
        if node.op_type == "Gather" and not node.domain:
            self._adapt_gather(node, change)
        if node.op_type == "Attention" and node.domain:
            self._adapt_packed(node, change)
        return None

    def _adapt_packed(self, node: ir.Node, change: Change) -> None:
        """Tell Attention of com.microsoft how wide queries, keys and values are now."""
        sizes, mask = node.attributes.get("qkv_hidden_sizes"), self.masks(node.inputs[1]).get(1)
        if sizes is None or mask is None:
            return
        bounds = np.cumsum(sizes.as_ints())[:-1]
        parts = [int(part.sum()) for part in np.split(mask, bounds)]
        change.set_attributes(node, {"qkv_hidden_sizes": parts})

    def _adapt_gather(self, node: ir.Node, change: Change) -> None:
        """Number anew what constant indices choose."""
        data = node.inputs[0]
        layout = self.coupling.layouts.get(data) if data is not None else None
        mask = self.masks(data).get(_axis(node, len(layout))) if layout else None
        places = None if mask is None else gathered_indices(node, mask.size)
        if mask is None or places is None:
            return
        renumbered = (np.cumsum(mask) - 1)[places[mask[places]]]
        change.set_input(node, 1, change.initializer(renumbered, name=f"{node.name}_indices"))

    def _adapt_shape(self, node: ir.Node, change: Change) -> Obstacle | None:
        masks, index = self.masks(node.outputs[0]), _SHAPE_OPERANDS[node.op_type]
        if not masks:
            return None
        if len(node.inputs) <= index or node.inputs[index] is None:
            if node.op_type == "Resize":
                return None  # it scales
            return Obstacle(node, "its shape is an attribute")
        wanted = NewLengths(
            {axis: int(mask.sum()) for axis, mask in masks.items() if mask.size},
            {axis: self._share(node.outputs[0], axis) for axis, m in masks.items() if not m.size},
        )
        known = Known(self._length, lambda value: bool(self.masks(value)))
        operand = node.inputs[index]
        assert operand is not None
        found = rewritten_operand(change, operand, wanted, before=node, known=known)
        if found is None:
            return Obstacle(node, "the shape it asks for is computed in a way that is not followed")
        if found is not operand:
            change.set_input(node, index, found)
        return None

    def _share(self, value: ir.Value, axis: int) -> tuple[int, int]:
        """Return how many of how many stay, of the factors of an axis whose length is a number."""
        kept = total = 1
        for factor in self.coupling.layouts[value][axis]:
            if isinstance(factor.size, int):
                mask = self.kept(factor)
                kept *= factor.size if mask is None else int(mask.sum())
                total *= factor.size
        return kept, total

    def _length(self, value: ir.Value) -> int | None:
        layout = self.coupling.layouts.get(value)
        if layout is None or len(layout) != 1:
            return None
        sizes = [factor.size for factor in layout[0]]
        return math.prod(int(str(size)) for size in sizes) if _are_numbers(sizes) else None

    def _adapt_split(self, node: ir.Node, change: Change) -> Obstacle | None:
        axis = _axis(node, len(self.coupling.layouts[node.outputs[0]]))
        sizes = []
        for output in node.outputs:
            mask = self.masks(output).get(axis)
            dims = [factor.size for factor in self.coupling.layouts[output][axis]]
            whole = int(np.prod([int(str(size)) for size in dims], dtype=np.int64))
            sizes.append(whole if mask is None else int(mask.sum()))
        is_even = len(set(sizes)) == 1
        if "split" in node.attributes:
            change.set_attributes(node, {"split": sizes})
        elif len(node.inputs) > 1 and node.inputs[1] is not None:
            operand = change.initializer(np.array(sizes, np.int64), name=f"{node.name}_sizes")
            change.set_input(node, 1, operand)
        elif not is_even and _version(change) >= _DYNAMIC_SPLIT_SINCE:
            operand = change.initializer(np.array(sizes, np.int64), name=f"{node.name}_sizes")
            change.set_input(node, 1, operand)
            change.set_attributes(node, {"num_outputs": None})
        elif not is_even:
            change.set_attributes(node, {"split": sizes})
        return None

    def _adapt_slice(self, node: ir.Node, change: Change) -> Obstacle | None:
        if _version(change) < _DYNAMIC_SLICE_SINCE:
            return Obstacle(node, "its bounds are attributes")
        masks = self.masks(node.inputs[0])
        given = [constant_array(value, 64) if value else None for value in node.inputs[1:4]]
        starts, ends, axes = (*given, None, None)[:3]
        if starts is None or ends is None:
            is_cut = self.masks(node.outputs[0]).keys() == masks.keys()
            return None if is_cut else Obstacle(node, "its bounds are computed")
        places = range(len(starts)) if axes is None else axes.reshape(-1).tolist()
        rank = len(self.coupling.layouts[node.inputs[0]]) if node.inputs[0] else 0
        bounds = [starts.reshape(-1).copy(), ends.reshape(-1).copy()]
        for number, place in enumerate(places):
            mask = masks.get(place % rank)
            if mask is None:
                continue
            first, last, _ = slice(int(bounds[0][number]), int(bounds[1][number])).indices(
                mask.size
            )
            bounds[0][number] = mask[:first].sum()
            bounds[1][number] = mask[:last].sum()
        for index, bound in enumerate(bounds, 1):
            change.set_input(node, index, change.initializer(bound, name=f"{node.name}_bound"))
        return None


def _are_numbers(sizes: Sequence[Integer]) -> bool:
    return all(isinstance(size, int) for size in sizes)


def _axis(node: ir.Node, rank: int) -> int:
    return node.attributes.get_int("axis", 0) % rank


def _version(change: Change) -> int:
    return change.model.opset_imports.get("", 1)


def plan_surgery(coupling: Coupling, units: Sequence[int]) -> Surgery:
    """Return the removal of some units.

    Args:
        coupling: What the model ties together, as it is now.
        units: The units that go; none of them may be pinned.

    Raises:
        ValueError: One of them has to stay.
    """
    removed = np.unique(np.asarray(units, np.int64))
    for unit in removed.tolist():
        if (pin := coupling.units.pin(unit)) is not None:
            raise ValueError(f"unit {unit} has to stay: {pin.why} ({pin.where})")
    return Surgery(coupling, removed)
