"""Is a model sound, and is it still the same model: structure, numbers, task metrics."""

from graphopt.verification.comparison import (
    Comparison,
    Verdict,
    compare_models,
    compare_sessions,
)
from graphopt.verification.differences import OutputDifference, compare_outputs, compare_values
from graphopt.verification.interface import Interface, Signature, check_interface
from graphopt.verification.metrics import (
    LabelledSamples,
    Metric,
    Predict,
    evaluate,
    load_metric,
    metric_names,
)
from graphopt.verification.randomness import RandomOutputs, random_outputs
from graphopt.verification.structure import check_structure, structure_faults
from graphopt.verification.summary import ErrorSummary, check_contract, contract_fault

__all__ = [
    "Comparison",
    "ErrorSummary",
    "Interface",
    "LabelledSamples",
    "Metric",
    "OutputDifference",
    "Predict",
    "RandomOutputs",
    "Signature",
    "Verdict",
    "check_contract",
    "check_interface",
    "check_structure",
    "compare_models",
    "compare_outputs",
    "compare_sessions",
    "compare_values",
    "contract_fault",
    "evaluate",
    "load_metric",
    "metric_names",
    "random_outputs",
    "structure_faults",
]
