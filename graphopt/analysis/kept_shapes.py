"""A shape table that follows the edits of a model, inferring again only what they may change."""

from __future__ import annotations

import sys
from collections.abc import Callable, Container, Iterable, Iterator

import onnx_ir as ir

from graphopt.analysis.kept_table import KeptTable
from graphopt.analysis.operators import Operators
from graphopt.analysis.part_writer import (
    Part,
    inner_nodes,
    is_held_alike,
    is_shown_alike,
    reads,
    shape_of_tensor,
)
from graphopt.analysis.shapes import Inference, declared_shapes, known_from_the_model
from graphopt.analysis.symbolic_shapes import SymbolicShapes
from graphopt.analysis.typed_shapes import TypedShapes, has_uncovered, is_covered
from graphopt.ir import constant_tensor, may_hold_graphs, subgraphs_of
from graphopt.rewrite import Touched, ValueShape

__all__ = ["KeptShapes"]


_LOOK_AHEAD = 32
"""Inferring a node too many costs less than calling the inference for it alone."""

_FOLLOWED_SHARE = 8
"""Where more than one node in so many is to be inferred again, all of them at once cost less."""


class KeptShapes(KeptTable):
    """What `infer_shapes` would find in a model as it is now, but for the names of unknown sizes.

    `touched` must be told of each node that changes: it is what an editor's journal fills. Asked
    to renew itself, the table infers those nodes, then the readers of what turned out different,
    until nothing does. What computes small tensors of sizes is inferred together with what reads
    them: there the elements count, which no table tells.

    Time O(changed nodes + their readers); with functions, O(nodes + edges) after each edit.

    Args:
        model: The model; only this one.
    """

    def __init__(self, model: ir.Model) -> None:
        super().__init__()
        self._model = model
        self._typed: TypedShapes | None = None
        self._inference = Inference(model)
        self._operators = Operators(model)
        self._owners: dict[ir.Graph, ir.Node] = {}

    def renewed(self, model: ir.Model) -> KeptShapes:
        """Return this very table, brought up to date."""
        assert model is self._model, "a kept table belongs to one model"
        touched = self.touched.take()
        if self._typed is not None and (not touched or self._typed.follow_edits(touched)):
            return self
        if touched:
            self.outdated.update(self.derived)
            self.derived.clear()
        if touched and (self._typed or has_uncovered(touched.nodes) or not self._can_follow()):
            touched.everything = True  # our own rules may cover the model now, or no more
        if touched.everything:
            self._start_anew()
        elif touched:
            self._take_note(touched)
            self._follow(touched)
        return self

    def of(self, value: ir.Value | None) -> ValueShape | None:
        """Return what is known of ``value``, or ``None`` where nothing is."""
        return super().of(value) if self._typed is None else self._typed.shape(value)

    def __len__(self) -> int:
        return super().__len__() if self._typed is None else self._typed.count()

    def symbolic(self) -> SymbolicShapes | None:
        """Return the analysis that the table is made of, brought up to date, if it is one."""
        if self._typed is not None:
            self.renewed(self._model)
        return self._typed

    @property
    def changes(self) -> int | None:
        """Of how many values edits changed what is known; ``None`` where nobody counts."""
        return None if self._typed is None else self._typed.changes

    def is_complete(self) -> bool:
        """Tell whether edits since the table was renewed left no value that it says nothing of.

        Where they made of the model another one that computes the same, all that the table says
        then holds for it too.
        """
        edited = [*self.touched.nodes, *_readers_of(self.touched.values)]
        edited += [user for user, _, _ in self.touched.replaced]
        present = [node for node in edited if node.graph is not None]
        if self._typed is not None:
            return not self.touched.everything and self._typed.knows_all(
                present, self.touched.values
            )
        for node in present:
            self._renew_constants(node)
        return not self.touched.everything and all(
            value in self._shapes
            for node in present
            for value in (*node.inputs, *node.outputs)
            if value is not None and value.name
        )

    def _take_note(self, touched: Touched) -> None:
        self.news.nodes.update(touched.nodes)
        self.news.values.update(touched.values)
        for user, old, new in touched.replaced:
            self._inference.forget_inputs(user)
            before, after = constant_tensor(old), constant_tensor(new)
            if before is None or after is None or not is_held_alike(before, after):
                self.news.nodes.add(user)
        for node in touched.nodes:
            self._inference.forget(node)
        for node in _readers_of(touched.values):
            self._inference.forget_inputs(node)

    def _can_follow(self) -> bool:
        """Tell whether the inference of a part says what that of the whole model says of it."""
        return not (self._model.functions or self._inference.has_failed)

    def _start_anew(self) -> None:
        self.outdated.clear()
        self._shapes.clear()
        self._typed = TypedShapes(self._model) if is_covered(self._model) else None
        if self._typed is not None:
            return
        self._inference = Inference(self._model)
        self._infer_all()

    def _infer_all(self) -> None:
        self._inference.has_failed = False
        self._operators = Operators(self._model)
        self._owners = {}
        everything = list(self._model.graph)
        self._note_owners(filter(may_hold_graphs, everything))
        known = known_from_the_model(self._model)
        before = self._shapes
        self._shapes = (self._inference.run(Part(everything, known)) or {}) | known
        if self.outdated:
            self.news.values.update(
                value
                for value, shape in self._shapes.items()
                if (held := before.get(value)) is not shape and held != shape
            )

    def _note_owners(self, nodes: Iterable[ir.Node]) -> None:
        for node in inner_nodes(nodes):
            for graph in subgraphs_of(node):
                self._owners[graph] = node

    # -- following edits ---------------------------------------------------------------------

    def _follow(self, touched: Touched) -> None:
        units: dict[ir.Node, None] = {}
        readers = _readers_of(touched.values)
        for node in dict.fromkeys((*touched.nodes, *self._readers_of_others(touched), *readers)):
            if node.graph is None:
                for value in node.outputs:
                    self._shapes.pop(value, None)
                continue
            self._renew_constants(node)
            unit = self._unit_of(node)
            if unit is None:
                self._infer_all()
                return
            units[unit] = None
        self._note_owners(units)
        self._infer_from(units)

    def _readers_of_others(self, touched: Touched) -> list[ir.Node]:
        """Return the nodes that read, in the place of a value, one of which other things hold."""
        return [
            user
            for user, old, new in touched.replaced
            if user.graph is not None and not self._is_alike(old, new, touched.nodes)
        ]

    def _is_alike(self, old: ir.Value, new: ir.Value, pending: Container[object]) -> bool:
        """Tell whether readers of ``new`` infer what they did from ``old``, whose place it took."""
        before, after = constant_tensor(old) or old.const_value, constant_tensor(new)
        if after is not None:
            self._shapes[new] = shape_of_tensor(after)
            return before is not None and is_shown_alike(before, after)
        if new not in self._shapes and new.producer() in pending:
            # It is inferred itself, and its readers are where something else comes out.
            self._stand_in(old, new)
        is_same = before is None and self._shapes.get(old) == self._shapes.get(new)
        return is_same and not self._may_hold_sizes(new)

    def _stand_in(self, old: ir.Value, new: ir.Value) -> None:
        known, producer = self._shapes.get(old), old.producer()
        if known is not None:
            self._shapes[new] = known
            if producer is not None and producer.graph is None:
                self._inference.rename(old, new)

    def _renew_constants(self, node: ir.Node) -> None:
        for value in node.inputs:
            if value is None or not value.is_initializer():
                continue
            tensor = constant_tensor(value)
            if tensor is not None:
                self._shapes[value] = shape_of_tensor(tensor)
            elif value.graph is self._model.graph:  # one that may be overridden
                self._shapes.update(declared_shapes([value]))

    def _unit_of(self, node: ir.Node) -> ir.Node | None:
        """Return the node of the main graph that is or holds ``node``; ``None`` if not known."""
        unit: ir.Node | None = node
        while unit is not None and unit.graph is not self._model.graph:
            unit = self._owners.get(unit.graph) if isinstance(unit.graph, ir.Graph) else None
        return unit

    def _infer_from(self, units: Iterable[ir.Node]) -> None:
        """Infer ``units``, then what reads what came out different."""
        step = list(units)
        left = len(self._model.graph) // _FOLLOWED_SHARE
        while step:
            step = _closure(step, self._readers_of_sizes)
            left -= len(step)
            # What comes out different may lead through most of the model, step by step.
            found = self._infer(step) if left > 0 or len(step) <= _LOOK_AHEAD else None
            if found is None:
                self._infer_all()
                return
            different, aware = found
            readers = [
                reader
                for value in different
                for reader in self._readers(value)
                if reader not in aware
            ]
            # Some that read those are taken along, so that a long way takes few steps.
            ahead = max(_LOOK_AHEAD, 2 * len(different))
            step = _closure(readers, self._all_readers, enough=len(readers) + ahead)

    def _all_readers(self, node: ir.Node) -> Iterator[ir.Node]:
        return (reader for value in node.outputs for reader in self._readers(value))

    def _readers_of_sizes(self, node: ir.Node) -> Iterable[ir.Node]:
        return self._all_readers(node) if self._computes_sizes(node) else ()

    def _readers(self, value: ir.Value) -> Iterator[ir.Node]:
        """Yield the nodes of the main graph that read ``value``, or whose subgraphs do."""
        for user, _ in value.uses():
            unit = self._unit_of(user)
            if unit is not None:
                yield unit

    def _computes_sizes(self, node: ir.Node) -> bool:
        """Tell whether inference may follow the elements of what ``node`` computes."""
        schema = self._operators.schema(node)
        if schema is None or not schema.has_data_propagation_function:
            return False
        return any(self._may_hold_sizes(value) for value in node.outputs)

    def _may_hold_sizes(self, value: ir.Value) -> bool:
        known = self._shapes.get(value)
        return known is None or known.dims is None or len(known.dims) <= 1

    # -- inferring a part --------------------------------------------------------------------

    def _infer(self, units: list[ir.Node]) -> tuple[list[ir.Value], Container[ir.Node]] | None:
        """Renew the shapes of what ``units`` compute.

        Returns:
            The outputs that have others now, and the units that were inferred from these already.
        """
        different: dict[ir.Value, None] = {}
        nodes = _in_order(_closure(units, self._origins))
        left = dict.fromkeys(units)
        while left:
            found = self._inference.run(Part(nodes, self._known_before(nodes)))
            if found is None or self._inference.has_failed:
                return None
            for value in _inner_values(left):
                self._renew(value, found.get(value))
            outputs = (value for node in left for value in node.outputs)
            different.update((v, None) for v in outputs if self._renew(v, found.get(v)))
            # What has a size with a name that other values have it under, too, is as good as
            # known before: the rest is inferred again, which can tell now that they are equal.
            again = (value for value in self._inference.met_again if value in self._shapes)
            settled = {self._unit_of_value(value) for value in again}
            if settled.isdisjoint(nodes):
                break
            nodes = [node for node in nodes if node not in settled]
            left = {node: None for node in left if node not in settled}
        # The rest is not shown the elements of sizes that the settled ones compute.
        return list(different), left if len(left) == len(units) else ()

    def _known_before(self, nodes: Iterable[ir.Node]) -> dict[ir.Value, ValueShape]:
        computed = {value for node in nodes for value in node.outputs}
        given = {value for node in nodes for value in reads(node)} - computed
        return {value: self._shapes[value] for value in given if value in self._shapes}

    def _unit_of_value(self, value: ir.Value) -> ir.Node | None:
        producer = value.producer()
        return None if producer is None else self._unit_of(producer)

    def _renew(self, value: ir.Value, shape: ValueShape | None) -> bool:
        """Take note of a shape; tell whether it is another one than before."""
        if self._shapes.get(value) == shape:
            return False
        self.news.values.add(value)
        if shape is None:
            del self._shapes[value]
        else:
            self._shapes[value] = shape
        return True

    def _origins(self, node: ir.Node) -> Iterator[ir.Node]:
        """Yield what computes those inputs of ``node`` of which the table does not tell enough."""
        for value in reads(node):
            producer = value.producer()
            if producer is None or producer.op_type == "Constant":
                continue
            is_unknown = value not in self._shapes  # a sequence, for example
            if is_unknown or (self._may_hold_sizes(value) and self._computes_sizes(producer)):
                yield producer


def _readers_of(values: Iterable[ir.Value]) -> list[ir.Node]:
    return [user for value in values for user, _ in value.uses()]


def _closure(
    start: Iterable[ir.Node],
    more: Callable[[ir.Node], Iterable[ir.Node]],
    enough: int = sys.maxsize,
) -> list[ir.Node]:
    """Return ``start`` and what ``more`` leads to from there, until there are ``enough``."""
    found = dict.fromkeys(start)
    pending = list(found)
    for node in pending:
        if len(pending) >= enough:
            break
        for other in more(node):
            if other not in found:
                found[other] = None
                pending.append(other)
    return pending


def _in_order(nodes: Iterable[ir.Node]) -> list[ir.Node]:
    """Return ``nodes``, each after those whose outputs it reads."""
    waiting = dict.fromkeys(nodes)
    ordered: dict[ir.Node, None] = {}
    for root in waiting:
        pending = [(root, False)]
        while pending:
            node, is_ready = pending.pop()
            if is_ready:
                ordered[node] = None
            elif node not in ordered:
                pending.append((node, True))
                producers = (value.producer() for value in reads(node))
                pending.extend((p, False) for p in producers if p in waiting and p not in ordered)
    return list(ordered)


def _inner_values(nodes: Iterable[ir.Node]) -> Iterator[ir.Value]:
    """Yield what the subgraphs of ``nodes`` define, weights excepted."""
    for node in nodes:
        for graph in subgraphs_of(node):
            yield from (value for value in graph.inputs if not value.is_initializer())
            for inner in graph:
                yield from inner.outputs
            yield from _inner_values(graph)
