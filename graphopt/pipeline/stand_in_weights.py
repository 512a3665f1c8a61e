"""Weights that stand in for private ones: the same types and shapes, other numbers."""

from __future__ import annotations

import zlib
from typing import Any, Literal

import numpy as np
import onnx_ir as ir

from graphopt.ir import initializer_tensors, nodes

__all__ = ["Weights", "replace_weights"]

Weights = Literal["none", "random", "full"]

KEPT_ELEMENTS = 16
"""Tensors up to this size keep their values: axes, shapes and constants, not learned weights."""


def replace_weights(model: ir.Model, weights: Weights) -> None:
    """Replace the floating-point weights of ``model``, in place, constants of nodes included.

    Integer tensors keep their values, because they often say where and how much, and so do small
    ones. The new tensors are made when they are read, one at a time.

    Args:
        model: The model.
        weights: `random`: normal numbers with the spread of the original; `none`: zeros;
            `full`: nothing is replaced.
    """
    if weights == "full":
        return
    made: dict[int, ir.TensorProtocol] = {}
    for value, tensor in list(initializer_tensors(model)):
        if _is_weight(tensor):
            if id(tensor) not in made:
                made[id(tensor)] = _stand_in(tensor, weights)
            value.const_value = made[id(tensor)]
    # Exporters write weights as Constant nodes, too, and functions know no other way.
    for node in nodes(model):
        for attr in tuple(node.attributes.values()):
            if attr.type == ir.AttributeType.TENSOR and not attr.is_ref():
                tensor = attr.as_tensor()
                if _is_weight(tensor):
                    stand_in = _stand_in(tensor, weights)
                    node.attributes[attr.name] = ir.AttrTensor(attr.name, stand_in, attr.doc_string)


def _is_weight(tensor: ir.TensorProtocol) -> bool:
    return tensor.dtype.is_floating_point() and tensor.size > KEPT_ELEMENTS


def _stand_in(tensor: ir.TensorProtocol, weights: Weights) -> ir.LazyTensor:
    name = tensor.name or ""

    def make() -> ir.TensorProtocol:
        return ir.Tensor(_numbers(tensor, weights, name), dtype=tensor.dtype, name=name)

    shape = ir.Shape(tensor.shape.numpy())
    return ir.LazyTensor(make, dtype=tensor.dtype, shape=shape, name=name)


def _numbers(tensor: ir.TensorProtocol, weights: Weights, name: str) -> np.ndarray[Any, Any]:
    original = tensor.numpy()
    if weights == "none":
        return np.zeros(original.shape, original.dtype)
    # Weights that are infinite or NaN may be what went wrong.
    with np.errstate(all="ignore"):
        spread = float(np.std(original, dtype=np.float64))
    # Not `hash`, which is another one in each process: the same failure must give the same folder.
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    numbers = rng.standard_normal(original.shape, dtype=np.float32)
    return (numbers * (spread if np.isfinite(spread) else 1.0)).astype(original.dtype)
