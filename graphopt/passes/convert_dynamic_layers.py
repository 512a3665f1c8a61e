"""Layers whose activations are scaled on every run: as operators of ONNX, or of ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from graphopt.analysis.dynamic_products import (
    DynamicProduct,
    NoDynamicProduct,
    check_columns,
    find_dynamic_product,
)
from graphopt.analysis.operands import operand
from graphopt.analysis.operators import Operators
from graphopt.analysis.orphans import orphans
from graphopt.compression.quantized_operators import FormRefused, check_place
from graphopt.ir import nodes, opset_version
from graphopt.rewrite import (
    Change,
    Contract,
    Editor,
    Exact,
    Facts,
    Needs,
    Pass,
    ShapeTable,
    option,
)

__all__ = ["ConvertDynamicLayers"]

_MICROSOFT = "com.microsoft"
_AT_ONCE = "DynamicQuantizeMatMul"
_SCALED = "MatMulIntegerToFloat"
_OPSETS = {_AT_ONCE: 11, _SCALED: 10}  # of DynamicQuantizeLinear and of MatMulInteger
_ONE_FORM = {
    "ConvInteger": "ONNX Runtime has no operator that scales the sums of a convolution",
    "DynamicQuantizeLSTM": "it rounds its hidden state at every step, and its gates are "
    "approximations of the runtime's own",
    "QAttention": "its scores and their softmax are computed by a kernel of the runtime's own, in "
    "another order than operators of ONNX have",
}
"""Operators with one exact form, and why."""


@dataclass(frozen=True, kw_only=True)
class ConvertDynamicLayers(Pass):
    """Write layers with activations that are scaled on every run in the other of their two forms.

    What it does
        `to=onnx` writes DynamicQuantizeMatMul and MatMulIntegerToFloat of ONNX Runtime as
        DynamicQuantizeLinear, MatMulInteger, Cast, Mul and Add, which every runtime of opset 11
        reads. `to=onnxruntime` does the reverse: the five become one operator where nothing else
        reads the rounded activation, and the last four where something does. A quantization of one
        activation is written for each layer; `merge-common-subexpressions` shares it.

    When it refuses
        `not-scaled`       sums of integers become no floats by a Cast and a Mul by the product of
                           two scales, or something else reads what is between.
        `other-order`      they are multiplied by one scale after the other, which rounds twice.
        `other-axis`       the right operand is no matrix, or a scale or a zero point is neither one
                           number nor one for each column, or shapes are not known.
        `other-type`       floats are not of 32 bits.
        `no-other-form`    the operator has one exact form: ConvInteger, QAttention,
                           DynamicQuantizeLSTM.
        `old-opset`        the operators of ONNX came with opset 10 and 11.
        `inside-function`  the operator is in a function.
        `annotated`        quantization annotations name what it reads or returns.

    What it keeps
        The model's inputs and outputs, their names, order, types and shapes; every weight, scale
        and zero point; every bit of the outputs: both forms round the same numbers in the same
        order, and ONNX Runtime fuses the one into the other when it loads a model.

    Cost
        Time O(nodes + edges). No weight is read or written.

    Example
        options {to=onnx}
        before  <ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]> g (float[N, 2] x) => (float[N, 2] y) <int8[2, 2] w = {1, 2, 3, 4}, float[2] s = {0.5, 0.25}, float[2] b = {1, -1}> { y = com.microsoft.DynamicQuantizeMatMul(x, w, s, , b) }
        after   <ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]> g (float[N, 2] x) => (float[N, 2] y) <int8[2, 2] w = {1, 2, 3, 4}, float[2] s = {0.5, 0.25}, float[2] b = {1, -1}> { q, t, z = DynamicQuantizeLinear(x)  i = MatMulInteger(q, w, z)  f = Cast<to = 1>(i)  m = Mul(t, s)  p = Mul(f, m)  y = Add(p, b) }

    References
        ONNX operator specifications: DynamicQuantizeLinear (opset 11), MatMulInteger (opset 10).
        ONNX Runtime, `ContribOperators.md`: com.microsoft.DynamicQuantizeMatMul,
        com.microsoft.MatMulIntegerToFloat.
    """  # noqa: E501 - the example is one line of ONNX text

    name: ClassVar[str] = "convert-dynamic-layers"
    contract: ClassVar[Contract] = Contract(numerics=Exact(), is_idempotent=True)
    anchors: ClassVar[frozenset[str] | None] = frozenset(
        {"MatMulInteger", _AT_ONCE, _SCALED, *_ONE_FORM}
    )

    to: str = option("onnx", help="whose operators layers become", choices=("onnx", "onnxruntime"))

    def needs(self, model: ir.Model) -> Needs:  # noqa: ARG002
        """Ask for shapes and types of scales."""
        return Needs(shapes=True)

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:
        """Look at each layer that is scaled on every run."""
        assert facts.shapes is not None
        inside = {node for function in model.functions.values() for node in function.all_nodes()}
        operators = Operators(model)
        for node in list(nodes(model)):
            if not self._is_meant(node):
                continue
            try:
                check_place(node, inside)
                _check_form(node)
                if self.to == "onnx":
                    _write_out(node, edit, facts.shapes)
                else:
                    _bring_together(find_dynamic_product(node, facts.shapes), edit, operators)
            except (FormRefused, NoDynamicProduct) as refused:
                edit.refuse(node, refused.slug, why=refused.why)

    def _is_meant(self, node: ir.Node) -> bool:
        """Tell whether a node is a layer in the form that is to be left, or in none of the two."""
        if self.to == "onnx":
            is_theirs = node.op_type in (_AT_ONCE, _SCALED, *_ONE_FORM)
            return node.domain == _MICROSOFT and is_theirs
        return not node.domain and node.op_type in ("MatMulInteger", "ConvInteger")


def _check_form(node: ir.Node) -> None:
    if node.op_type in _ONE_FORM:
        raise FormRefused("no-other-form", _ONE_FORM[node.op_type])


def _write_out(node: ir.Node, edit: Editor, shapes: ShapeTable) -> None:
    """Replace an operator of ONNX Runtime by those of ONNX."""
    opset, needed = opset_version(edit.model), _OPSETS[node.op_type]
    if opset < needed:
        raise FormRefused("old-opset", f"it takes opset {needed}, and the model has {opset}")
    is_whole = node.op_type == _AT_ONCE
    left, weight = operand(node, 0), operand(node, 1)
    places = (2, 3, 4) if is_whole else (3, 5, 6)
    weight_scale, weight_zero_point, bias = (operand(node, place) for place in places)
    check_columns(weight, weight_scale, weight_zero_point, shapes)
    if not is_whole:
        _check_scale(operand(node, 2), shapes)
    with edit.rewrite(node, because="operators of ONNX compute it") as change:
        scale, zero_point = operand(node, 2), operand(node, 4)
        if is_whole:
            left, scale, zero_point = change.multi_output_node("DynamicQuantizeLinear", [left], 3)
        sums = change.node(
            "MatMulInteger", _without_tail([left, weight, zero_point, weight_zero_point])
        )
        floats = change.node("Cast", [sums], attributes={"to": ir.DataType.FLOAT})
        factor = change.node("Mul", [scale, weight_scale])
        result = change.node("Mul", [floats, factor], like=node.outputs[0])
        if bias is not None:
            result = change.node("Add", [result, bias], like=node.outputs[0])
        change.replace(node.outputs[0], result)
        change.remove(node)


def _check_scale(scale: ir.Value | None, shapes: ShapeTable) -> None:
    known = None if scale is None else shapes.of(scale)
    if known is None or known.dims not in ((), (1,)):
        raise FormRefused("other-axis", "its left operand has several scales, or nobody knows")


def _bring_together(found: DynamicProduct, edit: Editor, operators: Operators) -> None:
    """Replace operators of ONNX by one of ONNX Runtime."""
    is_whole = found.floats is not None
    held = [found.weight_zero_point, found.bias]
    if is_whole:
        inputs = [found.floats, found.weight, found.weight_scale, *held]
    else:
        both = [found.integers, found.weight, found.scale, found.weight_scale]
        inputs = [*both, found.zero_point, *held]
    result = found.last.outputs[0]
    needless = orphans(list(found.gone), [one for one in inputs if one is not None], operators)
    with edit.rewrite(found.last, because="one operator computes it") as change:
        _import_microsoft(change, edit.model)
        value = change.node(
            _AT_ONCE if is_whole else _SCALED,
            _without_tail(inputs),
            domain=_MICROSOFT,
            like=result,
        )
        change.replace(result, value)
        for gone in needless:
            change.remove(gone)


def _import_microsoft(change: Change, model: ir.Model) -> None:
    if _MICROSOFT not in model.opset_imports:
        change.set_opset(_MICROSOFT, 1)


def _without_tail(inputs: Sequence[ir.Value | None]) -> list[ir.Value | None]:
    """Return inputs without those at the end that are left out."""
    count = max(place for place, value in enumerate(inputs) if value is not None)
    return list(inputs[: count + 1])
