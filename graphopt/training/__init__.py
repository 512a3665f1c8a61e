"""Models as torch functions: gradients of units, and distillation. Needs the extra ``torch``."""

from graphopt.training.gradients import LOSSES, UnitGradient, unit_gradients
from graphopt.training.interpreter import Operand, TorchModel, unsupported_operators
from graphopt.training.lessons import comparable, lessons, torch_fault
from graphopt.training.objective import OUTPUT_LOSSES, POOLINGS, Objective
from graphopt.training.student import Recipe, Trained, train
from graphopt.training.torch_extra import check_torch, has_torch, require_torch
from graphopt.training.trainable import streams, trainable_weights

__all__ = [
    "LOSSES",
    "OUTPUT_LOSSES",
    "POOLINGS",
    "Objective",
    "Operand",
    "Recipe",
    "TorchModel",
    "Trained",
    "UnitGradient",
    "check_torch",
    "comparable",
    "has_torch",
    "lessons",
    "require_torch",
    "streams",
    "torch_fault",
    "train",
    "trainable_weights",
    "unit_gradients",
    "unsupported_operators",
]
