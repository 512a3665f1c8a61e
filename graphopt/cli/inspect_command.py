"""`graphopt inspect`."""

from __future__ import annotations

from pathlib import Path

from graphopt.cli.options import cli_command, model_argument
from graphopt.cli.output import print_result
from graphopt.cli.settings import Settings

__all__ = ["command"]


@cli_command("inspect")
@model_argument
def command(settings: Settings, model: Path) -> int:
    """Show what a model is made of."""
    from graphopt import api

    summary = api.inspect(model)
    print_result(settings, text=str(summary), document=summary.to_dict())
    return 0
