"""In which forms a model that came quantized holds its integers."""

from __future__ import annotations

import onnx_ir as ir

from graphopt.analysis.operands import operand
from graphopt.ir import graphs, operators_of

__all__ = ["QUANTIZED_FORMS", "quantized_forms"]

QUANTIZED_FORMS = {
    "qdq": "layers between QuantizeLinear and DequantizeLinear",
    "qoperator": "layers as operators of integers",
    "dynamic": "layers with activations scaled on every run",
    "weights-only": "layers of floats with weights of integers",
}
"""What is counted."""

_LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Gather"})
_QOPERATOR = frozenset({"QLinearConv", "QLinearMatMul", "QGemm", "QAttention"})
_DYNAMIC = frozenset(
    {"ConvInteger", "MatMulInteger", "DynamicQuantizeMatMul", "MatMulIntegerToFloat"}
    | {"DynamicQuantizeLSTM"}
)
_WEIGHTS_ONLY = frozenset({"MatMulNBits", "MatMulBnb4", "MatMulFpQ4", "GatherBlockQuantized"})
_TRACES = _QOPERATOR | _DYNAMIC | _WEIGHTS_ONLY | {"DequantizeLinear"}


def quantized_forms(model: ir.Model) -> dict[str, int]:
    """Count the layers of ``model`` whose weights are integers, by form; only forms that occur.

    A layer of floats that reads its weight from a DequantizeLinear of a constant counts as ``qdq``
    where its activation comes from one as well, and else as ``weights-only``.
    """
    if _TRACES.isdisjoint([op_type for _, op_type in operators_of(model)]):
        return {}  # most models: their nodes need no look
    found: dict[str, int] = {}
    for graph in graphs(model):
        for node in graph:
            form = _form(node)
            if form is not None:
                found[form] = found.get(form, 0) + 1
    return {form: found[form] for form in QUANTIZED_FORMS if form in found}


def _form(node: ir.Node) -> str | None:
    for form, names in (
        ("qoperator", _QOPERATOR),
        ("dynamic", _DYNAMIC),
        ("weights-only", _WEIGHTS_ONLY),
    ):
        if node.op_type in names:
            return form
    if node.op_type not in _LAYERS or node.domain:
        return None
    from_integers = [_is_dequantized(operand(node, place)) for place in (0, 1)]
    constant = [_is_constant(operand(node, place)) for place in (0, 1)]
    if node.op_type == "Gather":
        return "weights-only" if from_integers[0] and constant[0] else None
    if all(from_integers):
        return "qdq"
    # One that is computed is an activation, in floats.
    held = any(
        integers and is_weight for integers, is_weight in zip(from_integers, constant, strict=True)
    )
    return "weights-only" if held else None


def _is_dequantized(value: ir.Value | None) -> bool:
    producer = value.producer() if value is not None else None
    return producer is not None and producer.op_type == "DequantizeLinear"


def _is_constant(value: ir.Value | None) -> bool:
    """Tell whether what is dequantized is an initializer, through a Transpose or Reshape of it."""
    producer = value.producer() if value is not None else None
    source = operand(producer, 0) if producer is not None else None
    return source is not None and source.is_initializer()
