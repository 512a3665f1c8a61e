"""The table of operators, held against the schemas of the `onnx` that is installed."""

from __future__ import annotations

import onnx
import pytest

from graphopt.analysis.operator_table import operator_rule, rule_of, tabled_rule
from graphopt.verification.operators import rule_or_fault

SCHEMAS = onnx.defs.get_all_schemas_with_history()
NEWEST = onnx.defs.onnx_opset_version()


def test_every_version_of_every_operator_is_tabled_as_its_schema_says() -> None:
    for schema in SCHEMAS:
        found = tabled_rule(schema.domain, schema.name, schema.since_version)
        expected = rule_of(schema)
        assert found is not None, expected.label
        assert vars(found) == vars(expected)
        assert list(found.attributes) == list(expected.attributes), "the order of messages"


@pytest.mark.parametrize("version", range(1, NEWEST + 1))
def test_at_each_opset_the_version_in_force_is_found(version: int) -> None:
    for name in sorted({schema.name for schema in SCHEMAS if not schema.domain}):
        found = tabled_rule("", name, version)
        if found is None:
            assert not onnx.defs.has(name, version)
        else:
            assert vars(found) == vars(rule_of(onnx.defs.get_schema(name, version)))


def test_newer_opsets_than_the_table_are_left_to_onnx() -> None:
    assert tabled_rule("", "Add", NEWEST + 1) is None
    rule = operator_rule("", "Add", NEWEST + 1)
    assert rule is not None
    assert rule.label == "Add-14"


@pytest.mark.parametrize("domain", ["com.example", "com.microsoft"])
def test_of_domains_without_schemas_nothing_is_said(domain: str) -> None:
    assert operator_rule(domain, "Add", 1) is None
    assert rule_or_fault(domain, "Add", 1) is None


@pytest.mark.parametrize("operator", ["Nonsense", "Gelu"])
def test_what_an_opset_does_not_have_is_a_fault(operator: str) -> None:
    assert operator_rule("", operator, 17) is None
    assert rule_or_fault("", operator, 17) == f"`{operator}` is no operator of opset 17"
