"""The only object that may change a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import onnx_ir as ir

from graphopt.ir import Node, Value, forget_graphs, forget_nodes, may_hold_graphs
from graphopt.rewrite.attachment import detach_subgraphs, remove_node
from graphopt.rewrite.change import Change, Place
from graphopt.rewrite.journal import Edit, Journal, Refusal
from graphopt.rewrite.names import NamePool

__all__ = ["Editor", "describe"]


class Editor:
    """Applies rewrites to a model as numbered, atomic transactions and records each.

    Args:
        model: The model that may be changed.
        pass_name: Who changes it.
        journal: Where edits and refusals are recorded; its `limit` is honoured.
    """

    def __init__(self, model: ir.Model, *, pass_name: str, journal: Journal) -> None:
        self.model = model
        self.pass_name = pass_name
        self.journal = journal

    @contextmanager
    def rewrite(self, place: Place, *, because: str) -> Iterator[Change]:
        """Collect one rewrite at ``place`` and apply it when the block ends.

        Nothing is applied when the block raises, when nothing was asked for, or when the
        transaction lies beyond the journal's limit: a pass must not rely on its effect.

        Args:
            place: The node, value or graph concerned; new nodes go before a node, after the
                producer of a value, at the end of a graph.
            because: Why, in a few words.
        """
        # Before the rewrite: the place may be gone, or be called otherwise, after it.
        where = describe(place)
        change = self._begun(place)
        yield change
        self._finish(change, where, because)

    def _begun(self, place: Place) -> Change:
        names = self.journal.names
        if names is None:
            names = self.journal.names = NamePool(self.model)
        return Change(self.model, names, place)

    def _finish(self, change: Change, where: str, because: str) -> None:
        """Apply a rewrite and record it, unless it is empty or beyond the journal's limit."""
        if not change:
            return
        # Numbered even where it is discarded: the same rewrite has the same number in every replay.
        number = self.journal.next_number()
        if not self.journal.admits(number):
            return
        change.apply()
        if change.touched.everything:
            self.journal.names = None  # it may have brought nodes with names of their own
        self.journal.touched.add(change.touched)
        self.journal.weights_dropped += change.only_drops_weights()
        self.journal.edits.append(
            Edit(
                number=number,
                pass_name=self.pass_name,
                where=where,
                because=because,
                added=tuple(change.added),
                removed=tuple(change.removed),
                changed=tuple(change.changed),
            )
        )

    # Half of all edits remove one thing that nobody reads: nothing is collected for those first.

    def remove(self, node: ir.Node, *, because: str) -> None:
        """Remove one node whose outputs nobody reads."""
        where, number = describe(node), self.journal.next_number()
        if not self.journal.admits(number):
            return
        detach_subgraphs(node)
        remove_node(node)
        if may_hold_graphs(node):
            forget_graphs(self.model)
        else:
            forget_nodes(self.model)
        self.journal.touched.nodes[node] = None
        self._record_removal(number, where, because, node.name or node.op_type)

    def remove_initializer(self, value: ir.Value, *, because: str) -> None:
        """Remove one initializer that nobody reads."""
        where, number = describe(value), self.journal.next_number()
        if not self.journal.admits(number):
            return
        assert value.graph is not None
        del value.graph.initializers[value.name or ""]
        self.journal.weights_dropped += 1
        self._record_removal(number, where, because, value.name or "")

    def _record_removal(self, number: int, where: str, because: str, name: str) -> None:
        self.journal.edits.append(
            Edit(
                number=number,
                pass_name=self.pass_name,
                where=where,
                because=because,
                removed=(name,),
            )
        )

    def refuse(self, place: Place, slug: str, *, why: str = "") -> None:
        """Record that the pass matched at ``place`` and did not act.

        Args:
            place: The node, value or graph concerned.
            slug: Stable name of the reason; documented in the docstring of the pass.
            why: Details, for a person.
        """
        self.journal.refuse(
            Refusal(pass_name=self.pass_name, where=describe(place), slug=slug, why=why)
        )

    def note(self, text: str) -> None:
        """Record what no single edit tells: reports print it, with the name of the pass.

        Args:
            text: One sentence, without a full stop.
        """
        self.journal.note(f"{self.pass_name}: {text}")

    @property
    def edits(self) -> tuple[Edit, ...]:
        """The edits made by this editor's pass, in the journal it shares."""
        return tuple(edit for edit in self.journal.edits if edit.pass_name == self.pass_name)


def describe(place: Place) -> str:
    """Return the name by which reports call a node, value or graph."""
    # Where a class is not one's own, the IR's protocols make `isinstance` slow.
    if type(place) is Node or isinstance(place, ir.Node):
        name = place.name or ", ".join(output.name or "" for output in place.outputs[:1])
        return f"{place.op_type} `{name}`"
    if type(place) is Value or isinstance(place, ir.Value):
        return f"value `{place.name}`"
    return f"graph `{place.name}`"
