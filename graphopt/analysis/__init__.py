"""Read-only facts about a model: shapes, operators, constants, figures."""

from graphopt.analysis.operators import (
    Effect,
    Operators,
    is_deterministic,
    is_pure,
    operator_counts,
)
from graphopt.analysis.shapes import infer_shapes
from graphopt.analysis.summary import ModelSummary, PortSummary, summarise

__all__ = [
    "Effect",
    "ModelSummary",
    "Operators",
    "PortSummary",
    "infer_shapes",
    "is_deterministic",
    "is_pure",
    "operator_counts",
    "summarise",
]
