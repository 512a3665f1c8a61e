"""Everything that touches ONNX Runtime, which this process itself never imports."""

from graphopt.runtime.client import Worker
from graphopt.runtime.feed_sets import generate_feed_sets
from graphopt.runtime.feeds import generate_feeds, input_specs
from graphopt.runtime.options import SessionOptions, TensorSpec
from graphopt.runtime.session import NodeTiming, Observed, Session
from graphopt.runtime.shared import available_providers, runtime_version, shared_worker
from graphopt.runtime.values import Feeds, Values

__all__ = [
    "Feeds",
    "NodeTiming",
    "Observed",
    "Session",
    "SessionOptions",
    "TensorSpec",
    "Values",
    "Worker",
    "available_providers",
    "generate_feed_sets",
    "generate_feeds",
    "input_specs",
    "runtime_version",
    "shared_worker",
]
