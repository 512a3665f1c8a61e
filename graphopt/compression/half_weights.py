"""Weights stored in 16 bits for operators that compute in 32."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt.compression.half_formats import HalfFormat, narrowed
from graphopt.ir import graphs
from graphopt.rewrite import Editor

__all__ = ["store_weights"]

_QUANTIZED = ("Quantize", "Dequantize", "QLinear", "MatMulNBits", "MatMulInteger", "ConvInteger")


def store_weights(
    model: ir.Model, edit: Editor, half: HalfFormat, *, minimum_elements: int
) -> None:
    """Put a ``Cast`` behind every float32 initializer that a 16-bit type can hold.

    The runtime folds the ``Cast`` when it loads the model, so that it computes as before.

    Args:
        model: The model; weights of its subgraphs are stored so too.
        edit: Its editor; what stays as it is becomes a refusal.
        half: The 16-bit type.
        minimum_elements: Smaller weights stay.
    """
    for graph in graphs(model):
        for value in tuple(graph.initializers.values()):
            tensor = value.const_value
            if tensor is None or tensor.dtype != ir.DataType.FLOAT or not value.uses():
                continue
            if value.is_graph_output():
                continue  # it is a result of the model, not a weight
            found = _refusal(value, tensor, half, minimum_elements)
            if found is not None:
                edit.refuse(value, found[0], why=found[1])
            else:
                _store(edit, graph, value, tensor, half)


def _refusal(
    value: ir.Value, tensor: ir.TensorProtocol, half: HalfFormat, minimum_elements: int
) -> tuple[str, str] | None:
    if tensor.size < minimum_elements:
        return "too-small", f"{tensor.size} elements"
    if value.is_graph_input():
        return "weight-overridable", "the initializer is also an input of the model"
    readers = {user.op_type for user, _ in value.uses()}
    if any(name.startswith(_QUANTIZED) or name.startswith("Dynamic") for name in readers):
        return "weight-read-by-integers", f"{', '.join(sorted(readers))} reads it"
    return _range_refusal(tensor, half)


def _range_refusal(tensor: ir.TensorProtocol, half: HalfFormat) -> tuple[str, str] | None:
    array = tensor.numpy()
    magnitudes = np.abs(array[np.isfinite(array)])
    largest = float(magnitudes.max(initial=0.0))
    if largest > half.largest:
        return "range-exceeds", f"it reaches {largest:g}"
    if 0.0 < largest < half.least_normal:
        return "constant-underflows", f"it is at most {largest:g}"
    return None


def _store(
    edit: Editor, graph: ir.Graph, value: ir.Value, tensor: ir.TensorProtocol, half: HalfFormat
) -> None:
    with edit.rewrite(value, because=f"stored as {half.name}") as change:
        array = narrowed(tensor.numpy(), half)
        stored = change.initializer(array, name=f"{value.name}_{half.name}", graph=graph)
        wide = change.node(
            "Cast",
            [stored],
            attributes={"to": ir.DataType.FLOAT},
            name=f"{value.name}_restored",
            like=value,
            before=graph[0],
        )
        change.replace(value, wide)
        change.remove_initializer(value)
