"""Steps that multiply by a constant, add one, or both, and where such constants may go instead."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt.analysis.annotations import is_annotated
from graphopt.analysis.operands import is_training, operand
from graphopt.analysis.weighted_layers import Array
from graphopt.ir import constant_tensor
from graphopt.rewrite import Change, ShapeTable, is_overwritten

__all__ = [
    "Constant",
    "Replacement",
    "Step",
    "constant_of",
    "ends_fusable_arithmetic",
    "is_private",
    "is_shared",
    "normalized",
    "put_constant",
    "scale_step",
    "shift_step",
    "sole_reader",
]

_MOST_ELEMENTS = 1 << 18
_SMALL_ELEMENTS = 1 << 10
_ARITHMETIC = frozenset({"Add", "Div", "Mul", "Reciprocal"})
_HEARTS = frozenset({"Erf", "Pow", "Sqrt", "Tanh"})
_STEPS_OF_ARITHMETIC = 4
_BROADCASTS_SINCE = 7
"""Opset since which shapes are aligned at the last axis, whatever attributes say."""

_FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE)


@dataclass(frozen=True)
class Step:
    """``factors * source + summands``, computed by one node.

    Attributes:
        node: The node.
        source: The value that is not constant.
        factors: Double precision, dimensions of 1 in front left out; one number has the shape ().
        summands: In the same form; ``None``: nothing is added.
    """

    node: ir.Node
    source: ir.Value
    factors: Array
    summands: Array | None


@dataclass(frozen=True)
class Replacement:
    """Another constant for an input of a node.

    Attributes:
        node: The node.
        index: Which input.
        tensor: The new constant.
        op_type: Operator that the node becomes; ``None``: it stays what it is.
    """

    node: ir.Node
    index: int
    tensor: ir.TensorProtocol
    op_type: str | None = None


@dataclass(frozen=True)
class Constant:
    """A constant operand.

    Attributes:
        index: Which input it is.
        array: In double precision, with its own shape.
        dtype: Its type.
        is_shared: See `is_shared`.
    """

    index: int
    array: Array
    dtype: np.dtype[np.generic]
    is_shared: bool


def constant_of(node: ir.Node, index: int) -> Constant | None:
    """Return input ``index`` of ``node``, where it is a constant of floats and not huge."""
    value = operand(node, index)
    tensor = constant_tensor(value)
    if value is None or tensor is None or tensor.dtype not in _FLOATS:
        return None
    if not 0 < tensor.size <= _MOST_ELEMENTS or is_overwritten(value):
        return None
    array = tensor.numpy()
    return Constant(index, array.astype(np.float64), array.dtype, is_shared(value))


def is_shared(value: ir.Value) -> bool:
    """Tell whether a constant must stay: a changed copy would stand beside it, or it is annotated.

    Small ones may be copied; a quantization annotation tells the range of what it describes. What
    running the model changes is no constant at all.
    """
    if is_annotated(value) or is_overwritten(value):
        return True
    tensor = constant_tensor(value)
    if tensor is None or tensor.size <= _SMALL_ELEMENTS:
        return False
    return value.is_graph_output() or len(value.uses()) > 1


def is_private(value: ir.Value) -> bool:
    """Tell whether one node reads ``value``, and nobody else sees it."""
    return not value.is_graph_output() and len(value.uses()) == 1 and not is_annotated(value)


def sole_reader(value: ir.Value) -> ir.Node | None:
    """Return the one node that reads a private value, if it is of the same graph."""
    if not is_private(value):
        return None
    user = next(iter(value.uses())).node
    producer = value.producer()
    return user if producer is not None and user.graph is producer.graph else None


def ends_fusable_arithmetic(step: Step) -> bool:
    """Tell whether the factor is the last step of a Gelu or a normalization in arithmetic.

    The runtime, and passes that emit its own operators, fuse such arithmetic with the factor; it is
    worth more there than in a weight.
    """
    layer: list[ir.Value] = [step.source]
    for _ in range(_STEPS_OF_ARITHMETIC):
        nodes = [node for value in layer if (node := value.producer()) is not None]
        if any(node.op_type in _HEARTS and not node.domain for node in nodes):
            return True
        inner = [node for node in nodes if node.op_type in _ARITHMETIC]
        layer = [value for node in inner for value in node.inputs if value is not None]
    return False


def put_constant(replacement: Replacement, change: Change) -> None:
    """Let a node read another constant."""
    old = operand(replacement.node, replacement.index)
    name = f"{old.name}_scaled" if old is not None else "scaled"
    new = change.initializer(replacement.tensor, name=name)
    change.set_input(replacement.node, replacement.index, new)
    if replacement.op_type is not None:
        change.set_operator(replacement.node, replacement.op_type)


def normalized(array: Array) -> Array:
    """Leave out dimensions of 1 in front; one number gets the shape ()."""
    if array.size == 1:
        return array.reshape(())
    first = next(axis for axis, size in enumerate(array.shape) if size != 1)
    return array.reshape(array.shape[first:])


def scale_step(node: ir.Node, shapes: ShapeTable, version: int) -> Step | None:
    """Return what ``node`` computes, where it multiplies by constants: Mul, Div, Neg, BatchNorm."""
    if node.domain or version < _BROADCASTS_SINCE:
        return None
    if node.op_type == "BatchNormalization":
        return _batch_normalization(node, shapes, version)
    if node.op_type == "Neg" and node.inputs[0] is not None:
        return Step(node, node.inputs[0], np.array(-1.0), None)
    return _product(node, shapes) if node.op_type in ("Mul", "Div") else None


def _product(node: ir.Node, shapes: ShapeTable) -> Step | None:
    for index in (1, 0) if node.op_type == "Mul" else (1,):
        found, source = constant_of(node, index), operand(node, 1 - index)
        if found is None or source is None or not _keeps_shape(source, found.array, shapes):
            continue
        is_product = node.op_type == "Mul"
        # A division by zero has no factor.
        if is_product or found.array.all():
            factors = found.array if is_product else 1.0 / found.array
            return Step(node, source, normalized(factors), None)
    return None


def shift_step(node: ir.Node, shapes: ShapeTable, version: int) -> Step | None:
    """Return what ``node`` computes, where it adds or subtracts constants."""
    if node.domain or node.op_type not in ("Add", "Sub") or version < _BROADCASTS_SINCE:
        return None
    for index in (1, 0) if node.op_type == "Add" else (1,):
        found, source = constant_of(node, index), operand(node, 1 - index)
        if found is not None and source is not None and _keeps_shape(source, found.array, shapes):
            sign = 1.0 if node.op_type == "Add" else -1.0
            return Step(node, source, np.array(1.0), sign * normalized(found.array))
    return None


def _keeps_shape(source: ir.Value, array: Array, shapes: ShapeTable) -> bool:
    """Tell whether broadcasting with ``array`` keeps the shape of a value that is not constant."""
    if constant_tensor(source) is not None:
        return False
    if not array.ndim:
        return True
    known = shapes.of(source)
    if known is None or known.dims is None or len(known.dims) < array.ndim:
        return False
    aligned = zip(reversed(array.shape), reversed(known.dims), strict=False)
    return all(size in (1, dim) for size, dim in aligned)


def _batch_normalization(node: ir.Node, shapes: ShapeTable, version: int) -> Step | None:
    source = node.inputs[0]
    known = shapes.of(source)
    if source is None or known is None or not known.dims or is_training(node, version):
        return None
    found = [constant_of(node, index) for index in range(1, 5)]
    parameters = [one.array for one in found if one is not None]
    epsilon = node.attributes.get("epsilon")
    is_per_channel = all(one.shape == known.dims[1:2] for one in parameters)
    if len(parameters) < len(found) or not is_per_channel or known.dtype not in _FLOATS:
        return None
    if (epsilon is not None and epsilon.is_ref()) or node.attributes.get("spatial") is not None:
        return None
    scale, bias, mean, variance = parameters
    stable = variance + (1e-5 if epsilon is None else epsilon.as_float())
    # Its root would be NaN, or the inverse of that infinite.
    if not (stable > 0).all():
        return None
    factors = scale / np.sqrt(stable)
    # Channels are axis 1, and broadcasting counts from the last one.
    layout = (-1,) + (1,) * (len(known.dims) - 2)
    summands = (bias - mean * factors).reshape(layout)
    return Step(node, source, normalized(factors.reshape(layout)), normalized(summands))
