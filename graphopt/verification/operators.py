"""What the schema of an operator demands of the nodes that use it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, lru_cache

import onnx
import onnx_ir as ir

from graphopt.analysis.operator_table import RUNTIME_DOMAIN, Formals, OperatorRule, operator_rule

__all__ = [
    "ABSENT",
    "OperatorRule",
    "Signature",
    "ValueKey",
    "rule_or_fault",
    "signature_faults",
    "signature_of",
    "value_key",
]

AttributeKey = tuple[str, ir.AttributeType]
ValueKey = ir.DataType | str | None
Signature = tuple[tuple[ValueKey, ...], tuple[ValueKey, ...], tuple[AttributeKey, ...]]
"""Types of the inputs, types of the outputs, names and types of the attributes of a node.

A type is a `onnx_ir.DataType` for a tensor, a type string for anything else, ``None`` where
unknown, and ``ABSENT`` for an optional input or output that is left out.
"""

ABSENT = "absent"


@cache
def _known_domains() -> frozenset[str]:
    return frozenset(schema.domain for schema in onnx.defs.get_all_schemas())


@cache
def rule_or_fault(domain: str, op_type: str, version: int) -> OperatorRule | str | None:
    """Return the rule of an operator at an opset version.

    Returns:
        The rule; a text that says what is wrong where a standard domain has no such operator;
        ``None`` for a domain without published schemas, of which nothing can be said.
    """
    rule = operator_rule(domain, op_type, version)
    if rule is not None or domain == RUNTIME_DOMAIN:
        return rule
    # All schemas are asked for only here: that takes milliseconds.
    is_known = not domain or domain in _known_domains()
    label = f"{domain}::{op_type}" if domain else op_type
    return f"`{label}` is no operator of opset {version}" if is_known else None


def value_key(value: ir.Value) -> ValueKey:
    """Return what a signature tells of an input or output that is there."""
    kind = value.type
    if type(kind) is ir.TensorType:
        return kind.dtype
    if kind is None:
        return ABSENT if value.name == "" else None
    return type_text(kind)


def type_text(kind: ir.TypeProtocol) -> str:
    """Return a type as the specification writes it, for example ``seq(tensor(float))``."""
    if isinstance(kind, ir.SequenceType):
        return f"seq({type_text(kind.elem_type)})"
    if isinstance(kind, ir.OptionalType):
        return f"optional({type_text(kind.elem_type)})"
    prefix = "sparse_tensor" if isinstance(kind, ir.SparseTensorType) else "tensor"
    return f"{prefix}({kind.dtype.name.lower()})"


def signature_of(node: ir.Node, inputs: tuple[ValueKey, ...]) -> Signature:
    """Return what `signature_faults` looks at; equal nodes share their answer.

    Args:
        node: The node.
        inputs: What is known of its inputs: `value_key`, or `ABSENT` of one that is left out.
    """
    attributes = node.attributes.data
    return (
        inputs,
        tuple([value_key(value) for value in node.outputs]),
        tuple([(name, attribute.type) for name, attribute in attributes.items()])
        if attributes
        else (),
    )


@lru_cache(maxsize=65536)
def signature_faults(rule: OperatorRule, signature: Signature) -> tuple[str, ...]:
    """Return what an operator's schema finds wrong with nodes of one signature."""
    inputs, outputs, attributes = signature
    if rule.is_deprecated:
        return (f"`{rule.label}` is deprecated in this opset",)
    bound: dict[str, tuple[str, str]] = {}
    return (
        *_arity_faults(rule, "input", rule.inputs, inputs),
        *_arity_faults(rule, "output", rule.outputs, outputs),
        *_attribute_faults(rule, dict(attributes)),
        *_type_faults(rule, "input", rule.inputs, inputs, bound),
        *_type_faults(rule, "output", rule.outputs, outputs, bound),
    )


def _arity_faults(
    rule: OperatorRule, what: str, formals: Formals, given: tuple[ValueKey, ...]
) -> Iterator[str]:
    if len(given) > formals.most:
        yield f"`{rule.label}` takes at most {formals.most} {what}s, got {len(given)}"
    present = len(given)
    # What is left out at the end may be written as empty names or not at all: both mean the same.
    while present and given[present - 1] == ABSENT:
        present -= 1
    if present < formals.least:
        yield f"`{rule.label}` needs at least {formals.least} {what}s, got {present}"
    for index, key in enumerate(given[:present]):
        parameter = formals.at(index)
        # A required output may be left unnamed by exporters; the runtime takes that.
        if key == ABSENT and what == "input" and parameter and parameter.is_required:
            yield f"`{rule.label}` needs input {index} (`{parameter.name}`), which is left out"


def _attribute_faults(rule: OperatorRule, given: dict[str, ir.AttributeType]) -> Iterator[str]:
    for name, (kind, is_required) in rule.attributes.items():
        if is_required and name not in given:
            yield f"`{rule.label}` needs attribute `{name}` of type {kind.name}"
    for name, kind in given.items():
        if name not in rule.attributes:
            yield f"`{rule.label}` has no attribute `{name}`"
        elif kind != rule.attributes[name][0]:
            expected = rule.attributes[name][0].name
            yield f"attribute `{name}` of `{rule.label}` must be {expected}, is {kind.name}"


def _type_faults(
    rule: OperatorRule,
    what: str,
    formals: Formals,
    given: tuple[ValueKey, ...],
    bound: dict[str, tuple[str, str]],
) -> Iterator[str]:
    for index, key in enumerate(given):
        parameter = formals.at(index)
        # An unknown type is no fault: exporters leave most types between nodes out.
        if parameter is None or key is None or key == ABSENT or not parameter.types:
            continue
        text = key if isinstance(key, str) else f"tensor({key.name.lower()})"
        where = f"{what} {index} (`{parameter.name}`)"
        if text not in parameter.types:
            yield f"`{rule.label}` does not take {text} as {where}"
            continue
        first_where, first = bound.setdefault(parameter.variable, (where, text))
        if text != first:
            yield f"`{rule.label}` needs one type for {first_where} and {where}: {first}, {text}"
