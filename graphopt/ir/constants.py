"""Constants: tensors that no caller can change at run time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.ir.spilling import spilled
from graphopt.ir.walk import graphs, nodes

__all__ = [
    "as_tensor",
    "attribute_tensors",
    "constant_array",
    "constant_tensor",
    "initializer_tensors",
    "opset_version",
    "tensor_dims",
    "weight_bytes",
]


def as_tensor(data: np.ndarray[Any, Any] | ir.TensorProtocol, name: str) -> ir.TensorProtocol:
    """Return ``data`` as a tensor called ``name``; text becomes a string tensor.

    Large arrays wait in a scratch file until the model is written.
    """
    if not isinstance(data, np.ndarray):
        if data.name != name and not data.name:
            data.name = name
        return data
    if data.dtype.kind in "OSU":
        encoded = np.array(
            [text.encode() if isinstance(text, str) else text for text in data.reshape(-1)],
            dtype=object,
        )
        return ir.StringTensor(encoded.reshape(data.shape), shape=ir.Shape(data.shape), name=name)
    return spilled(ir.Tensor(np.ascontiguousarray(data).reshape(data.shape), name=name))


def tensor_dims(tensor: ir.TensorProtocol) -> tuple[int, ...]:
    """Return the sizes of a tensor; asked of every constant, and faster than ``shape.numpy()``."""
    return tensor.shape.dims  # type: ignore[return-value] # a tensor has no symbolic sizes


_TENSOR = ir.AttributeType.TENSOR


def constant_tensor(value: ir.Value | None) -> ir.TensorProtocol | None:
    """Return the tensor that ``value`` always holds, or ``None``.

    An initializer counts unless it is also an input of a graph, which a caller may override.
    """
    if value is None:
        return None
    producer = value.producer()
    if producer is None:
        return value.const_value if value.is_initializer() and not value.is_graph_input() else None
    if producer.op_type != "Constant" or producer.domain:
        return None
    held = producer.attributes.data
    plain = held.get("value")
    if plain is not None and len(held) == 1 and plain.type is _TENSOR and not plain.is_ref():
        return plain.value  # type: ignore[no-any-return] # as nearly all are
    attributes = list(held.values())
    if len(attributes) != 1 or attributes[0].is_ref():
        return None
    return _attribute_tensor(attributes[0], value.name or "")


def _attribute_tensor(attribute: ir.Attr, name: str) -> ir.TensorProtocol | None:
    held = attribute.value
    if attribute.name == "value":
        return held if attribute.type == ir.AttributeType.TENSOR else None
    # A list makes a vector, a single number a scalar: numpy gives each its rank.
    if attribute.name in ("value_float", "value_floats"):
        return ir.tensor(np.array(held, np.float32), name=name)
    if attribute.name in ("value_int", "value_ints"):
        return ir.tensor(np.array(held, np.int64), name=name)
    if attribute.name in ("value_string", "value_strings"):
        return as_tensor(np.array(held, dtype=object), name)
    return None


def constant_array(
    value: ir.Value | None, max_elements: int | None = None
) -> np.ndarray[Any, Any] | None:
    """Return the constant as an array, or ``None`` where it is not one or has more elements.

    The array may be memory-mapped and must not be written to.
    """
    tensor = constant_tensor(value)
    if tensor is None or (max_elements is not None and tensor.size > max_elements):
        return None
    return tensor.numpy()


def initializer_tensors(model: ir.Model) -> Iterator[tuple[ir.Value, ir.TensorProtocol]]:
    """Yield every initializer of every graph with its tensor."""
    for graph in graphs(model):
        for value in graph.initializers.data.values():  # whose own walk looks each up by its name
            if value.const_value is not None:
                yield value, value.const_value


def attribute_tensors(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    """Yield every tensor that an attribute of a node holds, one of its own or one of a list."""
    for node in nodes(model):
        for attribute in node.attributes.data.values():
            if attribute.is_ref():
                continue
            if attribute.type is ir.AttributeType.TENSOR:
                yield attribute.value
            elif attribute.type is ir.AttributeType.TENSORS:
                yield from attribute.value


def weight_bytes(model: ir.Model) -> int:
    """Return the bytes of all initializers; a tensor shared by several counts once."""
    distinct = {id(tensor): tensor.nbytes for _, tensor in initializer_tensors(model)}
    return sum(distinct.values())


def opset_version(model: ir.Model, domain: str = "") -> int:
    """Return the imported version of ``domain``; 1 where it is not imported."""
    return model.opset_imports.get(domain, 1)
