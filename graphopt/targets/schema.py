"""The published schema of target files, and errors that say which key is wrong and what fits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt.errors import TargetError

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import ValidationError

__all__ = ["check_document", "target_schema"]

_TYPES = {
    "object": "a table",
    "array": "an array",
    "string": "text in quotes",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "`true` or `false`",
}

_EXPECTATIONS = {
    "type": "{rule}",
    "enum": "one of {rule}",
    "pattern": "text that matches `{rule}`",
    "minimum": "at least {rule}",
    "maximum": "at most {rule}",
    "exclusiveMinimum": "more than {rule}",
    "minProperties": "at least {rule} entry",
    "minItems": "at least {rule} item",
    "minLength": "text that is not empty",
    "uniqueItems": "no item twice",
}


@cache
def target_schema() -> dict[str, Any]:
    """Return the JSON schema that target files are checked against."""
    text = (resources.files("graphopt.targets") / "schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


@cache
def _validator() -> Draft202012Validator:
    from jsonschema import Draft202012Validator

    return Draft202012Validator(target_schema())


def check_document(document: Mapping[str, Any], path: Path) -> None:
    """Check the resolved document of a target file.

    Raises:
        TargetError: A key is unknown, missing, or has a wrong value; the first one is named.
    """
    # In the order of the keys, so that the first fault told is always the same.
    errors = sorted(
        _validator().iter_errors(document), key=lambda error: list(map(str, error.path))
    )
    if not errors:
        return
    error = _innermost(errors[0])
    key = ".".join(str(part) for part in error.absolute_path)
    message, hint = _explain(error, key)
    raise TargetError(message, where=str(path), why=_expectation(error), hint=hint)


def _innermost(error: ValidationError) -> ValidationError:
    """Of alternatives, take the one that is not a plain constant: it says what is expected."""
    if error.validator != "oneOf" or not error.context:
        return error
    # `false` is an alternative of many keys, and "expected false" would help nobody who wrote a
    # wrong number.
    chosen = [inner for inner in error.context if inner.validator != "const"]
    same_type = [inner for inner in chosen if inner.validator != "type"]
    return _innermost((same_type or chosen or list(error.context))[0])


def _explain(error: ValidationError, key: str) -> tuple[str, str | None]:
    """Return the message and the hint for one violation."""
    if error.validator == "additionalProperties":
        known = list(error.schema["properties"])
        name = next(name for name in error.instance if name not in known)
        import difflib  # for errors alone

        near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
        hint = f"did you mean `{near[0]}`?" if near else "known: " + ", ".join(known)
        return f"unknown key `{_join(key, name)}`", hint
    if error.validator == "required":
        missing = next(name for name in error.validator_value if name not in error.instance)
        return f"key `{_join(key, missing)}` is missing", _hint(error)
    if (
        error.validator in {"propertyNames", "pattern"}
        and "propertyNames" in error.absolute_schema_path
    ):
        return f"`{_join(key, error.instance)}` is not a usable name", None
    return f"key `{key}` has a wrong value", _hint(error)


def _join(key: str, name: object) -> str:
    return f"{key}.{name}" if key else str(name)


def _expectation(error: ValidationError) -> str | None:
    """Return what was found and what was expected."""
    if error.validator in {"additionalProperties", "required"}:
        return None
    template = _EXPECTATIONS.get(str(error.validator))
    if template is None:
        return str(error.message)
    rule = error.validator_value
    if isinstance(rule, list):
        rule = ", ".join(f"`{item}`" for item in rule)
    expected = template.format(rule=_TYPES.get(rule, rule))
    return f"found `{_shown(error.instance)}`, expected {expected}"


def _shown(instance: object) -> str:
    return str(instance).lower() if isinstance(instance, bool) else str(instance)


def _hint(error: ValidationError) -> str | None:
    description = error.schema.get("description") if isinstance(error.schema, Mapping) else None
    return str(description) if description else "compare it with `graphopt targets show cpu-int8`"
