"""Fusing convolutions with the sum and the activation after them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import onnx_ir as ir

from graphopt.analysis import Operators
from graphopt.analysis.contrib import CONTRIB_DOMAIN, CPU_PROVIDER, import_contrib
from graphopt.analysis.growing_shapes import GrowingShapes
from graphopt.analysis.operands import operand
from graphopt.analysis.orphans import orphans
from graphopt.analysis.readers import only_reader
from graphopt.analysis.symbolic_table import SymbolicTable
from graphopt.ir import constant_array, graphs
from graphopt.rewrite import Contract, Editor, Facts, Needs, Pass, Rounding, TargetFacts

__all__ = ["FuseConvActivation"]

_PLAIN = frozenset({"Relu", "Sigmoid", "Tanh"})
_PARAMETERS = {"LeakyRelu": (("alpha", 0.01),), "HardSigmoid": (("alpha", 0.2), ("beta", 0.5))}
_LARGEST = float(np.finfo(np.float32).max)  # what Clip takes where a limit is left out
_LIMITS = (("min", -_LARGEST), ("max", _LARGEST))
_SUM_INPUT = 3


class _FusedConv(NamedTuple):
    """A convolution and what is done to its result.

    Attributes:
        conv: The convolution.
        addend: What is added to its result.
        activation: The operator that is applied after that.
        last: The node that computes the result of it all.
    """

    conv: ir.Node
    addend: ir.Value | None
    activation: ir.Node | None
    last: ir.Node


@dataclass(frozen=True, kw_only=True)
class FuseConvActivation(Pass):
    """Turn a convolution, a sum and an activation into one operator of ONNX Runtime.

    What it does
        `Relu(Conv(x))` becomes FusedConv, and so do Sigmoid, Tanh, LeakyRelu, HardSigmoid and Clip
        with constant limits. A value of the same shape that is added before that, or without any
        activation, goes in as well. Functions of the model are left alone.

    When it refuses
        `element-type`     the elements are not float, which is what kernels exist for.
        `sum-shape`        what is added is not provably of the shape of the result.
        `computed-limits`  the limits of a Clip are computed, not numbers, or the wrong way round.
        `provider`         the provider of the target fuses Relu alone, and this is another one.

    What it keeps
        The model's inputs and outputs, their names, order, types and shapes.

    Cost
        Time O(nodes), after shape inference; memory O(nodes). No weight is read.

    Example
        before  (float[N,1,4] x, float[N,1,2] s) => (float[N,1,2] z) <float[1,1,3] w = {1, 2, 3}> { a = Conv(x, w)  b = Add(a, s)  z = Relu(b) }
        after   <ir_version: 10, opset_import: ["" : 20, "com.microsoft" : 1]> g (float[N,1,4] x, float[N,1,2] s) => (float[N,1,2] z) <float[1,1,3] w = {1, 2, 3}> { z = com.microsoft.FusedConv<activation="Relu">(x, w, , s) }

    References
        ONNX Runtime contrib operator FusedConv; it does the same itself when it loads a model.
    """  # noqa: E501 - the example is one line of ONNX text

    name: ClassVar[str] = "fuse-conv-activation"
    contract: ClassVar[Contract] = Contract(
        numerics=Rounding(1e-5, "the sum is begun with what was added last: 2e-7 measured for one"),
        is_idempotent=True,
    )
    anchors: ClassVar[frozenset[str] | None] = frozenset({"Conv"})

    def needs(self, model: ir.Model) -> Needs:  # noqa: ARG002
        """Ask for shapes."""
        return Needs(shapes=True)

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:
        """Fuse every convolution with what follows it."""
        operators = Operators(model)
        shapes = GrowingShapes(SymbolicTable(model, facts.shapes))
        for graph in graphs(model):
            if operators.is_in_function(graph):
                continue
            for node in [node for node in graph if node.op_type == "Conv" and not node.domain]:
                # A sum of two convolutions goes into the first one; the second stays as it is.
                found = _find(node, shapes, edit)
                if found is None:
                    continue
                slug = _refusal(found, shapes, facts.target)
                if slug is not None:
                    edit.refuse(node, slug)
                else:
                    _fuse(found, operators, shapes, edit)


def _find(conv: ir.Node, shapes: GrowingShapes, edit: Editor) -> _FusedConv | None:
    last, addend = conv, None
    reader = only_reader(conv.outputs[0])
    if reader is not None and reader.op_type == "Add":
        others = [value for value in reader.inputs if value is not conv.outputs[0]]
        addend = others[0] if others else None
        if addend is None:
            return None
        if not _is_same_shape(addend, conv.outputs[0], shapes):
            edit.refuse(conv, "sum-shape")
            return None
        last, reader = reader, only_reader(reader.outputs[0])
    if reader is not None and (reader.op_type in _PLAIN | _PARAMETERS.keys() | {"Clip"}):
        return _FusedConv(conv, addend, reader, reader)
    return None if addend is None else _FusedConv(conv, addend, None, last)


def _is_same_shape(first: ir.Value, second: ir.Value, shapes: GrowingShapes) -> bool:
    one, other = shapes.of(first), shapes.of(second)
    if one is None or other is None or one.dims is None or None in one.dims:
        return False
    return one.dims == other.dims


def _refusal(found: _FusedConv, shapes: GrowingShapes, target: TargetFacts) -> str | None:
    known = shapes.of(found.conv.outputs[0])
    if known is None or known.dtype != ir.DataType.FLOAT:
        return "element-type"
    kind = found.activation.op_type if found.activation is not None else None
    if kind != "Relu" and target.provider != CPU_PROVIDER:
        return "provider"
    if found.activation is not None and _parameters(found.activation) is None:
        return "computed-limits"
    return None


def _parameters(activation: ir.Node) -> list[float] | None:
    """Return the parameters of an activation as FusedConv takes them, none for most."""
    if activation.op_type != "Clip":
        known = _PARAMETERS.get(activation.op_type, ())
        return [activation.attributes.get_float(name, default) for name, default in known]
    limits = [_limit(activation, index) for index in range(len(_LIMITS))]
    low, high = limits
    # Which limit wins where they cross, and what NaN does, differs between kernels.
    return [low, high] if low is not None and high is not None and low <= high else None


def _limit(clip: ir.Node, index: int) -> float | None:
    """Return a limit of Clip, an attribute before opset 11; ``None`` where it is not constant."""
    name, default = _LIMITS[index]
    value = operand(clip, 1 + index)
    if value is None:
        return clip.attributes.get_float(name, default)
    array = constant_array(value, 1)
    return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None


def _fuse(found: _FusedConv, operators: Operators, shapes: GrowingShapes, edit: Editor) -> None:
    inputs = list(found.conv.inputs)
    if found.addend is not None:
        inputs += [None] * (_SUM_INPUT - len(inputs)) + [found.addend]
    attributes: dict[str, Any] = dict(found.conv.attributes)
    if found.activation is not None:
        attributes["activation"] = found.activation.op_type
        parameters = _parameters(found.activation)
        attributes |= {"activation_params": parameters} if parameters else {}
    with edit.rewrite(found.last, because="convolution with what follows it") as change:
        import_contrib(edit.model, change)
        fused = change.node("FusedConv", inputs, attributes=attributes, domain=CONTRIB_DOMAIN)
        change.replace(found.last.outputs[0], fused)
        shapes.alias(fused, found.last.outputs[0])
        kept = [value for value in inputs if value is not None]
        for orphan in orphans([found.last], kept, operators):
            change.remove(orphan)
