"""Quantized layers in the other of their two forms: operators of integers, or of floats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from graphopt.analysis.operators import Operators
from graphopt.compression import remove_unread
from graphopt.compression.integer_form import to_integer_operator
from graphopt.compression.quantized_operators import FormRefused, check_place
from graphopt.compression.written_out_form import to_float_operator
from graphopt.ir import nodes
from graphopt.rewrite import Contract, Editor, Facts, Needs, Pass, Rounding, option

__all__ = ["ConvertQuantizedLayers"]

_DEQUANTIZE = "DequantizeLinear"
_DYNAMIC = frozenset(
    {"ConvInteger", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "MatMulInteger"}
    | {"MatMulIntegerToFloat", "QAttention"}
)
"""Those that scale on every run have no form here, and are refused, not passed over."""
_DYNAMIC_WHY = "its sums of integers are rounded nowhere: `convert-dynamic-layers` knows its forms"


@dataclass(frozen=True, kw_only=True)
class ConvertQuantizedLayers(Pass):
    """Turn quantized layers into operators of integers, or these into layers between Q and DQ.

    What it does
        `to=qdq` writes QLinearConv and QLinearMatMul, and of ONNX Runtime QGemm, QLinearAdd,
        QLinearMul, QLinearConcat, QLinearAveragePool, QLinearGlobalAveragePool, QLinearLeakyRelu
        and QLinearSigmoid, as the operator of floats between DequantizeLinear and QuantizeLinear,
        the form that most runtimes read. `to=qoperator` turns Conv and MatMul between them into
        QLinearConv and QLinearMatMul, which need no fusion. Integers, scales and zero points stay
        what they are, bit by bit.

    When it refuses
        `computed-scale`       a scale or a zero point is no constant.
        `other-type`           integers are not of 8 bits, scales not 32-bit floats, or no kernel
                               takes these types together.
        `other-axis`           a scale runs along an axis that the other form has none for.
        `blocks`               there is a scale for each block.
        `zero-points-differ`   channels of a weight have zero points of their own.
        `float-output`         what the layer returns is read in floats, too.
        `float-bias`           the bias is not held in integers.
        `bias-scale`           its scale is not the product of the other two.
        `no-other-form`        the operator has none here, with these settings.
        `wrong-kernel`         the runtime's kernel of integers returns something else than the
                               operator means.
        `old-opset`            scales for each channel, or a missing bias, need a newer opset.
        `inside-function`      the operator is in a function.
        `annotated`            quantization annotations name what it reads or returns.

    What it keeps
        The model's inputs and outputs, their names, order, types and shapes, and all integers. Sums
        are rounded as floats in one form and not in the other, so that a value on the border
        between two integers may go to the other one, by one step of 8-bit numbers. ONNX Runtime,
        where it fuses, runs both forms by the same kernels and returns the same bits.

    Cost
        Time O(nodes + edges). No weight is read or written.

    Example
        options {to=qoperator}
        before  (uint8[N, 2] x) => (uint8[N, 2] y) <float s = {0.5}, uint8 z = {128}, int8[2, 2] w = {1, 2, 3, 4}, float t = {0.25}, int8 o = {0}> { f = DequantizeLinear(x, s, z)  v = DequantizeLinear(w, t, o)  p = MatMul(f, v)  y = QuantizeLinear(p, s, z) }
        after   (uint8[N, 2] x) => (uint8[N, 2] y) <float s = {0.5}, uint8 z = {128}, int8[2, 2] w = {1, 2, 3, 4}, float t = {0.25}, int8 o = {0}> { y = QLinearMatMul(x, s, z, w, t, o, s, z) }

    References
        ONNX operator specifications: QLinearConv, QLinearMatMul, QuantizeLinear, DequantizeLinear.
        ONNX Runtime, "Quantize ONNX Models": ONNX quantization representation format.
    """  # noqa: E501 - the example is one line of ONNX text

    name: ClassVar[str] = "convert-quantized-layers"
    contract: ClassVar[Contract] = Contract(
        numerics=Rounding(2.0**-3, "steps of 8-bit numbers where sums lie between two"),
        is_idempotent=True,
    )

    to: str = option("qdq", help="the form that layers get", choices=("qdq", "qoperator"))

    def needs(self, model: ir.Model) -> Needs:  # noqa: ARG002
        """Ask for types of integers."""
        return Needs(shapes=True)

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:
        """Look at each layer that is quantized."""
        assert facts.shapes is not None
        inside = {node for function in model.functions.values() for node in function.all_nodes()}
        operators, read = Operators(model), dict[ir.Value, None]()
        for node in list(nodes(model)):
            if not self._is_meant(node):
                continue
            read |= dict.fromkeys(_parameters(node))
            try:
                check_place(node, inside)
                _check_form(node)
                if self.to == "qdq":
                    to_float_operator(node, edit, facts.shapes)
                else:
                    to_integer_operator(node, edit, facts.shapes, operators)
            except FormRefused as refused:
                edit.refuse(node, refused.slug, why=refused.why)
        remove_unread(model, edit, read, because="what the other form held")

    def _is_meant(self, node: ir.Node) -> bool:
        """Tell whether a node is a layer in the form that is to be left."""
        if self.to == "qdq":
            return node.op_type.startswith("QLinear") or node.op_type in {*_DYNAMIC, "QGemm"}
        makers = [value.producer() for value in node.inputs[:2] if value is not None]
        return (
            not node.domain
            and node.op_type in {"Conv", "ConvTranspose", "Gemm", "MatMul"}
            and len(makers) > 1
            and all(maker is not None and maker.op_type == _DEQUANTIZE for maker in makers)
        )


def _check_form(node: ir.Node) -> None:
    if node.op_type in _DYNAMIC:
        raise FormRefused("no-other-form", _DYNAMIC_WHY)


def _parameters(node: ir.Node) -> list[ir.Value]:
    """Return the constants of a layer, and of what rounds before and behind it."""
    makers = [value.producer() for value in node.inputs if value is not None]
    readers = [reader for output in node.outputs for reader, _ in output.uses()]
    around = [node, *(maker for maker in makers if maker is not None), *readers]
    held = [value for one in around for value in one.inputs if value is not None]
    return [value for value in held if value.is_initializer()]
