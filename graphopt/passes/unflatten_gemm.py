"""Linear layers on matrices that were flattened for them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import onnx_ir as ir

from graphopt.analysis import Operators, is_annotated
from graphopt.analysis.constant_arithmetic import is_private, is_shared, sole_reader
from graphopt.analysis.growing_shapes import GrowingShapes
from graphopt.analysis.head_splits import Dims, asked_dims
from graphopt.analysis.operands import int_attribute, operand
from graphopt.analysis.symbolic_table import SymbolicTable
from graphopt.ir import constant_tensor, graphs
from graphopt.rewrite import (
    Change,
    Contract,
    Editor,
    Facts,
    Needs,
    Pass,
    Rounding,
    ShapeTable,
    option,
)

__all__ = ["UnflattenGemm"]

_BROADCASTS_SINCE = 7
_MATRIX_RANK = 2
_FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE)


class _Flattened(NamedTuple):
    """A Gemm between two Reshapes.

    Attributes:
        source: What is flattened.
        gemm: The layer.
        last: The Reshape after it.
        target: Constant shape that makes the source fit for a product; ``None``: it fits.
    """

    source: ir.Value
    gemm: ir.Node
    last: ir.Node
    target: tuple[int, ...] | None


@dataclass(frozen=True, kw_only=True)
class UnflattenGemm(Pass):
    """Multiply tensors as they are, rather than flattened to a matrix and back.

    What it does
        Reshape to a matrix, Gemm with a constant weight, and Reshape to as many rows as there were
        before, becomes MatMul and Add, which other passes can take further: the bias is in sight,
        and the shape of the result need not be computed. Where the first Reshape also joins the
        last axes, as after the heads of an attention, it stays, with a constant shape. With
        `by_count`, rows also count as restored where all of their dimensions but one are the same:
        the last one follows, unless there are no rows at all. Functions of the model are left
        alone.

    When it refuses
        `read-elsewhere`   the matrix that the Gemm computes is read by others too.
        `shared-weight`    the weight is stored transposed and others read it.
        `other-rows`       the second Reshape does not provably restore the rows.

    What it keeps
        The model's inputs and outputs, their names, order, types and shapes.

    Cost
        Time O(nodes + edges), after symbolic shape analysis; no weight is read, unless a small one
        is transposed.

    Example
        before  (float[B,S,2] x) => (float[B,S,2] z) <float[2,2] w = {1, 2, 3, 4}, float[2] b = {1, 1}, int64[2] rows = {-1, 2}, int64[1] two = {2}> { r = Reshape(x, rows)  y = Gemm(r, w, b)  s = Shape<end=2>(x)  t = Concat<axis=0>(s, two)  z = Reshape(y, t) }
        after   (float[B,S,2] x) => (float[B,S,2] z) <float[2,2] w = {1, 2, 3, 4}, float[2] b = {1, 1}, int64[2] rows = {-1, 2}, int64[1] two = {2}> { s = Shape<end=2>(x)  t = Concat<axis=0>(s, two)  y = MatMul(x, w)  z = Add(y, b) }

    References
        ONNX operator specifications of Gemm and MatMul.
    """  # noqa: E501 - the example is one line of ONNX text

    name: ClassVar[str] = "unflatten-gemm"
    contract: ClassVar[Contract] = Contract(
        numerics=Rounding(1e-4, "the bias is added last, not first: 2e-7 measured for one"),
        is_idempotent=True,
    )
    anchors: ClassVar[frozenset[str] | None] = frozenset({"Gemm"})

    by_count: bool = option(
        default=False,
        help="take rows to be restored where all of their dimensions but one are",
    )

    def needs(self, model: ir.Model) -> Needs:  # noqa: ARG002
        """Ask for shapes."""
        return Needs(shapes=True)

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:
        """Rewrite every Gemm between two Reshapes."""
        operators = Operators(model)
        candidates = [
            node
            for graph in graphs(model)
            for node in (() if operators.is_in_function(graph) else graph)
            if _is_candidate(node) and (operators.version(node) or 1) >= _BROADCASTS_SINCE
        ]
        if not candidates:
            return  # and no shapes are analysed
        table = SymbolicTable(model, facts.shapes)
        shapes = GrowingShapes(table)
        for gemm in candidates:
            found = _find(gemm, shapes, table, by_count=self.by_count)
            if isinstance(found, _Flattened):
                _rewrite(found, shapes, edit)
            elif found is not None:
                edit.refuse(gemm, found)


def _is_candidate(node: ir.Node) -> bool:
    """Tell whether ``node`` is a plain Gemm of floats between two Reshapes."""
    if (node.domain, node.op_type) != ("", "Gemm") or int_attribute(node, "transA", 0) != 0:
        return False
    weight = constant_tensor(operand(node, 1))
    if weight is None or weight.dtype not in _FLOATS or not _is_plain(node):
        return False
    matrix = node.inputs[0]
    before = matrix.producer() if matrix is not None else None
    if before is None or (before.domain, before.op_type) != ("", "Reshape"):
        return False
    users = {user for user, _ in node.outputs[0].uses()}
    return any((user.domain, user.op_type) == ("", "Reshape") for user in users)


def _is_plain(gemm: ir.Node) -> bool:
    factors = [gemm.attributes[name] for name in ("alpha", "beta") if name in gemm.attributes]
    return all(not factor.is_ref() and factor.as_float() == 1.0 for factor in factors)


def _find(
    gemm: ir.Node, shapes: ShapeTable, table: SymbolicTable, *, by_count: bool
) -> _Flattened | str | None:
    matrix = gemm.inputs[0]
    before = matrix.producer() if matrix is not None else None
    source = operand(before, 0) if before is not None else None
    weight = gemm.inputs[1]
    if source is None or weight is None or not _is_vector(operand(gemm, 2), shapes):
        return None
    if int_attribute(gemm, "transB", 0) and is_shared(weight):
        return "shared-weight"
    last = sole_reader(gemm.outputs[0])
    if last is None or not is_private(gemm.outputs[0]):
        return "read-elsewhere"
    if is_annotated(last.outputs[0]):
        return None
    dims = [_dims(source, shapes), _dims(matrix, shapes), asked_dims(last, table)]
    known = [one for one in dims if one]
    if len(known) < len(dims):
        return None
    return _fitted(_Flattened(source, gemm, last, None), *known, by_count=by_count)


def _dims(value: ir.Value | None, shapes: ShapeTable) -> Dims | None:
    known = shapes.of(value)
    return None if known is None else known.dims


def _is_vector(bias: ir.Value | None, shapes: ShapeTable) -> bool:
    """Tell whether a bias, if there is one, is added to every row alike."""
    if bias is None:
        return True
    known = shapes.of(bias)
    return known is not None and known.dims is not None and len(known.dims) <= 1


def _fitted(
    found: _Flattened, source: Dims, matrix: Dims, result: Dims, *, by_count: bool
) -> _Flattened | str | None:
    """Say how the source becomes a tensor with the rows of the result, if it does."""
    weight = constant_tensor(found.gemm.inputs[1])
    assert weight is not None
    features = weight.shape.numpy()
    inner, outer = features[::-1] if int_attribute(found.gemm, "transB", 0) else features
    if not inner or len(matrix) != _MATRIX_RANK or len(result) <= _MATRIX_RANK:
        return None
    if matrix[1] != inner or result[-1] != outer or None in result or 0 in result:
        return "other-rows"  # a 0 in the target of a Reshape would copy a dimension
    rows = len(result) - 1
    if _keeps_rows(source, result, int(inner), unknown=int(by_count)):
        joined = (*(0,) * rows, int(inner))  # 0 copies a dimension
        return found if len(source) == len(result) else found._replace(target=joined)
    target = [
        0 if axis < len(source) and size == source[axis] else size
        for axis, size in enumerate(result[:-1])
    ]
    numbers = [size for size in target if isinstance(size, int)]
    is_one_open = len(target) - len(numbers) == 1 and all(numbers)
    if len(numbers) < len(target) and not is_one_open:
        return "other-rows"
    whole = (*(size if isinstance(size, int) else -1 for size in target), int(inner))
    return found._replace(target=whole)


def _keeps_rows(source: Dims, result: Dims, inner: int, *, unknown: int) -> bool:
    """Tell whether the result has the first dimensions of the source, all but the last of its own.

    So many may be unknown; one follows from the number of rows, unless there are none at all.
    """
    leading = list(zip(source, result[:-1], strict=False))
    rest = [size for size in source[len(result) - 1 :] if isinstance(size, int)]
    is_rest_joined = len(leading) + len(rest) == len(source) and math.prod(rest) == inner
    differing = sum(mine is None or mine != other for mine, other in leading)
    return (
        len(leading) == len(result) - 1 and is_rest_joined and bool(rest) and differing <= unknown
    )


def _rewrite(found: _Flattened, shapes: GrowingShapes, edit: Editor) -> None:
    gemm, last = found.gemm, found.last
    result, bias = last.outputs[0], operand(gemm, 2)
    with edit.rewrite(last, because="Gemm on a flattened tensor") as change:
        source = found.source
        if found.target is not None:
            target = change.initializer(np.array(found.target), name=f"{gemm.name}_rows")
            source = change.node("Reshape", [source, target])
        product = change.node("MatMul", [source, _weight(gemm, change)], name=gemm.name)
        total = product if bias is None else change.node("Add", [product, bias])
        change.replace(result, total)
        for value in {product, total}:
            shapes.alias(value, result)
        change.remove(last)
        change.remove(gemm)
        before = gemm.inputs[0]
        first = before.producer() if before is not None and is_private(before) else None
        if first is not None:
            change.remove(first)


def _weight(gemm: ir.Node, change: Change) -> ir.Value:
    weight = gemm.inputs[1]
    tensor = constant_tensor(weight)
    assert weight is not None
    assert tensor is not None
    if not int_attribute(gemm, "transB", 0):
        return weight
    rows, columns = tensor.shape.numpy()
    turned = ir.LazyTensor(
        lambda: ir.tensor(np.ascontiguousarray(tensor.numpy().T)),
        dtype=tensor.dtype,
        shape=ir.Shape([columns, rows]),
    )
    return change.initializer(turned, name=f"{weight.name}_transposed")
