"""What the schema of an operator demands of the nodes that use it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import onnx
import onnx_ir as ir

__all__ = [
    "ABSENT",
    "OperatorRule",
    "Signature",
    "ValueKey",
    "operator_rule",
    "signature_faults",
    "signature_of",
    "value_key",
]

_Schema = onnx.defs.OpSchema
_Option = _Schema.FormalParameterOption

AttributeKey = tuple[str, ir.AttributeType]
ValueKey = ir.DataType | str | None
Signature = tuple[tuple[ValueKey, ...], tuple[ValueKey, ...], tuple[AttributeKey, ...]]
"""Types of the inputs, types of the outputs, names and types of the attributes of a node.

A type is a `onnx_ir.DataType` for a tensor, a type string for anything else, ``None`` where
unknown, and ``ABSENT`` for an optional input or output that is left out.
"""

ABSENT = "absent"


@dataclass(frozen=True)
class Parameter:
    """One formal input or output.

    Attributes:
        name: Name in the specification.
        variable: Type variable that all parameters of this name share, or a fixed type string.
        types: Accepted type strings, for example ``tensor(float)``.
        is_required: It cannot be left out.
    """

    name: str
    variable: str
    types: frozenset[str]
    is_required: bool


@dataclass(frozen=True)
class Formals:
    """The formal inputs, or the formal outputs, of an operator.

    Attributes:
        parameters: In order; the last one repeats where `is_variadic`.
        least: Smallest number that may be given.
        most: Largest number that may be given.
        is_variadic: The last parameter stands for any number.
    """

    parameters: tuple[Parameter, ...]
    least: int
    most: int
    is_variadic: bool

    def at(self, index: int) -> Parameter | None:
        """Return the parameter at `index`, the variadic one for every index beyond the last."""
        if index < len(self.parameters):
            return self.parameters[index]
        return self.parameters[-1] if self.is_variadic and self.parameters else None


@dataclass(frozen=True, eq=False)
class OperatorRule:
    """The parts of one operator's schema that can be checked without running it.

    Attributes:
        label: ``domain::Name`` and the version the schema is of, for messages.
        inputs: Formal inputs.
        outputs: Formal outputs.
        attributes: Type and necessity by name.
        is_deprecated: The operator must not be used at this version.
    """

    label: str
    inputs: Formals
    outputs: Formals
    attributes: dict[str, tuple[ir.AttributeType, bool]]
    is_deprecated: bool


@cache
def _known_domains() -> frozenset[str]:
    return frozenset(schema.domain for schema in onnx.defs.get_all_schemas())


@cache
def operator_rule(domain: str, op_type: str, version: int) -> OperatorRule | str | None:
    """Return the rule of an operator at an opset version.

    Returns:
        The rule; a text that says what is wrong where a standard domain has no such operator;
        ``None`` for a domain without published schemas, of which nothing can be said.
    """
    label = f"{domain}::{op_type}" if domain else op_type
    try:
        schema = onnx.defs.get_schema(op_type, version, domain)
    except onnx.defs.SchemaError:
        # All schemas are asked for only here: that takes milliseconds.
        is_known = not domain or domain in _known_domains()
        return f"`{label}` is no operator of opset {version}" if is_known else None
    return OperatorRule(
        label=f"{label}-{schema.since_version}",
        inputs=_formals(schema.inputs, schema.min_input, schema.max_input),
        outputs=_formals(schema.outputs, schema.min_output, schema.max_output),
        attributes={
            name: (_attribute_type(attribute), attribute.required)
            for name, attribute in schema.attributes.items()
        },
        is_deprecated=schema.deprecated,
    )


def _attribute_type(attribute: _Schema.Attribute) -> ir.AttributeType:
    return ir.AttributeType[str(attribute.type).removeprefix("AttrType.")]


def _formals(parameters: Sequence[_Schema.FormalParameter], least: int, most: int) -> Formals:
    found = []
    for index, parameter in enumerate(parameters):
        # A heterogeneous variadic parameter (the carried values of a Loop) binds no variable.
        is_free = parameter.option == _Option.Variadic and not parameter.is_homogeneous
        found.append(
            Parameter(
                name=parameter.name,
                variable=f"{parameter.type_str} of {index}" if is_free else parameter.type_str,
                types=frozenset() if is_free else frozenset(parameter.types),
                is_required=parameter.option == _Option.Single,
            )
        )
    is_variadic = bool(parameters) and parameters[-1].option == _Option.Variadic
    return Formals(tuple(found), least, most, is_variadic)


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
