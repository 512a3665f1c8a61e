"""`graphopt completion`."""

from __future__ import annotations

import click
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

from graphopt.cli.options import cli_command
from graphopt.cli.settings import Settings

__all__ = ["command"]

SHELLS: dict[str, type[ShellComplete]] = {
    "bash": BashComplete,
    "zsh": ZshComplete,
    "fish": FishComplete,
}


@cli_command(
    "completion",
    has_json=False,
    examples=(
        'bash   eval "$(graphopt completion bash)"    in ~/.bashrc',
        'zsh    eval "$(graphopt completion zsh)"     in ~/.zshrc',
        "fish   graphopt completion fish > ~/.config/fish/completions/graphopt.fish",
    ),
)
@click.argument("shell", type=click.Choice(list(SHELLS)))
def command(_settings: Settings, shell: str) -> int:
    """Print the completion script of a shell."""
    from graphopt.cli.main import COMPLETION_VARIABLE, application

    made = SHELLS[shell](application, {}, "graphopt", COMPLETION_VARIABLE)
    # The base class's `source`: bash's own starts a shell to ask for its version.
    print(ShellComplete.source(made).strip())
    return 0
