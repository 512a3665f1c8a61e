"""The state of a model before a group, at hand when the group fails and free when it does not."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from graphopt.ir import Checkpoint
from graphopt.pipeline.execution import Execution, Limits, Place
from graphopt.pipeline.facts_source import FactsSource
from graphopt.pipeline.groups import Group
from graphopt.pipeline.standing import Mark, Standing

__all__ = ["Lineage"]


class Lineage:
    """What became of a model group by group, from a state that can be built again.

    Taking a checkpoint before each group would cost more than many groups do, and nearly all of
    them succeed. So one state is kept, and the groups that were accepted since: repeated on a
    model in that state, they lead to where the model is.

    Args:
        model: The model before the first group.
        facts: What passes are told from elsewhere.
        origin: Makes a model in the state of ``model``, where that takes no checkpoint.
    """

    def __init__(
        self, model: ir.Model, facts: FactsSource, origin: Callable[[], ir.Model] | None
    ) -> None:
        self._facts = facts
        self._origin = origin
        self._base = Checkpoint.take(model) if origin is None else None
        self._mark = Mark()
        self._since: list[tuple[Group, frozenset[Place]]] = []

    def accept(self, execution: Execution) -> None:
        """Take note that the model is now what ``execution`` made of it."""
        if not execution.journal.edits:
            return
        self._since.append((execution.group, execution.limits.dropped))
        if execution.group.kind == "approximate":  # it may have taken minutes
            self._settle(Checkpoint.take(execution.model), execution.standing.mark())

    def checkpoint(self) -> Checkpoint:
        """Return the state that the last accepted group led to."""
        base = self._base
        if base is None:
            assert self._origin is not None
            base = Checkpoint.take(self._origin())
        if self._since:
            standing = Standing(base.new_model(), mark=self._mark)
            # A pass does the same to the same state (a law of the tests): what is repeated is what
            # was accepted.
            for group, dropped in self._since:
                Execution(standing, group, self._facts, Limits(dropped=dropped)).run()
            base, mark = Checkpoint.take(standing.model), standing.mark()
        else:
            mark = self._mark
        self._settle(base, mark)
        return base

    def _settle(self, base: Checkpoint, mark: Mark) -> None:
        self._base, self._mark, self._since = base, mark, []
