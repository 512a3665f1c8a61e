"""What is shipped: bundles, how they are written, and how they are checked on a device."""

from graphopt.deploy.bundle import Bundle, check_output, is_bundle
from graphopt.deploy.contract import contract_faults
from graphopt.deploy.golden import Golden, GoldenSample, OutputRule, record_golden
from graphopt.deploy.manifest import BundleParts
from graphopt.deploy.publishing import check_destination, publish, recover
from graphopt.deploy.shipped_validator import schema_text, validator_text
from graphopt.deploy.validation import ValidationReport, validate

__all__ = [
    "Bundle",
    "BundleParts",
    "Golden",
    "GoldenSample",
    "OutputRule",
    "ValidationReport",
    "check_destination",
    "check_output",
    "contract_faults",
    "is_bundle",
    "publish",
    "record_golden",
    "recover",
    "schema_text",
    "validate",
    "validator_text",
]
