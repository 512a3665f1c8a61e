"""One group from its start to an accepted result."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import onnx_ir as ir

from graphopt.errors import (
    GraphoptError,
    MissingExtraError,
    OutputError,
    PostconditionError,
    RuntimeFailure,
    VerificationError,
)
from graphopt.pipeline.bisection import find_guilty
from graphopt.pipeline.execution import Execution, Limits, Place, StepFailure
from graphopt.pipeline.facts_source import FactsSource
from graphopt.pipeline.failure import Failure
from graphopt.pipeline.group_check import GroupCheck
from graphopt.pipeline.groups import Group
from graphopt.pipeline.ledger import Ledger, PassEntry
from graphopt.pipeline.lineage import Lineage
from graphopt.pipeline.numerics import NumericJudge
from graphopt.pipeline.reproducer import write_reproducer
from graphopt.pipeline.standing import Standing
from graphopt.pipeline.watch import PassEvent
from graphopt.verification import Interface

if TYPE_CHECKING:
    from graphopt.pipeline.manager import PassManager

__all__ = ["GroupRun", "Run"]

_UNACCEPTABLE = (VerificationError, PostconditionError, RuntimeFailure)


@dataclass(frozen=True, kw_only=True)
class Run:
    """What all groups of one run of a pipeline share.

    Attributes:
        manager: The settings that the caller chose.
        standing: What is known of the model as it is.
        lineage: Where the states before groups come from.
        facts: Where other facts come from.
        judge: Compares outputs; ``None`` where numerics are not verified.
        known_faults: Structural faults that the model came with.
        ledger: What is written down.
    """

    manager: PassManager
    standing: Standing
    lineage: Lineage
    facts: FactsSource
    judge: NumericJudge | None
    known_faults: frozenset[str]
    ledger: Ledger


@dataclass
class GroupRun:
    """Runs one group on a model, in place; see `PassManager`."""

    group: Group
    whole: Run
    _dropped: frozenset[Place] = frozenset()
    _rolled_back: list[PassEntry] = field(default_factory=list)

    @property
    def model(self) -> ir.Model:
        """The model."""
        return self.whole.standing.model

    def __post_init__(self) -> None:
        """Remember what is known, and the interface, before the group."""
        self._mark = self.whole.standing.mark()
        self._timing = self.whole.ledger.timing.part(f"group {self.group.number}")
        self._check = GroupCheck(
            group=self.group,
            interface=Interface.of(self.model),
            known_faults=self.whole.known_faults,
            judge=self.whole.judge,
            verify=self.whole.manager.verify,
            timing=self._timing,
        )

    def run(self) -> None:
        """Run until the result is acceptable, dropping one guilty pass after the other.

        Raises:
            GraphoptError: See `PassManager.run`; the model is as it was before the group.
        """
        with self._timing.running():
            try:
                # Ends: each attempt that fails leaves one place of the group out.
                while (execution := self._attempt()) is None:
                    self._restore()
                self._accept(execution)
            except Exception:
                self._restore()
                raise

    def _restore(self) -> None:
        self.whole.lineage.checkpoint().restore(self.model)
        self.whole.standing.rewind(self._mark)

    def _attempt(self) -> Execution | None:
        """Run and verify once; where that fails, deal with the guilty pass and return ``None``."""
        execution = self._execution(self.whole.standing, Limits(dropped=self._dropped))
        execution.on_step = self._announce
        try:
            execution.run()  # facts that cannot be gathered are no pass's guilt: the caller is told
        except StepFailure as error:
            self._drop(Failure.of_step(error, len(execution.steps)))
            return None
        try:
            # A group that edited nothing left the model as it was verified before.
            if execution.journal.edits:
                self._check.verify_result(self.model, execution)
        except _UNACCEPTABLE as error:
            self._drop(self._blame(execution, error))
        else:
            return execution
        return None

    def _blame(self, execution: Execution, error: GraphoptError) -> Failure:
        """Find the pass and the edit after which verification fails for the first time."""
        spans = [(step.first, step.last) for step in execution.steps]
        with self._timing.part("bisection").running():
            guilty = find_guilty(spans, self._is_good)
        if guilty.step is None:
            raise VerificationError(
                "the model differs from its source before any pass has changed it",
                where=error.where,
                why=error.why or error.message,
                hint="compare them with `graphopt verify SOURCE MODEL`",
            ) from error
        return Failure.of_result(execution.steps[guilty.step], guilty, error)

    def _is_good(self, steps: int, edits: int | None) -> bool:
        """Replay a part of the group on a fresh model and judge the result."""
        try:
            model, replay = self._replay(Limits(steps=steps, edits=edits, dropped=self._dropped))
        except StepFailure:
            # Some of its edits were discarded, and it relied on them: that shows no fault of those
            # before. The pass is named all the same, perhaps with a later edit.
            return True
        check = replace(self._check, timing=self._timing.part("bisection"))
        try:
            check.verify_result(model, replay)
        except _UNACCEPTABLE:
            return False
        return True

    def _drop(self, failure: Failure) -> None:
        """Leave the guilty pass out of the next attempt, or raise; it is written down before."""
        manager = self.whole.manager
        if isinstance(failure.error, MissingExtraError) and manager.on_error == "raise":
            raise failure.error  # nothing to reproduce
        reproducer = self._write_reproducer(failure)
        entry = failure.entry(self.group.number, reproducer)
        self._rolled_back.append(entry)
        self._announce(entry)
        if manager.on_error == "raise" and not failure.pass_.is_foreign:
            raise failure.to_error(reproducer) from failure.error
        self._dropped |= {failure.place}

    def _write_reproducer(self, failure: Failure) -> str | None:
        manager = self.whole.manager
        if manager.reproducer_dir is None:
            return None
        model, _ = self._replay(Limits(steps=failure.steps_before, dropped=self._dropped))
        try:
            folder = write_reproducer(
                manager.reproducer_dir,
                model,
                failure,
                settings={"seed": manager.seed, "verify": manager.verify},
                pipeline=self.whole.ledger.pipeline,
                weights=manager.reproducer_weights,
            )
        except OutputError as error:
            if manager.on_error == "raise":
                raise
            # Who drops passes wants the rest: it is not lost for a folder that is read-only.
            self.whole.ledger.notes.append(
                f"no reproducer of `{failure.pass_.name}` was written: {error.why or error.message}"
            )
            return None
        return str(folder)

    def _accept(self, execution: Execution) -> None:
        drift = self._check.settle(self.model, execution)
        entries = execution.entries
        if drift is not None:
            entries = [replace(entry, drift=drift) for entry in entries]
        ledger = self.whole.ledger
        ledger.entries += [*entries, *self._rolled_back]
        ledger.notes += execution.notes
        ledger.adopt(execution.journal)
        if self.whole.judge is not None and not self._check.is_comparable(execution):
            editors = [step.pass_.name for step in execution.steps if step.entry.edits]
            ledger.not_compared += [one for one in editors if one not in ledger.not_compared]
        self.whole.lineage.accept(execution)

    def _replay(self, limits: Limits) -> tuple[ir.Model, Execution]:
        model = self.whole.lineage.checkpoint().new_model()
        replay = self._execution(Standing(model, mark=self._mark), limits)
        replay.run()
        return model, replay

    def _execution(self, standing: Standing, limits: Limits) -> Execution:
        return Execution(standing, self.group, self.whole.facts, limits)

    def _announce(self, entry: PassEntry) -> None:
        passes = self._timing.part("passes")
        passes.seconds += entry.seconds
        own = passes.part(entry.pass_text)
        own.seconds += entry.seconds
        if entry.facts_seconds:
            own.part("facts").seconds += entry.facts_seconds
        progress, print_after = self.whole.manager.progress, self.whole.manager.print_after
        if progress is None and print_after is None:
            return
        event = PassEvent.of(entry)
        if progress is not None:
            progress(event)
        if print_after is not None:
            print_after(event, self.model)
