"""Running the passes of one group, once; replays are exact repetitions cut short."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter

import onnx_ir as ir

from graphopt.errors import InputError, PreconditionError, UsageError
from graphopt.ir import structure_digest
from graphopt.pipeline.facts_source import FactsSource
from graphopt.pipeline.groups import Group
from graphopt.pipeline.ledger import PassEntry, Status
from graphopt.pipeline.pipeline import Element, Fixpoint
from graphopt.pipeline.standing import Standing
from graphopt.rewrite import Editor, Facts, Journal, Pass

__all__ = ["Execution", "Limits", "Place", "Step", "StepFailure"]

_FIRST_COMPARED_ROUND = 3
"""Nearly every fixpoint is reached before; digests are for those that go in circles."""

Place = tuple[int, ...]
"""Where a pass stands in its group: indices from the outermost element inwards."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much of a group is run.

    Attributes:
        steps: Stop before this many runs of passes have been made; ``None``: run all.
        edits: Discard transactions with a larger number; ``None``: apply all.
        dropped: Passes that are left out.
    """

    steps: int | None = None
    edits: int | None = None
    dropped: frozenset[Place] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Step:
    """One run of one pass within an execution.

    Attributes:
        pass_: The pass.
        place: Where it stands in its group.
        facts: What it was told.
        first: Transactions numbered before it ran.
        last: Transactions numbered after it ran.
        entry: Its line in the ledger.
    """

    pass_: Pass
    place: Place
    facts: Facts
    first: int
    last: int
    entry: PassEntry


class StepFailure(Exception):
    """A pass raised; ``__cause__`` is what it raised."""

    def __init__(self, pass_: Pass, place: Place, facts: Facts, iteration: int) -> None:
        super().__init__(str(pass_))
        self.pass_, self.place, self.facts, self.iteration = pass_, place, facts, iteration


class _StepLimit(Exception):
    """The limit of steps is reached."""


@dataclass
class Execution:
    """One execution of a group on a model, in place.

    Attributes:
        standing: What is known of the model that is changed.
        group: What is run.
        source: Where facts come from.
        limits: How much is run.
        on_step: Called after each run of a pass, skipped ones included.
        steps: The runs made, skipped ones excluded.
        entries: Lines for the ledger, in order.
        journal: Edits and refusals; one of `standing`, made by `run`.
        notes: Where a fixpoint stopped early.
    """

    standing: Standing
    group: Group
    source: FactsSource
    limits: Limits = field(default_factory=Limits)
    on_step: Callable[[PassEntry], None] | None = None
    steps: list[Step] = field(default_factory=list)
    entries: list[PassEntry] = field(default_factory=list)
    journal: Journal = field(default_factory=Journal)
    notes: list[str] = field(default_factory=list)

    @property
    def model(self) -> ir.Model:
        """The model that is changed."""
        return self.standing.model

    def run(self) -> None:
        """Run the group.

        Raises:
            StepFailure: A pass raised; the model is half changed.
            PreconditionError: A pass is not given what it needs.
        """
        self.journal = self.standing.journal(self.limits.edits)
        try:
            self._run_all(self.group.elements, (), 1)
        except _StepLimit:
            return

    def _run_all(self, elements: tuple[Element, ...], place: Place, iteration: int) -> None:
        for index, element in enumerate(elements):
            here = (*place, index)
            if isinstance(element, Fixpoint):
                self._run_fixpoint(element, here)
            elif here not in self.limits.dropped:
                self._run_pass(element, here, iteration)

    def _run_fixpoint(self, group: Fixpoint, place: Place) -> None:
        seen: set[str] = set()
        for iteration in range(1, group.max + 1):
            before = len(self.journal.edits)
            self._run_all(group.elements, place, iteration)
            # A round without edits shows that the passes are at rest; so does an idempotent pass
            # that has run last on this very model, and that spares the round.
            if len(self.journal.edits) == before or self._is_settled(group.elements, place):
                return
            if iteration < _FIRST_COMPARED_ROUND:
                continue
            digest = structure_digest(self.model)
            if digest in seen:
                self.notes.append(f"`{group}` goes in circles; stopped in round {iteration}")
                return
            seen.add(digest)
        self.notes.append(f"`{group}` still changed the model in its last round, {group.max}")

    def _is_settled(self, elements: tuple[Element, ...], place: Place) -> bool:
        """Tell whether each pass is idempotent, and the last run of each was on this very model."""
        for index, element in enumerate(elements):
            here = (*place, index)
            if isinstance(element, Fixpoint):
                if not self._is_settled(element.elements, here):
                    return False
            elif here not in self.limits.dropped and not self.standing.is_settled(element):
                return False
        return True

    def _reason_to_skip(self, pass_: Pass) -> str | None:
        if self.standing.is_settled(pass_):
            return "idempotent, and nothing changed since its last run"
        if pass_.anchors is not None and pass_.anchors.isdisjoint(self.standing.census.operators):
            return "the model has none of the operators that it looks for"
        return None

    def _run_pass(self, pass_: Pass, place: Place, iteration: int) -> None:
        if self.limits.steps is not None and len(self.steps) >= self.limits.steps:
            raise _StepLimit
        before = self.standing.census
        edits_before, refusals_before = len(self.journal.edits), len(self.journal.refusals)
        first, dropped = self.journal.transactions, self.journal.weights_dropped
        skip = self._reason_to_skip(pass_)
        start = perf_counter()
        facts, facts_seconds = (None, 0.0) if skip else self._run_once(pass_, place, iteration)
        seconds = perf_counter() - start
        edits = len(self.journal.edits) - edits_before
        # A skipped pass is noted as well: it would have left the model as it is.
        self.standing.note(pass_, edits, self.journal.weights_dropped - dropped)
        after = self.standing.census
        status: Status = "skipped" if skip else ("applied" if edits else "unchanged")
        entry = PassEntry(
            pass_text=str(pass_),
            pass_name=pass_.name,
            group=self.group.number,
            iteration=iteration,
            status=status,
            reason=skip,
            edits=edits,
            refusals=len(self.journal.refusals) - refusals_before,
            nodes_before=before.nodes,
            nodes_after=after.nodes,
            bytes_before=before.weight_bytes,
            bytes_after=after.weight_bytes,
            seconds=seconds,
            facts_seconds=facts_seconds,
        )
        self.entries.append(entry)
        if facts is not None:
            last = self.journal.transactions
            self.steps.append(
                Step(pass_=pass_, place=place, facts=facts, first=first, last=last, entry=entry)
            )
        if self.on_step is not None:
            self.on_step(entry)

    def _run_once(self, pass_: Pass, place: Place, iteration: int) -> tuple[Facts, float]:
        start = perf_counter()
        facts = self.source.facts_for(pass_, self.model, self.standing.shapes)
        facts_seconds = perf_counter() - start
        # One editor for each run of a pass and one journal for all: transactions are numbered
        # through the group, which is what a replay cut short counts.
        editor = Editor(self.model, pass_name=pass_.name, journal=self.journal)
        try:
            pass_.run(self.model, editor, facts)
        except (PreconditionError, UsageError, InputError):
            raise  # the caller must change something; no pass is at fault
        except Exception as error:
            raise StepFailure(pass_, place, facts, iteration) from error
        return facts, facts_seconds
