"""Where a layer gets its bias from, and giving it another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis.readers import only_reader
from graphopt.ir import constant_array
from graphopt.rewrite import Change

__all__ = ["LayerBias", "bias_of"]

_BIAS_OPERAND = 2


@dataclass(frozen=True)
class LayerBias:
    """One number for each output of a layer, added to what it computes.

    Attributes:
        layer: The layer.
        node: What adds it: the layer itself, or an ``Add`` behind it; ``None``: nothing does.
        operand: Which input of `node` it is.
        values: float[outputs], as they are added; zeros where there is none.
        factor: What `node` multiplies them by, the ``beta`` of a ``Gemm``; not 0.
    """

    layer: ir.Node
    node: ir.Node | None
    operand: int
    values: npt.NDArray[np.float64]
    factor: float = 1.0

    @property
    def value(self) -> ir.Value | None:
        """What holds it now, or ``None``."""
        if self.node is None or self.operand >= len(self.node.inputs):
            return None
        return self.node.inputs[self.operand]

    def put(self, change: Change, values: npt.NDArray[Any], dtype: npt.DTypeLike) -> None:
        """Add other numbers instead."""
        array = np.asarray(np.asarray(values, np.float64) / self.factor, dtype)
        name = f"{self.layer.name or self.layer.op_type}_bias"
        if self.node is not None:
            old = self.value
            shape = old.shape.numpy() if old is not None and old.shape is not None else array.shape
            value = change.initializer(array.reshape(shape), name=name)
            change.set_input(self.node, self.operand, value)
            return
        output = self.layer.outputs[0]
        sum_ = change.node(
            "Add", [output, change.initializer(array, name=name)], after=self.layer, like=output
        )
        change.replace(output, sum_)


def bias_of(layer: ir.Node, outputs: int) -> LayerBias:
    """Return where the bias of a ``MatMul``, ``Gemm`` or ``Conv`` is, or would be.

    A bias of another form than one constant number for each output counts as part of what follows:
    the layer then gets one of its own.
    """
    none = np.zeros(outputs)
    if layer.op_type in ("Gemm", "Conv"):
        has_one = len(layer.inputs) > _BIAS_OPERAND and layer.inputs[_BIAS_OPERAND] is not None
        array = constant_array(layer.inputs[_BIAS_OPERAND]) if has_one else none
        beta = layer.attributes.get_float("beta", 1.0) if layer.op_type == "Gemm" else 1.0
        if array is not None and array.size == outputs and beta:
            values = beta * array.reshape(-1).astype(np.float64)
            return LayerBias(layer, layer, _BIAS_OPERAND, values, beta)
        return LayerBias(layer, None, 0, none)
    reader = only_reader(layer.outputs[0])
    if reader is not None and reader.op_type == "Add":
        place = 1 if reader.inputs[0] is layer.outputs[0] else 0
        array = constant_array(reader.inputs[place])
        if array is not None and array.size == outputs == array.shape[-1]:
            return LayerBias(layer, reader, place, array.reshape(-1).astype(np.float64))
    return LayerBias(layer, None, 0, none)
