"""Does a simplified model compute what the original computes? Runs in worker processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from feeds import Feed

from graphopt.errors import GraphoptError, RunError
from graphopt.runtime import SessionOptions, Worker
from graphopt.verification import compare_outputs

BOUND = 1e-4  # largest allowed |difference| as a fraction of the output's largest value
PLAIN = SessionOptions(optimization="disabled", threads=2)
TIMEOUT_S = 600.0


class Judge:
    """Holds the original's outputs, so that each candidate runs once per input.

    Inputs that the original itself cannot run (a shape baked in by the exporter) are left out.
    """

    def __init__(self, original: Path, feeds: Sequence[Feed]) -> None:
        self.feeds: list[Feed] = []
        self._expected: list[Mapping[str, Any]] = []
        self.skipped: list[str] = []
        with Worker(timeout_s=TIMEOUT_S) as worker:
            session = worker.load(original, PLAIN)
            for feed in feeds:
                try:
                    self._expected.append(session.run(feed))
                    self.feeds.append(feed)
                except RunError as error:
                    self.skipped.append(str(error.why or error)[:300])
        if not self.feeds:
            raise RuntimeError(f"{original} runs with none of its inputs: {self.skipped}")

    def verdict(self, candidate: Path) -> dict[str, Any]:
        """Return `verifies`, the worst relative difference, the inputs run, and the fault."""
        worst, fault = 0.0, None
        try:
            with Worker(timeout_s=TIMEOUT_S) as worker:
                session = worker.load(candidate, PLAIN)
                for feed, expected in zip(self.feeds, self._expected, strict=True):
                    for name, item in compare_outputs(expected, session.run(feed)).items():
                        worst = max(worst, item.max_rel)
                        fault = fault or (item.mismatch and f"{name}: {item.mismatch}")
        except GraphoptError as error:
            fault = f"{error.message}: {error.why}"[:500]
        verifies = fault is None and worst <= BOUND
        return {
            "verifies": verifies,
            "max_rel": worst if worst < float("inf") else None,
            "inputs": len(self.feeds),
            "fault": fault,
        }
