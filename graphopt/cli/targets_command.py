"""`graphopt targets`."""

from __future__ import annotations

import click

from graphopt.cli.options import TARGET, cli_command
from graphopt.cli.output import print_result
from graphopt.cli.settings import Settings
from graphopt.errors import UnknownNameError, UsageError

__all__ = ["command"]


@cli_command(
    "targets",
    examples=(
        "graphopt targets                 one line for each",
        "graphopt targets show cpu-int8   everything it says and inherits, and why",
    ),
)
@click.argument("action", required=False, metavar="[show]")
@click.argument("name", required=False, type=TARGET)
def command(settings: Settings, action: str | None, name: str | None) -> int:
    """List the targets, or show one."""
    if action is None:
        _list(settings)
        return 0
    if action != "show":
        raise _unknown(action)
    if name is None:
        raise click.UsageError("missing argument `NAME`", ctx=click.get_current_context())
    _show(settings, name)
    return 0


def _unknown(action: str) -> UsageError:
    from graphopt.targets import target_names

    if action in target_names() or action.endswith(".toml"):
        hint = f"`graphopt targets show {action}` shows a target"
        return UsageError(f"unknown action `{action}`", hint=hint)
    return UnknownNameError("action", action, ["show"], listing="graphopt targets")


def _list(settings: Settings) -> None:
    from graphopt.report import format_table
    from graphopt.targets import load_target, target_names

    found = [(name, load_target(name).summary) for name in target_names()]
    documents = [{"name": name, "summary": summary} for name, summary in found]
    text = format_table(("target", "summary"), found)
    print_result(settings, text=text, document={"targets": documents})


def _show(settings: Settings, name: str) -> None:
    from graphopt.targets import explained, load_target

    target = load_target(name)
    text, reasons = explained(target, name)
    print_result(settings, text=text, document={"target": target.to_dict(), "reasons": reasons})
