"""Operators as the functions that ONNX defines them by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx
import onnx_ir as ir

from graphopt.rewrite import ShapeTable

__all__ = ["OperatorBody", "operator_body"]


@dataclass(frozen=True)
class OperatorBody:
    """What stands for a node.

    Attributes:
        function: Its graph; inputs and outputs are those of the operator, in order.
        version: Opset of its nodes.
        given: Attributes that references of the graph stand for: the node's, or the defaults.
    """

    function: ir.Function
    version: int
    given: Mapping[str, ir.Attr]


def operator_body(
    node: ir.Node, current: int, wanted: int, shapes: ShapeTable
) -> OperatorBody | None:
    """Return the function that ONNX defines a node of the default domain by.

    Args:
        node: The node.
        current: The opset that it is of.
        wanted: The opset that the body should be of; it is of the oldest one above where ONNX
            has none as old.
        shapes: Types of values, which some bodies depend on.

    Returns:
        ``None`` where ONNX defines no function, or a type that it depends on is not known.
    """
    schema: Any = onnx.defs.get_schema(node.op_type, current)  # the stubs lack these methods
    fixed = schema.function_opset_versions
    versions = fixed or schema.context_dependent_function_opset_versions
    if not versions:
        return None
    version = max((one for one in versions if one <= wanted), default=min(versions))
    if fixed:
        text = schema.get_function_with_opset_version(version)
    else:
        types = [_type_of(value, shapes) for value in node.inputs]
        if not all(one is not None for one in types):
            return None
        plain = ir.to_proto(node).SerializeToString()
        text = schema.get_context_dependent_function_with_opset_version(version, plain, types)
    proto = onnx.FunctionProto.FromString(text)
    if not proto.node:
        return None
    defaults = (item.default_value for item in schema.attributes.values())
    given = {item.name: ir.serde.deserialize_attribute(item) for item in defaults if item.name}
    function = ir.serde.deserialize_function(proto)
    return OperatorBody(
        function=function,
        version=function.opset_imports.get("", version),
        given={**given, **node.attributes},
    )


def _type_of(value: ir.Value | None, shapes: ShapeTable) -> bytes | None:
    """Return a type as ONNX's own functions read it; an empty one for an operand left out."""
    if value is None:
        return b""
    known = shapes.of(value)
    dtype = known.dtype if known is not None else value.dtype
    if dtype is None:
        return None
    proto = onnx.TypeProto()
    proto.tensor_type.elem_type = int(dtype)
    if known is not None and known.dims is not None:
        for dim in known.dims:
            size = proto.tensor_type.shape.dim.add()
            if isinstance(dim, int):
                size.dim_value = dim
    text: bytes = proto.SerializeToString()
    return text
