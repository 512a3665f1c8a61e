"""Which weights of a model can be trained, and which values inside compare with an original."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from graphopt.ir import constant_tensor, tensor_dims

__all__ = ["streams", "trainable_weights"]

_LAYERS = {
    "MatMul": (0, 1),
    "FusedMatMul": (0, 1),
    "Gemm": (0, 1, 2),
    "FusedGemm": (0, 1, 2),
    "Conv": (1, 2),
    "FusedConv": (1, 2),
    "ConvTranspose": (1, 2),
    "Einsum": (0, 1, 2),
    "LayerNormalization": (1, 2),
    "RMSNormalization": (1,),
    "SimplifiedLayerNormalization": (1,),
    "SkipLayerNormalization": (2, 3, 4),
    "SkipSimplifiedLayerNormalization": (2, 3),
    "InstanceNormalization": (1, 2),
    "GroupNormalization": (1, 2),
    "BatchNormalization": (1, 2),
    "PRelu": (1,),
    "BiasGelu": (1,),
    "FastGelu": (1,),
    "MultiHeadAttention": (3,),
}
"""Inputs that are weights of a layer. Means and variances of BatchNormalization are statistics."""

_TABLES = {"Gather": (0,), "EmbedLayerNormalization": (2, 3, 4)}
_BESIDE = frozenset({"Add", "Mul", "Sub", "Div"})
_NORMS = frozenset(
    {"LayerNormalization", "SkipLayerNormalization", "RMSNormalization"}
    | {"SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization"}
)
_FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE)


def trainable_weights(
    model: ir.Model, *, embeddings: bool = False, exclude: Sequence[str] = ()
) -> list[str]:
    """Return the names of the initializers that layers of the main graph multiply by or add.

    Vectors that are added to or multiplied by what depends on a layer count (biases and scales);
    other constants are no weights: masks, shapes, frequencies of positions. What a caller may
    override, and what is not held in 32 or 64 bits, stays as it is.

    Args:
        model: The model.
        embeddings: Tables that rows are gathered from count as well.
        exclude: Patterns of names that do not.
    """
    found: dict[str, None] = {}
    learned: set[ir.Value] = set()  # depends on a layer or a table
    for node in model.graph:
        places = _LAYERS.get(node.op_type, ())
        tables = _TABLES.get(node.op_type, ())
        weights = [value for place in places if (value := _operand(node, place)) is not None]
        if node.op_type in _BESIDE and not learned.isdisjoint(node.inputs):
            weights += [value for value in node.inputs if value is not None and _is_vector(value)]
        gathered = [value for place in tables if (value := _operand(node, place)) is not None]
        weights += gathered if embeddings else []
        found |= dict.fromkeys(value.name or "" for value in weights if _can_train(value))
        is_learned = bool([*weights, *gathered]) or not learned.isdisjoint(node.inputs)
        learned.update(node.outputs if is_learned else ())
    return [name for name in found if not any(fnmatch.fnmatchcase(name, one) for one in exclude)]


def _operand(node: ir.Node, place: int) -> ir.Value | None:
    """Return an input of a node where it is a constant float."""
    value = node.inputs[place] if place < len(node.inputs) else None
    tensor = constant_tensor(value)
    return value if tensor is not None and tensor.dtype.is_floating_point() else None


def _can_train(value: ir.Value) -> bool:
    tensor = constant_tensor(value)
    return value.is_initializer() and tensor is not None and tensor.dtype in _FLOATS


def _is_vector(value: ir.Value) -> bool:
    tensor = constant_tensor(value)
    if tensor is None or tensor.dtype not in _FLOATS:
        return False
    long = [size for size in tensor_dims(tensor) if size != 1]
    return len(long) == 1 and bool(np.isfinite(tensor.numpy()).all())


def streams(model: ir.Model, original: ir.Model) -> list[str]:
    """Return the values behind the blocks of a model that the original computes under that name.

    Those are the results of normalizations where there are two or more, else sums of two
    activations. What the model returns is none of them: it is compared anyway.
    """
    others = {value.name for node in original.graph for value in node.outputs}
    norms = [node for node in model.graph if node.op_type in _NORMS]
    sums = [node for node in model.graph if node.op_type == "Add" and _is_residual(node)]
    values = [node.outputs[0] for node in (norms if len(norms) > 1 else sums)]
    return [
        value.name or "" for value in values if value.name in others and not value.is_graph_output()
    ]


def _is_residual(node: ir.Node) -> bool:
    return all(value is not None and constant_tensor(value) is None for value in node.inputs)
