"""Samples of a model's inputs, and what its values span on them."""

from graphopt.calibration.ranges import collect_ranges
from graphopt.calibration.samples import LABELS, Samples, SampleSource, load_samples

__all__ = ["LABELS", "SampleSource", "Samples", "collect_ranges", "load_samples"]
