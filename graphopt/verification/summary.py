"""Differences gathered over samples, and the judgement of a contract over them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from graphopt.errors import NumericMismatch
from graphopt.rewrite import Approximate, Exact, Numerics, Rounding
from graphopt.verification.differences import OutputDifference, compare_outputs, least

__all__ = ["ErrorSummary", "check_contract", "contract_fault"]


@dataclass
class _Running:
    """What is kept of one output: the worst, and sums for the means."""

    worst: OutputDifference
    worst_sample: int
    cosines: list[float] = field(default_factory=list)
    agreements: list[float] = field(default_factory=list)


class ErrorSummary:
    """The worst difference per output over samples, with mean cosine and mean agreement.

    Attributes:
        samples: Number of samples that were compared.
    """

    def __init__(self) -> None:
        self.samples = 0
        self._running: dict[str, _Running] = {}

    def update(
        self, reference: Mapping[str, Any], candidate: Mapping[str, Any]
    ) -> dict[str, OutputDifference]:
        """Compare the outputs for one more sample, and return their differences."""
        differences = compare_outputs(reference, candidate)
        self.add(differences)
        return differences

    def add(self, differences: Mapping[str, OutputDifference]) -> None:
        """Take in the differences of one more sample."""
        for name, new in differences.items():
            kept = self._running.setdefault(name, _Running(new, self.samples))
            if _badness(new) > _badness(kept.worst):
                kept.worst_sample = self.samples
            kept.worst = _worse(kept.worst, new)
            if new.cosine is not None:
                kept.cosines.append(new.cosine)
            if new.top1_agreement is not None:
                kept.agreements.append(new.top1_agreement)
        self.samples += 1

    @property
    def outputs(self) -> dict[str, OutputDifference]:
        """The worst of every number, by output; `top1_agreement` is the mean over samples."""
        return {
            name: replace(kept.worst, top1_agreement=_mean(kept.agreements))
            for name, kept in self._running.items()
        }

    def mean_cosine(self, name: str) -> float | None:
        """Return the mean cosine of an output over samples; ``None`` where it has none."""
        return _mean(self._running[name].cosines)

    def worst_sample(self, name: str) -> int:
        """Return the index of the sample in which an output was worst."""
        return self._running[name].worst_sample

    def worst_max_rel(self) -> float | None:
        """Return the largest `max_rel` of any output; ``None`` where nothing was compared."""
        return max((item.max_rel for item in self.outputs.values()), default=None)

    def worst_cosine(self) -> float | None:
        """Return the smallest cosine of any output.

        The share of equal elements takes its place for outputs of integers, booleans and text.
        """
        return least(
            item.top1_agreement if item.cosine is None else item.cosine
            for item in self.outputs.values()
        )

    def worst_sqnr_db(self) -> float | None:
        """Return the smallest signal-to-noise ratio of any output, in dB.

        Outputs of integers, booleans and text have none; where there are no others, the answer is
        infinite if all elements are equal and minus infinite otherwise.
        """
        outputs = self.outputs.values()
        if outputs and all(item.sqnr_db is None for item in outputs):
            return math.inf if all(item.is_identical for item in outputs) else -math.inf
        return least(item.sqnr_db for item in outputs)

    def to_dict(self) -> dict[str, dict[str, float | bool | str | None]]:
        """Return the JSON form, by output."""
        return {
            name: {**item.to_dict(), "mean_cosine": self.mean_cosine(name)}
            for name, item in self.outputs.items()
        }


def _mean(values: list[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _badness(item: OutputDifference) -> tuple[bool, float]:
    return (item.mismatch is not None, item.max_rel)


def _worse(left: OutputDifference, right: OutputDifference) -> OutputDifference:
    return OutputDifference(
        max_abs=max(left.max_abs, right.max_abs),
        max_rel=max(left.max_rel, right.max_rel),
        cosine=least((left.cosine, right.cosine)),
        sqnr_db=least((left.sqnr_db, right.sqnr_db)),
        top1_agreement=least((left.top1_agreement, right.top1_agreement)),
        is_identical=left.is_identical and right.is_identical,
        mismatch=left.mismatch or right.mismatch,
    )


def check_contract(
    differences: Mapping[str, OutputDifference], numerics: Numerics, *, where: str | None = None
) -> None:
    """Check measured differences against what a contract allows.

    `Exact` allows none, not even in the sign of zero. `Rounding` allows `max_rel` up to its bound
    in outputs of floats and none in the others. `Approximate` allows any number (a gate bounds it),
    but no mismatch: shape, type and the pattern of NaN and infinity stay.

    Args:
        differences: By output; `ErrorSummary.outputs` for the worst over samples.
        numerics: The contract of the pass, or of the group of passes.
        where: Who changed the model, for the message.

    Raises:
        NumericMismatch: An output differs by more than that.
    """
    for name, difference in differences.items():
        fault = contract_fault(difference, numerics)
        if fault:
            raise NumericMismatch(
                f"output `{name}` differs more than the contract allows: {fault}",
                where=where or f"output `{name}`",
                why=f"the contract is {numerics}",
            )


def contract_fault(difference: OutputDifference, numerics: Numerics) -> str | None:
    """Return in what way a difference breaks a contract, or ``None``."""
    if difference.mismatch:
        return difference.mismatch
    found = f"max_abs {difference.max_abs:.3g}, max_rel {difference.max_rel:.3g}"
    match numerics:
        case Exact():
            return None if difference.is_identical else f"{found}, expected the same bits"
        case Rounding(bound=bound):
            # Rounding moves floats; an integer, a boolean or a text that is another one is another
            # answer.
            allowed = bound if difference.cosine is not None else 0.0
            return None if difference.max_rel <= allowed else f"{found}, allowed {allowed:.3g}"
        case Approximate():
            return None
