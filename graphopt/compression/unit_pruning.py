"""The options that passes which remove units share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import onnx_ir as ir

from graphopt.compression.pruning import prune
from graphopt.compression.pruning_options import (
    COMPENSATIONS,
    SCORE_NAMES,
    PruningOptions,
    needs_samples,
)
from graphopt.compression.unit_budget import BUDGETS, MAX_RATIO, Budget
from graphopt.compression.unit_scores import MEASURED_SCORES
from graphopt.compression.unit_selection import ALLOCATIONS, Selection
from graphopt.errors import OptionError
from graphopt.rewrite import Approximate, Contract, Editor, Facts, Needs, Pass, TargetFacts, option
from graphopt.training import check_torch

__all__ = ["UnitPruning"]

_DEFAULT_RATIO = 0.25
_CPU = "CPUExecutionProvider"
_DEVICE_MULTIPLE = 8  # what matrix units of accelerators ask for in 16 bits


@dataclass(frozen=True, kw_only=True)
class UnitPruning(Pass):
    """Removes the units of one kind that are missed least.

    Attributes:
        kind: Which groups of `graphopt.analysis.coupling` it cuts.
        preferred_multiple: Width that kernels like, where `multiple` is not given.
    """

    kind: ClassVar[str]
    preferred_multiple: ClassVar[int] = 1
    contract: ClassVar[Contract] = Contract(
        numerics=Approximate(metric="sqnr_db"),
        is_idempotent=False,  # what is left can lose the same share again
    )
    anchors: ClassVar[frozenset[str] | None] = frozenset({"MatMul", "Gemm", "Conv"})

    ratio: float | None = option(
        None,
        help="share of the units of each group that goes; 0.25 where nothing else says how many",
        unit="fraction",
        minimum=0.0,
        maximum=MAX_RATIO,
    )
    count: int | None = option(
        None, help="how many units of each group go", unit="units", minimum=1
    )
    units: tuple[str, ...] = option(
        (), help="the units that go: GROUP:INDEX or GROUP:FIRST-LAST, counted from 0"
    )
    budget: float | None = option(
        None,
        help="what the model may cost at most; the ratio is found by bisection",
        unit="fraction",
        minimum=1e-6,
        maximum=1.0,
    )
    budget_of: str = option(
        "parameters",
        help="what `budget` limits: a share of what there is, or the relative error of the outputs",
        choices=BUDGETS,
    )
    allocation: str = option(
        "uniform",
        help="the same share of every group, the lowest scores of all, or of each as much as the "
        "outputs bear (three trials for each group)",
        choices=ALLOCATIONS,
    )
    score: str = option("wanda", help="how units are ranked", choices=SCORE_NAMES)
    compare: tuple[str, ...] = option(
        (),
        help="other scores by which units are ranked, for the record alone: which of those that go "
        "would go by these, too",
        choices=SCORE_NAMES,
    )
    compensation: str = option(
        "best",
        help="how what stays makes up for what goes; of each layer what does best on samples that "
        "are held out",
        choices=COMPENSATIONS,
    )
    ridge: float = option(
        0.01,
        help="pull of least squares towards the weights that stay, where samples do not choose it",
        minimum=0.0,
        maximum=1e6,
    )
    multiple: int | None = option(
        None,
        help="the number of units that stay is a multiple of this; unless `count` or `units` are "
        "given: what kernels like (neurons 64, channels 8, heads 1; at most 8 but on the CPU)",
        minimum=1,
    )
    minimum: int = option(1, help="units of a group that stay at least", unit="units", minimum=1)
    groups: tuple[str, ...] = option(
        (), help="patterns of names of groups that may lose units; empty: all"
    )
    exclude: tuple[str, ...] = option((), help="patterns of names of groups that stay whole")
    seed: int = option(0, help="seed of random scores", minimum=0)
    curves: bool = option(
        False,
        help="measure what cutting each group alone by 25, 50 and 75 % does to the outputs: three "
        "trials for each group",
    )

    def __post_init__(self) -> None:
        """Check the options, and that only one says how many units go.

        Raises:
            OptionError: An option has a wrong value, or several contradict each other.
        """
        super().__post_init__()
        given = {"ratio": self.ratio, "count": self.count, "budget": self.budget}
        named = [name for name, value in given.items() if value is not None]
        named += ["units"] if self.units else []
        if len(named) > 1:
            raise OptionError(
                f"options `{named[0]}` and `{named[1]}` of pass `{self.name}` exclude each other",
                why="each says how many units go",
                hint=f"see `graphopt explain {self.name}`",
            )
        if self.units and self.multiple is not None:
            raise OptionError(
                f"options `units` and `multiple` of pass `{self.name}` exclude each other",
                why="units that are named go, whatever number stays",
            )
        if self.allocation != "uniform" and (self.count is not None or self.units):
            raise OptionError(
                f"option `allocation` of pass `{self.name}` cannot be `{self.allocation}` with "
                f"`{named[0]}`",
                why="it shares out a ratio or a budget",
            )

    def needs(self, model: ir.Model) -> Needs:  # noqa: ARG002 - whatever the model
        """Ask for samples where scores, compensation or a budget are measured."""
        return Needs(
            shapes=True,
            samples=needs_samples(self._options()),
            original=self.compensation != "off",
        )

    def without_samples(self) -> Self:
        """Rank by ``l2`` where the score is measured, and fit nothing: the same groups are cut."""
        if not needs_samples(self._options()):
            return self
        score = "l2" if self.score in MEASURED_SCORES else self.score
        is_bound = self.budget is not None and self.budget_of == "error"
        budget = None if is_bound else self.budget
        allocation = "uniform" if self.allocation == "measured" else self.allocation
        compare = tuple(one for one in self.compare if one not in MEASURED_SCORES)
        changed = replace(self, score=score, compensation="off", curves=False, budget=budget)
        return replace(changed, allocation=allocation, compare=compare)

    def check_extras(self) -> None:
        """Check that torch is installed where units are scored by gradients.

        Raises:
            MissingExtraError: It is not.
        """
        if "gradient" in (self.score, *self.compare):
            check_torch("a score by gradients")

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:
        """Cut each group of the kind, or refuse it."""
        prune(model, edit, facts, self._options(facts.target))

    def _options(self, target: TargetFacts | None = None) -> PruningOptions:
        is_counted = self.count is not None or bool(self.units)
        preferred = 1 if is_counted else self.preferred_multiple
        if target is not None and target.provider != _CPU:
            preferred = min(preferred, _DEVICE_MULTIPLE)
        selection = Selection(
            ratio=None if is_counted else (_DEFAULT_RATIO if self.ratio is None else self.ratio),
            count=self.count,
            units=self.units,
            allocation=self.allocation,
            multiple=preferred if self.multiple is None else self.multiple,
            minimum=self.minimum,
            groups=self.groups,
            exclude=self.exclude,
        )
        return PruningOptions(
            kind=self.kind,
            selection=selection,
            budget=None if self.budget is None else Budget(self.budget, self.budget_of),
            score=self.score,
            compensation=self.compensation,
            ridge=self.ridge,
            seed=self.seed,
            curves=self.curves,
            compare=self.compare,
        )
