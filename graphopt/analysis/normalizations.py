"""Normalizations written out in arithmetic: found upwards from the value that they compute."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from graphopt.analysis.operands import int_attribute, ints_attribute, ints_operand
from graphopt.ir import constant_array
from graphopt.rewrite import Const, Either, Match, Op, Pattern, ShapeTable, Var, match

__all__ = ["Normalization", "find_layer_normalization", "find_rms_normalization"]


@dataclass(frozen=True)
class Normalization:
    """One normalization over the last axis.

    Attributes:
        source: What is normalized; its last dimension is `width`.
        result: The value that it computes.
        scale: Factors of shape ``(width,)``; ``None`` where there are none.
        bias: Summands of shape ``(width,)``; ``None`` where there are none.
        epsilon: What is added to the mean square before the root.
        width: Size of the last dimension.
        root: The node that takes the square root of the mean square.
    """

    source: ir.Value
    result: ir.Value
    scale: ir.Value | None
    bias: ir.Value | None
    epsilon: float
    width: int
    root: ir.Node


def _mean(of: Pattern, name: str) -> Pattern:
    axes = Op("ReduceMean", of, Const("axes_of_" + name, max_elements=8), name=name)
    return Either(axes, Op("ReduceMean", of, name=name))


def _mean_square(deviation: Pattern) -> Pattern:
    square = Either(Op("Pow", deviation, Const("two", equals=2)), Op("Mul", deviation, deviation))
    return _mean(square, "mean_square")


def _normalized(deviation: Pattern) -> Pattern:
    """Return the pattern of ``deviation / sqrt(mean(deviation ** 2) + epsilon)``."""
    stable = Op("Add", _mean_square(deviation), Const("epsilon", max_elements=1))
    root = Op("Sqrt", stable, name="root")
    inverse = Either(
        Op("Reciprocal", root),
        Op("Div", Const("one", equals=1), root),
        Op("Pow", stable, Const("minus_half", equals=-0.5), name="root"),
    )
    return Either(Op("Div", deviation, root), Op("Mul", deviation, inverse))


_SOURCE = Var("source")
_MEAN_FREE = _normalized(Op("Sub", _SOURCE, _mean(_SOURCE, "mean")))
_RMS = _normalized(_SOURCE)


def find_layer_normalization(root: ir.Node, shapes: ShapeTable) -> Normalization | None:
    """Return the layer normalization around ``root``, the square root in it.

    ``(x - mean) / sqrt(mean((x - mean) ** 2) + epsilon) * scale + bias``, both last steps optional.
    """
    return _find(root, _MEAN_FREE, shapes, takes_bias=True)


def find_rms_normalization(root: ir.Node, shapes: ShapeTable) -> Normalization | None:
    """Return the root-mean-square normalization around ``root``, the square root in it.

    ``x / sqrt(mean(x ** 2) + epsilon) * scale``, the last step optional.
    """
    found = _find(root, _RMS, shapes, takes_bias=False)
    # Each layer normalization holds this pattern, too: of the deviations.
    is_centred = found is not None and match(_MEAN_FREE, found.result) is not None
    return None if is_centred else found


def _find(
    root: ir.Node, pattern: Pattern, shapes: ShapeTable, *, takes_bias: bool
) -> Normalization | None:
    if root.domain or root.op_type not in ("Sqrt", "Pow"):
        return None
    # Divided by the root at once, or multiplied by its inverse, which is a node of its own.
    for core in _readers(root.outputs[0], steps=2):
        found = match(pattern, core)
        if found is not None and found.nodes["root"] is root:
            width = _width(found, shapes)
            if width is not None:
                return _with_affine(found, core, width, shapes, takes_bias=takes_bias)
    return None


def _readers(value: ir.Value, steps: int) -> list[ir.Value]:
    """Return what is computed of ``value`` in up to so many steps."""
    layer, found = [value], []
    for _ in range(steps):
        users = [user for one in layer for user, _ in one.uses()]
        layer = [user.outputs[0] for user in users if len(user.outputs) == 1]
        found += layer
    return found


def _width(found: Match, shapes: ShapeTable) -> int | None:
    """Return the size of the last axis, where every mean is over that axis alone."""
    known = shapes.of(found["source"])
    if known is None or not known.dims:
        return None
    width, rank = known.dims[-1], len(known.dims)
    means = [node for name, node in found.nodes.items() if name in ("mean", "mean_square")]
    if not all(_is_over_last_axis(node, rank) for node in means):
        return None
    return width if isinstance(width, int) and width > 0 else None


def _is_over_last_axis(node: ir.Node, rank: int) -> bool:
    axes = ints_attribute(node, "axes") if "axes" in node.attributes else ints_operand(node, 1)
    return int_attribute(node, "keepdims", 1) == 1 and axes in ((-1,), (rank - 1,))


def _with_affine(
    found: Match, core: ir.Value, width: int, shapes: ShapeTable, *, takes_bias: bool
) -> Normalization:
    """Take in a factor and a summand for each element of the last axis."""
    result = core
    scaled, scale = _next(core, "Mul", width, shapes)
    shifted, bias = None, None
    if scale is not None:
        result = scaled
    if takes_bias:
        shifted, bias = _next(result, "Add", width, shapes)
    epsilon = constant_array(found["epsilon"])
    assert epsilon is not None
    return Normalization(
        source=found["source"],
        result=shifted if bias is not None and shifted is not None else result,
        scale=scale,
        bias=bias,
        epsilon=float(epsilon.reshape(-1)[0]),
        width=width,
        root=found.nodes["root"],
    )


def _next(
    value: ir.Value, op_type: str, width: int, shapes: ShapeTable
) -> tuple[ir.Value, ir.Value | None]:
    """Return what the only reader computes of ``value`` and a vector, and that vector."""
    uses = value.uses()
    if len(uses) != 1 or value.is_graph_output():
        return value, None
    user, index = next(iter(uses))
    if user.op_type != op_type or user.domain:
        return value, None
    other = user.inputs[1 - index]
    known = shapes.of(other)
    is_vector = known is not None and known.dims == (width,)
    return (user.outputs[0], other) if is_vector else (value, None)
