"""Nodes of which ONNX's shape inference says what is not so when ONNX Runtime runs them."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from graphopt.analysis.operands import (
    int_attribute,
    ints_attribute,
    ints_operand,
    slice_bounds,
    squeeze_axes,
)
from graphopt.ir import subgraphs_of
from graphopt.rewrite import ValueShape

__all__ = ["MISREAD_OPERATORS", "MISREAD_PARAMETERS", "is_misread", "is_misread_result"]

_NEGATIVE_AXES_SINCE = 11
MISREAD_PARAMETERS = frozenset({"STFT", "Slice", "Squeeze", "Unsqueeze"})
_TO_THE_END = (2**31 - 1, 2**63 - 1)


def is_misread(node: ir.Node, version: int) -> bool:
    """Tell whether inference and runtime understand the parameters of ``node`` in different ways.

    Before opset 11 axes are not negative by specification. Inference then leaves them out, the
    runtime counts them from the end. An end of INT_MAX means the last element to inference where a
    Slice goes backwards, and all that is left to the runtime. An empty list of axes squeezes
    nothing to inference, and every axis of size 1 to the runtime. Of an STFT that keeps one side
    of the spectrum inference counts both (onnx 1.23).
    """
    if node.op_type not in MISREAD_PARAMETERS or node.domain:
        return False
    if node.op_type == "STFT":
        return int_attribute(node, "onesided", 1) != 0
    return _is_misread_slice(node) if node.op_type == "Slice" else _is_misread_axes(node, version)


def _is_misread_axes(node: ir.Node, version: int) -> bool:
    if node.op_type == "Squeeze" and () in (ints_attribute(node, "axes"), ints_operand(node, 1)):
        return True
    is_old = version < _NEGATIVE_AXES_SINCE
    return is_old and any(axis < 0 for axis in squeeze_axes(node) or ())


def _is_misread_slice(node: ir.Node) -> bool:
    bounds = slice_bounds(node)
    if bounds is not None:
        pairs = zip(bounds.ends, bounds.steps, strict=True)
        return any(step < 0 and end in _TO_THE_END for end, step in pairs)
    steps = ints_operand(node, 4) if len(node.inputs) > 4 else None  # noqa: PLR2004
    return steps is not None and any(step < 0 for step in steps)


def is_misread_result(node: ir.Node, shape_of: Callable[[ir.Value], ValueShape | None]) -> bool:
    """Tell whether inference claims more about an output of ``node`` than the runtime keeps.

    Args:
        node: Of one of `MISREAD_OPERATORS`.
        shape_of: What inference found.
    """
    if node.domain:
        return False
    if node.op_type == "If":
        return _is_misread_if(node, shape_of)
    if node.op_type == "Attention":
        return _is_misread_attention(node, shape_of)
    claimed = shape_of(node.outputs[0])
    if claimed is None or not claimed.dims:
        return False
    if node.op_type == "NonZero":  # of a scalar: the runtime makes a vector of it first
        return claimed.dims[0] == 0
    return _is_misread_concat(node, claimed, shape_of)


MISREAD_OPERATORS = frozenset({"Attention", "Concat", "If", "NonZero"})


def _is_misread_attention(node: ir.Node, shape_of: Callable[[ir.Value], ValueShape | None]) -> bool:
    """Of what an Attention reads inference counts a size that is a symbol as 0 (onnx 1.23).

    In its first result that shows: it has a size of 0. Those behind it hold sums, of which it does
    not.
    """
    shapes = [shape_of(value) for value in node.inputs if value is not None]
    if all(shape is not None and shape.is_static() for shape in shapes):
        return False
    claimed = shape_of(node.outputs[0])
    is_empty = claimed is not None and claimed.dims is not None and 0 in claimed.dims
    return is_empty or any(output.name for output in node.outputs[1:])


def _is_misread_concat(
    node: ir.Node, claimed: ValueShape, shape_of: Callable[[ir.Value], ValueShape | None]
) -> bool:
    """The runtime skips empty inputs, whatever their other dimensions; inference compares them."""
    found = [shape_of(value) for value in node.inputs if value is not None]
    known = [shape.dims for shape in found if shape is not None and shape.dims is not None]
    axis = int_attribute(node, "axis", 1)
    if claimed.dims is None or axis is None or not any(0 in dims for dims in known):
        return False
    others = [index for index in range(len(claimed.dims)) if index != axis % len(claimed.dims)]
    is_known = len(known) == len(found)
    return not is_known or any(
        dims[index] != known[0][index] for dims in known for index in others if len(dims) > index
    )


def _is_misread_if(node: ir.Node, shape_of: Callable[[ir.Value], ValueShape | None]) -> bool:
    """Inference takes an unknown shape for that of a scalar.

    Before opset 11 it takes the size that one branch knows for that of the other, too.
    """
    branches = [graph.outputs for graph in subgraphs_of(node)]
    if any(len(outputs) != len(node.outputs) for outputs in branches):
        return True
    return any(
        not _holds_for_all(shape_of(output), [shape_of(outputs[index]) for outputs in branches])
        for index, output in enumerate(node.outputs)
    )


def _holds_for_all(claimed: ValueShape | None, found: list[ValueShape | None]) -> bool:
    if claimed is None or claimed.dims is None:
        return True
    known = [shape.dims for shape in found if shape is not None and shape.dims is not None]
    if len(known) < len(found) or any(len(dims) != len(claimed.dims) for dims in known):
        return False
    for dim, *branches in zip(claimed.dims, *known, strict=True):
        is_claim = isinstance(dim, int) or dim in branches  # else a symbol made for this output
        if dim is not None and is_claim and any(other != dim for other in branches):
            return False
    return True
