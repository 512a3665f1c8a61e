"""Fusing matrix products with transpositions and scalar factors around them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import onnx_ir as ir

from graphopt.analysis import Operators
from graphopt.analysis.contrib import CONTRIB_DOMAIN, import_contrib, is_supported_type
from graphopt.analysis.growing_shapes import GrowingShapes
from graphopt.analysis.operands import transpose_permutation
from graphopt.analysis.orphans import orphans
from graphopt.analysis.readers import only_reader
from graphopt.analysis.symbolic_table import SymbolicTable
from graphopt.ir import constant_array, graphs
from graphopt.rewrite import Contract, Editor, Facts, Needs, Pass, Rounding, ShapeTable

__all__ = ["FuseMatmul"]

_MATRIX_RANK = 2
_LARGEST_FACTOR = 2.0**24


class _Operand(NamedTuple):
    """What an operand is made of.

    Attributes:
        value: What it is made of.
        factors: By what scalars that is multiplied.
        is_turned: Whether the last two axes of it are exchanged.
    """

    value: ir.Value
    factors: tuple[float, ...]
    is_turned: bool


class _Product(NamedTuple):
    """A matrix product and what belongs to it.

    Attributes:
        left: The first operand.
        right: The second operand.
        factors: By what scalars the operands and the result are multiplied.
        last: The node that computes the result of it all.
    """

    left: _Operand
    right: _Operand
    factors: tuple[float, ...]
    last: ir.Node

    @property
    def alpha(self) -> float:
        """All factors multiplied."""
        return math.prod(self.factors)

    @property
    def is_extreme(self) -> bool:
        """Whether what is multiplied may overflow or vanish on the way, or does no longer."""
        limits = (1 / _LARGEST_FACTOR, _LARGEST_FACTOR)
        return not all(limits[0] <= abs(one) <= limits[1] for one in (*self.factors, self.alpha))


@dataclass(frozen=True, kw_only=True)
class FuseMatmul(Pass):
    """Turn a matrix product, its transpositions and scalar factors into one operator.

    What it does
        `MatMul(c x, Transpose(y)) * d` becomes FusedMatMul of ONNX Runtime where nobody else reads
        what is computed on the way: constant scalars before and after, by Mul or Div, and
        exchanges of the last two axes, go in. Functions of the model are left alone.

    When it refuses
        `element-type`    the elements are not float, which is what kernels exist for.
        `extreme-factor`  a factor, or all of them, come to 0, to more than 2^24 or to less than its
                          inverse: results might overflow or vanish where they did not before.

        Nothing is turned where an operand is a vector, or may be one.

    What it keeps
        The model's inputs and outputs, their names, order, types and shapes.

    Cost
        Time O(nodes), after shape inference; memory O(nodes). No weight is read but scalars.

    Example
        before  (float[N,2] x, float[M,2] y) => (float[N,M] z) <float c = {0.5}> { t = Transpose<perm=[1, 0]>(y)  u = MatMul(x, t)  z = Mul(u, c) }
        after   <ir_version: 10, opset_import: ["" : 20, "com.microsoft" : 1]> g (float[N,2] x, float[M,2] y) => (float[N,M] z) <float c = {0.5}> { z = com.microsoft.FusedMatMul<alpha=0.5, transB=1>(x, y) }

    References
        ONNX Runtime contrib operator FusedMatMul; it does the same itself when it loads a model.
    """  # noqa: E501 - the example is one line of ONNX text

    name: ClassVar[str] = "fuse-matmul"
    contract: ClassVar[Contract] = Contract(
        numerics=Rounding(1e-5, "factors are applied to sums, not to summands: 2e-7 for one"),
        is_idempotent=True,
    )
    anchors: ClassVar[frozenset[str] | None] = frozenset({"MatMul"})

    def needs(self, model: ir.Model) -> Needs:  # noqa: ARG002
        """Ask for shapes."""
        return Needs(shapes=True)

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:
        """Fuse every matrix product with what is around it."""
        operators = Operators(model)
        shapes = GrowingShapes(SymbolicTable(model, facts.shapes))
        for graph in graphs(model):
            if operators.is_in_function(graph):
                continue
            for node in [node for node in graph if node.op_type == "MatMul" and not node.domain]:
                found = _find(node, shapes)
                if found is None:
                    continue
                if not is_supported_type(node.outputs[0], shapes, facts.target):
                    edit.refuse(node, "element-type")
                elif found.is_extreme:
                    edit.refuse(node, "extreme-factor")
                else:
                    _fuse(node, found, operators, shapes, edit)


def _find(node: ir.Node, shapes: ShapeTable) -> _Product | None:
    left, right = (_operand(node, value, shapes) for value in node.inputs)
    if left is None or right is None:
        return None
    if (left.is_turned or right.is_turned) and not all(
        _is_matrix(value, shapes) for value in node.inputs
    ):
        return None  # the kernel loses the transposition beside a vector
    reader = only_reader(node.outputs[0])
    factor = None if reader is None else _factor(reader, node.outputs[0], shapes)
    is_plain = left.value is node.inputs[0] and right.value is node.inputs[1]
    factors = (*left.factors, *right.factors)
    if factor is None or reader is None:
        return None if is_plain else _Product(left, right, factors, node)
    return _Product(left, right, (*factors, factor), reader)


def _operand(product: ir.Node, value: ir.Value | None, shapes: ShapeTable) -> _Operand | None:
    """Follow an operand upwards through what only ``product`` reads."""
    if value is None:
        return None
    reader, factors, is_turned = product, [], False
    while (node := value.producer()) is not None and only_reader(value) is reader:
        scaled = _scaled(node, shapes)
        if scaled is not None:
            source, scalar = scaled
            factors.append(scalar)
        elif _is_turn(node, shapes) and node.inputs[0] is not None:
            source, is_turned = node.inputs[0], not is_turned
        else:
            break
        value, reader = source, node
    return _Operand(value, tuple(factors), is_turned)


def _is_turn(node: ir.Node, shapes: ShapeTable) -> bool:
    """Tell whether ``node`` exchanges the last two axes."""
    if node.op_type != "Transpose" or node.domain:
        return False
    known = shapes.of(node.inputs[0])
    rank = len(known.dims) if known is not None and known.dims is not None else None
    order = transpose_permutation(node, rank)
    if order is None or len(order) < _MATRIX_RANK:
        return False
    last = len(order) - 1
    return order == (*range(last - 1), last, last - 1)


def _scaled(node: ir.Node, shapes: ShapeTable) -> tuple[ir.Value, float] | None:
    """Return what ``node`` multiplies by a constant scalar, and that scalar."""
    for value in node.inputs:
        scalar = None if value is None else _factor(node, value, shapes)
        if value is not None and scalar is not None:
            return value, scalar
    return None


def _factor(node: ir.Node, value: ir.Value, shapes: ShapeTable) -> float | None:
    """Return the scalar that ``node`` multiplies ``value`` by; ``None`` where it does not."""
    if node.domain or node.op_type not in ("Mul", "Div") or value not in node.inputs:
        return None
    if node.op_type == "Div" and node.inputs[0] is not value:
        return None
    other = node.inputs[1] if node.inputs[0] is value else node.inputs[0]
    array = constant_array(other, 1)
    if array is None or array.size != 1 or not _keeps_rank(array.ndim, value, shapes):
        return None
    scalar = float(array.reshape(-1)[0])
    if node.op_type == "Mul":
        return scalar
    return 1 / scalar if scalar else None


def _is_matrix(value: ir.Value | None, shapes: ShapeTable) -> bool:
    known = shapes.of(value)
    return known is not None and known.dims is not None and len(known.dims) >= _MATRIX_RANK


def _keeps_rank(rank: int, value: ir.Value, shapes: ShapeTable) -> bool:
    known = shapes.of(value)
    return not rank or (known is not None and known.dims is not None and rank <= len(known.dims))


def _fuse(
    node: ir.Node, found: _Product, operators: Operators, shapes: GrowingShapes, edit: Editor
) -> None:
    attributes: dict[str, Any] = {"alpha": found.alpha} if found.alpha != 1 else {}
    attributes |= {"transA": 1} if found.left.is_turned else {}
    attributes |= {"transB": 1} if found.right.is_turned else {}
    inputs = [found.left.value, found.right.value]
    with edit.rewrite(found.last, because="matrix product with what is around it") as change:
        if attributes:
            import_contrib(edit.model, change)
            fused = change.node("FusedMatMul", inputs, attributes=attributes, domain=CONTRIB_DOMAIN)
        else:  # what was done was undone
            fused = change.node(node.op_type, inputs)
        change.replace(found.last.outputs[0], fused)
        shapes.alias(fused, found.last.outputs[0])
        for orphan in orphans([found.last], inputs, operators):
            change.remove(orphan)
