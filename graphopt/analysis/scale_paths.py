"""Where a constant factor of a value may go: upwards to weights, or across a product of two values.

A factor moves up through what is linear: sums with constants (which are scaled too), operators that
only move elements (one number for all), products of two values (one side takes it). It ends in
the weight of a layer or in another constant factor. All values on the way must be private.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt.analysis.constant_arithmetic import (
    Constant,
    Replacement,
    constant_of,
    is_private,
    is_shared,
    sole_reader,
)
from graphopt.analysis.operands import int_attribute, operand
from graphopt.analysis.weighted_layers import (
    Array,
    WeightedLayer,
    find_weighted_layer,
    is_tame,
)
from graphopt.ir import as_tensor, constant_tensor
from graphopt.rewrite import ShapeTable

__all__ = ["Refused", "absorbed_above", "absorbed_across", "is_layout"]

_MOST_STEPS = 10
_LAYOUT = frozenset(
    {"Expand", "Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"}
)


@dataclass(frozen=True)
class Refused:
    """The factor would have found its place, but for a reason.

    Attributes:
        slug: The reason.
    """

    slug: str


Outcome = tuple[Replacement, ...] | Refused | None
"""What to change so that a value is scaled; ``None`` where there is no place for a factor."""


def is_layout(node: ir.Node) -> bool:
    """Tell whether ``node`` moves or repeats the elements of its first input, and no more."""
    return node.op_type in _LAYOUT and not node.domain


def absorbed_above(
    value: ir.Value, factors: Array, shapes: ShapeTable, steps: int = _MOST_STEPS
) -> Outcome:
    """Return what makes ``value`` the ``factors`` times larger without a node for it.

    Args:
        value: Read by one node only.
        factors: As in `Step`.
        shapes: Shapes of the values.
        steps: How many nodes to go through at most.
    """
    node = value.producer()
    if node is None or node.domain or not steps:
        return None
    if not is_private(value):
        # One step tells whether its readers alone are in the way, which is worth saying.
        found = absorbed_by(node, value, factors, shapes, 1)
        return Refused("read-elsewhere") if found is not None else None
    return absorbed_by(node, value, factors, shapes, steps)


def absorbed_by(
    node: ir.Node, value: ir.Value, factors: Array, shapes: ShapeTable, steps: int
) -> Outcome:
    """Return what makes an output of ``node`` larger; see `absorbed_above`."""
    layer = find_weighted_layer(node)
    found = None
    if layer is not None and layer.takes(factors.shape):
        found = _scaled_layer(layer, factors)
    if found is None or isinstance(found, Refused):
        further = _through(node, value, factors, shapes, steps)
        found = further if isinstance(further, tuple) else found or further
    return found


def _scaled_layer(layer: WeightedLayer, factors: Array) -> Outcome:
    weight = layer.node.inputs[layer.weight]
    if weight is None or not is_tame(factors):
        return None
    if is_shared(weight):
        return Refused("shared-weight")
    done = (Replacement(layer.node, layer.weight, layer.scaled_weight(factors)),)
    if layer.bias is None or operand(layer.node, layer.bias) is None:
        return done
    bias = constant_of(layer.node, layer.bias)
    if bias is None:
        return None
    by = factors.reshape(-1) if factors.ndim else factors
    scaled = _times(layer.node, bias, by)
    return (*done, scaled) if isinstance(scaled, Replacement) else scaled


def _times(node: ir.Node, constant: Constant, factors: Array) -> Replacement | Refused | None:
    """Scale a constant operand, which must not become larger than both."""
    if constant.is_shared:
        return Refused("shared-weight")
    shape = np.broadcast_shapes(constant.array.shape, factors.shape)
    if np.prod(shape) > max(constant.array.size, factors.size) or not is_tame(factors):
        return None
    with np.errstate(all="ignore"):  # what overflows is not tame
        return _stored(node, constant, constant.array * factors)


def _stored(
    node: ir.Node, constant: Constant, array: Array, op_type: str | None = None
) -> Replacement:
    return Replacement(
        node, constant.index, as_tensor(np.asarray(array, constant.dtype), ""), op_type
    )


def _through(
    node: ir.Node, value: ir.Value, factors: Array, shapes: ShapeTable, steps: int
) -> Outcome:
    if node.op_type in ("Add", "Sub"):
        return _through_sum(node, factors, shapes, steps)
    if node.op_type in ("Mul", "Div"):
        return _into_factor(node, factors)
    if factors.ndim:
        return None
    if node.op_type == "Split":
        return _through_split(node, value, factors, shapes, steps)
    is_product = node.op_type == "MatMul"
    found: Outcome = None
    for source in node.inputs if is_product else node.inputs[: is_layout(node)]:
        found = None if source is None else absorbed_above(source, factors, shapes, steps - 1)
        if isinstance(found, tuple):
            break
    return found


def _through_sum(node: ir.Node, factors: Array, shapes: ShapeTable, steps: int) -> Outcome:
    for index in (1, 0):
        constant, source = constant_of(node, index), node.inputs[1 - index]
        if constant is None or source is None or constant_tensor(source) is not None:
            continue
        found = absorbed_above(source, factors, shapes, steps - 1)
        if not isinstance(found, tuple):
            return found
        scaled = _times(node, constant, factors)
        return (*found, scaled) if isinstance(scaled, Replacement) else scaled
    return None


def _into_factor(node: ir.Node, factors: Array) -> Outcome:
    """Multiply the constant operand of a Mul or Div; dividing by it becomes multiplying."""
    for index in (1, 0):
        constant = constant_of(node, index)
        if constant is None or constant_tensor(node.inputs[1 - index]) is not None:
            continue
        if node.op_type == "Div" and index == 1:
            if not is_tame(constant.array) or not constant.array.all():
                return None
            inverse = Constant(index, 1.0 / constant.array, constant.dtype, constant.is_shared)
            scaled = _times(node, inverse, factors)
            if not isinstance(scaled, Replacement):
                return scaled
            return (Replacement(node, index, scaled.tensor, "Mul"),)
        scaled = _times(node, constant, factors) if is_tame(constant.array) else None
        return (scaled,) if isinstance(scaled, Replacement) else scaled
    return None


def _through_split(
    node: ir.Node, value: ir.Value, factors: Array, shapes: ShapeTable, steps: int
) -> Outcome:
    """Scale one part of what is split: a factor for each index of the axis."""
    source, known = node.inputs[0], shapes.of(node.inputs[0])
    if source is None or known is None or not known.dims:
        return None
    axis = int_attribute(node, "axis", 0)
    sizes = [_size(output, axis, shapes) for output in node.outputs]
    if axis is None or any(size is None for size in sizes):
        return None
    vector = np.concatenate(
        [
            np.full(size or 0, factors if output is value else 1.0)
            for output, size in zip(node.outputs, sizes, strict=True)
        ]
    )
    trailing = len(known.dims) - 1 - axis % len(known.dims)
    if vector.size < 2:  # noqa: PLR2004 - a vector of one would be one number for all
        return None
    spread = vector.reshape((-1,) + (1,) * trailing)
    return absorbed_above(source, spread, shapes, steps - 1)


def _size(value: ir.Value, axis: int | None, shapes: ShapeTable) -> int | None:
    known = shapes.of(value)
    if known is None or not known.dims or axis is None:
        return None
    size = known.dims[axis]
    return size if isinstance(size, int) else None


def absorbed_across(result: ir.Value, factor: Array, shapes: ShapeTable) -> Outcome:
    """Return what makes up for one factor of ``result`` that is left out, beyond its readers.

    It goes down through operators that move elements and through products of two values; the other
    side of a product may take it, or a constant factor after it.
    """
    value = result
    for _ in range(_MOST_STEPS):
        user = sole_reader(value)
        if user is None or factor.ndim:
            return None
        if user.op_type in ("Mul", "Div") and not user.domain:
            is_divisor = user.op_type == "Div" and user.inputs[0] is not value
            return None if is_divisor else _into_factor(user, factor)
        if user.op_type == "MatMul" and not user.domain:
            other = user.inputs[1 if user.inputs[0] is value else 0]
            found = other and absorbed_above(other, factor, shapes)
            if isinstance(found, tuple):
                return found
        elif not is_layout(user) or user.inputs[0] is not value:
            return None
        value = user.outputs[0]
    return None
