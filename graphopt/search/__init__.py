"""Candidates: building them, measuring them against the original, choosing the best.

What builds, measures and chooses is called like the file that it is in, and imported from there.
Names are imported when they are first used: a room is large, and who asks needs a part of it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphopt.search.build import Built as Built
    from graphopt.search.build import Rejected as Rejected
    from graphopt.search.build import plan_candidates as plan_candidates
    from graphopt.search.build import run_stages as run_stages
    from graphopt.search.campaign import Outcome as Outcome
    from graphopt.search.campaign import explore as explore
    from graphopt.search.measure import Measured as Measured
    from graphopt.search.measured_stages import without_measured_stages as without_measured_stages
    from graphopt.search.packaging import bundle_parts as bundle_parts
    from graphopt.search.progress import ProgressCallback as ProgressCallback
    from graphopt.search.progress import ProgressEvent as ProgressEvent
    from graphopt.search.progress import Reporter as Reporter
    from graphopt.search.results import result_of as result_of
    from graphopt.search.saturation import LayerSaturation as LayerSaturation
    from graphopt.search.saturation import predict_saturation as predict_saturation
    from graphopt.search.workbench import Feeds as Feeds
    from graphopt.search.workbench import MetricSource as MetricSource
    from graphopt.search.workbench import SampleSource as SampleSource
    from graphopt.search.workbench import Workbench as Workbench
    from graphopt.search.workbench import prepare as prepare

_HOMES = {
    "Built": "build",
    "Feeds": "workbench",
    "LayerSaturation": "saturation",
    "Measured": "measure",
    "MetricSource": "workbench",
    "Outcome": "campaign",
    "ProgressCallback": "progress",
    "ProgressEvent": "progress",
    "Rejected": "build",
    "Reporter": "progress",
    "SampleSource": "workbench",
    "Workbench": "workbench",
    "bundle_parts": "packaging",
    "explore": "campaign",
    "plan_candidates": "build",
    "predict_saturation": "saturation",
    "prepare": "workbench",
    "result_of": "results",
    "run_stages": "build",
    "without_measured_stages": "measured_stages",
}

__all__ = [  # noqa: PLE0604 - one list of names, kept in `_HOMES`
    *_HOMES
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module `{__name__}` has no attribute `{name}`")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
