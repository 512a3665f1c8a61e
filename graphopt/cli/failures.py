"""How an error reads: four labelled lines on standard error, or one JSON document."""

from __future__ import annotations

import contextlib
import difflib
import errno
import json
import re
import sys
import traceback
from typing import Any, ClassVar

import click

from graphopt.cli.settings import Settings
from graphopt.errors import GraphoptError, OutputError, UnknownNameError, UsageError

__all__ = ["UnexpectedError", "as_graphopt_error", "print_failure"]

_CANNOT_WRITE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


class UnexpectedError(GraphoptError):
    """Graphopt failed in a way that nobody foresaw: a bug in graphopt."""

    code: ClassVar[str] = "G900"
    exit_code: ClassVar[int] = 3


def as_graphopt_error(error: BaseException) -> GraphoptError:
    """Return `error` in the form that graphopt prints, whatever it was."""
    if isinstance(error, GraphoptError):
        return error
    if isinstance(error, click.UsageError):
        return _from_click(error)
    if isinstance(error, click.ClickException):
        return UsageError(_plain(error.format_message()))
    # A full or read-only disk may be met anywhere, and is no bug.
    if isinstance(error, OSError) and error.errno in _CANNOT_WRITE:
        place = str(error.filename) if error.filename else None
        return OutputError(f"cannot write: {(error.strerror or '').lower()}", where=place)
    return UnexpectedError(
        f"unexpected {type(error).__name__}",
        why=str(error) or None,
        hint="this is a bug in graphopt: run the same command with `--traceback` and report it",
    )


def print_failure(error: GraphoptError, settings: Settings, cause: BaseException) -> None:
    """Print `error`: JSON on standard output with ``--json``, else text on standard error.

    Where standard output cannot take the document, text is better than nothing.
    """
    if settings.traceback:
        traceback.print_exception(cause, file=sys.stderr)
    if settings.json:
        document = {"schema_version": 1, "error": error.to_dict()}
        with contextlib.suppress(OSError):
            print(json.dumps(document, indent=2), flush=True)
            return
    print(_as_text(error, use_color=settings.use_color(sys.stderr)), file=sys.stderr)


def _as_text(error: GraphoptError, *, use_color: bool) -> str:
    def style(text: str, **how: Any) -> str:
        """Colour `text` where colour is wanted."""
        return click.style(text, **how) if use_color else text

    lines = [style(f"error[{error.code}]", fg="red", bold=True) + f": {error.message}"]
    for label, text in (("where", error.where), ("why", error.why)):
        if text:
            lines.append(f"  {style(label, bold=True)}: {text}")
    if error.hint:
        lines += ["", style("hint", fg="cyan", bold=True) + f": {error.hint}"]
    return "\n".join(lines)


def _from_click(error: click.UsageError) -> GraphoptError:
    path = error.ctx.command_path if error.ctx else "graphopt"
    listing = f"{path} --help"
    if isinstance(error, click.NoSuchOption):
        return UnknownNameError(
            "option", error.option_name, _option_names(error.ctx), listing=listing
        )
    message = _plain(error.format_message())
    hint = _quoting_hint(error) or f"see `{listing}`"
    if isinstance(error, click.BadParameter) and error.param is not None:
        name = _parameter_name(error.param)
        if isinstance(error, click.MissingParameter):
            return UsageError(f"missing {error.param.param_type_name} `{name}`", hint=hint)
        near = _near_choice(error.param, error.message)
        hint = f"did you mean `{near}`?" if near else hint
        message = f"invalid value for `{name}`: {_plain(error.message)}"
    return UsageError(message, hint=hint)


def _quoting_hint(error: click.UsageError) -> str | None:
    """Return what to do where a shell has made several words of one pipeline text."""
    extra = re.search(r"unexpected extra arguments? \((.*)\)", error.message)
    known = _option_names(error.ctx)
    option = next((name for name in ("--pipeline", "--pass") if name in known), None)
    if not extra or "=" not in extra[1] or option is None:
        return None
    return f"quote what holds braces, for the shell: {option} 'pass{{option=value}}'"


def _parameter_name(parameter: click.Parameter) -> str:
    if isinstance(parameter, click.Option):
        return max(parameter.opts, key=len)
    return (parameter.name or "").upper()


def _near_choice(parameter: click.Parameter, message: str) -> str | None:
    # click tells the word that was typed inside of its sentence alone.
    found = re.match(r"'(.*)' is not", message)
    if not found or not isinstance(parameter.type, click.Choice):
        return None
    choices = [str(choice) for choice in parameter.type.choices]
    return next(iter(difflib.get_close_matches(found[1], choices, n=1)), None)


def _option_names(context: click.Context | None) -> list[str]:
    if context is None:
        return []
    parameters = context.command.get_params(context)
    options = [item for item in parameters if isinstance(item, click.Option)]
    return [name for option in options for name in (*option.opts, *option.secondary_opts)]


def _plain(message: str) -> str:
    """Turn a sentence of click into one of ours: lower case, backticks, no final stop."""
    text = re.sub(r"'([^']*)'", r"`\1`", message.strip()).rstrip(".")
    text = text.replace("is not a valid float range", "is not a number")
    text = text.replace("is not a valid integer range", "is not a whole number")
    return text[:1].lower() + text[1:]
