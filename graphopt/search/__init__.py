"""Candidates: building them, measuring them against the original, choosing the best.

What builds, measures and chooses is called like the file that it is in, and imported from there.
Names are imported when they are first used: a room is large, and who asks needs a part of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphopt._lazy_names import attach

if TYPE_CHECKING:
    from graphopt.search.build import Built as Built
    from graphopt.search.build import Rejected as Rejected
    from graphopt.search.build import plan_candidates as plan_candidates
    from graphopt.search.build import run_stages as run_stages
    from graphopt.search.campaign import Outcome as Outcome
    from graphopt.search.campaign import explore as explore
    from graphopt.search.measure import Measured as Measured
    from graphopt.search.measured_stages import check_extras as check_extras
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

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "build": (
            "Built",
            "Rejected",
            "plan_candidates",
            "run_stages",
        ),
        "campaign": (
            "Outcome",
            "explore",
        ),
        "measure": ("Measured",),
        "measured_stages": (
            "check_extras",
            "without_measured_stages",
        ),
        "packaging": ("bundle_parts",),
        "progress": (
            "ProgressCallback",
            "ProgressEvent",
            "Reporter",
        ),
        "results": ("result_of",),
        "saturation": (
            "LayerSaturation",
            "predict_saturation",
        ),
        "workbench": (
            "Feeds",
            "MetricSource",
            "SampleSource",
            "Workbench",
            "prepare",
        ),
    },
)
