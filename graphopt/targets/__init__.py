"""Target profiles: data that says where a model will run, what is tried, and what must hold."""

from graphopt.targets.gates import (
    GATES,
    Gate,
    GateResult,
    Measured,
    check_gate,
    gates_met,
    is_correct,
    judge,
    parse_gates,
)
from graphopt.targets.loading import load_target, target_names
from graphopt.targets.profile import (
    Candidate,
    DeviceProfile,
    Package,
    Precision,
    Provider,
    RuntimeProfile,
    Stage,
    Target,
)
from graphopt.targets.schema import target_schema

__all__ = [
    "GATES",
    "Candidate",
    "DeviceProfile",
    "Gate",
    "GateResult",
    "Measured",
    "Package",
    "Precision",
    "Provider",
    "RuntimeProfile",
    "Stage",
    "Target",
    "check_gate",
    "gates_met",
    "is_correct",
    "judge",
    "load_target",
    "parse_gates",
    "target_names",
    "target_schema",
]
