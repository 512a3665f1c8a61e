"""Block-wise integer weights in a graph, in the form that ONNX Runtime fuses at load.

``MatMul(x, DequantizeLinear(integers, scale))`` becomes ``MatMulNBits`` where integers, scales and
zero points are initializers of the graph that the operator is in, and nothing else reads them.
What a table of rows shares with such a layer it therefore reads through operators on constants,
which the runtime computes once, before it fuses: the file holds one copy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.compression.blockwise import BlockFormat, BlockWeights
from graphopt.compression.weight_layers import WeightLayer
from graphopt.ir import constant_tensor
from graphopt.rewrite import Change

__all__ = [
    "BLOCKS_OPSET",
    "StoredBlocks",
    "dequantized_weight",
    "gathered_rows",
    "multiply_stored",
    "stored_blocks",
]

BLOCKS_OPSET = 21
"""`DequantizeLinear` with ``block_size``, and 4-bit integers."""

_BYTE = 8


@dataclass(frozen=True)
class StoredBlocks:
    """A quantized weight as constants of a graph.

    Attributes:
        form: Its format.
        integers: ``(inputs, outputs)``; ``(rows, columns)`` of a table of its own.
        scale: ``(blocks, outputs)``, or ``(outputs,)`` where a column is one block; ``(rows,
            blocks)`` of a table of its own.
        zero_point: Of the shape of `scale`; ``None`` where symmetric.
        by_row: It is a table of its own.
    """

    form: BlockFormat
    integers: ir.Value
    scale: ir.Value
    zero_point: ir.Value | None
    by_row: bool

    @property
    def values(self) -> tuple[ir.Value, ...]:
        """The constants, those that there are."""
        found = (self.integers, self.scale, self.zero_point)
        return tuple(value for value in found if value is not None)


def stored_blocks(
    change: Change,
    weights: BlockWeights,
    name: str,
    *,
    graph: ir.Graph | None = None,
    by_row: bool = False,
) -> StoredBlocks:
    """Create the constants of a quantized weight.

    Args:
        change: Where they are created.
        weights: What they hold; of a table transposed, so that blocks run along its rows.
        name: Hint for their names.
        graph: The graph that shall own them, where not the main graph.
        by_row: It is a table, not read by any layer.
    """
    parts: list[npt.NDArray[Any] | None] = [weights.integers, weights.scale, weights.zero_point]
    if by_row:
        parts = [None if part is None else np.ascontiguousarray(part.T) for part in parts]
    elif not weights.form.size:
        parts[1:] = [None if part is None else part[0] for part in parts[1:]]
    integers, scale, zero_point = parts
    assert integers is not None
    assert scale is not None
    stored = weights.stored(integers)
    return StoredBlocks(
        weights.form,
        change.initializer(stored, name=f"{name}_quantized", graph=graph),
        change.initializer(scale, name=f"{name}_scale", graph=graph),
        None
        if zero_point is None
        else change.initializer(weights.stored(zero_point), name=f"{name}_zero_point", graph=graph),
        by_row,
    )


def dequantized_weight(
    change: Change, stored: StoredBlocks, name: str, like: ir.Value | None = None
) -> ir.Value:
    """Return the float weight ``(inputs, outputs)`` of one layer, which alone may read it."""
    form = stored.form
    blocks = {"axis": 0, "block_size": form.size} if form.size else {"axis": 1}
    return change.node(
        "DequantizeLinear",
        list(stored.values),
        attributes=blocks,
        name=f"{name}_dequantized",
        like=like,
    )


def gathered_rows(
    change: Change, stored: StoredBlocks, node: ir.Node, columns: int, opset: int
) -> ir.Value:
    """Return what ``Gather`` of rows returned, from the integers of a table.

    Args:
        change: Where the operators are created.
        stored: The table, or a layer with its transpose.
        node: The ``Gather``.
        columns: Length of a row.
        opset: Of the graph of the node.
    """
    name, indices = node.name or "Gather", node.inputs[1]
    named = zip(stored.values, ("quantized", "scale", "zero_point"), strict=False)
    constants = {f"{name}_{kind}": value for value, kind in named}
    rows, scale, *zero = (
        change.node("Gather", [_by_row(change, stored, value, kind), indices], name=kind)
        for kind, value in constants.items()
    )
    result = node.outputs[0]
    if opset >= BLOCKS_OPSET and (stored.form.size or zero):
        return change.node(
            "DequantizeLinear",
            [rows, scale, *zero],
            attributes={"axis": -1, "block_size": stored.form.size or columns},
            name=f"{name}_dequantized",
            like=result,
        )
    restored = change.node(
        "Cast", [rows], attributes={"to": ir.DataType.FLOAT}, name=f"{name}_cast"
    )
    return change.node("Mul", [restored, scale], name=f"{name}_rescaled", like=result)


def _by_row(change: Change, stored: StoredBlocks, value: ir.Value, name: str) -> ir.Value:
    """Return a constant of a table by row, in a type that ``Gather`` takes: no 4-bit one."""
    is_matrix = value is stored.integers
    if stored.form.bits < _BYTE and value is not stored.scale:
        wide = ir.DataType.INT8 if stored.form.symmetric else ir.DataType.UINT8
        value = change.node("Cast", [value], attributes={"to": wide}, name=f"{name}_bytes")
    if stored.by_row:
        return value
    if stored.form.size or is_matrix:
        attributes = {"perm": [1, 0]}
        return change.node("Transpose", [value], attributes=attributes, name=f"{name}_by_row")
    shape = change.initializer(np.array([-1, 1], np.int64), name=f"{name}_column")
    return change.node("Reshape", [value, shape], name=f"{name}_by_row")


def multiply_stored(change: Change, layer: WeightLayer, stored: StoredBlocks) -> None:
    """Let the layer read the dequantized weight; a Gemm that is not fused becomes two operators."""
    node = layer.node
    weight = dequantized_weight(change, stored, layer.weight.origin.name or "weight")
    bias = next(iter(node.inputs[2:]), None)
    if node.op_type == "MatMul" or _is_plain(node, layer.weight.shape[1]):
        change.set_input(node, 1, weight)
        if node.op_type == "Gemm":
            change.set_attributes(node, {"alpha": None, "transB": None})
        return
    name, result = node.name or "Gemm", node.outputs[0]
    product = change.node("MatMul", [node.inputs[0], weight], name=f"{name}_product", like=result)
    if bias is not None:
        beta = node.attributes.get_float("beta", 1.0)
        if beta != 1.0:
            factor = change.initializer(np.array(beta, np.float32), name=f"{name}_beta")
            bias = change.node("Mul", [bias, factor], name=f"{name}_bias")
        product = change.node("Add", [product, bias], name=f"{name}_biased", like=result)
    change.replace(result, product)
    change.remove(node)


def _is_plain(node: ir.Node, outputs: int) -> bool:
    """Tell whether the runtime fuses a ``Gemm``, its bias with it."""
    bias = next(iter(node.inputs[2:]), None)
    if bias is None:
        return True
    tensor = constant_tensor(bias)
    shape = None if tensor is None else tuple(tensor.shape.numpy())
    return shape == (outputs,) and node.attributes.get_float("beta", 1.0) == 1.0
