"""Linear layers on the rows of a matrix, for providers that multiply nothing else."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import onnx_ir as ir

from graphopt.analysis import Operators
from graphopt.analysis.constant_arithmetic import is_private, sole_reader
from graphopt.analysis.operands import operand
from graphopt.ir import constant_tensor, graphs
from graphopt.rewrite import Contract, Editor, Facts, Needs, Pass, Rounding, ShapeTable

__all__ = ["FlattenProducts"]

_MATRIX_RANK = 2
_BIAS_OPTIONAL_SINCE = 11
_FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16)


class _Layer(NamedTuple):
    """A product that may be flattened.

    Attributes:
        product: The MatMul.
        sizes: Of what it reads, all of them known.
        total: The Add of a constant vector behind it, which becomes a part of the Gemm.
        bias: That vector.
    """

    product: ir.Node
    sizes: tuple[int, ...]
    total: ir.Node | None = None
    bias: ir.Value | None = None


@dataclass(frozen=True, kw_only=True)
class FlattenProducts(Pass):
    """Multiply matrices of rows, rather than tensors of more axes, by constant matrices.

    What it does
        MatMul of a tensor of three axes or more and a constant matrix becomes Reshape to a matrix
        of rows, Gemm, and Reshape back, the Add of a constant vector behind it a part of the Gemm.
        The providers for XNNPACK and NNAPI run products of matrices alone, and leave such layers
        to the CPU. It is the opposite of `unflatten-gemm`, and for no other target. Functions of
        the model are left alone.

    When it refuses
        `dynamic-shape`        a size of what is multiplied is not known, or is 0.
        `weight-not-constant`  the matrix is computed, or may be replaced by the caller.
        `not-float`            the matrix holds no floats.
        `opset-too-old`        Gemm needs a bias before opset 11.

    What it keeps
        The model's inputs and outputs, their names, order, types and shapes.

    Cost
        Time O(nodes); no weight is read. Two Reshapes for each layer, which copy nothing on a CPU.

    Example
        before  (float[1,3,2] x) => (float[1,3,1] z) <float[2,1] w = {1, 2}, float[1] b = {3}> { y = MatMul(x, w)  z = Add(y, b) }
        after   (float[1,3,2] x) => (float[1,3,1] z) <float[2,1] w = {1, 2}, float[1] b = {3}, int64[2] rows = {3, 2}, int64[3] back = {1, 3, 1}> { r = Reshape(x, rows)  g = Gemm(r, w, b)  z = Reshape(g, back) }

    References
        ONNX operator specifications of Gemm and MatMul. ONNX Runtime, support of operators by the
        execution providers for NNAPI and XNNPACK.
    """  # noqa: E501 - the example is one line of ONNX text

    name: ClassVar[str] = "flatten-products"
    contract: ClassVar[Contract] = Contract(
        numerics=Rounding(1e-4, "the bias is added first, not last"),
        is_idempotent=True,
    )
    anchors: ClassVar[frozenset[str] | None] = frozenset({"MatMul"})
    is_preparation: ClassVar[bool] = True

    def needs(self, model: ir.Model) -> Needs:  # noqa: ARG002
        """Ask for shapes."""
        return Needs(shapes=True)

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:
        """Rewrite every linear layer of more than two axes."""
        operators, shapes = Operators(model), facts.shapes
        assert shapes is not None
        for graph in graphs(model):
            if operators.is_in_function(graph):
                continue
            for node in list(graph):
                if not _is_linear(node, shapes):
                    continue
                is_new = (operators.version(node) or 0) >= _BIAS_OPTIONAL_SINCE
                found = _examine(node, shapes) if is_new else "opset-too-old"
                if isinstance(found, str):
                    edit.refuse(node, found)
                else:
                    _rewrite(found, edit)


def _is_linear(node: ir.Node, shapes: ShapeTable) -> bool:
    """Tell whether ``node`` multiplies a tensor of more than two axes by a matrix."""
    if (node.domain, node.op_type) != ("", "MatMul"):
        return False
    ranks = [_rank(value, shapes) for value in node.inputs]
    return ranks[1] == _MATRIX_RANK and ranks[0] is not None and ranks[0] > _MATRIX_RANK


def _rank(value: ir.Value | None, shapes: ShapeTable) -> int | None:
    known = shapes.of(value)
    return None if known is None or known.dims is None else len(known.dims)


def _examine(product: ir.Node, shapes: ShapeTable) -> _Layer | str:
    weight = constant_tensor(product.inputs[1])
    if weight is None:
        return "weight-not-constant"
    if weight.dtype not in _FLOATS:
        return "not-float"
    known = shapes.of(product.inputs[0])
    assert known is not None
    assert known.dims is not None
    sizes = tuple(size for size in known.dims if isinstance(size, int) and size > 0)
    if len(sizes) < len(known.dims):
        return "dynamic-shape"
    columns = int(weight.shape.numpy()[1])
    return _with_bias(_Layer(product, sizes), columns, weight.dtype)


def _with_bias(layer: _Layer, columns: int, dtype: ir.DataType) -> _Layer:
    """Take the Add behind a product along, where it adds one vector to every row."""
    result = layer.product.outputs[0]
    total = sole_reader(result)
    if total is None or not is_private(result) or (total.domain, total.op_type) != ("", "Add"):
        return layer
    other = operand(total, 1) if total.inputs[0] is result else operand(total, 0)
    bias = constant_tensor(other)
    is_vector = bias is not None and bias.shape.numpy() == (columns,) and bias.dtype == dtype
    return layer._replace(total=total, bias=other) if is_vector else layer


def _rewrite(layer: _Layer, edit: Editor) -> None:
    product, sizes = layer.product, layer.sizes
    last = layer.total or product
    result, weight = last.outputs[0], constant_tensor(product.inputs[1])
    assert weight is not None
    columns = int(weight.shape.numpy()[1])
    name = product.name or "MatMul"
    with edit.rewrite(product, because="a linear layer on more than two axes") as change:
        to_rows = np.array([math.prod(sizes[:-1]), sizes[-1]])
        back = np.array([*sizes[:-1], columns])
        rows = change.node(
            "Reshape", [product.inputs[0], change.initializer(to_rows, name=f"{name}_rows")]
        )
        operands = [rows, product.inputs[1], *([] if layer.bias is None else [layer.bias])]
        flat = change.node("Gemm", operands, name=name)
        whole = change.node("Reshape", [flat, change.initializer(back, name=f"{name}_back")])
        change.replace(result, whole)
        change.remove(last)
        if last is not product:
            change.remove(product)
