"""A command group that imports a command's module when the command is used."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click

from graphopt.errors import UnknownNameError

__all__ = ["LazyGroup"]


class LazyGroup(click.Group):
    """A group whose commands live in ``graphopt.cli.<name>_command``, attribute ``command``.

    Args:
        sections: Heading to command name to one line of help, in the order of ``--help``.
        arguments: Whatever `click.Group` takes.
    """

    def __init__(self, *, sections: Mapping[str, Mapping[str, str]], **arguments: Any) -> None:
        super().__init__(**arguments)
        self.sections = sections

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return every command name in the order of ``--help``."""
        return [name for section in self.sections.values() for name in section]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command; None where there is none of that name."""
        if cmd_name not in self.list_commands(ctx):
            return None
        module = importlib.import_module(f"graphopt.cli.{cmd_name}_command")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that `args` name.

        Raises:
            UnknownNameError: No such command; the nearest names are the hint.
        """
        command = self.get_command(ctx, args[0])
        # click's own answer knows no nearest names.
        if command is None:
            known = self.list_commands(ctx)
            raise UnknownNameError("command", args[0], known, listing="graphopt --help")
        return args[0], command, args[1:]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of commands from the static lines; no module is imported."""
        for heading, section in self.sections.items():
            with formatter.section(heading):
                formatter.write_dl(list(section.items()))
