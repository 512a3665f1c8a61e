"""Why units stayed or went: the record that explains structural compression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["ExitDecision", "ExitPlace", "GroupDecision", "LayerFit"]

_DIGITS = 6


@dataclass(frozen=True, kw_only=True)
class LayerFit:
    """How well what stays stands in for a layer that lost inputs.

    Attributes:
        layer: Name of the node.
        compensation: How it was made up for; ``off`` where it was not.
        before: ``E|y - y0|^2 / Var(y0)`` over the rows measured on, with the weights that stayed;
            ``y0``: what the layer computed in the original model. ``None``: not measured.
        after: The same with the weights as they are now.
        rows: Rows measured on.
        is_held_out: The weights were fitted on other rows than these.
    """

    layer: str
    compensation: str
    before: float | None
    after: float | None
    rows: int
    is_held_out: bool = False


@dataclass(frozen=True, kw_only=True)
class GroupDecision:
    """What became of the units of one group.

    Attributes:
        pass_name: The pass that decided.
        group: Name of the group.
        kind: ``heads``, ``neurons``, ``channels``, ``blocks`` or ``sub-layers``.
        where: The node by which reports name it.
        score: How units were ranked.
        scores: One for each unit, in the order of their indices; the least is missed least. Empty
            where the group was not ranked.
        removed: Indices of the units that went.
        predicted: Share of the sum of all scores that went, in [0, 1]; ``None`` where scores do
            not add up to anything, as random ones.
        reason: Why these, and not others; or the slug and the sentence of a refusal.
        fits: Of the layers that read the units.
        curve: What the outputs are off by, ``sqrt(E|y - y0|^2 / E|y0|^2)`` on the samples, with
            this group alone cut by a ratio: pairs of both. Empty where it was not asked for.
        names: What the units are called, in the order of their indices; empty where they have
            numbers alone.
        others: How other scores rank the same units, where that was asked for: pairs of the name
            of a score and its scores, in the order of the indices of the units.
    """

    pass_name: str
    group: str
    kind: str
    where: str
    score: str
    scores: tuple[float, ...]
    removed: tuple[int, ...]
    predicted: float | None
    reason: str
    fits: tuple[LayerFit, ...] = ()
    curve: tuple[tuple[float, float | None], ...] = ()
    names: tuple[str, ...] = ()
    others: tuple[tuple[str, tuple[float, ...]], ...] = ()

    @property
    def count(self) -> int:
        """How many units there were."""
        return max(len(self.names), len(self.scores))

    @property
    def ranks(self) -> tuple[int, ...]:
        """The rank of each unit, 1 for the one that is missed least."""
        ranks = [0] * len(self.scores)
        for rank, place in enumerate(_order(self.scores), start=1):
            ranks[place] = rank
        return tuple(ranks)

    @property
    def agreements(self) -> dict[str, float]:
        """By each other score, the share of the units that went that would have gone by it, too.

        As many go by either. Empty where no other was asked for, or nothing went.
        """
        removed = set(self.removed)
        if not removed:
            return {}
        return {
            name: len(removed.intersection(_order(scores)[: len(removed)])) / len(removed)
            for name, scores in self.others
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form: scores to six digits, and ranks beside them."""
        plain = dict(vars(self))
        plain["scores"] = _rounded(self.scores)
        plain["ranks"] = list(self.ranks)
        plain["removed"] = list(self.removed)
        plain["curve"] = [{"ratio": ratio, "error": error} for ratio, error in self.curve]
        plain["fits"] = [dict(vars(fit)) for fit in self.fits]
        plain["names"] = list(self.names)
        plain["others"] = {name: _rounded(scores) for name, scores in self.others}
        plain["agreements"] = self.agreements
        return plain


def _order(scores: Sequence[float]) -> list[int]:
    """Return the indices of units, the one that is missed least first; of equals the first."""
    # The place decides between equals: the same model must lose the same units twice.
    return sorted(range(len(scores)), key=lambda place: (scores[place], place))


def _rounded(scores: Sequence[float]) -> list[float]:
    # Thousands of scores go into a report; more digits would be noise of the samples.
    return [float(f"{score:.{_DIGITS}g}") for score in scores]


@dataclass(frozen=True)
class ExitPlace:
    """A place where inputs could leave a model.

    Attributes:
        block: Name of the block behind which it is.
        leaving: Share of the rows that chose the threshold which would leave, in [0, 1].
        spared: Share of the arithmetic that is behind it, in [0, 1].
    """

    block: str
    leaving: float
    spared: float


@dataclass(frozen=True, kw_only=True)
class ExitDecision:
    """Where inputs may leave a model early, and what says that they may.

    Attributes:
        pass_name: The pass that decided.
        where: The node by which reports name it.
        block: Name of the block behind which the exit is.
        certainty: What is compared with the threshold: ``probability`` or ``entropy``.
        threshold: Rows leave where their certainty is larger.
        rows: Rows that neither the head nor the threshold was made from.
        leaving: Share of these that leave, in [0, 1].
        agreeing: How many of these get the class that the whole model gives them.
        bound: Of the share of all inputs that do, at 95 % confidence (Clopper and Pearson).
        mean_work: Share of the arithmetic that is done for one of these rows on average, each
            alone in its batch, in [0, 1].
        reason: Why this place.
        places: Every place that was tried, in the order of the graph.
        mean_time: Time of a row alone in its batch over that without the exit, on average;
            ``None``: it was not measured.
    """

    pass_name: str
    where: str
    block: str
    certainty: str
    threshold: float
    rows: int
    leaving: float
    agreeing: int
    bound: float
    mean_work: float
    reason: str
    places: tuple[ExitPlace, ...] = ()
    mean_time: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        plain = dict(vars(self))
        plain["places"] = [dict(vars(place)) for place in self.places]
        return plain
