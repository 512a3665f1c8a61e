"""The result of running one pipeline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphopt.analysis import ModelSummary
from graphopt.calibration import SampleWarning
from graphopt.pipeline import Ledger
from graphopt.report.decision_tables import decisions_text, exits_text
from graphopt.report.figures import format_bytes, format_change
from graphopt.report.samples_report import warning_lines
from graphopt.report.text_table import format_table
from graphopt.rewrite import Refusal

__all__ = ["RunReport", "operator_rows", "refusals_text"]

Row = tuple[object, object, object, object]


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """What a pipeline did to a model.

    Attributes:
        source: File of the model.
        files: Files written, the ``.onnx`` file first; empty where nothing was to be written.
        before: The model as it came.
        after: The model as it is now.
        ledger: What each pass did.
        sample_warnings: What is doubtful about the samples that were given.
    """

    source: Path
    files: tuple[Path, ...]
    before: ModelSummary
    after: ModelSummary
    ledger: Ledger
    sample_warnings: tuple[SampleWarning, ...] = ()

    @property
    def changed(self) -> bool:
        """Whether any edit is in the result."""
        return self.ledger.edits > 0

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "source": str(self.source),
            "files": [str(file) for file in self.files],
            "changed": self.changed,
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
            "sample_warnings": [warning.to_dict() for warning in self.sample_warnings],
            **self.ledger.to_dict(),
        }

    def to_text(self, *, time_passes: bool = False) -> str:
        """Return the passes, the table of before and after, notes, and one closing line."""
        parts = [self._passes(), format_table(("", "before", "after", "change"), self._rows())]
        if self.ledger.journal.decisions:
            parts.append(decisions_text(self.ledger.journal.decisions))
        if self.ledger.journal.exits:
            parts.append(exits_text(self.ledger.journal.exits))
        if self.sample_warnings:
            parts.append("\n".join(warning_lines(self.sample_warnings)))
        if notes := [*self.ledger.notes, *self.ledger.remarks]:
            parts.append("\n".join(f"note: {note}" for note in notes))
        if time_passes:
            parts.append("\n".join(self.ledger.timing.lines()))
        return "\n\n".join([*parts, self._closing_line()])

    def __str__(self) -> str:
        return self.to_text()

    def _passes(self) -> str:
        # A pipeline runs dozens of passes again and again: the silent ones would drown the rest.
        runs = [entry for entry in self.ledger.entries if entry.status != "skipped"]
        told = [entry for entry in runs if entry.status != "unchanged" or entry.refusals]
        rows = [
            (entry.pass_text, entry.status, entry.edits, entry.refusals, f"{entry.seconds:.2f}")
            for entry in told
        ]
        headers = ("pass", "status", "edits", "refusals", "seconds")
        table = [format_table(headers, rows, right=(2, 3, 4))] if rows else []
        if quiet := len(runs) - len(told):
            runs_text = "1 run of a pass" if quiet == 1 else f"{quiet} runs of passes"
            table.append(f"{runs_text} found nothing to change")
        table += [f"rolled back: {entry.failure()}" for entry in self.ledger.rolled_back()]
        if self.ledger.journal.refusals:
            # A number alone leaves whoever asked for a pass to guess why it did nothing.
            table += ["", refusals_text(self.ledger.journal.refusals)]
        return "\n".join(table)

    def _rows(self) -> list[Row]:
        before, after = self.before, self.after
        rows: list[Row] = [
            ("nodes", before.nodes, after.nodes, format_change(before.nodes, after.nodes)),
            (
                "weights",
                format_bytes(before.weight_bytes),
                format_bytes(after.weight_bytes),
                format_change(before.weight_bytes, after.weight_bytes),
            ),
        ]
        return rows + operator_rows(before.operators, after.operators)

    def _closing_line(self) -> str:
        edits = "1 edit" if self.ledger.edits == 1 else f"{self.ledger.edits} edits"
        outcome = edits if self.changed else "nothing to change"
        rolled_back = len(self.ledger.rolled_back())
        what = "1 pass" if rolled_back == 1 else f"{rolled_back} passes"
        dropped = f", {what} rolled back" if rolled_back else ""
        place = f" -> {self.files[0]}" if self.files else ""
        return (
            f"{outcome}{dropped}: {self.before.nodes} -> {self.after.nodes} nodes, "
            f"{format_bytes(self.before.weight_bytes)} -> {format_bytes(self.after.weight_bytes)}, "
            f"verified: {self.ledger.verified()}, {self.ledger.timing.seconds:.1f} s{place}"
        )


def refusals_text(refusals: Sequence[Refusal]) -> str:
    """Return a table with a row for each pass and reason: how often, and the first place."""
    first: dict[tuple[str, str], Refusal] = {}
    for refusal in refusals:
        first.setdefault((refusal.pass_name, refusal.slug), refusal)
    counts = Counter((refusal.pass_name, refusal.slug) for refusal in refusals)
    rows = [
        (one.pass_name, counts[key], one.slug, f"{one.where}: {one.why}" if one.why else one.where)
        for key, one in first.items()
    ]
    return format_table(("refused by", "times", "reason", "first"), rows, right=(1,))


def operator_rows(before: dict[str, int], after: dict[str, int]) -> list[Row]:
    """Return the operators whose count changed, the largest change first."""
    names = sorted(
        before.keys() | after.keys(),
        key=lambda name: (-abs(after.get(name, 0) - before.get(name, 0)), name),
    )
    return [
        (f"  {name}", before.get(name, 0), after.get(name, 0), "")
        for name in names
        if before.get(name, 0) != after.get(name, 0)
    ]
