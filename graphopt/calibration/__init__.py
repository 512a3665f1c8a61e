"""Samples of a model's inputs, and what its values span on them."""

from graphopt.calibration.cache import CalibrationCache
from graphopt.calibration.calibrator import Calibrator
from graphopt.calibration.lint import SampleWarning, lint_samples
from graphopt.calibration.measuring import SampleMeasure
from graphopt.calibration.sample_parts import SamplePart
from graphopt.calibration.samples import LABELS, Samples, SampleSource, load_samples
from graphopt.calibration.thresholds import RANGE_METHODS, range_of
from graphopt.calibration.user_functions import calling, import_function

__all__ = [
    "LABELS",
    "RANGE_METHODS",
    "CalibrationCache",
    "Calibrator",
    "SampleMeasure",
    "SamplePart",
    "SampleSource",
    "SampleWarning",
    "Samples",
    "calling",
    "import_function",
    "lint_samples",
    "load_samples",
    "range_of",
]
