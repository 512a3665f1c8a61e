"""Models as torch functions: gradients of units, and distillation. Needs the extra ``torch``."""

from graphopt.training.gradients import LOSSES, UnitGradient, unit_gradients
from graphopt.training.interpreter import Operand, TorchModel, unsupported_operators
from graphopt.training.torch_extra import has_torch, require_torch

__all__ = [
    "LOSSES",
    "Operand",
    "TorchModel",
    "UnitGradient",
    "has_torch",
    "require_torch",
    "unit_gradients",
    "unsupported_operators",
]
