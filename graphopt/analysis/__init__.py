"""Read-only facts about a model: shapes, operators, constants, figures."""

from graphopt.analysis.annotations import annotation_parameters, forget_annotations, is_annotated
from graphopt.analysis.inputs import compared_values, index_ranges, mask_inputs
from graphopt.analysis.kept_shapes import KeptShapes
from graphopt.analysis.operators import (
    Effect,
    Operators,
    is_deterministic,
    is_pure,
    operator_counts,
)
from graphopt.analysis.shapes import infer_shapes
from graphopt.analysis.states import state_pairs
from graphopt.analysis.summary import ModelSummary, PortSummary, summarise

__all__ = [
    "Effect",
    "KeptShapes",
    "ModelSummary",
    "Operators",
    "PortSummary",
    "annotation_parameters",
    "compared_values",
    "forget_annotations",
    "index_ranges",
    "infer_shapes",
    "is_annotated",
    "is_deterministic",
    "is_pure",
    "mask_inputs",
    "operator_counts",
    "state_pairs",
    "summarise",
]
