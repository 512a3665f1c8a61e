"""`graphopt reproduce`."""

from __future__ import annotations

from pathlib import Path

import click

from graphopt.cli.options import cli_command
from graphopt.cli.output import print_result
from graphopt.cli.settings import Settings

__all__ = ["command"]


@cli_command("reproduce")
@click.argument("folder", type=click.Path(path_type=Path))
def command(settings: Settings, folder: Path) -> int:
    """Run the reproducer of a failed pass again."""
    from graphopt import api

    result = api.reproduce(folder)
    print_result(settings, text=str(result), document=result.to_dict())
    return result.exit_code
