"""What is shipped: bundles, how they are written, and how they are checked on a device."""

from graphopt.deploy.bundle import Bundle, check_included, check_output, is_bundle
from graphopt.deploy.bundle_comparison import BundleComparison
from graphopt.deploy.contract import contract_faults
from graphopt.deploy.fleet import FleetReport, load_fleet
from graphopt.deploy.golden import Golden, GoldenSample, OutputRule, record_golden
from graphopt.deploy.manifest import BundleParts
from graphopt.deploy.ort_format import convert_to_ort
from graphopt.deploy.other_runtime import validate_with
from graphopt.deploy.publishing import check_destination, publish, recover
from graphopt.deploy.raw_golden import RawGolden, record_raw
from graphopt.deploy.remote import DeviceResult, FleetDevice, validate_on
from graphopt.deploy.shipped_validator import schema_text, validator_text
from graphopt.deploy.validation import ValidationReport, validate

__all__ = [
    "Bundle",
    "BundleComparison",
    "BundleParts",
    "DeviceResult",
    "FleetDevice",
    "FleetReport",
    "Golden",
    "GoldenSample",
    "OutputRule",
    "RawGolden",
    "ValidationReport",
    "check_destination",
    "check_included",
    "check_output",
    "contract_faults",
    "convert_to_ort",
    "is_bundle",
    "load_fleet",
    "publish",
    "record_golden",
    "record_raw",
    "recover",
    "schema_text",
    "validate",
    "validate_on",
    "validate_with",
    "validator_text",
]
