"""Candidates: building them, measuring them against the original, choosing the best."""

from graphopt.search.build import Built, Rejected, build, plan_candidates, run_stages
from graphopt.search.campaign import Outcome, explore
from graphopt.search.choose import choose
from graphopt.search.measure import Measured, measure
from graphopt.search.measured_stages import without_measured_stages
from graphopt.search.packaging import bundle_parts
from graphopt.search.progress import ProgressCallback, ProgressEvent, Reporter
from graphopt.search.results import result_of
from graphopt.search.saturation import LayerSaturation, predict_saturation
from graphopt.search.workbench import Feeds, MetricSource, SampleSource, Workbench, prepare

__all__ = [
    "Built",
    "Feeds",
    "LayerSaturation",
    "Measured",
    "MetricSource",
    "Outcome",
    "ProgressCallback",
    "ProgressEvent",
    "Rejected",
    "Reporter",
    "SampleSource",
    "Workbench",
    "build",
    "bundle_parts",
    "choose",
    "explore",
    "measure",
    "plan_candidates",
    "predict_saturation",
    "prepare",
    "result_of",
    "run_stages",
    "without_measured_stages",
]
