"""From a prepared workbench to a chosen candidate."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from graphopt.analysis import ModelSummary, summarise
from graphopt.ir import external_files, load
from graphopt.pipeline import Ledger
from graphopt.search.build import (
    Built,
    Rejected,
    Shared,
    build,
    keep_original,
    plan_candidates,
    run_stages,
)
from graphopt.search.choose import choose
from graphopt.search.give_back import give_back, worth_repairing
from graphopt.search.measure import Measured, measure
from graphopt.search.measured_stages import check_extras, without_measured_stages
from graphopt.search.workbench import Workbench

__all__ = ["Outcome", "explore"]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of trying every candidate.

    Attributes:
        bench: What they were measured against.
        original_bytes: Bytes of the original's files.
        original: The original in figures.
        shared: What the stages did that all candidates share.
        measured: Candidates with their numbers, in the order of the target; one that was repaired
            comes after the one that it was made of.
        rejected: Candidates that were not built or did not run.
        chosen: The best that passes the correctness gates; ``None`` where none does.
    """

    bench: Workbench
    original_bytes: int
    original: ModelSummary
    shared: Ledger
    measured: tuple[Measured, ...]
    rejected: tuple[Rejected, ...]
    chosen: Measured | None


def explore(bench: Workbench, folder: Path) -> Outcome:
    """Run the shared stages, then build and measure every candidate of the target.

    Where stages that take something away by samples leave no candidate that is right, all is done
    again without them: what they were to improve is shipped as it is, and a note says so.

    Args:
        bench: The prepared workbench; its model is changed.
        folder: Where candidates are written; the caller removes it.

    Raises:
        InputError: The original cannot be run.
        MissingExtraError: What a candidate needs is not installed.
        OutputError: A candidate cannot be written.
    """
    check_extras(bench.target)
    target, names = without_measured_stages(bench.target, bench.model)
    outcome = _explored(bench, folder)
    if outcome.chosen is not None or not names:
        return outcome
    # Loaded anew: the stages have changed the model in place.
    again = _explored(replace(bench, target=target, model=load(bench.source)), folder)
    again.shared.notes.insert(0, _nothing_held(names, outcome))
    return again


def _explored(bench: Workbench, folder: Path) -> Outcome:
    """Run the shared stages, then build and measure every candidate."""
    original_bytes = source_bytes(bench)
    # Before the stages change the model in place.
    original = summarise(bench.model, bench.sizes())
    shared = run_stages(bench)
    possible, rejected = plan_candidates(bench)
    measured: list[Measured] = []
    names: dict[str, str] = {}
    for candidate in possible:
        built = build(bench, candidate, shared, folder)
        if isinstance(built, Built):
            first = names.setdefault(built.digest, candidate.name)
            if first != candidate.name:  # timing it would take as long as timing another model
                built = Rejected(candidate=candidate, reason=f"the same model as `{first}`")
        result = _measured(bench, built, original_bytes) if isinstance(built, Built) else built
        if isinstance(result, Measured):
            measured.append(result)
        else:
            rejected.append(result)
    for missed, item in _repaired(bench, tuple(measured), shared, folder, original_bytes):
        if isinstance(item, Measured):
            # Where the order decides, a repaired one must not come after the floats, which end it.
            place = next(at for at, one in enumerate(measured) if one is missed)
            measured.insert(place + 1, item)
        else:
            rejected.append(item)
    return Outcome(
        bench=bench,
        original_bytes=original_bytes,
        original=original,
        shared=shared.ledger,
        measured=tuple(measured),
        rejected=tuple(rejected),
        chosen=choose(
            measured,
            bench.target.worth_of_3_db,
            enough_db=bench.target.enough_db,
            in_order=bench.absence is not None,
        ),
    )


def _nothing_held(names: Sequence[str], outcome: Outcome) -> str:
    """Say that stages were left out because no candidate behind them held the gates."""
    missed = {
        f"{gate.name} {gate.limit:g}"
        for item in outcome.measured
        for gate in item.gates
        if gate.kind == "correctness" and gate.passed is False
    }
    causes = sorted(missed) or [item.reason for item in outcome.rejected[:1]]
    listed = " and ".join(f"`{name}`" for name in names)
    return (
        f"left out stage {listed}: no candidate behind it holds the gates "
        f"({', '.join(causes)}); all candidates were built again without it"
    )


def _measured(bench: Workbench, built: Built, original_bytes: int) -> Measured | Rejected:
    """Measure a candidate; one that was edited for speed alone and gains none is the original."""
    if not built.is_for_speed:
        return measure(bench, built, original_bytes=original_bytes)
    why = "leaving shapes open to the runtime may be faster, which was not measured"
    if bench.latency_budget_s is not None:
        result = measure(bench, built, original_bytes=original_bytes)
        if isinstance(result, Measured) and result.latency is not None:
            if result.latency.verdict == "faster":
                return result
            why = f"with shapes left open to the runtime the timing was `{result.latency.verdict}`"
        else:
            why = "with shapes left open to the runtime it was not right"
    return measure(bench, keep_original(bench, built, why), original_bytes=original_bytes)


def _repaired(
    bench: Workbench,
    measured: Sequence[Measured],
    shared: Shared,
    folder: Path,
    original_bytes: int,
) -> Iterator[tuple[Measured, Measured | Rejected]]:
    """Yield candidates with the same, its most sensitive operators in float, until one will do."""
    if bench.repair_budget_s is None:
        return
    deadline = time.monotonic() + bench.repair_budget_s
    for missed in worth_repairing(measured):
        if time.monotonic() > deadline:
            return
        found = give_back(
            bench, missed, shared, folder, original_bytes=original_bytes, deadline=deadline
        )
        if found.result is None:
            shared.ledger.notes.append(found.note)
            continue
        yield missed, found.result
        if isinstance(found.result, Measured) and found.result.meets_gates:
            return


def source_bytes(bench: Workbench) -> int:
    """Return the bytes of the original's files: the model and the data that it refers to."""
    return sum(file.stat().st_size for file in {bench.source, *external_files(bench.model)})
