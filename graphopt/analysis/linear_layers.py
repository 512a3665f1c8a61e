"""Linear layers: a MatMul with a constant matrix, and the constant that is added to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from graphopt.analysis.operands import int_attribute
from graphopt.ir import constant_tensor

__all__ = ["Linear", "common_source", "find_linear"]

_MATRIX_RANK = 2


@dataclass(frozen=True)
class Linear:
    """``x W + b``.

    Attributes:
        source: What it is applied to.
        product: What the MatMul computes.
        weight: (in_features, out_features), constant.
        bias: (out_features,), constant; ``None`` where nothing is added.
    """

    source: ir.Value
    product: ir.Value
    weight: ir.Value
    bias: ir.Value | None

    @property
    def width(self) -> int:
        """Number of output features."""
        tensor = constant_tensor(self.weight)
        assert tensor is not None
        return int(tensor.shape.numpy()[1])


def find_linear(value: ir.Value) -> Linear | None:
    """Return the linear layer that computes ``value``, or ``None``."""
    node = value.producer()
    if node is None or node.domain:
        return None
    if node.op_type == "Add":
        for given, bias in (node.inputs, tuple(reversed(node.inputs))):
            found = _product(given) if bias is not None else None
            tensor = constant_tensor(bias)
            if found is None or tensor is None or tensor.shape.numpy() != (found.width,):
                continue
            return Linear(found.source, found.product, found.weight, bias)
        return None
    return _product(value)


def common_source(parts: Sequence[ir.Value], rank: int) -> ir.Value | None:
    """Return what a Split along the last axis splits into ``parts``, in order and without rest.

    Args:
        parts: Values.
        rank: The number of dimensions that they have.
    """
    node = parts[0].producer()
    if node is None or node.op_type != "Split" or node.domain or list(node.outputs) != list(parts):
        return None
    return node.inputs[0] if int_attribute(node, "axis", 0) in (-1, rank - 1) else None


def _product(value: ir.Value | None) -> Linear | None:
    node = value.producer() if value is not None else None
    if value is None or node is None or node.domain or node.op_type != "MatMul":
        return None
    source, weight = node.inputs
    tensor = constant_tensor(weight)
    if source is None or weight is None or tensor is None:
        return None
    return Linear(source, value, weight, None) if len(tensor.shape) == _MATRIX_RANK else None
