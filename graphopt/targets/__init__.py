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
from graphopt.targets.loading import explained, load_target, target_names
from graphopt.targets.profile import (
    ENOUGH_DB,
    Candidate,
    DeviceProfile,
    Package,
    Precision,
    Provider,
    RuntimeProfile,
    Stage,
    Target,
)
from graphopt.targets.provider_rules import ProviderRules, provider_rules
from graphopt.targets.releases import (
    NEWEST_IR_VERSION,
    NEWEST_OPSET,
    newest_ir_version,
    newest_opset,
    release_key,
)
from graphopt.targets.schema import target_schema

__all__ = [
    "ENOUGH_DB",
    "GATES",
    "NEWEST_IR_VERSION",
    "NEWEST_OPSET",
    "Candidate",
    "DeviceProfile",
    "Gate",
    "GateResult",
    "Measured",
    "Package",
    "Precision",
    "Provider",
    "ProviderRules",
    "RuntimeProfile",
    "Stage",
    "Target",
    "check_gate",
    "explained",
    "gates_met",
    "is_correct",
    "judge",
    "load_target",
    "newest_ir_version",
    "newest_opset",
    "parse_gates",
    "provider_rules",
    "release_key",
    "target_names",
    "target_schema",
]
