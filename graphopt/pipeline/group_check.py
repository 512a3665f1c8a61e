"""Deciding whether what a group made is acceptable, and what the next group is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from graphopt.errors import PostconditionError
from graphopt.ir import Checkpoint
from graphopt.pipeline.execution import Execution
from graphopt.pipeline.groups import Group, allowed_difference
from graphopt.pipeline.ledger import Drift, Timing
from graphopt.pipeline.numerics import NumericJudge
from graphopt.rewrite import Exact
from graphopt.verification import Interface, structure_faults

__all__ = ["GroupCheck", "Verify"]

Verify = Literal["off", "structure", "numerics"]


@dataclass(frozen=True, kw_only=True)
class GroupCheck:
    """Judges states of a model after one group.

    Attributes:
        group: The group.
        interface: That of the model before the group.
        known_faults: Structural faults that the model came with: no pass answers for them.
        judge: Compares outputs; ``None`` where numerics are not verified.
        verify: How much is verified.
        timing: Where the time of checks is added.
    """

    group: Group
    interface: Interface
    known_faults: frozenset[str]
    judge: NumericJudge | None
    verify: Verify
    timing: Timing

    def verify_result(self, model: ir.Model, execution: Execution) -> None:
        """Check structure, interface and numbers.

        Raises:
            PostconditionError: The structure or the interface is broken.
            NumericMismatch: An output differs by more than the contracts allow.
            RuntimeFailure: The runtime cannot take the result.
            UnsupportedModelError: It could not take the original either.
        """
        if self.verify == "off":
            return
        with self.timing.part("verify structure").running():
            self._verify_structure(model, execution)
        if self.judge is None or not self.is_comparable(execution):
            return
        # Who edited nothing allows nothing: the bound is that of the passes that did something.
        editors = [step.pass_ for step in execution.steps if step.entry.edits]
        with self.timing.part("verify numerics").running():
            self.judge.check(model, allowed_difference(editors))

    def is_comparable(self, execution: Execution) -> bool:
        """Tell whether outputs say if the result is right."""
        # How far an approximate pass may go is for gates to say; and outputs by other names, or of
        # other shapes, are comparable with nothing.
        return self.group.kind != "approximate" and not _changes_interface(execution)

    def settle(self, model: ir.Model, execution: Execution) -> Drift | None:
        """Take note of an accepted result.

        Returns:
            Per output what an approximate pass changed, where real inputs were given.
        """
        if self.judge is None or not execution.journal.edits:
            return None
        if _changes_interface(execution):
            self.judge.rebase(Checkpoint.take(model))
            return None
        if self.group.kind == "approximate":
            return self._settle_approximate(self.judge, model)
        editors = [step.pass_ for step in execution.steps if step.entry.edits]
        if not isinstance(allowed_difference(editors), Exact):
            self.judge.rebase_on_latest()
        return None

    def _settle_approximate(self, judge: NumericJudge, model: ir.Model) -> Drift | None:
        if judge.feeds is None:
            # Its inputs are others, perhaps: they are made anew, for the model as it is.
            judge.rebase(Checkpoint.take(model))
            return None
        with self.timing.part("drift").running():
            drift = judge.drift(model)
        # The outputs are those that the check computed: no run is made for it.
        judge.rebase_on_latest()
        return drift

    def _verify_structure(self, model: ir.Model, execution: Execution) -> None:
        # By its text, which names node and value: a pass that renames what was broken before
        # answers for it.
        faults = [fault for fault in structure_faults(model) if fault not in self.known_faults]
        if not _changes_interface(execution):
            faults += self.interface.differences(Interface.of(model))
        if faults:
            more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
            raise PostconditionError(f"a structural rule is broken: {faults[0]}{more}")


def _changes_interface(execution: Execution) -> bool:
    return any(
        step.pass_.contract.changes_interface for step in execution.steps if step.entry.edits
    )
