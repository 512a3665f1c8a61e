"""Where the constant weight of an operator comes from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.ir import constant_tensor

__all__ = ["NoWeight", "WeightSource", "reader_count", "trace_weight"]

_VIEWS = frozenset({"Identity", "Transpose"})


@dataclass(frozen=True)
class WeightSource:
    """A float32 constant, and the axis order in which an operator reads it.

    Attributes:
        origin: The initializer, or the output of a ``Constant``.
        tensor: What it holds.
        order: ``np.transpose`` argument that turns the origin into what the operator reads.
    """

    origin: ir.Value
    tensor: ir.TensorProtocol
    order: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape as the operator reads it."""
        held = self.tensor.shape.numpy()
        return tuple(held[axis] for axis in self.order)

    @property
    def is_reordered(self) -> bool:
        """Tell whether the operator reads the axes in another order than they are stored."""
        return self.order != tuple(range(len(self.order)))

    def transposed(self) -> WeightSource:
        """Return the same weight, read with its axes reversed."""
        return replace(self, order=self.order[::-1])

    def array(self) -> npt.NDArray[np.float32]:
        """Return the weight as the operator reads it; possibly mapped, so never to be written."""
        stored: npt.NDArray[Any] = self.tensor.numpy()
        return stored.transpose(self.order)


@dataclass(frozen=True)
class NoWeight:
    """Why an operand is no weight that can be quantized.

    Attributes:
        slug: ``weight-not-constant``, ``weight-overridable``, ``already-quantized`` or
            ``not-float32``.
        why: Details.
    """

    slug: str
    why: str


def trace_weight(value: ir.Value | None) -> WeightSource | NoWeight:
    """Follow ``value`` through ``Identity`` and ``Transpose`` back to a float32 constant.

    TorchScript hides shared weights behind ``Identity`` and stores linear layers transposed.
    """
    node = value.producer() if value is not None else None
    if node is not None and not node.domain and node.op_type == "Identity":
        return trace_weight(node.inputs[0])
    if node is not None and not node.domain and node.op_type == "Transpose":
        return _transposed(trace_weight(node.inputs[0]), node.attributes.get("perm"))
    tensor = constant_tensor(value)
    if value is None or tensor is None:
        return _why_not_constant(value)
    if tensor.dtype != ir.DataType.FLOAT:
        return NoWeight("not-float32", f"the weight is {tensor.dtype.name.lower()}")
    return WeightSource(value, tensor, tuple(range(len(tensor.shape))))


def _transposed(found: WeightSource | NoWeight, perm: ir.Attr | None) -> WeightSource | NoWeight:
    if isinstance(found, NoWeight):
        return found
    steps = perm.as_ints() if perm is not None else tuple(reversed(range(len(found.order))))
    return replace(found, order=tuple(found.order[axis] for axis in steps))


def _why_not_constant(value: ir.Value | None) -> NoWeight:
    if value is not None and value.is_graph_input() and value.const_value is not None:
        return NoWeight("weight-overridable", "the initializer is also an input of the model")
    if (restorer := _restorer(value)) is not None:
        return NoWeight("already-quantized", f"it comes from `{restorer.name}`")
    return NoWeight("weight-not-constant", "it is computed at run time")


def _restorer(value: ir.Value | None) -> ir.Node | None:
    """Return the node that turns constant integers into ``value``, through scaling and shaping.

    Or entries of a codebook with those numbers.
    """
    node = value.producer() if value is not None else None
    if node is None or node.domain:
        return None
    if node.op_type == "DequantizeLinear":
        return node
    if node.op_type in ("Mul", "Reshape", "Concat"):
        return _restorer(node.inputs[0])
    if node.op_type == "Gather":
        return _restorer(node.inputs[1])
    tensor = constant_tensor(node.inputs[0]) if node.op_type == "Cast" else None
    return node if tensor is not None and tensor.dtype.is_integer() else None


def reader_count(value: ir.Value) -> int:
    """Return how many operators read a constant, seen through ``Identity`` and ``Transpose``."""
    users = [user for user, _ in value.uses()]
    views = [user for user in users if not user.domain and user.op_type in _VIEWS]
    through = sum(reader_count(view.outputs[0]) for view in views)
    return len(users) - len(views) + through + int(value.is_graph_output())
