"""Fusing the arithmetic of root-mean-square normalization."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis import Operators
from graphopt.analysis.contrib import CONTRIB_DOMAIN, import_contrib, is_supported_type
from graphopt.analysis.growing_shapes import GrowingShapes
from graphopt.analysis.normalizations import Normalization, find_rms_normalization
from graphopt.analysis.orphans import orphans
from graphopt.analysis.residual_sums import (
    ResidualSum,
    find_residual_sum,
    fits_kernel,
    with_bias,
)
from graphopt.analysis.shape_proofs import is_same_rank
from graphopt.analysis.symbolic_table import SymbolicTable
from graphopt.ir import graphs
from graphopt.rewrite import (
    Change,
    Contract,
    Editor,
    Facts,
    Needs,
    Pass,
    Rounding,
    TargetFacts,
    option,
)

__all__ = ["FuseRmsNormalization"]

_STANDARD_SINCE = 23
_SUM_OUTPUT = 3


@dataclass(frozen=True, kw_only=True)
class FuseRmsNormalization(Pass):
    """Turn the arithmetic of root-mean-square normalization into one operator.

    What it does
        `x / sqrt(mean(x^2) + epsilon) * scale` over the last axis becomes RMSNormalization, with
        Pow or Mul for the square, Div, Reciprocal or a power of -1/2 for the root. Where the opset
        has no such operator and `domain` is `contrib`, it becomes one with the residual sum before
        it, SkipSimplifiedLayerNormalization. Functions of the model are left alone.

    When it refuses
        `opset-too-low`   the opset has no RMSNormalization (before 23), and `domain` is not
                          `contrib` or no residual sum goes before.
        `element-type`    the elements are not float, which is what kernels exist for.
        `higher-rank`     a constant has more dimensions than what is read, and gives them to the
                          result; or nobody knows.
        `read-elsewhere`  what is computed on the way is read by others too.

    What it keeps
        The model's inputs and outputs, their names, order, types and shapes.

    Cost
        Time O(nodes), after shape inference; memory O(nodes). No weight is read.

    Example
        before  <ir_version: 11, opset_import: ["" : 23]> g (float[N,2] x, float[2] s) => (float[N,2] z) <int64[1] a = {-1}, float e = {0.00001}> { q = Mul(x, x)  v = ReduceMean(q, a)  w = Add(v, e)  r = Sqrt(w)  n = Div(x, r)  z = Mul(n, s) }
        after   <ir_version: 11, opset_import: ["" : 23]> g (float[N,2] x, float[2] s) => (float[N,2] z) <int64[1] a = {-1}, float e = {0.00001}> { z = RMSNormalization<axis=-1, epsilon=0.00001>(x, s) }

    References
        Zhang and Sennrich, Root mean square layer normalization, arXiv 1910.07467, equation 4;
        ONNX RMSNormalization (opset 23); ONNX Runtime contrib operator
        SkipSimplifiedLayerNormalization.
    """  # noqa: E501 - the example is one line of ONNX text

    name: ClassVar[str] = "fuse-rms-normalization"
    contract: ClassVar[Contract] = Contract(
        numerics=Rounding(1e-4, "the kernel sums squares in another order; 2e-7 measured for one"),
        is_idempotent=True,
    )
    anchors: ClassVar[frozenset[str] | None] = frozenset({"Pow", "Sqrt"})

    domain: str = option(
        "standard",
        help="`contrib`: operators of ONNX Runtime where the opset has none",
        choices=("standard", "contrib"),
    )

    def needs(self, model: ir.Model) -> Needs:  # noqa: ARG002
        """Ask for shapes: the last dimension must be known."""
        return Needs(shapes=True)

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:
        """Fuse around every square root."""
        operators = Operators(model)
        # Only sums are looked at for equal sizes, which only the contrib operator takes in.
        is_contrib = self.domain == "contrib"
        shapes = GrowingShapes(SymbolicTable(model, facts.shapes) if is_contrib else facts.shapes)
        for graph in graphs(model):
            for node in () if operators.is_in_function(graph) else graph:
                found = find_rms_normalization(node, shapes)
                if found is None:
                    continue
                version = operators.version(node) or 1
                total = self._sum_before(found, version, shapes)
                slug = _refusal(found, operators, shapes, facts.target)
                if total is None and version < _STANDARD_SINCE:
                    edit.refuse(node, "opset-too-low")
                elif slug is not None:
                    edit.refuse(node, slug)
                elif total is None:
                    _fuse(found, operators, shapes, edit)
                else:
                    _fuse_with_sum(found, with_bias(total, shapes), operators, shapes, edit)

    def _sum_before(
        self, found: Normalization, version: int, shapes: GrowingShapes
    ) -> ResidualSum | None:
        """Return the residual sum to fuse as well, where one is needed and there."""
        if version >= _STANDARD_SINCE or self.domain == "standard":
            return None
        graph = found.root.graph
        is_stored = found.scale is None or found.scale.producer() is None
        total = find_residual_sum(found.source, graph if isinstance(graph, ir.Graph) else None)
        return total if total is not None and is_stored and fits_kernel(total, shapes) else None


def _refusal(
    found: Normalization, operators: Operators, shapes: GrowingShapes, target: TargetFacts
) -> str | None:
    if not is_supported_type(found.source, shapes, target):
        return "element-type"
    if not is_same_rank(found.source, found.result, shapes):
        return "higher-rank"
    last = found.result.producer()
    assert last is not None
    kept = [value for value in (found.source, found.scale) if value is not None]
    return None if found.root in orphans([last], kept, operators) else "read-elsewhere"


def _fuse(found: Normalization, operators: Operators, shapes: GrowingShapes, edit: Editor) -> None:
    last = found.result.producer()
    assert last is not None
    with edit.rewrite(last, because="root-mean-square normalization in arithmetic") as change:
        inputs = [found.source, found.scale or _ones(found, shapes, change)]
        attributes = {"axis": -1, "epsilon": found.epsilon}
        fused = change.node("RMSNormalization", inputs, attributes=attributes)
        _put_in_place(found, fused, shapes, change)
        _remove([last], inputs, operators, change)


def _fuse_with_sum(
    found: Normalization,
    total: ResidualSum,
    operators: Operators,
    shapes: GrowingShapes,
    edit: Editor,
) -> None:
    last, added = found.result.producer(), total.node.outputs[0]
    assert last is not None
    gone = set(orphans([last], [added], operators))
    is_shared = added.is_graph_output() or any(user not in gone for user, _ in added.uses())
    with edit.rewrite(total.node, because="normalization of a residual sum") as change:
        import_contrib(edit.model, change)
        scale = found.scale or _ones(found, shapes, change)
        inputs = [total.left, total.right, scale]
        inputs += [total.bias] if total.bias is not None else []
        fused = change.multi_output_node(
            "SkipSimplifiedLayerNormalization",
            inputs,
            _SUM_OUTPUT + 1 if is_shared else 1,
            attributes={"epsilon": found.epsilon},
            domain=CONTRIB_DOMAIN,
            unused=range(1, _SUM_OUTPUT),
        )
        _put_in_place(found, fused[0], shapes, change)
        if is_shared:
            change.replace(added, fused[_SUM_OUTPUT])
            shapes.alias(fused[_SUM_OUTPUT], added)
        _remove([last, total.node], inputs, operators, change)


def _put_in_place(
    found: Normalization, fused: ir.Value, shapes: GrowingShapes, change: Change
) -> None:
    change.replace(found.result, fused)
    shapes.alias(fused, found.result)


def _remove(
    replaced: Sequence[ir.Node], inputs: Sequence[ir.Value], operators: Operators, change: Change
) -> None:
    for node in orphans(replaced, inputs, operators):
        change.remove(node)


def _ones(found: Normalization, shapes: GrowingShapes, change: Change) -> ir.Value:
    known = shapes.of(found.source)
    dtype = known.dtype if known is not None else None
    assert dtype is not None  # `_refusal` sees to it
    return change.initializer(np.ones(found.width, dtype.numpy()), name="ones")
