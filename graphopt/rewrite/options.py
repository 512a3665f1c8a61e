"""Typed options of a pass: declaration, checks and pipeline text."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from graphopt.errors import OptionError

__all__ = ["OptionSpec", "OptionValue", "check_options", "format_value", "option", "option_specs"]

OptionValue = bool | int | float | str | tuple["OptionValue", ...] | None

_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]*\Z")
_RESERVED_WORDS = frozenset({"true", "false", "none", "inf", "infinity", "nan"})


@dataclass(frozen=True, kw_only=True)
class OptionSpec:
    """One option of a pass, as the command line shows it.

    Attributes:
        name: Field name.
        type: Type of the value, or of the items where `is_list`.
        is_list: The value is a tuple.
        is_optional: ``None`` is allowed.
        default: Value used when the option is not given.
        help: One line of explanation.
        unit: Unit or kind of the value.
        choices: The only values allowed, where given.
        minimum: Smallest value allowed.
        maximum: Largest value allowed.
    """

    name: str
    type: type
    is_list: bool
    is_optional: bool
    default: Any
    help: str
    unit: str | None
    choices: tuple[Any, ...] | None
    minimum: float | None
    maximum: float | None

    def expected(self) -> str:
        """Say what a valid value looks like."""
        if self.choices is not None:
            text = "one of " + ", ".join(f"`{format_value(choice)}`" for choice in self.choices)
        else:
            text = {bool: "true or false", int: "a whole number", float: "a number"}.get(
                self.type, "text"
            )
            if self.minimum is not None and self.maximum is not None:
                text += f" from {self.minimum:g} to {self.maximum:g}"
            elif self.minimum is not None:
                text += f" of at least {self.minimum:g}"
            elif self.maximum is not None:
                text += f" of at most {self.maximum:g}"
        return f"a list of {text}" if self.is_list else text

    def accepts(self, value: Any) -> bool:
        """Tell whether ``value`` is valid for this option."""
        if value is None:
            return self.is_optional
        if not self.is_list:
            return self._accepts_item(value)
        return isinstance(value, tuple) and all(self._accepts_item(item) for item in value)

    def _accepts_item(self, value: Any) -> bool:
        number: Any = value
        # Python counts booleans as integers: `count=true` would be 1.
        if isinstance(value, bool) is not (self.type is bool):
            return False
        allowed = (int, float) if self.type is float else self.type
        if not isinstance(value, allowed):
            return False
        if self.choices is not None and value not in self.choices:
            return False
        lowest = -math.inf if self.minimum is None else self.minimum
        highest = math.inf if self.maximum is None else self.maximum
        return self.type is str or bool(lowest <= number <= highest)  # NaN lies nowhere


def option(
    default: Any,
    *,
    help: str,  # noqa: A002 - the word that every command line uses
    unit: str | None = None,
    choices: Sequence[Any] | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
) -> Any:
    """Declare a field of a pass as an option.

    Args:
        default: Value used when the option is not given; lists are tuples.
        help: One line, shown by ``graphopt explain``.
        unit: Unit or kind of the value, for example ``fraction`` or ``op_type``.
        choices: The only values allowed.
        minimum: Smallest value allowed, inclusive.
        maximum: Largest value allowed, inclusive.
    """
    metadata = {
        "help": help,
        "unit": unit,
        "choices": tuple(choices) if choices is not None else None,
        "minimum": minimum,
        "maximum": maximum,
    }
    return dataclasses.field(default=default, metadata={"graphopt": metadata})


@functools.cache  # asked for each text of a pass, and resolving annotations is slow
def option_specs(cls: type) -> tuple[OptionSpec, ...]:
    """Return the options of a pass class, in order of declaration."""
    hints = typing.get_type_hints(cls)
    return tuple(
        _spec(field, hints[field.name])
        for field in dataclasses.fields(cls)
        if "graphopt" in field.metadata
    )


def _spec(field: dataclasses.Field[Any], annotation: Any) -> OptionSpec:
    is_optional = False
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        kinds = [kind for kind in typing.get_args(annotation) if kind is not types.NoneType]
        is_optional, annotation = True, kinds[0]
    is_list = typing.get_origin(annotation) is tuple
    item = typing.get_args(annotation)[0] if is_list else annotation
    return OptionSpec(
        name=field.name,
        type=item,
        is_list=is_list,
        is_optional=is_optional,
        default=field.default,
        **field.metadata["graphopt"],
    )


def check_options(instance: Any, pass_name: str) -> None:
    """Check every option of a pass instance.

    Raises:
        OptionError: A value has the wrong type or lies outside its range.
    """
    cls: type = type(instance)
    for spec in option_specs(cls):
        value = getattr(instance, spec.name)
        if not spec.accepts(value):
            is_text = isinstance(value, (bool, int, float, str, tuple, type(None)))
            shown = format_value(value) if is_text else repr(value)
            raise OptionError(
                f"option `{spec.name}` of pass `{pass_name}` cannot be `{shown}`",
                why=f"expected {spec.expected()}",
                hint=f"see `graphopt explain {pass_name}`",
            )


def format_value(value: OptionValue) -> str:
    """Return the pipeline text of an option's value."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, tuple):
        return "[" + ",".join(format_value(item) for item in value) + "]"
    # A bare word that reads as a number or a constant would come back as one.
    if _WORD.match(value) and value.lower() not in _RESERVED_WORDS:
        return value
    return json.dumps(value)
