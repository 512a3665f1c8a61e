"""Everything that touches ONNX Runtime, which this process itself never imports."""

from graphopt.runtime.client import Worker
from graphopt.runtime.cold_start import ColdStart, measure_cold_start
from graphopt.runtime.cpu import architecture, cpu_features, cpu_name
from graphopt.runtime.feed_sets import generate_feed_sets, representative_feed
from graphopt.runtime.feeds import generate_feeds, input_specs
from graphopt.runtime.histograms import CELLS, Histogram
from graphopt.runtime.latency import LatencyComparison, LatencySummary, measure_latency
from graphopt.runtime.loaded_graph import LoadedGraph, inspect_loaded
from graphopt.runtime.options import SessionOptions, TensorSpec
from graphopt.runtime.placement import Placement, measure_placement
from graphopt.runtime.session import NodeTiming, Observed, Padding, Pair, Session, Watched
from graphopt.runtime.shared import available_providers, runtime_version, shared_worker
from graphopt.runtime.values import Feeds, Values

__all__ = [
    "CELLS",
    "ColdStart",
    "Feeds",
    "Histogram",
    "LatencyComparison",
    "LatencySummary",
    "LoadedGraph",
    "NodeTiming",
    "Observed",
    "Padding",
    "Pair",
    "Placement",
    "Session",
    "SessionOptions",
    "TensorSpec",
    "Values",
    "Watched",
    "Worker",
    "architecture",
    "available_providers",
    "cpu_features",
    "cpu_name",
    "generate_feed_sets",
    "generate_feeds",
    "input_specs",
    "inspect_loaded",
    "measure_cold_start",
    "measure_latency",
    "measure_placement",
    "representative_feed",
    "runtime_version",
    "shared_worker",
]
