"""Leaving out what a file declares about intermediate values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from graphopt.ir import graphs
from graphopt.rewrite import Contract, Editor, Exact, Facts, Pass

__all__ = ["ClearValueInfo"]


@dataclass(frozen=True, kw_only=True)
class ClearValueInfo(Pass):
    """Leave out the declared types and shapes of intermediate values.

    What it does
        Removes the `value_info` entries of values that nodes compute and graphs do not return.
        They are optional, a runtime infers them, and files carry wrong ones. ONNX Runtime chooses
        fusions by them: with declared shapes it fuses Add and LayerNormalization into
        SkipLayerNormalization, whose CPU kernel is slower than the two, and it plans memory ahead
        by them, which uses caches worse than placing it by the sizes of a run.

    When it refuses
        `cannot-be-inferred`  the operator is of a domain whose types a runtime may not know.
        `says-more`           the value has a doc string, metadata or a denotation, which would go
                              with its type.

    What it keeps
        Inputs, outputs and initializers with their types; everything inside functions, which
        declare nothing.

    Cost
        Time O(nodes); no weight is read.

    Example
        before  (float[N] x) => (float[N] z) <float[N] u> { u = Exp(x)  z = Relu(u) }
        after   (float[N] x) => (float[N] z) { u = Exp(x)  z = Relu(u) }

    References
        ONNX IR specification, `GraphProto.value_info`.
    """

    name: ClassVar[str] = "clear-value-info"
    contract: ClassVar[Contract] = Contract(numerics=Exact(), is_idempotent=True)

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:  # noqa: ARG002
        """Clear the declarations, one rewrite per graph."""
        for graph in graphs(model):
            declared = list(self._declared(graph, edit))
            with edit.rewrite(graph, because="a runtime infers these types") as change:
                for value in declared:
                    change.clear_value_info(value)

    def _declared(self, graph: ir.Graph, edit: Editor) -> Iterator[ir.Value]:
        for node in graph:
            values = [
                value
                for value in node.outputs
                if not value.is_graph_output()
                and (value.type is not None or value.shape is not None)
            ]
            if node.domain and values:
                edit.refuse(node, "cannot-be-inferred", why=f"domain `{node.domain}`")
                continue
            for value in values:
                if _says_more(value):
                    edit.refuse(value, "says-more")
                else:
                    yield value


def _says_more(value: ir.Value) -> bool:
    """Tell whether the declaration holds what nobody could infer."""
    shape = value.shape
    return bool(
        value.doc_string
        or value.metadata_props
        or (value.type is not None and value.type.denotation)
        or (shape is not None and any(shape.get_denotation(i) for i in range(len(shape))))
    )
