"""What several optimizers made of one model."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from graphopt.report.figures import format_bytes
from graphopt.report.text_table import format_table

__all__ = ["RaceEntry", "RaceReport"]


@dataclass(frozen=True, kw_only=True)
class RaceEntry:
    """One optimizer.

    Attributes:
        name: What it is called.
        verdict: ``equal`` bit for bit, ``within-budget`` (up to rounding), ``broken``, ``failed``
            or ``not-installed``.
        reason: Why it is broken or failed, or what the comparison could not see.
        nodes: Those of the result, subgraphs included.
        file_bytes: Of the result, weights beside it included.
        seconds: Wall time from the path of the model to the saved file, imports aside.
        cpu_s: CPU time, likewise.
        peak_rss_bytes: Peak resident memory of its process.
        latency_ratio: CPU time of a run of the result to that of the original; ``None`` where
            nothing was timed.
        latency_verdict: ``faster``, ``same``, ``slower`` or ``too-noisy``.
    """

    name: str
    verdict: str
    reason: str = ""
    nodes: int | None = None
    file_bytes: int | None = None
    seconds: float | None = None
    cpu_s: float | None = None
    peak_rss_bytes: int | None = None
    latency_ratio: float | None = None
    latency_verdict: str | None = None


@dataclass(frozen=True, kw_only=True)
class RaceReport:
    """All of them.

    Attributes:
        source: The model.
        nodes: Its nodes, subgraphs included.
        file_bytes: Its bytes, weights beside it included.
        entries: The optimizers, in the order in which they ran.
    """

    source: Path
    nodes: int
    file_bytes: int
    entries: tuple[RaceEntry, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {**asdict(self), "source": str(self.source)}

    def __str__(self) -> str:
        headers = ("optimizer", "nodes", "file", "seconds", "memory", "latency", "verdict")
        original = ("original", str(self.nodes), format_bytes(self.file_bytes), "", "", "", "")
        rows = [original, *(_row(entry) for entry in self.entries)]
        return format_table(headers, rows, right=(1, 2, 3, 4, 5))


def _row(entry: RaceEntry) -> tuple[str, ...]:
    def shown(value: float | None, text: str) -> str:
        return "-" if value is None else text.format(value)

    def size(value: int | None) -> str:
        return "-" if value is None else format_bytes(value)

    verdict = f"{entry.verdict}: {entry.reason}" if entry.reason else entry.verdict
    return (
        entry.name,
        shown(entry.nodes, "{}"),
        size(entry.file_bytes),
        shown(entry.seconds, "{:.2f}"),
        size(entry.peak_rss_bytes),
        shown(entry.latency_ratio, f"{{:.2f}}x {entry.latency_verdict}"),
        verdict,
    )
