"""The result of comparing the latency of two models."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from graphopt.report.text_table import format_table
from graphopt.runtime import LatencyComparison

__all__ = ["LatencyReport"]


@dataclass(frozen=True, kw_only=True)
class LatencyReport:
    """The latency of a candidate against a baseline.

    Attributes:
        baseline: File of the baseline.
        candidate: File of the candidate.
        threads: Threads inside one operator.
        latency: What was measured.
    """

    baseline: Path
    candidate: Path
    threads: int
    latency: LatencyComparison

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "baseline": str(self.baseline),
            "candidate": str(self.candidate),
            "threads": self.threads,
            **asdict(self.latency),
        }

    def __str__(self) -> str:
        before, after = self.latency.before, self.latency.after
        figures = ("p10_ms", "median_ms", "p99_ms", "cpu_ms")
        rows = [
            (name, f"{getattr(before, name):.3f}", f"{getattr(after, name):.3f}")
            for name in figures
        ]
        rows.append(("runs", str(before.runs), str(after.runs)))
        table = format_table(("", "baseline", "candidate"), rows, right=(1, 2))
        latency = self.latency
        return (
            f"{table}\n\n{latency.verdict}: {latency.ratio:.3f}x the time of the baseline "
            f"(between {latency.ratio_low:.3f} and {latency.ratio_high:.3f}; "
            f"CPU time {latency.cpu_ratio:.3f}), threads: {self.threads}\n{latency.reason}"
        ).rstrip()
