"""Reordering of nodes for less memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis import Operators
from graphopt.analysis.memory_schedule import schedule_graph
from graphopt.analysis.value_bytes import bytes_of_values
from graphopt.errors import UnsupportedModelError
from graphopt.ir import subgraphs_of
from graphopt.rewrite import Contract, Editor, Exact, Facts, Needs, Pass, option
from graphopt.runtime import generate_feeds

__all__ = ["ReorderForMemory"]

_UNIT = 2**20


@dataclass(frozen=True, kw_only=True)
class ReorderForMemory(Pass):
    """Put nodes in an order in which less is held in memory at once.

    What it does
        A value is held from the node that computes it to its last reader. Orders are tried at the
        sizes of a benchmark (batch 1, 128 tokens), subgraphs first; the best one is written where
        its peak is lower. Runtimes that follow the file gain by it; ONNX Runtime does where its
        session option `execution_order` is priority-based, and not by default.

    When it refuses
        `not-lower`       no order was found whose peak is lower by `least`.
        `unknown-sizes`   the sizes of too many values are not known to tell.

    What it keeps
        Every node, value and number. Random nodes, nodes of unknown effect, and readers of what is
        overwritten stay in their order.

    Cost
        Time O(nodes log nodes) for each order that is tried, and one inference of shapes.

    Example
        before  (float[4] x) => (float[1] y)
                <int64[2] size = {50, 4}>
                { a = Expand(x, size)  b = Expand(x, size)  c = ReduceMax<keepdims = 0>(a)
                  d = ReduceMin<keepdims = 0>(b)  e = Add(c, d)  f = Expand(x, size)
                  g = ReduceMax<keepdims = 0>(f)  y = Add(e, g) }
        after   (float[4] x) => (float[1] y)
                <int64[2] size = {50, 4}>
                { a = Expand(x, size)  c = ReduceMax<keepdims = 0>(a)  b = Expand(x, size)
                  d = ReduceMin<keepdims = 0>(b)  e = Add(c, d)  f = Expand(x, size)
                  g = ReduceMax<keepdims = 0>(f)  y = Add(e, g) }

    References
        Sethi and Ullman 1970 (registers for expressions). Ahn et al. 2020 (Serenity), section 3:
        orders of irregularly wired networks.
    """

    name: ClassVar[str] = "reorder-for-memory"
    contract: ClassVar[Contract] = Contract(numerics=Exact(), is_idempotent=True)

    least: float = option(
        0.01,
        help="how much lower the peak has to be",
        unit="fraction",
        minimum=0.0,
        maximum=1.0,
    )

    def needs(self, model: ir.Model) -> Needs:  # noqa: ARG002 - whatever the model
        """Ask for nothing: sizes are inferred at the inputs of a benchmark."""
        return Needs()

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:  # noqa: ARG002
        """Reorder the main graph and the subgraphs within it."""
        try:
            feeds = generate_feeds(model)
        except UnsupportedModelError as error:
            edit.refuse(model.graph, "unknown-sizes", why=error.message)
            return
        inputs = {name: array.shape for name, array in feeds.items() if _is_array(array)}
        sizes, unknown = bytes_of_values(model, inputs)
        if unknown * 2 > len(sizes):
            edit.refuse(model.graph, "unknown-sizes", why=f"of {unknown} of {len(sizes)} values")
            return
        inner: dict[ir.Graph, int] = {}
        operators, has_changed = Operators(model), False
        for graph in _innermost_first(model.graph):
            before, after = schedule_graph(graph, sizes, operators, inner)
            text = f"{before.peak / _UNIT:.4g} MiB of values in use at once"
            if unknown:
                text += f", {unknown} of unknown size apart"
            is_lower = after.peak < before.peak and after.peak <= before.peak * (1.0 - self.least)
            inner[graph] = after.peak if is_lower else before.peak
            if is_lower:
                has_changed = True
                _reorder(edit, graph, after.order, f"{text}, now {after.peak / _UNIT:.4g} MiB")
            elif graph is model.graph and not has_changed:
                edit.refuse(graph, "not-lower", why=text)


def _is_array(array: object) -> bool:
    return isinstance(array, np.ndarray)


def _innermost_first(graph: ir.Graph) -> list[ir.Graph]:
    found = [
        inner for node in graph for body in subgraphs_of(node) for inner in _innermost_first(body)
    ]
    return [*found, graph]


def _reorder(edit: Editor, graph: ir.Graph, order: Sequence[ir.Node], because: str) -> None:
    def put() -> None:
        for node in order:
            graph.remove(node)
            graph.append(node)

    now = list(graph)
    moved = sum(node is not other for node, other in zip(now, order, strict=True))
    with edit.rewrite(graph, because=because) as change:
        change.then(put, changed=(f"places of {moved} nodes",))
    edit.note(because)
