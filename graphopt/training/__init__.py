"""Models as torch functions: gradients of units, and distillation. Needs the extra ``torch``."""

from graphopt.training.interpreter import Operand, TorchModel, unsupported_operators
from graphopt.training.torch_extra import has_torch, require_torch

__all__ = ["Operand", "TorchModel", "has_torch", "require_torch", "unsupported_operators"]
