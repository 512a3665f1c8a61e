"""Write down what ONNX's schemas say of operators: the table of `graphopt/analysis`.

    python tools/operator_rules.py [FILE]

Run it where a newer `onnx` is to be known; a test holds the table against the `onnx` installed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx

from graphopt.analysis.operator_table import TABLE, rule_of

Schema = onnx.defs.OpSchema


def tabled(schema: Schema, sets: dict[tuple[str, ...], int]) -> list[Any]:
    """Return one operator as the table holds it; sets of types by number."""
    rule = rule_of(schema)

    def formals(found: Any) -> list[Any]:
        return [
            found.least,
            found.most,
            int(found.is_variadic),
            [
                [
                    one.name,
                    one.variable,
                    sets.setdefault(tuple(sorted(one.types)), len(sets)),
                    int(one.is_required),
                ]
                for one in found.parameters
            ],
        ]

    attributes = {
        name: [kind.name, int(is_required)] for name, (kind, is_required) in rule.attributes.items()
    }
    return [
        schema.since_version,
        formals(rule.inputs),
        formals(rule.outputs),
        attributes,
        int(rule.is_deprecated),
        rule.is_deterministic,
    ]


def lines() -> Iterator[str]:
    """Yield the table line by line; versions of each operator from the oldest to the newest."""
    sets: dict[tuple[str, ...], int] = {}
    newest: dict[str, int] = {}
    rows: list[str] = []
    schemas = onnx.defs.get_all_schemas_with_history()
    for schema in sorted(schemas, key=lambda one: (one.domain, one.name, one.since_version)):
        newest[schema.domain] = max(schema.since_version, newest.get(schema.domain, 0))
        text = json.dumps(tabled(schema, sets), separators=(",", ":"))
        rows.append(f"{schema.domain}\t{schema.name}\t{text}")
    newest[""] = onnx.defs.onnx_opset_version()
    yield json.dumps(newest)
    yield json.dumps([" ".join(types) for types in sets], separators=(",", ":"))
    yield from rows


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", nargs="?", type=Path, default=TABLE)
    arguments = parser.parse_args()
    arguments.file.write_text("".join(f"{line}\n" for line in lines()), encoding="utf-8")


if __name__ == "__main__":
    main()
