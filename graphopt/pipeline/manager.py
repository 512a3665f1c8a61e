"""The pass manager: run, verify, find the guilty, roll back, go on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx_ir as ir

from graphopt.analysis import KeptShapes
from graphopt.errors import OptionError
from graphopt.ir import Checkpoint, remembered_graphs
from graphopt.pipeline.facts_source import FactsSource, StatisticsProvider
from graphopt.pipeline.group_check import Verify
from graphopt.pipeline.group_run import GroupRun, Run
from graphopt.pipeline.groups import groups_of
from graphopt.pipeline.ledger import Ledger
from graphopt.pipeline.lineage import Lineage
from graphopt.pipeline.numerics import Feeds, NumericJudge
from graphopt.pipeline.pipeline import Pipeline
from graphopt.pipeline.reproducer import Weights
from graphopt.pipeline.standing import Standing
from graphopt.pipeline.watch import PrintAfter, ProgressCallback
from graphopt.rewrite import TargetFacts
from graphopt.runtime import Worker
from graphopt.verification import structure_faults

__all__ = ["OnError", "PassManager", "PipelineResult", "Verify"]

OnError = Literal["raise", "drop"]


@dataclass(frozen=True)
class PipelineResult:
    """What a pipeline made.

    Attributes:
        model: The model, the very object that was given.
        ledger: What happened, pass by pass.
    """

    model: ir.Model
    ledger: Ledger


@dataclass(frozen=True, kw_only=True)
class PassManager:
    """Runs pipelines and answers for their results.

    Neighbouring passes with the same kind of contract form a group; a fixpoint group is never
    divided. After a group that edited something, the structure and the interface are checked, and
    the outputs are compared with those of the original under ONNX Runtime without optimizations.
    Where that fails, or a pass raises, the group is rolled back, the guilty pass is found by
    replaying it, and `on_error` decides. Approximate passes are not judged here: their drift is
    measured where ``feeds`` are given, and gates bound it later.

    Attributes:
        verify: `numerics` (structure included), `structure`, or `off`.
        on_error: `raise` a `PassError` and leave the model as it was before the group; or `drop`
            the guilty pass, say so in the ledger, and run the rest of the group again.
        seed: Seed of generated inputs.
        feeds: Real inputs to verify with; generated where ``None``.
        target: Given to passes that need a target.
        statistics_provider: Measures the ranges that passes need; without it such passes raise.
        progress: Called after each pass.
        report: Told by passes that take long how far they have come.
        print_after: Receives the model as text after chosen passes.
        reproducer_dir: Folder for the directory that repeats a failure; ``None``: write none.
        reproducer_weights: What it holds of the weights: `random` of the same shape, `full`,
            or `none` (zeros).
        worker: Where models run; the shared worker where ``None``.
    """

    verify: Verify = "numerics"
    on_error: OnError = "raise"
    seed: int = 0
    feeds: Sequence[Feeds] | None = None
    target: TargetFacts | None = None
    statistics_provider: StatisticsProvider | None = None
    progress: ProgressCallback | None = None
    report: Callable[[str], None] | None = None
    print_after: PrintAfter | None = None
    reproducer_dir: Path | None = Path()
    reproducer_weights: Weights = "random"
    worker: Worker | None = None

    def __post_init__(self) -> None:
        """Check the settings that are one of a few words.

        Raises:
            OptionError: One of them is none of these words.
        """
        _check_word("verify", self.verify, ("off", "structure", "numerics"))
        _check_word("on_error", self.on_error, ("raise", "drop"))
        _check_word("reproducer_weights", self.reproducer_weights, ("none", "random", "full"))

    def run(
        self,
        model: ir.Model,
        pipeline: Pipeline,
        *,
        source: str | Path | None = None,
        shapes: KeptShapes | None = None,
        origin: Callable[[], ir.Model] | None = None,
    ) -> PipelineResult:
        """Run a pipeline on a model, in place.

        Args:
            model: The model; on any error it is as it was before the group that failed.
            pipeline: What to run.
            source: The file that ``model`` was loaded from, which serves as reference for
                numerics; where ``None``, the model as given does.
            shapes: Those of ``model``, where the caller has asked for some; they follow the edits.
            origin: Makes another model in the state of ``model``, for the case that it has to be
                put back: where ``None``, its structure is copied beforehand.

        Raises:
            PreconditionError: A pass needs a target or samples, and none were given.
            PassError: A pass failed or broke its contract, and `on_error` is `raise`.
            VerificationError: The result differs from the source without any pass at fault.
            UnsupportedModelError: The runtime cannot run the model as given.
        """
        ledger = Ledger(pipeline=str(pipeline), seed=self.seed, verify=self.verify)
        facts = FactsSource(self.target, self.statistics_provider, self.report)
        whole = Run(
            manager=self,
            standing=Standing(model, shapes),
            lineage=Lineage(model, facts, origin),
            facts=facts,
            judge=self._judge(model, source),
            known_faults=self._known_faults(model, ledger),
            ledger=ledger,
        )
        # Walks are remembered over all groups: whoever edits tells what has changed.
        with ledger.timing.running(), remembered_graphs(model):
            for group in groups_of(pipeline):
                GroupRun(group, whole).run()
        # Apart from notes: who compares the result on other inputs has remarks of his own.
        ledger.remarks += [] if whole.judge is None else whole.judge.remarks()
        return PipelineResult(model, ledger)

    def _judge(self, model: ir.Model, source: str | Path | None) -> NumericJudge | None:
        if self.verify != "numerics":
            return None
        reference = Checkpoint.take(model) if source is None else Path(source)
        return NumericJudge(
            reference, feeds=list(self.feeds or ()) or None, seed=self.seed, worker=self.worker
        )

    def _known_faults(self, model: ir.Model, ledger: Ledger) -> frozenset[str]:
        """Return the faults that the model came with: no pass answers for them."""
        if self.verify == "off":
            return frozenset()
        faults = structure_faults(model)
        ledger.notes += [f"before any pass: {fault}" for fault in faults]
        return frozenset(faults)


def _check_word(name: str, value: str, words: tuple[str, ...]) -> None:
    if value not in words:
        raise OptionError(
            f"setting `{name}` cannot be `{value}`",
            why="expected one of " + ", ".join(f"`{word}`" for word in words),
        )
