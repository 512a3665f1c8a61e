"""Samples of a model's inputs, and what its values span on them."""

from graphopt.calibration.ranges import collect_ranges
from graphopt.calibration.samples import LABELS, Samples, SampleSource, load_samples
from graphopt.calibration.user_functions import calling, import_function

__all__ = [
    "LABELS",
    "SampleSource",
    "Samples",
    "calling",
    "collect_ranges",
    "import_function",
    "load_samples",
]
