"""What `optimize` would do."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from graphopt.pipeline import Ledger
from graphopt.report.text_table import format_fields, format_table
from graphopt.targets import GATES, Target

__all__ = ["PlanReport"]


@dataclass(frozen=True, kw_only=True)
class PlanReport:
    """A dry run: the recipe of every candidate, and the gates it would have to meet.

    Attributes:
        source: File of the model.
        output: The bundle that would be written.
        target: The profile, with every override applied.
        shared: What the stages that all candidates share would do, run without verification.
        skipped: Why a candidate would not be built, by its name.
        arguments: The command that does it, word by word.
    """

    source: str
    output: str
    target: Target
    shared: Ledger
    skipped: Mapping[str, str]
    arguments: tuple[str, ...]

    @property
    def command(self) -> str:
        """The command that does it, quoted for a shell."""
        return shlex.join(self.arguments)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "source": self.source,
            "output": self.output,
            "target": self.target.to_dict(),
            "expected": [
                {"pass": entry.pass_text, "edits": entry.edits} for entry in self.shared.entries
            ],
            "candidates": [
                {
                    "name": candidate.name,
                    "summary": candidate.summary,
                    "pipeline": self.target.pipeline_text(candidate),
                    "is_built": candidate.name not in self.skipped,
                    "reason": self.skipped.get(candidate.name),
                }
                for candidate in self.target.enabled_candidates()
            ],
            "gates": dict(self.target.gates),
            "notes": list(self.shared.notes),
            "command": self.command,
        }

    def __str__(self) -> str:
        parts = [
            format_fields(
                [("model", self.source), ("target", self._target()), ("bundle", self.output)]
            ),
            self._candidates(),
            self._expected(),
            self._gates(),
            "\n".join(f"note: {note}" for note in self.shared.notes),
            f"to do it: {self.command}",
        ]
        return "\n\n".join(part for part in parts if part)

    def _target(self) -> str:
        return f"{self.target.name}: {self.target.summary}"

    def _candidates(self) -> str:
        rows = [
            (
                candidate.name,
                self.target.pipeline_text(candidate) or "(unchanged)",
                self.skipped.get(candidate.name, candidate.summary),
            )
            for candidate in self.target.enabled_candidates()
        ]
        return format_table(("candidate", "pipeline", "why"), rows)

    def _expected(self) -> str:
        counts: dict[str, int] = {}
        for entry in self.shared.entries:
            counts[entry.pass_text] = counts.get(entry.pass_text, 0) + entry.edits
        rows = [(text, str(edits)) for text, edits in counts.items()]
        return format_table(("shared pass", "expected edits"), rows, right=(1,)) if rows else ""

    def _gates(self) -> str:
        rows = [
            (name, GATES[name].kind, f"{limit:g}", GATES[name].help)
            for name, limit in self.target.gates.items()
        ]
        return format_table(("gate", "kind", "limit", "meaning"), rows, right=(2,))
