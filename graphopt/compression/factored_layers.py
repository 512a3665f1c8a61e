"""Layers with a weight that can be written as a product: reading it, and writing the factors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.compression.layer_bias import LayerBias, bias_of
from graphopt.compression.read_weights import Reading
from graphopt.rewrite import Change

__all__ = ["FactoredLayer", "form_obstacle"]

Array = npt.NDArray[Any]
_MATRIX_RANK = 2
_BIAS_OPERAND = 2
_WINDOW_ATTRIBUTES = ("kernel_shape", "strides", "pads", "dilations", "auto_pad")


def form_obstacle(reading: Reading) -> str | None:
    """Return why a weight cannot be seen as one matrix, or ``None``."""
    node, rank = reading.node, len(reading.source.shape)
    if node.op_type == "Conv":
        if node.attributes.get_int("group", 1) != 1:
            return "a convolution in groups has a matrix for each"
        bias = node.inputs[_BIAS_OPERAND] if len(node.inputs) > _BIAS_OPERAND else None
        if bias is not None and bias_of(node, reading.source.shape[0]).node is None:
            return "its bias is computed at run time"
        return None
    if rank != _MATRIX_RANK:
        return f"a weight of rank {rank}"
    scales = [node.attributes.get_float(name, 1.0) for name in ("alpha", "beta")]
    if node.op_type == "Gemm" and (node.attributes.get_int("transA") or scales != [1.0, 1.0]):
        return "transA, alpha or beta"
    return None


@dataclass(frozen=True)
class FactoredLayer:
    """A layer whose weight, seen as a matrix, becomes two.

    Attributes:
        reading: The layer: ``MatMul``, ``Gemm``, ``Conv`` in one group, or ``Gather`` of rows.
    """

    reading: Reading

    @property
    def node(self) -> ir.Node:
        """The operator."""
        return self.reading.node

    @property
    def is_transposed(self) -> bool:
        """Tell whether outputs come first in what the operator reads."""
        return self.node.op_type == "Conv" or bool(self.node.attributes.get_int("transB"))

    def matrix(self) -> Array:
        """Return the weight as ``(inputs, outputs)``; of a table, ``(rows, columns)``."""
        array = self.reading.source.array()
        return array.reshape(len(array), -1).T if self.is_transposed else array

    def bias(self) -> LayerBias:
        """Return where its bias is, or would be; not of a table."""
        return bias_of(self.node, self.matrix().shape[1])

    def put(self, change: Change, first: Array, second: Array) -> None:
        """Compute with two factors instead.

        The operator itself multiplies by the second one, so that it keeps its name and its bias.

        Args:
            change: The rewrite.
            first: ``(inputs, rank)``.
            second: ``(rank, outputs)``.
        """
        node, name = self.node, self.reading.source.origin.name or "weight"
        if node.op_type == "Conv":
            first = first.T.reshape(-1, *self.reading.source.shape[1:])
            second = second.T.reshape(*second.T.shape, *(1,) * (first.ndim - _MATRIX_RANK))
        elif self.is_transposed:
            second = second.T
        one, other = (
            change.initializer(np.ascontiguousarray(factor, np.float32), name=f"{name}_{part}")
            for factor, part in ((first, "first"), (second, "second"))
        )
        label = f"{node.name or node.op_type}_first"
        if node.op_type == "Gather":
            rows = change.node("Gather", [one, node.inputs[1]], name=label)
            found = change.node("MatMul", [rows, other], name=node.name, like=node.outputs[0])
            change.replace(node.outputs[0], found)
            change.remove(node)
            return
        # The window moves to the first factor: the second one sees one position at a time.
        window = {key: node.attributes[key] for key in _WINDOW_ATTRIBUTES if key in node.attributes}
        operator = "Conv" if node.op_type == "Conv" else "MatMul"
        inner = change.node(operator, [node.inputs[0], one], attributes=window, name=label)
        change.set_input(node, 0, inner)
        change.set_input(node, 1, other)
        if window:
            change.set_attributes(node, dict.fromkeys(window))
