"""Mixed precision: leaving in float the operators that cost a candidate its accuracy.

A candidate that misses a correctness gate is built again with its most sensitive operators left in
float: as few as satisfy the gates, found by bisection over the order of sensitivity (Pandey et al.
2023, "A practical mixed precision algorithm for post-training quantization", section 3.2). The
result is an ordinary candidate whose recipe names them, so that running the recipe makes it again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from graphopt.ir import Checkpoint
from graphopt.pipeline import Ledger
from graphopt.rewrite import Approximate
from graphopt.search.build import Built, Rejected, Shared, build
from graphopt.search.measure import Measured, compare, measure
from graphopt.search.op_groups import (
    OpGroup,
    can_exclude,
    divided,
    pipeline_of,
    quantized_groups,
    without,
)
from graphopt.search.progress import Reporter
from graphopt.search.sensitivity import Sensitivity, measure_sensitivities, prepared_state
from graphopt.search.workbench import Workbench
from graphopt.targets import Candidate

__all__ = ["GiveBack", "give_back", "is_quantized", "worth_repairing"]

_LEAST_COSINE = 0.5  # below, the outputs have nothing to do with the original's
_RANKING_SHARE = 0.6  # of the time, at most, goes into ranking
_MOST_SECOND_THOUGHTS = 4


@dataclass(frozen=True, kw_only=True)
class GiveBack:
    """What came of giving operators of one candidate back to float.

    Attributes:
        candidate: The candidate with the recipe that names them; `None` where none is right.
        result: Its measurement.
        sensitivities: Of all groups, the worst first.
        note: What was found, in one sentence.
    """

    candidate: Candidate | None
    result: Measured | Rejected | None
    sensitivities: tuple[Sensitivity, ...]
    note: str


def worth_repairing(measured: Iterable[Measured]) -> list[Measured]:
    """Return candidates that miss correctness gates and may be repaired, the nearest first.

    None where a quantized candidate is right and faster: then nothing is missing.
    """
    found = list(measured)
    if any(_is_success(item) for item in found):
        return []
    return sorted(filter(_is_near, found), key=_distance)


def is_quantized(candidate: Candidate) -> bool:
    """Tell whether a candidate has passes that approximate, in integers or otherwise."""
    steps = pipeline_of(candidate).passes()
    return any(isinstance(step.contract.numerics, Approximate) for step in steps)


def _is_success(item: Measured) -> bool:
    # Where nothing is timed, that it is right is all that can be asked.
    is_faster = item.latency is None or item.latency.verdict == "faster"
    return is_quantized(item.built.candidate) and item.is_correct and is_faster


def _is_near(item: Measured) -> bool:
    steps = pipeline_of(item.built.candidate).elements
    if item.is_correct or item.mismatch is not None or not any(map(can_exclude, steps)):
        return False
    if any(gate.is_blind for gate in item.gates):  # what cannot be seen cannot be mended
        return False
    # Outputs of whole numbers alone have none, and are judged by the repair itself.
    cosine = item.comparison.errors.worst_cosine()
    return cosine is None or (math.isfinite(cosine) and cosine >= _LEAST_COSINE)


def _distance(item: Measured) -> float:
    cosine = item.comparison.errors.worst_cosine()
    return 0.0 if cosine is None else -cosine


def give_back(
    bench: Workbench,
    missed: Measured,
    shared: Shared,
    folder: Path,
    *,
    original_bytes: int,
    deadline: float,
) -> GiveBack:
    """Leave as few operators of a candidate in float as its correctness gates ask for.

    Args:
        bench: What it is measured against.
        missed: The candidate as it is.
        shared: The state from which it is built.
        folder: Where candidates are written.
        original_bytes: Bytes of the original's files.
        deadline: Time of `time.monotonic` after which nothing new is tried.
    """
    search = _Search(bench, missed.built.candidate, shared, folder, original_bytes, deadline)
    return search.run(missed)


@dataclass
class _Search:
    bench: Workbench
    candidate: Candidate
    shared: Shared
    folder: Path
    original_bytes: int
    deadline: float

    def __post_init__(self) -> None:
        self._before, self._rest = divided(pipeline_of(self.candidate))
        self._report: Reporter = self.bench.report.at(f"repair {self.candidate.name}")

    def run(self, missed: Measured) -> GiveBack:
        prepared = prepared_state(self.bench, self._before, self.shared, self._report)
        groups = quantized_groups(prepared.new_model(), missed.built.ledger)
        ranked = self._ranked(prepared, groups)
        kept = self._fewest(ranked)
        if kept is None:
            note = f"`{self.candidate.name}`: {self._failure(ranked)}"
            return GiveBack(candidate=None, result=None, sensitivities=tuple(ranked), note=note)
        kept = self._second_thoughts(kept)
        built = self._build(kept)
        assert isinstance(built, Built)  # it was built and measured before
        explain(built.ledger, ranked, [item.group for item in kept], missed)
        result = measure(self.bench, built, original_bytes=self.original_bytes)
        note = f"`{built.candidate.name}`: {_summary(kept, ranked)}"
        built.ledger.notes.append(note)
        return GiveBack(
            candidate=built.candidate, result=result, sensitivities=tuple(ranked), note=note
        )

    def _ranked(self, prepared: Checkpoint, groups: Sequence[OpGroup]) -> list[Sensitivity]:
        now = time.monotonic()
        return measure_sensitivities(
            self.bench,
            prepared,
            self._rest,
            groups,
            deadline=now + _RANKING_SHARE * (self.deadline - now),
            report=self._report,
        )

    def _fewest(self, ranked: Sequence[Sensitivity]) -> list[Sensitivity] | None:
        """Return the fewest of the most sensitive groups without which the gates hold.

        All of them is no answer: nothing would be quantized, and the target has such a candidate.
        """
        low, high = 0, len(ranked)  # the gates fail at `low`; nothing is known of `high`
        found: list[Sensitivity] | None = None
        while high - low > 1 and time.monotonic() <= self.deadline:
            middle = (low + high) // 2
            if self._is_correct(ranked[:middle]):
                found, high = list(ranked[:middle]), middle
            else:
                low = middle
        return found

    def _second_thoughts(self, kept: list[Sensitivity]) -> list[Sensitivity]:
        """Quantize again what turns out not to be needed in float, the least sensitive first."""
        for item in list(reversed(kept))[:_MOST_SECOND_THOUGHTS]:
            fewer = [other for other in kept if other is not item]
            # Without the last one the gates were found to fail.
            if item is kept[-1] or not fewer or time.monotonic() > self.deadline:
                continue
            if self._is_correct(fewer):
                kept = fewer
        return kept

    def _is_correct(self, kept: Sequence[Sensitivity]) -> bool:
        self._report(f"trying with {len(kept)} groups in float")
        built = self._build(kept)
        if isinstance(built, Rejected):
            return False
        # Its numbers alone: what is tried on the way is never shipped, and timing it would take the
        # budget.
        measured = compare(self.bench, built, self.original_bytes)
        return isinstance(measured, Measured) and measured.is_correct

    def _build(self, kept: Sequence[Sensitivity]) -> Built | Rejected:
        rest = without(self._rest, [item.group for item in kept])
        candidate = replace(
            self.candidate,
            name=f"{self.candidate.name}-mixed",
            pipeline=str(self._before + rest),
            summary=f"`{self.candidate.name}` with its most sensitive operators in float",
        )
        return build(self.bench, candidate, self.shared, self.folder)

    def _failure(self, ranked: Sequence[Sensitivity]) -> str:
        if time.monotonic() > self.deadline:
            return "no time was left to find which operators must stay in float"
        if not ranked:
            return "a gate fails, and it has no operators that could stay in float"
        return f"however many of its {len(ranked)} groups of operators stay in float, a gate fails"


def explain(
    ledger: Ledger, ranked: Sequence[Sensitivity], kept: Sequence[OpGroup], missed: Measured
) -> None:
    """Say in a ledger of each operator why it is quantized or not.

    Args:
        ledger: Of the repaired candidate; its journal gets the reasons.
        ranked: All groups with what they cost.
        kept: Those left in float.
        missed: The candidate as it was, with the gates that it missed.
    """
    failed = ", ".join(
        f"{gate.name} {gate.limit:g}"
        for gate in missed.gates
        if gate.kind == "correctness" and gate.passed is False and gate.limit is not None
    )
    costs = {name: item for item in ranked for name in item.group.nodes}
    in_float = {name for group in kept for name in group.nodes}
    journal = ledger.journal
    for number, refusal in enumerate(journal.refusals):
        name = _named(refusal.where, in_float)
        if name is not None and refusal.slug == "excluded":
            why = f"{costs[name]}, too little for {failed}"
            journal.refusals[number] = replace(refusal, why=why)
    for number, edit in enumerate(journal.edits):
        name = next((item for item in (*edit.removed, *edit.changed) if item in costs), None)
        if name is not None:
            journal.edits[number] = edit._replace(because=f"{edit.because}; {costs[name]}")


def _named(where: str, names: Iterable[str]) -> str | None:
    return next((name for name in names if where.endswith(f"`{name}`")), None)


def _summary(kept: Sequence[Sensitivity], ranked: Sequence[Sensitivity]) -> str:
    listed = "; ".join(f"{item.group} ({item})" for item in kept)
    return f"{len(kept)} of {len(ranked)} groups of operators stay in float: {listed}"
