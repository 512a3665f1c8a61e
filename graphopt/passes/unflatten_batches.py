"""Products of matrices in rows of rows, without the Reshapes that put them in one row."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis import is_annotated
from graphopt.analysis.constant_targets import is_same_target, reshape_target
from graphopt.analysis.flat_batches import FlatRegion, flat_region
from graphopt.analysis.operands import int_attribute, operand
from graphopt.analysis.symbolic_shapes import Dims, SymbolicShapes
from graphopt.ir import nodes_of_types
from graphopt.rewrite import Change, Contract, Editor, Exact, Facts, Needs, Pass

__all__ = ["UnflattenBatches"]


@dataclass(frozen=True, kw_only=True)
class UnflattenBatches(Pass):
    """Let products of matrices keep batch and heads apart, where that saves the Reshapes.

    What it does
        Finds products of matrices in one row, ``(batch * heads, m, n)``, with what works on their
        results element by element or row by row, and the Reshapes at the borders. Where it takes
        fewer nodes, all of it works on ``(batch, heads, m, n)`` instead.

    When it refuses
        `may-be-empty`        a new shape would hold -1 beside a dimension that may be 0.
        `several-dimensions`  a new shape would have more than one dimension that is neither a
                              number nor one that stays in its place.
        `annotated`           a quantization annotation describes one of the results.

    What it keeps
        The model's inputs and outputs, their names, order, types and shapes; every bit of them: the
        matrices are multiplied one by one in either form.

    Cost
        Time O(nodes + edges), after shape inference; memory O(nodes). Regions of more than 32 nodes
        are left alone. No weight above 64 elements is read.

    Example
        before  (float[B,8,3,4] x, float[B,8,4,5] y) => (float[B,8,3,5] z) <int64[3] s = {-1, 3, 4}, int64[3] t = {-1, 4, 5}, int64[4] u = {-1, 8, 3, 5}> { a = Reshape(x, s)  b = Reshape(y, t)  c = MatMul(a, b)  z = Reshape(c, u) }
        after   (float[B,8,3,4] x, float[B,8,4,5] y) => (float[B,8,3,5] z) <int64[3] s = {-1, 3, 4}, int64[3] t = {-1, 4, 5}, int64[4] u = {-1, 8, 3, 5}> { z = MatMul(x, y) }

    References
        ONNX operator specifications; `torch.bmm` as PyTorch's exporters write it.
    """  # noqa: E501 - the example is one line of ONNX text

    name: ClassVar[str] = "unflatten-batches"
    contract: ClassVar[Contract] = Contract(numerics=Exact(), is_idempotent=True)
    anchors: ClassVar[frozenset[str] | None] = frozenset({"MatMul"})

    def needs(self, model: ir.Model) -> Needs:  # noqa: ARG002
        """Ask for shapes."""
        return Needs(shapes=True)

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:
        """Look at the surroundings of each product."""
        if not any(_may_be_seed(node, facts) for node in nodes_of_types(model, {"MatMul"})):
            return
        known = SymbolicShapes.kept(model, facts.shapes)
        is_news = True
        while is_news:  # every edit saves nodes, and may bring another region within reach
            before = len(edit.journal.edits)
            seen: set[ir.Node] = set()
            products = nodes_of_types(model, {"MatMul"})
            for seed in [node for node in products if _may_be_seed(node, facts)]:
                region = None if seed in seen or seed.graph is None else flat_region(seed, known)
                if region is not None:
                    seen.update(region.nodes)
                    _Unflattening(region, known, edit).run(seed)
            is_news = len(edit.journal.edits) > before


_SOFTMAX_COUNTS_BACK_SINCE = 11

_FLAT_RANK = 3


def _may_be_seed(node: ir.Node, facts: Facts) -> bool:
    """Tell whether ``node`` multiplies matrices of which a Reshape makes or takes a row."""
    known = facts.shapes.of(node.outputs[0])
    if known is not None and known.dims is not None and len(known.dims) != _FLAT_RANK:
        return False
    producers = [value.producer() for value in node.inputs if value is not None]
    readers = [user for user, _ in node.outputs[0].uses()]
    return any(other is not None and other.op_type == "Reshape" for other in (*producers, *readers))


@dataclass
class _Unflattening:
    """What to do to one region.

    Attributes:
        taken: For each input the value to read instead, and the target of a Reshape of it.
        gone: Readers of results whose Reshape does nothing any more.
        kept: Readers of results that reshape what they read as before.
        flat: Results that others read in one row, and the target of a Reshape to it.
    """

    region: FlatRegion
    known: SymbolicShapes
    edit: Editor
    taken: dict[ir.Value, tuple[ir.Value, tuple[int, ...] | None]] = field(default_factory=dict)
    gone: list[ir.Node] = field(default_factory=list)
    kept: list[ir.Node] = field(default_factory=list)
    flat: dict[ir.Value, tuple[int, ...]] = field(default_factory=dict)
    dead: list[ir.Node] = field(default_factory=list)

    def run(self, seed: ir.Node) -> None:
        """Unflatten the region, where that saves nodes."""
        slug = self._plan_inputs() or self._plan_results()
        new = sum(target is not None for _, target in self.taken.values()) + len(self.flat)
        if new >= len(self.dead) + len(self.gone):
            return
        if slug is None and any(is_annotated(node.outputs[0]) for node in self.region.nodes):
            slug = "annotated"
        if slug is not None:
            self.edit.refuse(seed, slug)
            return
        with self.edit.rewrite(seed, because="no Reshape is needed") as change:
            self._carry_out(change)

    # -- planning ------------------------------------------------------------------------------

    def _plan_inputs(self) -> str | None:
        for value in self.region.inputs:
            flat, node = self.known.dims(value), value.producer()
            source = value
            if node is not None and node.op_type == "Reshape" and not node.domain:
                source = node.inputs[0] or value
                if source.producer() in self.region.nodes:  # that one goes
                    source = value
                elif not value.is_graph_output() and not any(self.region.readers(value)):
                    self.dead.append(node)
            dims = self.known.dims(source)
            if flat is None or dims is None:
                return "several-dimensions"
            wanted = self.region.unflat(flat)
            target = None if dims == wanted else reshape_target(dims, wanted, None)
            if isinstance(target, str):
                return target
            self.taken[value] = (source, target)
        return None

    def _plan_results(self) -> str | None:
        for node in self.region.nodes:
            value = node.outputs[0]
            dims = self.known.dims(value)
            if dims is None:
                return "several-dimensions"
            whole = self.region.unflat(dims)
            others = value.is_graph_output()
            for reader in self.region.readers(value):
                if reader.op_type == "Reshape" and not reader.domain and reader.inputs[0] is value:
                    others |= not self._plan_reader(reader, whole)
                else:
                    others = True
            if others:
                target = reshape_target(whole, dims, None)
                if isinstance(target, str):
                    return target
                self.flat[value] = target
        return None

    def _plan_reader(self, reader: ir.Node, dims: Dims) -> bool:
        """Tell whether a Reshape can read the result as it is now."""
        result = reader.outputs[0]
        if self.known.dims(result) == dims and not is_annotated(result) and self._may_go(reader):
            self.gone.append(reader)
            return True
        asked = self.known.elements(operand(reader, 1))
        allow_zero = int_attribute(reader, "allowzero", 0)
        if asked is None or asked.ndim != 1 or allow_zero is None:
            return False
        if allow_zero or is_same_target(dims, asked.tolist()):
            self.kept.append(reader)
            return True
        return False

    def _may_go(self, reader: ir.Node) -> bool:
        """Tell whether what ``reader`` reads can take its place, also as an output of the graph."""
        if not reader.outputs[0].is_graph_output():
            return True
        others = (node for node in self.gone if node.inputs[0] is reader.inputs[0])
        is_taken = any(node.outputs[0].is_graph_output() for node in others)
        return reader.graph is self._graph() and not is_taken

    # -- carrying out --------------------------------------------------------------------------

    def _carry_out(self, change: Change) -> None:
        new: dict[ir.Value, ir.Value] = {}
        order = [node for node in self._graph() if node in self.region.nodes]
        for value, (source, target) in self.taken.items():
            new[value] = source
            if target is not None:
                first = next(node for node in order if value in node.inputs)
                new[value] = self._reshaped(change, source, target, first)
        for node in order:
            inputs = [new.get(value, value) if value is not None else None for value in node.inputs]
            result = node.outputs[0]
            made = change.node(
                node.op_type, inputs, attributes=self._attributes(node), name=node.name, before=node
            )
            made.type = result.type
            new[result] = made
            dims = self.known.dims(result)
            assert dims is not None
            self.known.learn(made, self.region.unflat(dims))
        self._rewire(change, new)
        for node in reversed(order):
            change.remove(node)
        for node in self.dead:
            change.remove(node)

    def _rewire(self, change: Change, new: dict[ir.Value, ir.Value]) -> None:
        for reader in self.gone:
            value = reader.inputs[0]
            assert value is not None
            change.replace(reader.outputs[0], new[value])
            change.remove(reader)
        for reader in self.kept:
            value = reader.inputs[0]
            assert value is not None
            change.set_input(reader, 0, new[value])
        for value, target in self.flat.items():
            node = value.producer()
            assert node is not None
            row = self._reshaped(change, new[value], target, node)
            self.known.alias(row, value)
            change.replace(value, row)

    def _graph(self) -> ir.Graph:
        graph = next(iter(self.region.nodes)).graph
        assert isinstance(graph, ir.Graph)
        return graph

    def _attributes(self, node: ir.Node) -> dict[str, ir.Attr | int]:
        attributes: dict[str, ir.Attr | int] = dict(node.attributes)
        if node.op_type == "Softmax":
            counts_back = self.known.version >= _SOFTMAX_COUNTS_BACK_SINCE
            attributes["axis"] = -1 if counts_back else _FLAT_RANK
        return attributes

    def _reshaped(
        self, change: Change, value: ir.Value, target: tuple[int, ...], before: ir.Node
    ) -> ir.Value:
        name = f"{before.outputs[0].name}_shape"
        shape = change.initializer(np.array(target, np.int64), name=name)
        return change.node("Reshape", [value, shape], before=before)
