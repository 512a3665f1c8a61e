"""What a node means in an older opset: the same, the same without an attribute, or nothing.

From opset 13 on most new versions of operators only take more types. What an older version lacks
shows in its schema (attributes, inputs, outputs, types); the few whose meaning changed without that
are listed here, from ONNX `docs/Changelog.md`.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx
import onnx.helper
import onnx_ir as ir

from graphopt.rewrite import ShapeTable

__all__ = ["OLDEST_FORM", "OlderForm", "older_form"]

OLDEST_FORM = 13
"""The oldest opset that `older_form` knows the way back to."""

# Operators by the version that means something else than all before it.
_REDEFINED = {
    "Attention": 25,
    "BatchNormalization": 14,
    "DFT": 20,
    "GridSample": 20,
    "GroupNormalization": 21,
    "RoiAlign": 16,
}
# Values of attributes by the version that brought them.
_NEW_VALUES = {
    ("Pad", "mode", "wrap"): 19,
    ("Resize", "coordinate_transformation_mode", "half_pixel_symmetric"): 19,
    ("ScatterElements", "reduction", "max"): 18,
    ("ScatterElements", "reduction", "min"): 18,
    ("ScatterND", "reduction", "max"): 18,
    ("ScatterND", "reduction", "min"): 18,
}
# They say how 8-bit floats are rounded, which older versions do not take at all.
_WITHOUT_EFFECT = frozenset({"saturate", "round_mode"})
_ROUNDED_SIZES = frozenset({"AveragePool", "MaxPool", "LpPool"})  # `ceil_mode` was mended twice


@dataclass(frozen=True)
class OlderForm:
    """A node as an older opset has it.

    Attributes:
        obstacle: Why it has none, for a reader; ``None`` where it has.
        dropped: Attributes that the older version lacks, and does as if they were there.
    """

    obstacle: str | None = None
    dropped: tuple[str, ...] = ()


def older_form(node: ir.Node, current: int, version: int, shapes: ShapeTable | None) -> OlderForm:
    """Return what a node of the default domain is in an older opset.

    Args:
        node: The node.
        current: The opset that it is of.
        version: The opset asked for, at least 13.
        shapes: Types of values; one that is not known is an obstacle. ``None``: types are left to
            who runs the result.
    """
    new = onnx.defs.get_schema(node.op_type, current)
    try:
        old = onnx.defs.get_schema(node.op_type, version)
    except onnx.defs.SchemaError:
        return OlderForm(f"`{node.op_type}` is new in opset {new.since_version}")
    if old.since_version == new.since_version:
        return OlderForm()
    since = new.since_version
    if _is_redefined(node, old.since_version, since):
        return OlderForm(f"`{node.op_type}` means another thing before opset {since}")
    added = _additions(node, old, new)
    kind = None if shapes is None else _new_type(node, old, shapes)
    lacking = [name for name, is_default in added.items() if not is_default]
    if lacking or kind is not None:
        what = f"no {kind}" if kind is not None else f"no {lacking[0]}"
        return OlderForm(f"`{node.op_type}` takes {what} before opset {since}")
    return OlderForm(dropped=tuple(added))


def _additions(node: ir.Node, old: onnx.defs.OpSchema, new: onnx.defs.OpSchema) -> dict[str, bool]:
    """Return what the older version lacks, and whether it is an attribute at its default."""
    if len(node.inputs) > old.max_input or len(node.outputs) > old.max_output:
        return {"operand more": False}
    return {
        name: _is_default(attribute, new)
        for name, attribute in node.attributes.items()
        if name not in old.attributes
    }


def _is_redefined(node: ir.Node, old: int, new: int) -> bool:
    if old < _REDEFINED.get(node.op_type, 0) <= new:
        # Statistics for training are outputs that inference never asks for.
        return node.op_type != "BatchNormalization" or len(node.outputs) > 1
    if node.op_type in _ROUNDED_SIZES and node.attributes.get_int("ceil_mode"):
        return True
    return any(
        node.op_type == operator
        and old < since
        and name in node.attributes
        and node.attributes[name].value == value
        for (operator, name, value), since in _NEW_VALUES.items()
    )


def _is_default(attribute: ir.Attr, schema: onnx.defs.OpSchema) -> bool:
    if attribute.name in _WITHOUT_EFFECT:
        return True
    known = schema.attributes.get(attribute.name)
    if known is None or attribute.is_ref() or not known.default_value.name:
        return False
    default = onnx.helper.get_attribute_value(known.default_value)
    expected = default.decode() if isinstance(default, bytes) else default
    return bool(attribute.value == expected)


def _new_type(node: ir.Node, old: onnx.defs.OpSchema, shapes: ShapeTable) -> str | None:
    """Return a type of an operand that the older version does not take; ``None`` without one."""
    for formals, values in ((old.inputs, node.inputs), (old.outputs, node.outputs)):
        for index, value in enumerate(values):
            if value is None or not formals:
                continue
            # The last parameter stands for all further ones where it is variadic.
            formal = formals[min(index, len(formals) - 1)]
            kind = _type_string(value, shapes)
            # A type that is not known may be one that the older version does not take.
            if kind is None or kind not in formal.types:
                return kind or f"value of unknown type (`{value.name}`)"
    return None


def _type_string(value: ir.Value, shapes: ShapeTable) -> str | None:
    known = shapes.of(value)
    dtype = known.dtype if known is not None else value.dtype
    if dtype is None:
        return None
    name = onnx.TensorProto.DataType.Name(int(dtype)).lower()
    kind = f"tensor({name})"
    if isinstance(value.type, ir.SequenceType):
        return f"seq({kind})"
    return f"optional({kind})" if isinstance(value.type, ir.OptionalType) else kind
