"""The result of comparing the outputs of two models."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphopt.errors import BudgetExceeded
from graphopt.report.figures import format_number
from graphopt.report.text_table import format_table
from graphopt.verification import Comparison, OutputDifference

__all__ = ["ComparisonReport"]


@dataclass(frozen=True, kw_only=True)
class ComparisonReport:
    """The outputs of a candidate against a reference.

    Attributes:
        reference: File of the model that is right by definition.
        candidate: File of the model that is judged.
        comparison: What was measured.
        limits: Limits by name (``max_abs``, ``max_rel``, ``min_cosine``, ``min_sqnr_db``); where
            there are none, the outputs must be equal bit for bit to pass.
    """

    reference: Path
    candidate: Path
    comparison: Comparison
    limits: Mapping[str, float]

    def faults(self) -> list[str]:
        """Return in what way outputs exceed the limits, one line each."""
        found = []
        for name, difference in self.comparison.outputs.items():
            found += [f"output `{name}`: {fault}" for fault in self._faults_of(difference)]
        return found

    def _faults_of(self, difference: OutputDifference) -> list[str]:
        if difference.mismatch:
            return [difference.mismatch]
        # "No limit" cannot mean "anything passes": a script that forgot one would never notice.
        if not self.limits:
            return [] if difference.is_identical else ["differs, and no limit was given"]
        faults = []
        for name, limit in self.limits.items():
            value = _measured(name, difference)
            # Written so that NaN, as a value or as the limit, is never within it.
            is_met = value <= limit if name.startswith("max_") else value >= limit
            if not is_met:
                faults.append(f"{name} is {format_number(value)}, the limit {limit:g}")
        return faults

    @property
    def verdict(self) -> str:
        """``equal`` bit for bit, ``within-budget``, or ``broken``."""
        if self.faults():
            return "broken"
        is_equal = all(item.is_identical for item in self.comparison.outputs.values())
        return "equal" if is_equal else "within-budget"

    @property
    def exit_code(self) -> int:
        """Status of ``graphopt verify``: 0 where the limits hold, 1 where they do not."""
        return 1 if self.verdict == "broken" else 0

    def raise_if_broken(self) -> None:
        """Raise where a limit does not hold.

        Raises:
            BudgetExceeded: An output exceeds a limit.
        """
        if faults := self.faults():
            raise BudgetExceeded(
                f"`{self.candidate.name}` differs too much from `{self.reference.name}`",
                why="; ".join(faults),
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "reference": str(self.reference),
            "candidate": str(self.candidate),
            "verdict": self.verdict,
            "limits": dict(self.limits),
            "faults": self.faults(),
            **self.comparison.to_dict(),
        }

    def __str__(self) -> str:
        rows = [
            (
                name,
                format_number(item.max_abs),
                format_number(item.max_rel),
                format_number(item.cosine, ".6f"),
                format_number(item.sqnr_db, ".1f"),
                format_number(item.top1_agreement, ".1%"),
            )
            for name, item in self.comparison.outputs.items()
        ]
        headers = ("output", "max abs", "max rel", "cosine", "SQNR dB", "agreement")
        parts = [format_table(headers, rows, right=(1, 2, 3, 4, 5))]
        if notes := [f"note: {note}" for note in self.comparison.notes()]:
            parts.append("\n".join(notes))
        parts.append("\n".join([f"{self.verdict}, {self._samples()}", *self.faults()]))
        return "\n\n".join(parts)

    def _samples(self) -> str:
        count = self.comparison.samples
        return f"{count} sample" + ("" if count == 1 else "s")


def _measured(name: str, difference: OutputDifference) -> float:
    """Return what a limit is held against.

    Outputs of integers, booleans and text have no angle and no noise: the share of equal elements
    is their cosine, and their signal-to-noise ratio is infinite or as bad as can be.
    """
    figures = {"max_abs": difference.max_abs, "max_rel": difference.max_rel}
    if name in figures:
        return figures[name]
    if name == "min_cosine":
        shares = (difference.cosine, difference.top1_agreement)
        return next((share for share in shares if share is not None), 1.0)
    if difference.sqnr_db is not None:
        return difference.sqnr_db
    return math.inf if difference.is_identical else -math.inf
