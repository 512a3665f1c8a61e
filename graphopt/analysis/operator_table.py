"""What schemas say of operators and demand of nodes, as a table beside this file.

ONNX keeps its schemas in its library, and makes all of them, with their texts, when one is asked
for. Here an operator is looked up in a table that `tools/operator_rules.py` writes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

__all__ = [
    "RUNTIME_DOMAIN",
    "TABLE",
    "Formals",
    "OperatorRule",
    "Parameter",
    "operator_rule",
    "rule_of",
    "tabled_rule",
]

RUNTIME_DOMAIN = "com.microsoft"
"""ONNX Runtime's own operators, of which ONNX has no schemas."""

TABLE = Path(__file__).with_name("operators.txt")

_Schema = onnx.defs.OpSchema
_Option = _Schema.FormalParameterOption


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
        is_deterministic: Equal inputs give equal outputs; ``None`` where its schema does not say.
    """

    label: str
    inputs: Formals
    outputs: Formals
    attributes: dict[str, tuple[ir.AttributeType, bool]]
    is_deprecated: bool
    is_deterministic: bool | None


_DETERMINISM = {"Deterministic": True, "NonDeterministic": False}


def rule_of(schema: _Schema) -> OperatorRule:
    """Return what a schema of ONNX demands."""
    return OperatorRule(
        label=_label(schema.domain, schema.name, schema.since_version),
        inputs=_formals(schema.inputs, schema.min_input, schema.max_input),
        outputs=_formals(schema.outputs, schema.min_output, schema.max_output),
        attributes={
            name: (_attribute_type(attribute), attribute.required)
            for name, attribute in schema.attributes.items()
        },
        is_deprecated=schema.deprecated,
        is_deterministic=_DETERMINISM.get(schema.node_determinism.name),  # type: ignore[attr-defined]
    )


@cache
def operator_rule(domain: str, op_type: str, version: int) -> OperatorRule | None:
    """Return the rule of an operator at an opset version, ``None`` where no schema has it."""
    # ONNX's own table comes into being when it is first asked: ten milliseconds of any program.
    tabled = tabled_rule(domain, op_type, version)
    if tabled is not None or domain == RUNTIME_DOMAIN:
        return tabled
    try:
        return rule_of(onnx.defs.get_schema(op_type, version, domain))
    except onnx.defs.SchemaError:
        return None


def tabled_rule(domain: str, op_type: str, version: int) -> OperatorRule | None:
    """Return the rule of an operator at an opset version.

    ``None`` where the table has none, or was written before that version.
    """
    table = _table()
    if version > table.newest.get(domain, 0):
        return None
    for text in reversed(table.rules.get((domain, op_type), ())):
        since, inputs, outputs, attributes, is_deprecated, is_deterministic = json.loads(text)
        if since <= version:
            return OperatorRule(
                label=_label(domain, op_type, since),
                inputs=_tabled_formals(inputs, table.types),
                outputs=_tabled_formals(outputs, table.types),
                attributes={
                    name: (ir.AttributeType[kind], bool(is_required))
                    for name, (kind, is_required) in attributes.items()
                },
                is_deprecated=bool(is_deprecated),
                is_deterministic=is_deterministic,
            )
    return None


@dataclass(frozen=True)
class _Table:
    """The table; of rules, only those are parsed that are asked for.

    Attributes:
        newest: The opset versions of the domains when it was written.
        types: Sets of types, by number; the names of each between blanks.
        rules: By domain and operator; versions from the oldest to the newest.
    """

    newest: dict[str, int]
    types: list[str]
    rules: dict[tuple[str, str], list[str]]


@cache
def _table() -> _Table:
    newest, types, *lines = TABLE.read_text(encoding="utf-8").splitlines()
    rules: dict[tuple[str, str], list[str]] = {}
    for line in lines:
        domain, op_type, rule = line.split("\t")
        rules.setdefault((domain, op_type), []).append(rule)
    return _Table(json.loads(newest), json.loads(types), rules)


def _tabled_formals(held: Sequence[Any], types: Sequence[str]) -> Formals:
    least, most, is_variadic, parameters = held
    return Formals(
        tuple(
            Parameter(name, variable, frozenset(types[number].split()), bool(is_required))
            for name, variable, number, is_required in parameters
        ),
        least,
        most,
        bool(is_variadic),
    )


def _label(domain: str, op_type: str, since: int) -> str:
    return f"{domain}::{op_type}-{since}" if domain else f"{op_type}-{since}"


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
