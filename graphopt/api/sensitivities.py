"""`inspect --sensitivity`: what each quantized operator alone costs in accuracy."""

from __future__ import annotations

import time
from pathlib import Path

from graphopt.errors import UnknownNameError
from graphopt.search import ProgressCallback, Reporter, SampleSource, prepare, run_stages
from graphopt.search.sensitivity import Sensitivity, candidate_sensitivities
from graphopt.targets import Candidate, Target, load_target

__all__ = ["inspect_sensitivities"]

_STAGE = "sensitivity"


def inspect_sensitivities(
    source: str | Path,
    samples: SampleSource,
    candidate: str,
    *,
    target: str | Path | Target = "cpu-int8",
    budget_s: float = 300.0,
    seed: int = 0,
    progress: ProgressCallback | None = None,
) -> list[Sensitivity]:
    """Return what each group of operators that a candidate quantizes costs alone, the worst first.

    Each group is quantized with all others in float, and the outputs are compared with those of
    the original on four samples. This is what mixed precision goes by.

    Args:
        source: ONNX file.
        samples: Samples to measure ranges on; the first four judge.
        candidate: Name of a candidate of the target.
        target: Profile by name or file, or a loaded one.
        budget_s: Seconds after which no other group is measured; those are listed last.
        seed: Seed of everything random.
        progress: Called with each step.

    Raises:
        UsageError: The target or the candidate is unknown.
        InputError: The model or the samples cannot be used.
        PassError: The candidate cannot be built.
    """
    deadline = time.monotonic() + budget_s
    profile = target if isinstance(target, Target) else load_target(target)
    chosen = _candidate(profile, candidate)
    report = Reporter(progress, _STAGE)
    bench = prepare(
        source,
        profile,
        calibration=samples,
        evaluation=None,
        metric=None,
        latency_budget_s=None,
        seed=seed,
        report=report,
    )
    shared = run_stages(bench)
    return candidate_sensitivities(bench, chosen, shared, deadline=deadline, report=report)


def _candidate(target: Target, name: str) -> Candidate:
    known = {item.name: item for item in target.enabled_candidates()}
    if name not in known:
        raise UnknownNameError(f"candidate of `{target.name}`", name, known)
    return known[name]
