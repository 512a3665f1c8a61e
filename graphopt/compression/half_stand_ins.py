"""Numbers that stand for something else: infinity in masks, positions counted by integers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.compression.half_formats import STANDS_FOR_INFINITY, HalfFormat
from graphopt.ir import constant_tensor
from graphopt.rewrite import ShapeTable, ValueRange

__all__ = ["LIMITING", "MASKING", "Masks", "find_masks", "position_arithmetic"]

MASKING = frozenset(
    {"Add", "CastLike", "Concat", "ConstantOfShape", "Expand", "Flatten", "Gather", "Identity"}
    | {"Mul", "Pad", "Reshape", "ScatterND", "Slice", "Squeeze", "Sub", "Tile", "Transpose"}
    | {"Trilu", "Unsqueeze", "Where"}
)
"""Operators that build masks, and what moves them to where they are added."""

LIMITING = frozenset(
    {"Clip", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min"}
)
"""Operators in which a number beyond all others is a limit that nothing reaches."""

# What must know a position exactly: angles, integers, steps.
_NEEDS_POSITIONS = frozenset({"Ceil", "Cos", "Floor", "Mod", "Range", "Round", "Sin"})
_COMPARING = frozenset({"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"})


class Masks:
    """Which values hold numbers that stand for infinity, and which constants say so.

    Attributes:
        values: Values that may hold them.
        refused: Nodes with a constant too large for the type that is no mask: its magnitude.
    """

    def __init__(self) -> None:
        self.values: set[ir.Value] = set()
        self.refused: dict[ir.Node, float] = {}


def find_masks(
    nodes: Iterable[ir.Node], ranges: Mapping[str, ValueRange] | None, half: HalfFormat
) -> Masks:
    """Follow constants beyond the range of a type to where they are added.

    Args:
        nodes: In order.
        ranges: What values span on samples; ``None`` where nothing was measured.
        half: The type.
    """
    found = Masks()
    for node in nodes:
        _find_in(node, ranges, half, found)
    return found


def _find_in(
    node: ir.Node, ranges: Mapping[str, ValueRange] | None, half: HalfFormat, found: Masks
) -> None:
    if node.op_type in LIMITING:
        return
    values = [value for value in node.inputs if value is not None]
    is_mask = any(value in found.values or _reaches_infinity(value, ranges) for value in values)
    for array in (*map(_float_constant, values), _filling(node)):
        beyond = None if array is None else _beyond(array, half)
        if array is None or beyond is None:
            continue
        if node.op_type in MASKING and _stands_for_infinity(node, array, beyond, ranges):
            is_mask = True
        else:
            found.refused[node] = beyond
    if is_mask and node.op_type in MASKING and not node.domain:
        found.values.update(node.outputs)


def _filling(node: ir.Node) -> npt.NDArray[np.float32] | None:
    if node.op_type != "ConstantOfShape" or "value" not in node.attributes:
        return None
    array = node.attributes["value"].as_tensor().numpy()
    return array if array.dtype == np.float32 else None


def _float_constant(value: ir.Value) -> npt.NDArray[np.float32] | None:
    tensor = constant_tensor(value)
    return tensor.numpy() if tensor is not None and tensor.dtype == ir.DataType.FLOAT else None


def _reaches_infinity(value: ir.Value, ranges: Mapping[str, ValueRange] | None) -> bool:
    """Tell whether a value that the caller gives, or a subgraph, is a mask by what it holds."""
    measured = (ranges or {}).get(value.name or "")
    if measured is None:
        return False
    return max(abs(measured.minimum), abs(measured.maximum)) >= STANDS_FOR_INFINITY


def _beyond(array: npt.NDArray[np.float32], half: HalfFormat) -> float | None:
    """Return the largest magnitude, infinity included, if it is beyond what is measured on samples.

    NaN is nobody's mask and does not count.
    """
    if not array.size:
        return None
    largest = float(np.fmax.reduce(np.abs(array), axis=None))
    return largest if largest > half.limit else None


def _stands_for_infinity(
    node: ir.Node,
    array: npt.NDArray[np.float32],
    beyond: float,
    ranges: Mapping[str, ValueRange] | None,
) -> bool:
    if beyond >= STANDS_FOR_INFINITY:
        return True
    # -1e4 and -1e9 are masks too where they are switched on and off; a scale of 1e5 is not.
    if array.max() > 0:
        return False
    if node.op_type != "Mul":
        return True
    others = [value for value in node.inputs if value is not None and not constant_tensor(value)]
    spans = [(ranges or {}).get(value.name or "") for value in others]
    return all(span is None or (span.minimum >= 0 and span.maximum <= 1) for span in spans)


def position_arithmetic(nodes: Iterable[ir.Node], shapes: ShapeTable) -> set[ir.Node]:
    """Return nodes that compute with integers turned into floats, for what must know them exactly.

    Position 2,049 does not exist in 11 bits, and neither does its angle: ``Cos`` of it, the bucket
    of a distance, or the number of rows to resize to would be those of another position.
    """
    counted: set[ir.Value] = set()
    inside: list[ir.Node] = []
    for node in nodes:
        if _counts(node, counted, shapes):
            counted.update(node.outputs)
            inside.append(node)
    exact: set[ir.Node] = set()
    for node in reversed(inside):
        if _is_exact(node, shapes) or any(
            user in exact or _is_exact(user, shapes)
            for output in node.outputs
            for user, _ in output.uses()
        ):
            exact.add(node)
    return exact


def _counts(node: ir.Node, counted: set[ir.Value], shapes: ShapeTable) -> bool:
    """Tell whether floats that ``node`` reads or makes come from integers and constants alone."""
    if node.op_type == "Constant":
        return False
    floats = [value for value in node.inputs if _is_float(value, shapes)]
    computed = [value for value in floats if constant_tensor(value) is None]
    if not computed:
        makes = any(_is_float(value, shapes) for value in node.outputs)
        return makes and node.op_type in ("Cast", "Range")
    return all(value in counted for value in computed)


def _is_exact(node: ir.Node, shapes: ShapeTable) -> bool:
    if node.op_type == "Cast":
        made, read = shapes.of(node.outputs[0]), shapes.of(node.inputs[0])
        if made is None or made.dtype is None or read is None:
            return False
        return read.dtype == ir.DataType.FLOAT and made.dtype.is_integer()
    return node.op_type in _NEEDS_POSITIONS or node.op_type in _COMPARING


def _is_float(value: ir.Value | None, shapes: ShapeTable) -> bool:
    known = shapes.of(value)
    return known is not None and known.dtype == ir.DataType.FLOAT
