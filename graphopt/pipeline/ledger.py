"""What happened in a run, pass by pass: the raw material of every report."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Literal

from graphopt.rewrite import Journal

__all__ = ["Drift", "Ledger", "PassEntry", "Status", "Timing"]

Status = Literal["applied", "unchanged", "skipped", "rolled-back"]
Drift = dict[str, dict[str, float | bool | str | None]]


@dataclass(frozen=True, kw_only=True)
class PassEntry:
    """One run of one pass.

    Attributes:
        pass_text: Pipeline text of the pass.
        pass_name: Its name.
        group: Number of the verification group, from 1.
        iteration: Round of the innermost fixpoint group, from 1.
        status: `applied` (it edited), `unchanged`, `skipped` (known to edit nothing), or
            `rolled-back` (dropped; `reason` tells why).
        reason: Why the status is what it is, where that needs saying.
        edits: Rewrites applied.
        refusals: Places where it matched and did not act, first met in this run.
        nodes_before: Nodes of all graphs.
        nodes_after: Nodes of all graphs.
        bytes_before: Bytes of all initializers, shared ones once.
        bytes_after: Bytes of all initializers, shared ones once.
        seconds: Wall time of the pass with gathering its facts, verification excluded.
        facts_seconds: The part of it that facts took: shapes, calibration.
        drift: Per output the difference that the pass made, measured for approximate passes only.
        reproducer: Directory of the reproducer, where one was written.
    """

    pass_text: str
    pass_name: str
    group: int
    iteration: int = 1
    status: Status
    reason: str | None = None
    edits: int = 0
    refusals: int = 0
    nodes_before: int = 0
    nodes_after: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    seconds: float = 0.0
    facts_seconds: float = 0.0
    drift: Drift | None = None
    reproducer: str | None = None

    def failure(self) -> str:
        """Return what went wrong with a pass that was rolled back, and how to see it again."""
        again = f"; `graphopt reproduce {self.reproducer}`" if self.reproducer else ""
        return f"{self.pass_name}: {self.reason}{again}"

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return dict(vars(self))


@dataclass
class Timing:
    """A tree of wall times: groups, their passes, analyses and checks.

    Attributes:
        name: What took the time.
        seconds: Wall time, parts included.
        parts: What it consisted of, in order; equal names are added up.
    """

    name: str
    seconds: float = 0.0
    parts: dict[str, Timing] = field(default_factory=dict)

    def part(self, name: str) -> Timing:
        """Return the part of that name; it is created where it does not exist."""
        return self.parts.setdefault(name, Timing(name))

    @contextmanager
    def running(self) -> Iterator[Timing]:
        """Add the wall time of the block."""
        start = perf_counter()
        try:
            yield self
        finally:
            self.seconds += perf_counter() - start

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        parts = [part.to_dict() for part in self.parts.values()]
        return {"name": self.name, "seconds": self.seconds, "parts": parts}

    def lines(self, total: float | None = None, depth: int = 0) -> Iterator[str]:
        """Yield the tree as text, each line with its share of the total."""
        whole = self.seconds if total is None else total
        share = self.seconds / whole if whole else 0.0
        yield f"{self.seconds:9.4f} s {share:6.1%}  {'  ' * depth}{self.name}"
        for part in self.parts.values():
            yield from part.lines(whole, depth + 1)


@dataclass
class Ledger:
    """The record of one run of a pipeline.

    Attributes:
        pipeline: Its text, named pipelines replaced by what they stand for.
        seed: Seed of generated inputs.
        verify: How results were verified.
        entries: Every run of every pass, in order.
        journal: Every edit that is in the result, and every refusal.
        notes: What else must be said: where a fixpoint stopped early, which reproducer is missing.
        remarks: What must be said of the comparisons of outputs, on the inputs of this run.
        not_compared: Passes whose edits no comparison of outputs has judged though outputs were to
            be compared: those that approximate, and those that change the interface.
        timing: Where the time went.
    """

    pipeline: str
    seed: int
    verify: str
    entries: list[PassEntry] = field(default_factory=list)
    journal: Journal = field(default_factory=Journal)
    notes: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    not_compared: list[str] = field(default_factory=list)
    timing: Timing = field(default_factory=lambda: Timing("total"))

    @property
    def edits(self) -> int:
        """Number of rewrites in the result."""
        return len(self.journal.edits)

    def rolled_back(self) -> tuple[PassEntry, ...]:
        """Return the passes that were dropped."""
        return tuple(entry for entry in self.entries if entry.status == "rolled-back")

    def verified(self) -> str:
        """Return in a few words how the result was verified."""
        named = ", ".join(self.not_compared)
        return f"{self.verify} but for {named}" if named else self.verify

    def adopt(self, journal: Journal) -> None:
        """Append edits, refusals, notes and decisions of a group, edits numbered on."""
        # The journal of each group counts from 1.
        offset = self.journal.transactions
        self.journal.edits += (
            [edit._replace(number=edit.number + offset) for edit in journal.edits]
            if offset
            else journal.edits
        )
        for refusal in journal.refusals:
            self.journal.refuse(refusal)
        self.journal.decisions += journal.decisions
        self.journal.exits += journal.exits
        self.notes += [note for note in journal.notes if note not in self.notes]
        self.journal.transactions += journal.transactions

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form; all but times is the same for the same input and recipe."""
        return {
            "pipeline": self.pipeline,
            "seed": self.seed,
            "verify": self.verify,
            "passes": [entry.to_dict() for entry in self.entries],
            "journal": self.journal.to_dict(),
            "notes": [*self.notes, *self.remarks],
            "not_compared": list(self.not_compared),
            "timing": self.timing.to_dict(),
        }
