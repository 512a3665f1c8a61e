"""Is a model sound, and is it still the same model: structure, numbers, task metrics."""

from graphopt.verification.differences import OutputDifference, compare_outputs, compare_values
from graphopt.verification.interface import Interface, Signature, check_interface
from graphopt.verification.structure import check_structure, structure_faults
from graphopt.verification.summary import ErrorSummary, check_contract, contract_fault

__all__ = [
    "ErrorSummary",
    "Interface",
    "OutputDifference",
    "Signature",
    "check_contract",
    "check_interface",
    "check_structure",
    "compare_outputs",
    "compare_values",
    "contract_fault",
    "structure_faults",
]
