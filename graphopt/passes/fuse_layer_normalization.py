"""Fusing the arithmetic of layer normalization."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis import Operators
from graphopt.analysis.contrib import is_supported_type
from graphopt.analysis.growing_shapes import GrowingShapes
from graphopt.analysis.normalizations import Normalization, find_layer_normalization
from graphopt.analysis.orphans import orphans
from graphopt.analysis.shape_proofs import is_same_rank
from graphopt.ir import graphs
from graphopt.rewrite import Change, Contract, Editor, Facts, Needs, Pass, Rounding, TargetFacts

__all__ = ["FuseLayerNormalization"]

_STANDARD_SINCE = 17


@dataclass(frozen=True, kw_only=True)
class FuseLayerNormalization(Pass):
    """Turn the arithmetic of layer normalization into one operator.

    What it does
        `(x - mean) / sqrt(mean((x - mean)^2) + epsilon) * scale + bias` over the last axis becomes
        LayerNormalization: with Pow or Mul for the square, Div, Reciprocal or a power of -1/2 for
        the root, attributes or inputs for the axes, with or without scale and bias. Functions of
        the model are left alone.

    When it refuses
        `opset-too-low`   the opset has no LayerNormalization (before 17).
        `element-type`    the elements are not float, which is what kernels exist for.
        `higher-rank`     a constant has more dimensions than what is read, and gives them to the
                          result; or nobody knows.
        `read-elsewhere`  what is computed on the way is read by others too.

    What it keeps
        The model's inputs and outputs, their names, order, types and shapes.

    Cost
        Time O(nodes), after shape inference; memory O(nodes). No weight is read.

    Example
        before  (float[N,4] x, float[4] s, float[4] b) => (float[N,4] z) <int64[1] a = {-1}, float e = {0.00001}> { m = ReduceMean(x, a)  d = Sub(x, m)  q = Mul(d, d)  v = ReduceMean(q, a)  w = Add(v, e)  r = Sqrt(w)  n = Div(d, r)  t = Mul(n, s)  z = Add(t, b) }
        after   (float[N,4] x, float[4] s, float[4] b) => (float[N,4] z) <int64[1] a = {-1}, float e = {0.00001}> { z = LayerNormalization<axis=-1, epsilon=0.00001>(x, s, b) }

    References
        Ba, Kiros and Hinton, Layer normalization, arXiv 1607.06450, section 3; ONNX
        LayerNormalization (opset 17).
    """  # noqa: E501 - the example is one line of ONNX text

    name: ClassVar[str] = "fuse-layer-normalization"
    contract: ClassVar[Contract] = Contract(
        numerics=Rounding(1e-4, "the kernel sums squares in another order; 2e-7 measured for one"),
        is_idempotent=True,
    )
    anchors: ClassVar[frozenset[str] | None] = frozenset({"Pow", "Sqrt"})

    def needs(self, model: ir.Model) -> Needs:  # noqa: ARG002
        """Ask for shapes: the last dimension must be known."""
        return Needs(shapes=True)

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:
        """Fuse around every square root."""
        operators, shapes = Operators(model), GrowingShapes(facts.shapes)
        for graph in graphs(model):
            for node in () if operators.is_in_function(graph) else graph:
                found = find_layer_normalization(node, shapes)
                if found is None:
                    continue
                slug = _refusal(found, operators, shapes, facts.target)
                if slug is None:
                    _fuse(found, operators, shapes, edit)
                else:
                    edit.refuse(node, slug)


def _refusal(
    found: Normalization, operators: Operators, shapes: GrowingShapes, target: TargetFacts
) -> str | None:
    if (operators.version(found.root) or 1) < _STANDARD_SINCE:
        return "opset-too-low"
    if not is_supported_type(found.source, shapes, target):
        return "element-type"
    if not is_same_rank(found.source, found.result, shapes):
        return "higher-rank"
    return None if found.root in _replaced(found, operators) else "read-elsewhere"


def _replaced(found: Normalization, operators: Operators) -> list[ir.Node]:
    last = found.result.producer()
    assert last is not None
    kept = [value for value in (found.source, found.scale, found.bias) if value is not None]
    return orphans([last], kept, operators)


def _fuse(found: Normalization, operators: Operators, shapes: GrowingShapes, edit: Editor) -> None:
    last = found.result.producer()
    assert last is not None
    with edit.rewrite(last, because="layer normalization in arithmetic") as change:
        inputs = [found.source, found.scale or _ones(found, shapes, change)]
        inputs += [found.bias] if found.bias is not None else []
        attributes = {"axis": -1, "epsilon": found.epsilon}
        fused = change.node("LayerNormalization", inputs, attributes=attributes)
        change.replace(found.result, fused)
        shapes.alias(fused, found.result)
        for node in _replaced(found, operators):
            change.remove(node)


def _ones(found: Normalization, shapes: GrowingShapes, change: Change) -> ir.Value:
    known = shapes.of(found.source)
    dtype = known.dtype if known is not None else None
    assert dtype is not None  # `_refusal` sees to it
    return change.initializer(np.ones(found.width, dtype.numpy()), name="ones")
