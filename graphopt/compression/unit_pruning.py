"""The options that passes which remove units share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from graphopt.compression.pruning import (
    COMPENSATIONS,
    SCORE_NAMES,
    PruningOptions,
    needs_samples,
    prune,
)
from graphopt.rewrite import Approximate, Contract, Editor, Facts, Needs, Pass, option

__all__ = ["UnitPruning"]


@dataclass(frozen=True, kw_only=True)
class UnitPruning(Pass):
    """Removes the units of one kind that are missed least.

    Attributes:
        kind: Which groups of `graphopt.analysis.coupling` it cuts.
    """

    kind: ClassVar[str]
    contract: ClassVar[Contract] = Contract(
        numerics=Approximate(metric="sqnr_db"),
        is_idempotent=False,  # what is left can lose the same share again
    )
    anchors: ClassVar[frozenset[str] | None] = frozenset({"MatMul", "Gemm", "Conv"})

    ratio: float = option(
        0.25,
        help="share of the units of each group that goes",
        unit="fraction",
        minimum=0.0,
        maximum=0.95,
    )
    score: str = option("wanda", help="how units are ranked", choices=SCORE_NAMES)
    compensation: str = option(
        "least-squares", help="how what stays makes up for what goes", choices=COMPENSATIONS
    )
    ridge: float = option(
        0.01, help="pull of least squares towards the weights that stay", minimum=0.0
    )
    multiple: int = option(1, help="the number of units that stay is a multiple of this", minimum=1)
    exclude: tuple[str, ...] = option((), help="patterns of names of groups that stay whole")
    seed: int = option(0, help="seed of random scores", minimum=0)

    def needs(self, model: ir.Model) -> Needs:  # noqa: ARG002 - whatever the model
        """Ask for samples where scores or compensation are measured."""
        return Needs(shapes=True, samples=needs_samples(self._options()))

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:
        """Cut each group of the kind, or refuse it."""
        prune(model, edit, facts, self._options())

    def _options(self) -> PruningOptions:
        return PruningOptions(
            kind=self.kind,
            ratio=self.ratio,
            multiple=self.multiple,
            score=self.score,
            compensation=self.compensation,
            ridge=self.ridge,
            exclude=self.exclude,
            seed=self.seed,
        )
