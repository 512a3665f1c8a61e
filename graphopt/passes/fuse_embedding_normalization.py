"""Fusing the sum of embeddings and the normalization of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from graphopt.analysis import Operators
from graphopt.analysis.contrib import CONTRIB_DOMAIN, import_contrib, is_supported_type
from graphopt.analysis.embedding_sums import EmbeddingSum, find_embedding_sum
from graphopt.analysis.operands import operand
from graphopt.analysis.orphans import orphans
from graphopt.analysis.symbolic_table import SymbolicTable
from graphopt.ir import graphs
from graphopt.rewrite import Change, Contract, Editor, Facts, Needs, Pass, Rounding, TargetFacts

__all__ = ["FuseEmbeddingNormalization"]

_DEFAULT_EPSILON = 1e-5
_SUM_OUTPUT = 2


@dataclass(frozen=True, kw_only=True)
class FuseEmbeddingNormalization(Pass):
    """Turn the first layer of an encoder into one operator of ONNX Runtime.

    What it does
        Rows of a table of words, of a table of positions that count from 0, and perhaps of a
        table of token types, added up and normalized, become EmbedLayerNormalization. Where others
        read the sum, they read it from the fused operator. Indices are converted to 32 bits, as
        that operator takes them. Functions of the model are left alone.

    When it refuses
        `embedding-shapes`  positions do not provably count from 0, or indices differ in shape.
        `element-type`      the elements are not float, which is what kernels exist for.
        `computed-scale`    scale or bias of the normalization are computed, or there is none.
        `other-axis`        it is not the last axis that is normalized.
        `scale-shape`       scale or bias are no vectors with one element for each of the last axis.
        `statistics-read`   mean or deviation of the normalization are read.

    What it keeps
        The model's inputs and outputs, their names, order, types and shapes. Indices are taken not
        to be negative: counting from the end of a table, they would be an error afterwards.

    Cost
        Time O(nodes), after shape inference. Of the weights only constant positions are read.

    Example
        before  (int64[B,2] x) => (float[B,2,2] z) <float[3,2] w = {1, 2, 3, 4, 5, 6}, float[2,2] p = {0, 1, 2, 3}, int64[1,2] i = {0, 1}, float[2] s = {1, 2}, float[2] b = {3, 4}> { a = Gather(w, x)  c = Gather(p, i)  d = Add(a, c)  z = LayerNormalization<axis=-1>(d, s, b) }
        after   <ir_version: 10, opset_import: ["" : 20, "com.microsoft" : 1]> g (int64[B,2] x) => (float[B,2,2] z) <float[3,2] w = {1, 2, 3, 4, 5, 6}, float[2,2] p = {0, 1, 2, 3}, int64[1,2] i = {0, 1}, float[2] s = {1, 2}, float[2] b = {3, 4}> { t = Cast<to=6>(x)  z, u = com.microsoft.EmbedLayerNormalization<epsilon=0.00001>(t, , w, p, , s, b) }

    References
        Devlin et al., BERT, arXiv 1810.04805, figure 2; ONNX Runtime contrib operator
        EmbedLayerNormalization.
    """  # noqa: E501 - the example is one line of ONNX text

    name: ClassVar[str] = "fuse-embedding-normalization"
    contract: ClassVar[Contract] = Contract(
        numerics=Rounding(1e-4, "the kernel sums squares in another order; 2e-7 measured for one"),
        is_idempotent=True,
    )
    anchors: ClassVar[frozenset[str] | None] = frozenset({"LayerNormalization"})

    def needs(self, model: ir.Model) -> Needs:  # noqa: ARG002
        """Ask for shapes."""
        return Needs(shapes=True)

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:
        """Fuse every normalization of a sum of embeddings."""
        operators, shapes = Operators(model), SymbolicTable(model, facts.shapes)
        for graph in graphs(model):
            if operators.is_in_function(graph):
                continue
            for node in [n for n in graph if n.op_type == "LayerNormalization" and not n.domain]:
                value = operand(node, 0)
                add = value.producer() if value is not None else None
                if value is None or add is None or add.graph is not graph:
                    continue
                found = find_embedding_sum(value, shapes)
                if found is None:
                    continue
                if isinstance(found, str):
                    edit.refuse(node, "embedding-shapes", why=found)
                    continue
                slug = _refusal(node, shapes, facts.target)
                if slug is None:
                    _fuse(node, found, operators, edit)
                else:
                    edit.refuse(node, slug)


def _refusal(node: ir.Node, shapes: SymbolicTable, target: TargetFacts) -> str | None:
    value = operand(node, 0)
    assert value is not None
    if not is_supported_type(value, shapes, target):
        return "element-type"
    if node.attributes.get_int("axis", -1) not in (-1, 2):
        return "other-axis"
    if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
        return "statistics-read"
    affine = (operand(node, 1), operand(node, 2))
    is_plain = all(given is not None and given.producer() is None for given in affine)
    if not is_plain:
        return "computed-scale"
    # The standard operator broadcasts them; the kernel demands vectors.
    whole, *vectors = (shapes.of(given) for given in (value, *affine))
    width = whole.dims[-1:] if whole is not None and whole.dims else None
    is_vector = all(one is not None and one.dims == width for one in vectors)
    return None if width is not None and is_vector else "scale-shape"


def _fuse(node: ir.Node, found: EmbeddingSum, operators: Operators, edit: Editor) -> None:
    types, total = found.types, operand(node, 0)
    add = total.producer() if total is not None else None
    assert total is not None
    assert add is not None  # it was found to be a sum
    is_shared = total.is_graph_output() or len(total.uses()) > 1
    # Others may read the sum before it is normalized, so that the place is that of the sum.
    with edit.rewrite(add, because="normalized sum of embeddings") as change:
        import_contrib(edit.model, change)
        inputs = [
            _as_int32(found.words.indices, change),
            None if types is None else _as_int32(types.indices, change),
            found.words.table,
            found.positions.table,
            None if types is None else types.table,
            operand(node, 1),
            operand(node, 2),
        ]
        attributes = {"epsilon": node.attributes.get_float("epsilon", _DEFAULT_EPSILON)}
        count = _SUM_OUTPUT + 1 if is_shared else _SUM_OUTPUT
        fused = change.multi_output_node(
            "EmbedLayerNormalization", inputs, count, attributes=attributes, domain=CONTRIB_DOMAIN
        )
        change.replace(node.outputs[0], fused[0])
        if is_shared:
            change.replace(total, fused[_SUM_OUTPUT])
        kept = [value for value in inputs if value is not None]
        kept += [found.words.indices, *([] if types is None else [types.indices])]
        for orphan in orphans([node, add], kept, operators):
            change.remove(orphan)


def _as_int32(indices: ir.Value, change: Change) -> ir.Value:
    if indices.dtype == ir.DataType.INT32:
        return indices
    return change.node("Cast", [indices], attributes={"to": ir.DataType.INT32.value})
