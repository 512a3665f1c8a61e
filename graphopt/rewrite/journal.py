"""The record of what passes did and declined to do."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import onnx_ir as ir

from graphopt.rewrite.decisions import ExitDecision, GroupDecision
from graphopt.rewrite.names import NamePool

__all__ = ["Edit", "Journal", "Refusal", "Touched"]


class Edit(NamedTuple):
    """One applied rewrite.

    Attributes:
        number: Position among all transactions of the run, from 1.
        pass_name: The pass that made it.
        where: The node or value concerned.
        because: Why.
        added: Names of nodes and initializers created.
        removed: Names of nodes and initializers removed.
        changed: Names of nodes and values modified.
    """

    number: int
    pass_name: str
    where: str
    because: str
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A place where a pass matched and did not act.

    Attributes:
        pass_name: The pass that declined.
        where: The node or value concerned.
        slug: Stable name of the reason, documented by the pass.
        why: Details, for a person.
    """

    pass_name: str
    where: str
    slug: str
    why: str = ""


@dataclass
class Touched:
    """What edits changed since somebody looked, for facts that are kept instead of found anew.

    Attributes:
        nodes: Nodes created, removed, or that mean something else now, in order.
        replaced: Nodes that read another value in the place of one: node, old and new value.
        values: Initializers that hold another tensor.
        everything: The change cannot be told node by node.
    """

    nodes: dict[ir.Node, None] = field(default_factory=dict)
    replaced: list[tuple[ir.Node, ir.Value, ir.Value]] = field(default_factory=list)
    values: dict[ir.Value, None] = field(default_factory=dict)
    everything: bool = False

    def __bool__(self) -> bool:
        return bool(self.nodes or self.replaced or self.values or self.everything)

    def add(self, other: Touched) -> None:
        """Take note of more."""
        self.nodes.update(other.nodes)
        self.replaced += other.replaced
        self.values.update(other.values)
        self.everything |= other.everything

    def take(self) -> Touched:
        """Return all that is noted, and forget it here."""
        found = Touched(self.nodes, self.replaced, self.values, self.everything)
        self.nodes, self.replaced, self.values, self.everything = {}, [], {}, False
        return found


@dataclass
class Journal:
    """Edits and refusals of one run, in order, shared by the editors of its passes.

    Attributes:
        limit: Transactions with a larger number are discarded; used to find a guilty edit.
        edits: Applied rewrites.
        refusals: Declined rewrites, each place and slug once.
        notes: What passes say of all that they did, each text once.
        decisions: Which units of which groups stayed or went, and why.
        exits: Where inputs may leave early, and why there.
        transactions: How many rewrites were asked for, discarded ones included.
        weights_dropped: Edits that only removed weights that nobody reads.
        touched: Nodes that the edits changed.
        names: Those in use, and those that were, in the model that the edits change; ``None``:
            to be looked for.
    """

    limit: int | None = None
    edits: list[Edit] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    decisions: list[GroupDecision] = field(default_factory=list)
    exits: list[ExitDecision] = field(default_factory=list)
    transactions: int = 0
    weights_dropped: int = 0
    touched: Touched = field(default_factory=Touched, repr=False)
    names: NamePool | None = field(default=None, repr=False)
    _refused: set[tuple[str, str, str]] = field(default_factory=set, repr=False)

    def next_number(self) -> int:
        """Number a new transaction."""
        self.transactions += 1
        return self.transactions

    def admits(self, number: int) -> bool:
        """Tell whether a transaction lies within the limit."""
        return self.limit is None or number <= self.limit

    def refuse(self, refusal: Refusal) -> None:
        """Record a refusal once, however often a fixpoint meets it."""
        # Without the details: numbers in them may change from round to round.
        key = (refusal.pass_name, refusal.where, refusal.slug)
        if key not in self._refused:
            self._refused.add(key)
            self.refusals.append(refusal)

    def note(self, text: str) -> None:
        """Record a note once, however often it is made."""
        if text not in self.notes:
            self.notes.append(text)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form; notes stand beside it in the ledger."""
        return {
            "edits": [edit._asdict() for edit in self.edits],
            "refusals": [asdict(refusal) for refusal in self.refusals],
            "decisions": [decision.to_dict() for decision in self.decisions],
            "exits": [found.to_dict() for found in self.exits],
        }
