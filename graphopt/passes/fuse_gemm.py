"""Fusing of a product of matrices with what is added to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from graphopt.analysis import Operators, is_annotated
from graphopt.analysis.constant_arithmetic import sole_reader
from graphopt.analysis.growing_shapes import GrowingShapes
from graphopt.ir import graphs
from graphopt.rewrite import Contract, Editor, Facts, Needs, Pass, Rounding, ShapeTable

__all__ = ["FuseGemm"]

_MATRIX_RANK = 2
_BROADCASTS_SINCE = 7
_FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE)


@dataclass(frozen=True, kw_only=True)
class FuseGemm(Pass):
    """Turn the product of two matrices and a sum into one Gemm.

    What it does
        `MatMul(a, b) + c` becomes `Gemm(a, b, c)` where a and b are matrices and c is broadcast to
        their product. Products of tensors of higher rank stay: they would have to be flattened.
        Functions of the model are left alone.

    When it refuses
        `element-type`    the elements are not float or double: there is no kernel for integers.
        `opset-too-low`   Gemm does not broadcast (before opset 7).
        `read-elsewhere`  the product is read by others too.
        `may-be-empty`    nobody knows that the sums have terms; kernels do not agree about those
                          that have none.

    What it keeps
        The model's inputs and outputs, their names, order, types and shapes.

    Cost
        Time O(nodes), after shape inference; memory O(1). No weight is read.

    Example
        before  (float[N,2] x, float[2,3] w, float[3] b) => (float[N,3] z) { y = MatMul(x, w)  z = Add(b, y) }
        after   (float[N,2] x, float[2,3] w, float[3] b) => (float[N,3] z) { z = Gemm(x, w, b) }

    References
        ONNX operator specification of Gemm.
    """  # noqa: E501 - the example is one line of ONNX text

    name: ClassVar[str] = "fuse-gemm"
    contract: ClassVar[Contract] = Contract(
        numerics=Rounding(1e-4, "the summand is added first, not last: 2e-7 measured for one"),
        is_idempotent=True,
    )
    anchors: ClassVar[frozenset[str] | None] = frozenset({"MatMul"})

    def needs(self, model: ir.Model) -> Needs:  # noqa: ARG002
        """Ask for shapes."""
        return Needs(shapes=True)

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:
        """Fuse every product of matrices with the sum after it."""
        operators, shapes = Operators(model), GrowingShapes(facts.shapes)
        for graph in graphs(model):
            for node in () if operators.is_in_function(graph) else graph:
                if (node.domain, node.op_type) == ("", "MatMul"):
                    total, summand = _sum_after(node, shapes)
                    if total is not None and summand is not None:
                        slug = _refusal(node, operators, shapes)
                        if slug is not None:
                            edit.refuse(node, slug)
                        else:
                            _fuse(node, total, summand, shapes, edit)


def _sum_after(product: ir.Node, shapes: ShapeTable) -> tuple[ir.Node | None, ir.Value | None]:
    """Return the sum that reads the product of two matrices, and what it adds to it."""
    result = product.outputs[0]
    found = shapes.of(result)
    if found is None or found.dims is None or len(found.dims) != _MATRIX_RANK:
        return None, None
    ranks = [shapes.of(value) for value in product.inputs]
    if any(one is None or len(one.dims or ()) != _MATRIX_RANK for one in ranks):
        return None, None
    for user, index in result.uses():
        if (user.domain, user.op_type) == ("", "Add") and user.graph is product.graph:
            summand = user.inputs[1 - index]
            if summand is not result and _is_broadcast(shapes, summand, found.dims):
                return user, summand
    return None, None


def _is_broadcast(
    shapes: ShapeTable, value: ir.Value | None, dims: tuple[int | str | None, ...]
) -> bool:
    """Tell whether ``value`` is broadcast to ``dims``, and does not make the sum larger."""
    known = shapes.of(value)
    if known is None or known.dims is None or len(known.dims) > len(dims):
        return False
    aligned = zip(reversed(known.dims), reversed(dims), strict=False)
    return all(size == 1 or (size is not None and size == wanted) for size, wanted in aligned)


def _refusal(product: ir.Node, operators: Operators, shapes: ShapeTable) -> str | None:
    known = shapes.of(product.inputs[0])
    if known is None or known.dtype not in _FLOATS:
        return "element-type"
    if (operators.version(product) or 1) < _BROADCASTS_SINCE:
        return "opset-too-low"
    if sole_reader(product.outputs[0]) is None:
        return "read-elsewhere"
    terms = {size for one in _terms(product, shapes) for size in one if isinstance(size, int)}
    return None if any(terms) else "may-be-empty"


def _terms(product: ir.Node, shapes: ShapeTable) -> list[tuple[int | str | None, ...]]:
    """Return the size of the axis that is summed over, as either factor tells it."""
    left, right = (shapes.of(value) for value in product.inputs)
    sides = [left.dims[1:2] if left and left.dims else ()]
    return [*sides, right.dims[:1] if right and right.dims else ()]


def _fuse(
    product: ir.Node, total: ir.Node, summand: ir.Value, shapes: GrowingShapes, edit: Editor
) -> None:
    if is_annotated(total.outputs[0]):
        return
    with edit.rewrite(total, because="a product of matrices and a sum") as change:
        fused = change.node("Gemm", [*product.inputs, summand], name=product.name)
        change.replace(total.outputs[0], fused)
        shapes.alias(fused, total.outputs[0])
        change.remove(total)
        change.remove(product)
