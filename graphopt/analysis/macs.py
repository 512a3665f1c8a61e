"""Multiply-accumulate operations of the operators that do nearly all of the arithmetic."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import onnx_ir as ir

from graphopt.analysis.operands import int_attribute, operand
from graphopt.analysis.shapes import infer_shapes
from graphopt.analysis.symbolic_shapes import SymbolicShapes
from graphopt.ir import clone, nodes_of_types, operators_of
from graphopt.rewrite import ShapeTable

__all__ = ["count_macs", "macs_by_node"]

Dims = tuple[int, ...]


def count_macs(
    model: ir.Model,
    shapes: ShapeTable | None = None,
    bindings: Mapping[str, int] | None = None,
) -> int | None:
    """Count the multiply-accumulate operations of one run.

    MatMul, Gemm, Conv, ConvTranspose and attention count, with their quantized and fused forms;
    each node once, also inside subgraphs.

    Args:
        model: The model.
        shapes: Its inferred shapes, where they are known already: quick, but what they name by
            other names than the inputs do stays unknown.
        bindings: Sizes of symbolic dimensions of its inputs; a dimension without one counts as 1.

    Returns:
        The count, or ``None`` where the shapes of one such node are not known.
    """
    total = 0
    for _, count in _counts(model, shapes, bindings):
        if count is None:
            return None
        total += count
    return total


def macs_by_node(
    model: ir.Model, bindings: Mapping[str, int] | None = None
) -> dict[str | None, int]:
    """Count the multiply-accumulate operations of each node that `count_macs` counts.

    Args:
        model: The model.
        bindings: Sizes of symbolic dimensions of its inputs; a dimension without one counts as 1.

    Returns:
        Counts by name of the node; a node whose shapes are not known is left out.
    """
    found: dict[str | None, int] = {}
    for node, count in _counts(model, None, bindings):
        if count is not None:
            found[node.name] = found.get(node.name, 0) + count
    return found


def _counts(
    model: ir.Model, shapes: ShapeTable | None, bindings: Mapping[str, int] | None
) -> Iterator[tuple[ir.Node, int | None]]:
    sizes = dict(bindings or {})
    if shapes is None:
        model = _bound(model, sizes)
        shapes = infer_shapes(model)
    counter = _Counter(model, shapes, _named_sizes(model, sizes))
    for domain, op_type in operators_of(model):
        rule = _RULES.get(op_type)
        if rule is not None:
            for node in nodes_of_types(model, {op_type}, domain=domain, with_functions=True):
                yield node, rule(node, counter)


def _bound(model: ir.Model, bindings: Mapping[str, int]) -> ir.Model:
    """Return the model with inputs of fixed sizes; itself where they are fixed.

    Inference follows numbers through the arithmetic of shapes, and names only in part.
    """
    if not any(map(_open_dims, model.graph.inputs)):
        return model
    bound = clone(model)
    for value in bound.graph.inputs:
        if value.shape is not None:
            dims = (dim if isinstance(dim, int) else dim.value for dim in value.shape)
            value.shape = ir.Shape(
                dim if isinstance(dim, int) else bindings.get(dim or "", 1) for dim in dims
            )
    return bound


def _named_sizes(model: ir.Model, bindings: Mapping[str, int]) -> dict[str, int]:
    """Return the sizes of the symbolic dimensions of the inputs, by name."""
    dims = [dim for value in model.graph.inputs if value.shape is not None for dim in value.shape]
    names = [dim.value for dim in dims if not isinstance(dim, int) and dim.value]
    return {name: bindings.get(name, 1) for name in names}


def _open_dims(value: ir.Value) -> bool:
    return value.shape is not None and not value.shape.is_static()


class _Counter:
    def __init__(self, model: ir.Model, shapes: ShapeTable, sizes: Mapping[str, int]) -> None:
        self._model = model
        self._shapes = shapes
        self._sizes = sizes

    @functools.cached_property
    def _symbolic(self) -> SymbolicShapes:
        return SymbolicShapes.kept(self._model, self._shapes)

    def dims(self, value: ir.Value | None) -> Dims | None:
        """Return the dimensions of ``value``, or ``None`` where one of them is unknown."""
        known = self._shapes.of(value)
        return self._numbers(known and known.dims) or self._numbers(self._symbolic.dims(value))

    def _numbers(self, dims: Sequence[object] | None) -> Dims | None:
        if dims is None:
            return None
        sizes: list[int] = []
        for dim in dims:
            size = self._sizes.get(dim) if isinstance(dim, str) else dim
            if not isinstance(size, int):
                return None
            sizes.append(size)
        return tuple(sizes)


def _matmul(first: int, second: int) -> Callable[[ir.Node, _Counter], int | None]:
    def rule(node: ir.Node, counter: _Counter) -> int | None:
        a, b = counter.dims(operand(node, first)), counter.dims(operand(node, second))
        if not a or not b:
            return None
        if int_attribute(node, "transA", 0) and len(a) > 1:
            a = (*a[:-2], a[-1], a[-2])
        if int_attribute(node, "transB", 0) and len(b) > 1:
            b = (*b[:-2], b[-1], b[-2])
        columns = b[-1] if len(b) > 1 else 1
        return math.prod(_broadcast(a[:-2], b[:-2])) * math.prod(a[-2:]) * columns

    return rule


def _broadcast(first: Sequence[int], second: Sequence[int]) -> Dims:
    rank = max(len(first), len(second))
    padded = ((1,) * (rank - len(dims)) + tuple(dims) for dims in (first, second))
    return tuple(max(pair) for pair in zip(*padded, strict=True))


def _conv(weight_index: int) -> Callable[[ir.Node, _Counter], int | None]:
    def rule(node: ir.Node, counter: _Counter) -> int | None:
        weight, result = counter.dims(operand(node, weight_index)), counter.dims(node.outputs[0])
        if weight is None or result is None:
            return None
        return math.prod(result) * math.prod(weight[1:])  # weight: (out, in / group, *kernel)

    return rule


def _conv_transpose(node: ir.Node, counter: _Counter) -> int | None:
    data, weight = counter.dims(operand(node, 0)), counter.dims(operand(node, 1))
    if data is None or weight is None:
        return None
    return math.prod(data) * math.prod(weight[1:])  # weight: (in, out / group, *kernel)


def _attention(node: ir.Node, counter: _Counter) -> int | None:
    """Count ``Q K^T`` and ``P V``; shapes (batch, [heads,] sequence, size)."""
    query, key = counter.dims(operand(node, 0)), counter.dims(operand(node, 1))
    value = counter.dims(operand(node, 2))
    if query is None or key is None or value is None or node.domain:
        return None
    key_length = key[-2]
    return math.prod(query) * key_length + math.prod(query[:-1]) * key_length * value[-1]


_RULES: dict[str, Callable[[ir.Node, _Counter], int | None]] = {
    "MatMul": _matmul(0, 1),
    "MatMulInteger": _matmul(0, 1),
    "QLinearMatMul": _matmul(0, 3),
    "FusedMatMul": _matmul(0, 1),
    "DynamicQuantizeMatMul": _matmul(0, 1),
    "MatMulIntegerToFloat": _matmul(0, 1),
    "Gemm": _matmul(0, 1),
    "FusedGemm": _matmul(0, 1),
    "Conv": _conv(1),
    "ConvInteger": _conv(1),
    "QLinearConv": _conv(3),
    "FusedConv": _conv(1),
    "ConvTranspose": _conv_transpose,
    "Attention": _attention,
}
