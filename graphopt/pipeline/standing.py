"""What is known of a model as it stands, kept from pass to pass and from group to group."""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir

from graphopt.analysis import KeptShapes
from graphopt.ir import forget_graphs, graphs, operators_of
from graphopt.rewrite import Journal, Pass

__all__ = ["Census", "Mark", "Standing"]


@dataclass(frozen=True)
class Census:
    """What one walk over a model counts.

    Attributes:
        nodes: Nodes of all graphs.
        weight_bytes: Bytes of all weights, shared ones once.
        operators: Operator types that occur.
    """

    nodes: int
    weight_bytes: int
    operators: frozenset[str]


_Key = tuple[type[Pass], Pass]
"""A pass behind its class: passes without options are all one hash, and are compared slowly."""


@dataclass(frozen=True)
class Mark:
    """A moment in the life of a `Standing`: which passes need not run there."""

    version: int = 0
    unchanged_since: dict[_Key, int] = field(default_factory=dict)


class Standing:
    """Facts about one model that hold until its next edit.

    A pass that has run and is idempotent has nothing to do until something else edits the model,
    be it in another group: `@exact` runs its bit-exact passes before and after those that round.

    Args:
        model: The model; `shapes` follow its edits.
        shapes: Its shapes, where somebody has asked for them already.
        mark: What is known of passes on this very model.

    Attributes:
        model: The model.
        shapes: Its shapes, brought up to date where somebody asks.
        version: How many edits were made, those after which nothing can follow excepted.
    """

    def __init__(
        self, model: ir.Model, shapes: KeptShapes | None = None, mark: Mark | None = None
    ) -> None:
        start = mark or Mark()
        self.model = model
        self.shapes = shapes or KeptShapes(model)
        self.version = start.version
        self._unchanged_since = dict(start.unchanged_since)
        self._census: Census | None = None

    def journal(self, limit: int | None) -> Journal:
        """Return a new journal for editors of the model, which tells `shapes` what changes."""
        return Journal(limit=limit, touched=self.shapes.touched)

    def mark(self) -> Mark:
        """Return what a later `rewind`, or another model in this state, has to know."""
        return Mark(self.version, dict(self._unchanged_since))

    def rewind(self, mark: Mark) -> None:
        """Take note that the model was put back to what it was at ``mark``; its nodes are new."""
        self.version = mark.version
        self._unchanged_since = dict(mark.unchanged_since)
        self._census = None
        # Nodes and values are new objects: nothing that is known by them holds.
        self.shapes.touched.everything = True
        forget_graphs(self.model)

    def note(self, pass_: Pass, edits: int, dropped: int = 0) -> None:
        """Take note that ``pass_`` has run.

        Args:
            pass_: The pass.
            edits: How many edits it made.
            dropped: How many of them only removed weights that nobody reads: after these no pass
                has anything to do that had nothing to do before.
        """
        if edits:
            before = self.version
            self.version += edits - dropped
            self._census = None
            self._keep_settled(pass_, before)
        if pass_.contract.is_idempotent:
            self._unchanged_since[type(pass_), pass_] = self.version

    def _keep_settled(self, pass_: Pass, before: int) -> None:
        """Count as settled, still, what the edits of ``pass_`` give nothing to do."""
        for key, version in self._unchanged_since.items() if pass_.spares else ():
            if version == before and key[1].name in pass_.spares:
                self._unchanged_since[key] = self.version

    def is_settled(self, pass_: Pass) -> bool:
        """Tell whether ``pass_`` is idempotent and nothing was edited since its last run."""
        return self._unchanged_since.get((type(pass_), pass_)) == self.version

    @property
    def census(self) -> Census:
        """Counts of the model as it is; it is walked once between edits."""
        if self._census is None:
            self._census = _counted(self.model)
        return self._census


def _counted(model: ir.Model) -> Census:
    kinds = operators_of(model)
    # Tied weights are one tensor, and count once.
    tensors = {
        id(tensor): tensor
        for graph in graphs(model)
        for value in graph.initializers.data.values()
        if (tensor := value.const_value) is not None
    }
    operators = frozenset([op_type for _, op_type in kinds])
    total = sum([tensor.nbytes for tensor in tensors.values()])
    return Census(sum(kinds.values()), total, operators)
