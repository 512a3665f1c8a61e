"""How much each quantized operator alone costs in accuracy.

Each group is quantized alone, everything else in float, and the outputs are compared with those of
the original on real samples (Pandey et al. 2023, "A practical mixed precision algorithm for
post-training quantization", section 3.1).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.errors import PassError, RuntimeFailure, VerificationError
from graphopt.ir import Checkpoint, save, scratch_folder
from graphopt.pipeline import PassManager, Pipeline
from graphopt.search.build import Shared
from graphopt.search.op_groups import OpGroup, divided, pipeline_of, quantized_groups, without
from graphopt.search.progress import Reporter
from graphopt.search.workbench import Workbench
from graphopt.targets import Candidate
from graphopt.verification import ErrorSummary
from graphopt.verification.differences import finite_or_none

__all__ = [
    "Sensitivity",
    "candidate_sensitivities",
    "measure_sensitivities",
    "prepared_state",
]

FEEDS = 4
"""Samples on which each group is judged; the order of groups hardly depends on more."""

_Outputs = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Sensitivity:
    """What quantizing one group alone does to the outputs.

    Attributes:
        group: The group.
        sqnr_db: Smallest signal-to-noise ratio of an output; infinite where nothing changes,
            ``None`` where time ran out or the model did not run.
        cosine: Smallest cosine of an output; ``None`` as for `sqnr_db`.
    """

    group: OpGroup
    sqnr_db: float | None
    cosine: float | None

    @property
    def rank(self) -> float:
        """What groups are given back by, the smallest first; unknown ones last."""
        return np.inf if self.sqnr_db is None else self.sqnr_db

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form; where the outputs are the same, ``sqnr_db`` is null."""
        return {
            "nodes": list(self.group.nodes),
            "operator": self.group.kind,
            "is_measured": self.sqnr_db is not None,
            "sqnr_db": finite_or_none(self.sqnr_db),
            "cosine": finite_or_none(self.cosine),
        }

    def __str__(self) -> str:
        return "not measured" if self.sqnr_db is None else f"alone it has {self.sqnr_db:.1f} dB"


def candidate_sensitivities(
    bench: Workbench, candidate: Candidate, shared: Shared, *, deadline: float, report: Reporter
) -> list[Sensitivity]:
    """Return what each group that a candidate quantizes costs alone, the worst first.

    Args:
        bench: Samples, worker and target.
        candidate: Of the target.
        shared: The state from which candidates are built.
        deadline: Time of `time.monotonic` after which no other group is measured.
        report: Where progress goes.
    """
    before, rest = divided(pipeline_of(candidate))
    prepared = prepared_state(bench, before, shared, report)
    ledger = _manager(bench, report).run(prepared.new_model(), rest).ledger
    groups = quantized_groups(prepared.new_model(), ledger)
    return measure_sensitivities(bench, prepared, rest, groups, deadline=deadline, report=report)


def prepared_state(
    bench: Workbench, before: Pipeline, shared: Shared, report: Reporter
) -> Checkpoint:
    """Return the model just before the first pass that quantizes.

    Args:
        bench: Samples, worker and target.
        before: What a candidate does before that pass; it may be empty.
        shared: The state from which candidates are built.
        report: Where progress goes.
    """
    model = shared.state.new_model()
    if before:
        # What prepares for integers, as deeper masks do, may look at samples, too.
        _manager(bench, report).run(model, before)
    return Checkpoint.take(model)


def _manager(bench: Workbench, report: Reporter) -> PassManager:
    return PassManager(
        verify="off",
        seed=bench.seed,
        target=bench.target.to_facts(),
        statistics_provider=bench.calibrator(
            lambda done, total: report("calibrating", done, total)
        ),
    )


def measure_sensitivities(
    bench: Workbench,
    prepared: Checkpoint,
    pipeline: Pipeline,
    groups: Sequence[OpGroup],
    *,
    deadline: float,
    report: Reporter,
) -> list[Sensitivity]:
    """Return what each group costs alone, the worst first; order in the model decides ties.

    Args:
        bench: Samples, worker and target.
        prepared: The model just before the first pass that quantizes.
        pipeline: From that pass on.
        groups: What it quantizes.
        deadline: Time of `time.monotonic` after which no other group is measured.
        report: Where progress goes.
    """
    manager = _manager(bench, report)
    # The whole first: all values are measured together.
    if bench.calibration is not None and groups:
        manager.run(prepared.new_model(), pipeline)
    feeds = bench.feeds[:FEEDS]
    # Of the prepared model: what was done to the original before costs no group anything.
    reference = _outputs(bench, prepared.new_model(), feeds)
    found: list[Sensitivity] = []
    for number, group in enumerate(groups, start=1):
        unknown = Sensitivity(group, None, None)
        if time.monotonic() > deadline:
            found.append(unknown)
            continue
        report("measuring sensitivity", number, len(groups))
        model = prepared.new_model()
        others = [other for other in groups if other is not group]
        try:
            manager.run(model, without(pipeline, others))
            outputs = _outputs(bench, model, feeds)
        except (PassError, RuntimeFailure, VerificationError):
            found.append(unknown)  # whole, it may run nevertheless; and unmeasured is said
            continue
        errors = ErrorSummary()
        for before, after in zip(reference, outputs, strict=True):
            errors.update(before, after)
        found.append(Sensitivity(group, errors.worst_sqnr_db(), errors.worst_cosine()))
    return sorted(found, key=lambda item: item.rank)


def _outputs(bench: Workbench, model: ir.Model, feeds: Sequence[_Outputs]) -> list[_Outputs]:
    with scratch_folder() as folder:
        path = save(model, folder / "model.onnx")[0]
        with bench.worker.load(path, bench.options) as session:
            return [session.run(feed) for feed in feeds]
