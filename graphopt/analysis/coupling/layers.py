"""Layers whose outputs are no units: what pruning has to name, as it cannot act on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from graphopt.analysis.coupling.groups import Group
from graphopt.analysis.coupling.structure import Coupling, reason
from graphopt.analysis.coupling.units import Pin
from graphopt.analysis.coupling.walk import name_of
from graphopt.ir import constant_tensor, graphs, tensor_dims

__all__ = ["LooseLayer", "find_loose_layers"]

_MATRICES = ("FusedGemm", "FusedMatMul", "Gemm", "MatMul", "MatMulBnb4", "MatMulNBits")
_INTEGER = ("DynamicQuantizeMatMul", "MatMulInteger", "MatMulIntegerToFloat", "QGemm")
_RECURRENT = ("DynamicQuantizeLSTM", "GRU", "LSTM", "RNN")
_LINEAR = frozenset((*_MATRICES, *_INTEGER, "QLinearMatMul", *_RECURRENT))
_CONVOLUTIONS = frozenset(
    ("Conv", "ConvInteger", "ConvTranspose", "DeformConv", "FusedConv", "NhwcConv", "QLinearConv")
)
_MATRIX_RANK = 2
_COMPUTING = frozenset({"computes", "counts"})
"""Convolutions of single channels compute none anew: their attribute counts them."""


@dataclass(frozen=True)
class LooseLayer:
    """A layer with weights that no group computes its units with.

    Attributes:
        node: The layer.
        kind: What its outputs would be: ``neurons`` or ``channels``.
        pin: Why they are none.
    """

    node: ir.Node
    kind: str
    pin: Pin


def find_loose_layers(
    model: ir.Model, coupling: Coupling, groups: Sequence[Group]
) -> tuple[LooseLayer, ...]:
    """Return the layers of a model that belong to no group, in any of its graphs."""
    known = {unit for group in groups for unit in group.units}
    placed = {
        use.node
        for use in coupling.uses
        if use.role in _COMPUTING and not known.isdisjoint(coupling.units.of(use.factor).tolist())
    }
    found = []
    for graph in graphs(model):
        for node in graph:
            kind = _kind(node)
            if kind is not None and node not in placed:
                pin = _reason(node, coupling, is_main=graph is model.graph)
                found.append(LooseLayer(node, kind, pin))
    return tuple(found)


def _kind(node: ir.Node) -> str | None:
    """Return what a layer with weights computes, or ``None`` for other nodes."""
    kind = "neurons" if node.op_type in _LINEAR else "channels"
    if kind == "channels" and node.op_type not in _CONVOLUTIONS:
        return None
    ranks = [len(dims) for value in node.inputs if (dims := _weight_dims(value)) is not None]
    return kind if any(rank >= _MATRIX_RANK for rank in ranks) else None


def _weight_dims(value: ir.Value | None) -> Sequence[int] | None:
    """Return the dimensions of a weight, of one that callers may replace, too."""
    tensor = None if value is None else constant_tensor(value)
    if value is not None and tensor is None and value.is_initializer():
        tensor = value.const_value
    return None if tensor is None else tensor_dims(tensor)


def _is_overridable(value: ir.Value | None) -> bool:
    return value is not None and value.is_initializer() and value.is_graph_input()


def _reason(node: ir.Node, coupling: Coupling, *, is_main: bool) -> Pin:
    where = name_of(node)
    if not is_main:
        return Pin("in-subgraph", "it lies in the body of an operator or function", where)
    if any(_is_overridable(value) for value in node.inputs[1:]):
        return Pin("overridable", "callers may replace its weight", where)
    if coupling.layouts.get(node.outputs[0]) is None:
        return Pin("unclear-shape", "the shape of what it computes is not known", where)
    if not any(use.node is node for use in coupling.uses):
        return Pin(*reason(node), where)
    return Pin("nothing-to-remove", "it computes one, or what no layer sums over", where)
