"""Fusing normalizations with the residual sum before them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import onnx_ir as ir

from graphopt.analysis import Operators
from graphopt.analysis.contrib import CONTRIB_DOMAIN, import_contrib, is_supported_type
from graphopt.analysis.growing_shapes import GrowingShapes
from graphopt.analysis.operands import operand
from graphopt.analysis.orphans import orphans
from graphopt.analysis.residual_sums import (
    DistantBias,
    ResidualSum,
    find_distant_bias,
    find_residual_sum,
    spread_last,
    with_bias,
)
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

__all__ = ["FuseSkipNormalization"]

_SUM_OUTPUT = 3
_DEFAULT_EPSILON = 1e-5
_KINDS = {
    "LayerNormalization": "SkipLayerNormalization",
    "RMSNormalization": "SkipSimplifiedLayerNormalization",
    "SimplifiedLayerNormalization": "SkipSimplifiedLayerNormalization",
}


@dataclass(frozen=True, kw_only=True)
class FuseSkipNormalization(Pass):
    """Turn a residual sum and the normalization of it into one operator of ONNX Runtime.

    What it does
        `LayerNormalization(x + y)` becomes SkipLayerNormalization, and the same of the root mean
        square SkipSimplifiedLayerNormalization. One of the two may be the same for all rows of
        the batch. Where `x` or `y` is a sum with a constant vector, that vector goes in as bias,
        also where Reshape, Transpose and Gather rearrange the rows of the sum afterwards. Where
        others read the sum, they read it from the fused operator. Functions of the model are left
        alone.

        On a CPU the kernel takes 3 to 5 times as long as those of Add and LayerNormalization.
        Where nobody else reads the sum, the runtime fuses the same itself. Where others do, it
        does not, and models get 2 to 6 % slower: with `shared` off, such sums are left alone.

    When it refuses
        `skip-shape`      the two are not provably of one shape, of two or three dimensions, nor
                          one the same for all rows of the other.
        `shared-sum`      others read the sum, and `shared` is off.
        `element-type`    the elements are not float, which is what kernels exist for.
        `computed-scale`  scale or bias of the normalization are computed.
        `other-axis`      it is not the last axis that is normalized.
        `scale-shape`     scale or bias are no vectors with one element for each of the last axis.
        `statistics-read`  mean or deviation of the normalization are read.

    What it keeps
        The model's inputs and outputs, their names, order, types and shapes.

    Cost
        Time O(nodes), after shape inference; memory O(nodes). No weight is read.

    Example
        before  (float[N,2] x, float[N,2] y) => (float[N,2] z) <float[2] s = {1, 2}, float[2] b = {3, 4}> { a = Add(x, y)  z = LayerNormalization<axis=-1>(a, s, b) }
        after   <ir_version: 10, opset_import: ["" : 20, "com.microsoft" : 1]> g (float[N,2] x, float[N,2] y) => (float[N,2] z) <float[2] s = {1, 2}, float[2] b = {3, 4}> { z = com.microsoft.SkipLayerNormalization<epsilon=0.00001>(x, y, s, b) }

    References
        He et al., Deep residual learning, arXiv 1512.03385, section 3.1; ONNX Runtime contrib
        operators SkipLayerNormalization and SkipSimplifiedLayerNormalization.
    """  # noqa: E501 - the example is one line of ONNX text

    name: ClassVar[str] = "fuse-skip-normalization"
    contract: ClassVar[Contract] = Contract(
        numerics=Rounding(1e-4, "the kernel sums squares in another order; 2e-7 measured for one"),
        is_idempotent=True,
    )
    anchors: ClassVar[frozenset[str] | None] = frozenset(_KINDS)

    shared: bool = option(
        True,
        help="fuse also where others read the sum, which CPUs compute faster in two steps",
    )

    def needs(self, model: ir.Model) -> Needs:  # noqa: ARG002
        """Ask for shapes."""
        return Needs(shapes=True)

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:
        """Fuse every normalization of a sum."""
        operators = Operators(model)
        shapes = GrowingShapes(SymbolicTable(model, facts.shapes))
        for graph in graphs(model):
            if operators.is_in_function(graph):
                continue
            for node in [node for node in graph if node.op_type in _KINDS and not node.domain]:
                total = find_residual_sum(operand(node, 0), graph)
                if total is None:
                    continue
                fitting = spread_last(total, shapes)
                slug = _refusal(node, fitting, shapes, facts.target)
                if not self.shared and _is_shared(total):
                    slug = slug or "shared-sum"
                if fitting is None or slug is not None:
                    edit.refuse(node, slug or "skip-shape")
                else:
                    _fuse(node, with_bias(fitting, shapes), operators, shapes, edit)


def _refusal(
    node: ir.Node, total: ResidualSum | None, shapes: GrowingShapes, target: TargetFacts
) -> str | None:
    known = shapes.of(total.left) if total is not None else None
    if total is None or known is None or known.dims is None:
        return "skip-shape"
    if not is_supported_type(total.left, shapes, target):
        return "element-type"
    if node.attributes.get_int("axis", -1) not in (-1, len(known.dims) - 1):
        return "other-axis"
    if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
        return "statistics-read"
    if any(value.producer() is not None for value in node.inputs[1:] if value is not None):
        return "computed-scale"
    # The standard operators broadcast them; the kernel demands vectors.
    given = [shapes.of(value) for value in node.inputs[1:] if value is not None]
    if any(one is None or one.dims != known.dims[-1:] for one in given):
        return "scale-shape"
    return None


def _fuse(
    node: ir.Node, total: ResidualSum, operators: Operators, shapes: GrowingShapes, edit: Editor
) -> None:
    kind, added = _KINDS[node.op_type], total.node.outputs[0]
    is_layer = node.op_type == "LayerNormalization"
    is_shared = _is_shared(total)
    shift = operand(node, 2) if is_layer else None
    distant = find_distant_bias(total, shapes) if total.bias is None else None
    bias = total.bias if distant is None else distant.bias
    inputs = [total.left, total.right, operand(node, 1)]
    inputs += [shift] if is_layer and (shift is not None or bias is not None) else []
    inputs += [bias] if bias is not None else []
    with edit.rewrite(total.node, because=f"{node.op_type} of a sum") as change:
        import_contrib(edit.model, change)
        attributes: dict[str, Any] = {"epsilon": _epsilon(node)}
        count = _SUM_OUTPUT + 1 if is_shared else 1
        fused = change.multi_output_node(
            kind,
            inputs,
            count,
            attributes=attributes,
            domain=CONTRIB_DOMAIN,
            unused=range(1, _SUM_OUTPUT),
        )
        change.replace(node.outputs[0], fused[0])
        shapes.alias(fused[0], node.outputs[0])
        if is_shared:
            change.replace(added, fused[_SUM_OUTPUT])
            shapes.alias(fused[_SUM_OUTPUT], added)
        kept = [value for value in inputs if value is not None]
        for orphan in orphans([node, total.node], kept, operators):
            change.remove(orphan)
        if distant is not None:
            _take_out(distant, change)


def _take_out(distant: DistantBias, change: Change) -> None:
    """Let what reads the sum with a bias read what the bias is added to."""
    index = distant.reader.inputs.index(distant.add.outputs[0])
    change.set_input(distant.reader, index, distant.source)
    change.remove(distant.add)


def _is_shared(total: ResidualSum) -> bool:
    added = total.node.outputs[0]
    return added.is_graph_output() or len(added.uses()) > 1


def _epsilon(node: ir.Node) -> float:
    return node.attributes.get_float("epsilon", _DEFAULT_EPSILON)
