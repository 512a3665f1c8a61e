"""From the options of a pass as written to a pass."""

from __future__ import annotations

from typing import Any

from graphopt.errors import OptionError, UnknownNameError
from graphopt.pipeline.syntax import Options
from graphopt.rewrite import OptionSpec, OptionValue, Pass, format_value, option_specs

__all__ = ["build_pass"]


def build_pass(cls: type[Pass], options: Options) -> Pass:
    """Return the pass that ``cls`` and the written options stand for.

    Raises:
        UnknownNameError: The pass has no such option.
        OptionError: A value has the wrong type or lies outside its range.
    """
    specs = {spec.name: spec for spec in option_specs(cls)}
    values: dict[str, Any] = {}
    for key, value in options:
        if key not in specs:
            raise UnknownNameError(
                f"option of pass `{cls.name}`", key, specs, listing=f"graphopt explain {cls.name}"
            )
        values[key] = _converted(cls.name, specs[key], value)
    return cls(**values)


def _converted(pass_name: str, spec: OptionSpec, value: OptionValue) -> OptionValue:
    """Turn whole numbers into the fractions that the option takes, and nothing else."""
    # A text is a sequence to Python: taken for a list it would be one of single characters.
    if spec.is_list and value is not None and not isinstance(value, tuple):
        raise OptionError(
            f"option `{spec.name}` of pass `{pass_name}` cannot be `{format_value(value)}`",
            why=f"expected {spec.expected()}",
            hint=f"write a list in brackets: {pass_name}{{{spec.name}=[{format_value(value)}]}}",
        )
    if isinstance(value, tuple):
        return tuple(_as_fraction(spec, item) for item in value)
    return _as_fraction(spec, value)


def _as_fraction(spec: OptionSpec, value: OptionValue) -> OptionValue:
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return float(value) if is_whole and spec.type is float else value  # type: ignore[arg-type]
