"""How a pass reads in a table, in JSON and on its own page."""

from __future__ import annotations

import inspect
from typing import Any

from graphopt.report import format_table
from graphopt.rewrite import OptionSpec, Pass, format_value, option_specs

__all__ = ["pass_document", "pass_page", "summary"]


def summary(kind: type[Pass]) -> str:
    """Return the first line of the docstring."""
    return (inspect.getdoc(kind) or "").split("\n", 1)[0]


def pass_document(kind: type[Pass]) -> dict[str, Any]:
    """Return the JSON form of a pass: name, contract, options, text."""
    contract = kind.contract
    return {
        "name": kind.name,
        "summary": summary(kind),
        "numerics": str(contract.numerics),
        "is_idempotent": contract.is_idempotent,
        "changes_interface": contract.changes_interface,
        "options": [_option_document(spec) for spec in option_specs(kind)],
    }


def pass_page(kind: type[Pass]) -> str:
    """Return what ``graphopt explain PASS`` prints: contract, docstring, options."""
    contract = kind.contract
    traits = [f"numerics: {contract.numerics}"]
    traits.append("idempotent" if contract.is_idempotent else "not idempotent")
    if contract.changes_interface:
        traits.append("changes the model's interface")
    parts = [kind.name, "  ".join(traits), "", inspect.getdoc(kind) or ""]
    specs = option_specs(kind)
    if specs:
        rows = [(s.name, format_value(s.default), s.expected(), s.help) for s in specs]
        parts += ["", "Options", format_table(("name", "default", "value", "meaning"), rows)]
    return "\n".join(parts)


def _option_document(spec: OptionSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "default": format_value(spec.default),
        "expected": spec.expected(),
        "unit": spec.unit,
        "help": spec.help,
    }
