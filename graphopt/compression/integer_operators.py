"""Which operators ONNX Runtime's CPU provider computes in integers, and what they read."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.ir import constant_array, constant_tensor
from graphopt.rewrite import ShapeTable

__all__ = [
    "COMPUTING",
    "LIFTED",
    "MOVING",
    "has_integer_kernel",
    "is_averaged_wrongly",
    "is_limiter",
    "needs_another_form",
    "operands",
    "quantizable_constant",
]

# Their result has a range of its own. Kernels: QLinearAdd, QLinearMul, QLinearConcat, ...
COMPUTING = frozenset(
    {
        "Add",
        "AveragePool",
        "Concat",
        "GlobalAveragePool",
        "LeakyRelu",
        "Mul",
        "ReduceMean",
        "Sigmoid",
    }
)
# Their result holds only values that they read: it keeps scale and zero point.
MOVING = frozenset(
    {
        "MaxPool",
        "Reshape",
        "Transpose",
        "Flatten",
        "Squeeze",
        "Unsqueeze",
        "Slice",
        "Split",
        "Resize",
    }
)
# Those that are faster on bytes than on floats, so that quantizing before them pays.
LIFTED = frozenset({"MaxPool", "Transpose", "Resize", "Reshape", "Squeeze", "Unsqueeze"})
_LIMITING = frozenset({"Relu", "Clip"})
_LARGEST_CONSTANT = 1 << 20
_IMAGE_AXES = (2, 3)
_IMAGE_RANK = 4


def has_integer_kernel(node: ir.Node, shapes: ShapeTable | None = None) -> bool:
    """Tell whether ``node`` is no layer, but has an integer kernel all the same.

    Args:
        node: Any operator.
        shapes: What is known of its operands; ``None`` gives it the benefit of the doubt.
    """
    if node.domain:
        return False
    if node.op_type == "Resize":
        return node.attributes.get_string("mode", "nearest") == "nearest"
    if node.op_type == "ReduceMean":
        return _averages_images(node, shapes)
    if node.op_type == "AveragePool":
        is_plain = all(step == 1 for step in node.attributes.get_ints("dilations", ()))
        return is_plain and not is_averaged_wrongly(node)
    if node.op_type == "MaxPool":
        return len(node.outputs) == 1
    return node.op_type in COMPUTING or node.op_type in MOVING


def needs_another_form(node: ir.Node) -> bool:
    """Tell whether an operator with an integer kernel has it in another form only.

    ``ReduceMean`` over height and width is a ``GlobalAveragePool``. An ``AveragePool`` whose last
    window may reach beyond the image must not count what is there: without padding it does not
    anyway, but the integer kernel does where ``count_include_pad`` is set.
    """
    if node.domain or node.op_type not in ("ReduceMean", "AveragePool"):
        return False
    return node.op_type == "ReduceMean" or (_may_reach_beyond(node) and not _is_padded(node))


def is_averaged_wrongly(node: ir.Node) -> bool:
    """Tell whether the integer kernel of an ``AveragePool`` divides by the wrong number.

    ONNX Runtime finds that kernel wherever the operator stands between quantizers.
    """
    if node.domain or node.op_type != "AveragePool":
        return False
    return _may_reach_beyond(node) and _is_padded(node)


def _may_reach_beyond(node: ir.Node) -> bool:
    attributes = node.attributes
    return bool(attributes.get_int("ceil_mode") and attributes.get_int("count_include_pad"))


def _is_padded(node: ir.Node) -> bool:
    automatic = node.attributes.get_string("auto_pad", "NOTSET")
    return automatic not in ("NOTSET", "VALID") or any(node.attributes.get_ints("pads", ()))


def _averages_images(node: ir.Node, shapes: ShapeTable | None) -> bool:
    """Tell whether a ``ReduceMean`` averages over height and width, and nothing else."""
    found = shapes.of(node.inputs[0]) if shapes is not None else None
    dims = found.dims if found is not None else None
    if shapes is not None and (dims is None or len(dims) != _IMAGE_RANK):
        return False
    axes = _reduced_axes(node)
    return axes is not None and tuple(sorted(axis % _IMAGE_RANK for axis in axes)) == _IMAGE_AXES


def _reduced_axes(node: ir.Node) -> tuple[int, ...] | None:
    if (axes := node.attributes.get("axes")) is not None:
        return tuple(axes.as_ints())
    array = constant_array(node.inputs[1]) if len(node.inputs) > 1 else None
    return None if array is None else tuple(int(axis) for axis in array)


def operands(node: ir.Node) -> list[ir.Value]:
    """Return the inputs that hold numbers; shapes, axes and sizes are left out."""
    inputs = node.inputs if node.op_type in ("Add", "Mul", "Concat") else node.inputs[:1]
    return [value for value in inputs if value is not None]


def quantizable_constant(value: ir.Value) -> npt.NDArray[np.float32] | None:
    """Return a constant operand that can be stored in integers, or ``None``."""
    tensor = constant_tensor(value)
    if tensor is None or tensor.dtype != ir.DataType.FLOAT or tensor.size > _LARGEST_CONSTANT:
        return None
    array: npt.NDArray[np.float32] = tensor.numpy()
    return array if array.size and np.all(np.isfinite(array)) else None


def is_limiter(node: ir.Node, value: ir.Value) -> bool:
    """Tell whether ``node`` only limits ``value``, to constant bounds around 0."""
    if node.domain or node.op_type not in _LIMITING or node.inputs[0] is not value:
        return False
    if node.op_type == "Relu":
        return True
    bounds = [constant_array(bound, 1) for bound in node.inputs[1:]]
    given = [bound is not None for bound in node.inputs[1:]]
    if any(is_given and bound is None for is_given, bound in zip(given, bounds, strict=True)):
        return False
    low, high = (*bounds, None, None)[:2]
    # The range of a quantizer holds 0, so that it cannot stand for a limit on the other side.
    return (low is None or bool(low <= 0)) and (high is None or bool(high >= 0))
