"""What is known of a pass that failed, or whose result is not acceptable."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import Literal

from graphopt.errors import (
    GraphoptError,
    NumericMismatch,
    PassError,
    PostconditionError,
    RuntimeFailure,
)
from graphopt.pipeline.bisection import Guilty
from graphopt.pipeline.execution import Place, Step, StepFailure
from graphopt.pipeline.ledger import PassEntry
from graphopt.rewrite import Facts, Pass

__all__ = ["Failure", "FailureKind"]

FailureKind = Literal["exception", "structure", "numerics", "runtime"]

_VERBS: dict[FailureKind, str] = {
    "exception": "failed",
    "structure": "left a broken model",
    "numerics": "changed an output by more than its contract allows",
    "runtime": "left a model that the runtime cannot run",
}


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A guilty pass.

    Attributes:
        pass_: The pass.
        place: Where it stands in its group.
        facts: What it was told.
        iteration: Round of the innermost fixpoint group in which it went wrong.
        steps_before: Runs of passes before it in its group.
        kind: What went wrong.
        error: The error that showed it.
        edit: Number of the first transaction after which the result is bad; ``None`` where it
            raised, or changed the model behind the editor's back.
    """

    pass_: Pass
    place: Place
    facts: Facts
    iteration: int
    steps_before: int
    kind: FailureKind
    error: Exception
    edit: int | None = None

    @classmethod
    def of_step(cls, failure: StepFailure, steps_before: int) -> Failure:
        """Describe a pass that raised."""
        cause = failure.__cause__
        return cls(
            pass_=failure.pass_,
            place=failure.place,
            facts=failure.facts,
            iteration=failure.iteration,
            steps_before=steps_before,
            kind="exception",
            error=cause if isinstance(cause, Exception) else failure,
        )

    @classmethod
    def of_result(cls, step: Step, guilty: Guilty, error: GraphoptError) -> Failure:
        """Describe a pass whose result did not pass verification."""
        kind: FailureKind = "runtime" if isinstance(error, RuntimeFailure) else "structure"
        return cls(
            pass_=step.pass_,
            place=step.place,
            facts=step.facts,
            iteration=step.entry.iteration,
            # The runs before the guilty one: what a reproducer repeats to arrive at the model that
            # it was given.
            steps_before=guilty.step or 0,
            kind="numerics" if isinstance(error, NumericMismatch) else kind,
            error=error,
            edit=guilty.edit,
        )

    @property
    def reason(self) -> str:
        """One line on what went wrong."""
        at_edit = "" if self.edit is None else f" (edit {self.edit})"
        return f"{_VERBS[self.kind]}{at_edit}: {self._message().splitlines()[0]}"

    def traceback(self) -> str:
        """Return the traceback as text."""
        return "".join(traceback.format_exception(self.error))

    def entry(self, group: int, reproducer: str | None) -> PassEntry:
        """Return the line in the ledger."""
        return PassEntry(
            pass_text=str(self.pass_),
            pass_name=self.pass_.name,
            group=group,
            iteration=self.iteration,
            status="rolled-back",
            reason=self.reason,
            reproducer=reproducer,
        )

    def to_error(self, reproducer: str | None) -> PassError:
        """Return the error that the caller sees; its cause is `error`."""
        cls = PostconditionError if self.kind == "structure" else PassError
        at_edit = "" if self.edit is None else f", first at edit {self.edit}"
        hint = f"repeat it with `graphopt reproduce {reproducer}`" if reproducer else None
        return cls(
            f"pass `{self.pass_.name}` {_VERBS[self.kind]}{at_edit}",
            where=f"`{self.pass_}`",
            why=self._message(),
            hint=hint,
        )

    def _message(self) -> str:
        text = str(self.error)
        if isinstance(self.error, GraphoptError):
            return text
        return f"{type(self.error).__name__}: {text}" if text else type(self.error).__name__
