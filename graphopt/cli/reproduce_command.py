"""`graphopt reproduce`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from graphopt.cli.options import cli_command
from graphopt.cli.output import print_result
from graphopt.cli.settings import Settings

__all__ = ["command"]


@cli_command("reproduce", examples=("graphopt reproduce graphopt-repro-0123abcd",))
@click.argument("folder", type=click.Path(path_type=Path))
def command(settings: Settings, folder: Path) -> int:
    """Run the reproducer of a failed pass again.

    FOLDER is the one that the error named. Exit status 1 where the pass fails again.
    """
    from graphopt.pipeline import reproduce

    found = reproduce(folder)
    if found.reproduced:
        text = f"it fails again: {found.found}\nrecorded: {found.recorded}"
    else:
        text = f"it does not fail any more\nrecorded: {found.recorded}"
    print_result(settings, text=text, document=asdict(found))
    return 1 if found.reproduced else 0
