"""Everything that touches ONNX Runtime, which this process itself never imports.

Names are imported when they are first used: a worker process needs a part of them only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphopt._lazy_names import attach

if TYPE_CHECKING:
    from graphopt.runtime.client import Worker as Worker
    from graphopt.runtime.cold_start import ColdStart as ColdStart
    from graphopt.runtime.cold_start import measure_cold_start as measure_cold_start
    from graphopt.runtime.cpu import architecture as architecture
    from graphopt.runtime.cpu import cpu_features as cpu_features
    from graphopt.runtime.cpu import cpu_name as cpu_name
    from graphopt.runtime.cpu import usable_cores as usable_cores
    from graphopt.runtime.feed_sets import generate_feed_sets as generate_feed_sets
    from graphopt.runtime.feed_sets import representative_feed as representative_feed
    from graphopt.runtime.feeds import generate_feeds as generate_feeds
    from graphopt.runtime.feeds import input_specs as input_specs
    from graphopt.runtime.histograms import CELLS as CELLS
    from graphopt.runtime.histograms import Histogram as Histogram
    from graphopt.runtime.latency import LatencyComparison as LatencyComparison
    from graphopt.runtime.latency import LatencySummary as LatencySummary
    from graphopt.runtime.latency import measure_latency as measure_latency
    from graphopt.runtime.loaded_graph import LoadedGraph as LoadedGraph
    from graphopt.runtime.loaded_graph import inspect_loaded as inspect_loaded
    from graphopt.runtime.options import SessionOptions as SessionOptions
    from graphopt.runtime.options import TensorSpec as TensorSpec
    from graphopt.runtime.placement import Placement as Placement
    from graphopt.runtime.placement import measure_placement as measure_placement
    from graphopt.runtime.session import NodeTiming as NodeTiming
    from graphopt.runtime.session import Observed as Observed
    from graphopt.runtime.session import Padding as Padding
    from graphopt.runtime.session import Pair as Pair
    from graphopt.runtime.session import Session as Session
    from graphopt.runtime.session import Watched as Watched
    from graphopt.runtime.shared import available_providers as available_providers
    from graphopt.runtime.shared import runtime_version as runtime_version
    from graphopt.runtime.shared import shared_worker as shared_worker
    from graphopt.runtime.values import Feeds as Feeds
    from graphopt.runtime.values import Values as Values

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "client": ("Worker",),
        "cold_start": (
            "ColdStart",
            "measure_cold_start",
        ),
        "cpu": (
            "architecture",
            "cpu_features",
            "cpu_name",
            "usable_cores",
        ),
        "feed_sets": (
            "generate_feed_sets",
            "representative_feed",
        ),
        "feeds": (
            "generate_feeds",
            "input_specs",
        ),
        "histograms": (
            "CELLS",
            "Histogram",
        ),
        "latency": (
            "LatencyComparison",
            "LatencySummary",
            "measure_latency",
        ),
        "loaded_graph": (
            "LoadedGraph",
            "inspect_loaded",
        ),
        "options": (
            "SessionOptions",
            "TensorSpec",
        ),
        "placement": (
            "Placement",
            "measure_placement",
        ),
        "session": (
            "NodeTiming",
            "Observed",
            "Padding",
            "Pair",
            "Session",
            "Watched",
        ),
        "shared": (
            "available_providers",
            "runtime_version",
            "shared_worker",
        ),
        "values": (
            "Feeds",
            "Values",
        ),
    },
)
