"""Parameters of operators, whether a version of the operator has them as attributes or inputs.

Every function returns ``None`` where the parameter is not known before run time: computed, taken
from an input of the graph, or an initializer that a caller may override.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.ir import constant_array

__all__ = [
    "SliceBounds",
    "cast_target",
    "gathered_indices",
    "int_attribute",
    "ints_attribute",
    "ints_operand",
    "is_training",
    "numbered_type",
    "operand",
    "pad_amounts",
    "reshape_target",
    "slice_bounds",
    "squeeze_axes",
    "transpose_permutation",
]

_MAX_OPERAND_ELEMENTS = 64
_MAX_INDICES = 1 << 16


def int_attribute(node: ir.Node, name: str, default: int) -> int | None:
    """Return an integer attribute; ``None`` where a function's caller supplies it."""
    attribute = node.attributes.data.get(name)  # the plain dict is many times faster
    if attribute is None:
        return default
    return None if attribute.is_ref() else attribute.as_int()


def ints_attribute(node: ir.Node, name: str) -> tuple[int, ...] | None:
    """Return a list attribute; ``None`` where it is absent or supplied by a function's caller."""
    attribute = node.attributes.data.get(name)  # the plain dict is many times faster
    if attribute is None or attribute.is_ref():
        return None
    return tuple(attribute.as_ints())


def operand(node: ir.Node, index: int) -> ir.Value | None:
    """Return input ``index`` of ``node``, or ``None`` where it is left out."""
    inputs = node.inputs
    return inputs[index] if index < len(inputs) else None


def ints_operand(node: ir.Node, index: int) -> tuple[int, ...] | None:
    """Return a constant integer input, flattened; ``None`` where absent or not constant."""
    array = constant_array(operand(node, index), _MAX_OPERAND_ELEMENTS)
    if array is None or array.dtype.kind not in "iu":
        return None
    return tuple(array.reshape(-1).tolist())


def is_training(node: ir.Node, version: int) -> bool:
    """Tell whether a Dropout or BatchNormalization runs, or may run, in training mode.

    Dropout: ``is_test`` before opset 7 (0 by default), never from 7 to 11, input ``training_mode``
    from 12. BatchNormalization: ``is_test`` before 7, inference with fewer than two outputs from 7
    to 13, attribute ``training_mode`` from 14.
    """
    if version < _FIRST_INFERENCE_ONLY:
        return int_attribute(node, "is_test", 0) != 1
    if node.op_type == "Dropout":
        return version >= _DROPOUT_MODE_INPUT and _may_be_true(operand(node, 2))
    if version < _BATCH_NORM_MODE_ATTRIBUTE:
        return sum(bool(output.name) for output in node.outputs) > 1
    return int_attribute(node, "training_mode", 0) != 0


_FIRST_INFERENCE_ONLY = 7
_DROPOUT_MODE_INPUT = 12
_BATCH_NORM_MODE_ATTRIBUTE = 14


def _may_be_true(flag: ir.Value | None) -> bool:
    if flag is None:
        return False
    array = constant_array(flag, 1)
    return array is None or bool(array.any())


def transpose_permutation(node: ir.Node, rank: int | None) -> tuple[int, ...] | None:
    """Return the permutation of a Transpose; without the attribute it reverses the axes."""
    if "perm" in node.attributes:
        return ints_attribute(node, "perm")
    return None if rank is None else tuple(reversed(range(rank)))


def reshape_target(node: ir.Node) -> tuple[tuple[int, ...], bool] | None:
    """Return the shape a Reshape asks for, and whether 0 in it means zero rather than *copy*."""
    shape = ints_attribute(node, "shape") if len(node.inputs) == 1 else ints_operand(node, 1)
    allow_zero = int_attribute(node, "allowzero", 0)
    if shape is None or allow_zero is None:
        return None
    return shape, bool(allow_zero)


def gathered_indices(node: ir.Node, size: int) -> npt.NDArray[np.int64] | None:
    """Return the places along an axis of ``size`` that Gather takes, where they are a list."""
    array = constant_array(operand(node, 1), _MAX_INDICES)
    if array is None or array.ndim != 1 or not array.size:
        return None
    places = np.where(array < 0, array + size, array).astype(np.int64)
    return places if ((places >= 0) & (places < size)).all() else None


def squeeze_axes(node: ir.Node) -> tuple[int, ...] | None:
    """Return the axes of a Squeeze or Unsqueeze as written; ``None`` also where none are named.

    An empty list names none: the runtime then squeezes every axis of size 1.
    """
    axes = ints_attribute(node, "axes") if "axes" in node.attributes else ints_operand(node, 1)
    return axes or None


def cast_target(node: ir.Node) -> ir.DataType | None:
    """Return the type that a Cast converts to; opsets before 6 name it in text."""
    attribute = node.attributes.get("to")
    if attribute is None or attribute.is_ref():
        return None
    if attribute.type == ir.AttributeType.STRING:
        return ir.DataType.__members__.get(attribute.as_string())
    return numbered_type(attribute.as_int())


_NUMBERED = {kind.value: kind for kind in ir.DataType if kind != ir.DataType.UNDEFINED}


def numbered_type(number: int) -> ir.DataType | None:
    """Return the element type of a number that a file gives; ``None`` where it is none's."""
    return _NUMBERED.get(number)


def pad_amounts(node: ir.Node) -> tuple[int, ...] | None:
    """Return the amounts of a Pad: attribute ``pads`` (``paddings`` in opset 1) or an input."""
    for name in ("pads", "paddings"):
        if name in node.attributes:
            return ints_attribute(node, name)
    return ints_operand(node, 1)


@dataclass(frozen=True)
class SliceBounds:
    """Constant parameters of a Slice, one entry for each axis that it names.

    Attributes:
        starts: First index, negative from the end.
        ends: Index after the last, negative from the end; huge values mean *to the end*.
        axes: Axes as written.
        steps: Strides.
    """

    starts: tuple[int, ...]
    ends: tuple[int, ...]
    axes: tuple[int, ...]
    steps: tuple[int, ...]


def slice_bounds(node: ir.Node) -> SliceBounds | None:
    """Return the parameters of a Slice: attributes before opset 10, inputs since."""
    if "starts" in node.attributes:
        starts, ends = ints_attribute(node, "starts"), ints_attribute(node, "ends")
        axes = ints_attribute(node, "axes") if "axes" in node.attributes else _all(starts)
        return _bounds(starts, ends, axes, None)
    starts, ends = ints_operand(node, 1), ints_operand(node, 2)
    axes = ints_operand(node, 3) if operand(node, 3) is not None else _all(starts)
    if operand(node, 4) is None:
        return _bounds(starts, ends, axes, None)
    steps = ints_operand(node, 4)
    return None if steps is None else _bounds(starts, ends, axes, steps)


def _all(starts: Sequence[int] | None) -> tuple[int, ...] | None:
    return None if starts is None else tuple(range(len(starts)))


def _bounds(
    starts: tuple[int, ...] | None,
    ends: tuple[int, ...] | None,
    axes: tuple[int, ...] | None,
    steps: tuple[int, ...] | None,
) -> SliceBounds | None:
    if starts is None or ends is None or axes is None:
        return None
    steps = steps if steps is not None else (1,) * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps):
        return None
    return SliceBounds(starts, ends, axes, steps)
