"""Options that several commands share, and the types of their values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from graphopt.cli.settings import COLOR_CHOICES
from graphopt.errors import OptionError

__all__ = [
    "DIMS",
    "GATE",
    "LATENCY",
    "PASS",
    "STAGE",
    "TARGET",
    "THREADS",
    "calibration_cache_option",
    "calibration_option",
    "cli_command",
    "force_option",
    "model_argument",
    "seed_option",
    "threads_option",
]


def cli_command(
    name: str, *, has_json: bool = True, examples: Sequence[str] = ()
) -> Callable[[Callable[..., Any]], click.Command]:
    """Make a function of `Settings` and its options a command; it returns the exit status.

    The options that every command takes are declared here for ``--help`` and for the check of what
    is typed; their values come from `graphopt.cli.settings`, which reads the bare arguments.
    """

    def decorate(function: Callable[..., Any]) -> click.Command:
        """Return the command that calls `function`."""
        names = {"help_option_names": ["-h", "--help"]}
        made = click.command(name, context_settings=names)(click.pass_obj(function))
        if examples:  # \b keeps click from joining the lines
            made.epilog = "\b\nExamples:\n" + "\n".join(f"  {line}" for line in examples)
        # Last, so that `--help` shows a command's own before.
        made.params += _shared_options(has_json=has_json)
        return made

    return decorate


def _shared_options(*, has_json: bool) -> list[click.Option]:
    shared = [
        click.Option(["--no-progress"], is_flag=True, help="Show no progress."),
        click.Option(["--color"], type=click.Choice(COLOR_CHOICES), help="Default: auto."),
        click.Option(["--traceback"], is_flag=True, help="Show the traceback of an error."),
    ]
    if has_json:
        shared.insert(0, click.Option(["--json"], is_flag=True, help="Print one JSON document."))
    for option in shared:
        option.expose_value = False
    return shared


class _Stage(click.ParamType[tuple[str, bool]]):
    name = "NAME=on|off"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, bool]:
        """Return name and switch; raise `OptionError` where the text has another form."""
        # click converts defaults as well, and may convert a value again.
        if isinstance(value, tuple):
            return value
        name, _, text = str(value).partition("=")
        if not name.strip() or text.strip() not in {"on", "off"}:
            raise OptionError(
                f"`{value}` does not fit `--stage`",
                why="expected `NAME=on` or `NAME=off`",
                hint="for example `--stage exact=off`",
            )
        return name.strip(), text.strip() == "on"


class _Latency(click.ParamType[float | None]):
    name = "off|SECONDS"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float | None:
        """Return seconds, or None for ``off``; raise `OptionError` for anything else."""
        if value is None or value == "off":
            return None
        try:
            seconds = float(value)
        except ValueError:
            # Out of range, too: both faults are told by one sentence.
            seconds = -1.0
        if not 0.0 < seconds < float("inf"):
            why = "expected `off` or a number of seconds above 0"
            option = param.opts[0] if param is not None else "--latency"
            raise OptionError(f"`{value}` does not fit `{option}`", why=why)
        return seconds


class _Dims(click.ParamType[tuple[str, ...]]):
    name = "SYMBOL=SIZE,..."

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """Return the settings one by one; raise `OptionError` where the text has another form."""
        if isinstance(value, tuple):
            return value
        settings = tuple(part.strip() for part in str(value).split(","))
        for setting in settings:
            name, _, size = setting.rpartition("=")
            if not name or not size.isdecimal():
                raise OptionError(
                    f"`{value}` does not fit `--dims`",
                    why="expected `SYMBOL=SIZE` or `INPUT:AXIS=SIZE`, several with commas between",
                    hint="for example `--dims batch=1,sequence=128`",
                )
        return settings


class _Named(click.ParamType[str]):
    """A name that the shell can complete."""

    def __init__(self, name: str, known: Callable[[], tuple[str, ...]]) -> None:
        self.name = name
        self.known = known

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return the known names that begin as typed, then files."""
        names = [CompletionItem(name) for name in self.known() if name.startswith(incomplete)]
        return names or [CompletionItem(incomplete, type="file")]


def _target_names() -> tuple[str, ...]:
    from graphopt.targets import target_names

    return target_names()


def _gate_names() -> tuple[str, ...]:
    from graphopt.targets import GATES

    return tuple(f"{name}=" for name in GATES)


def _pass_names() -> tuple[str, ...]:
    from graphopt.pipeline import pass_names

    return pass_names()


GATE = _Named("NAME=VALUE|off", _gate_names)
STAGE = _Stage()
LATENCY = _Latency()
DIMS = _Dims()
TARGET = _Named("NAME|FILE", _target_names)
PASS = _Named("PASS", _pass_names)

# The most that a target file may ask for: the runtime starts every one of them, and a machine
# with a hundred thousand does nothing else.
THREADS = click.IntRange(min=1, max=1024)

# Whether a file exists is the loader's to judge: it says more than a check of the path can.
model_argument = click.argument("model", type=click.Path(path_type=Path))
force_option = click.option("--force", is_flag=True, help="Replace an output that exists.")
seed_option = click.option(
    "--seed",
    type=click.IntRange(min=0),
    metavar="N",
    default=0,
    show_default=True,
    help="Of generated inputs.",
)
threads_option = click.option(
    "--threads",
    type=THREADS,
    metavar="N",
    default=1,
    show_default=True,
    help="Threads inside one operator.",
)
calibration_option = click.option(
    "--calibration",
    metavar="PATH|MODULE:FUNCTION",
    help="Samples: .npz, .npy, a folder, a .json specification, or a function.",
)
calibration_cache_option = click.option(
    "--calibration-cache",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Keep what is measured on the samples here, and use it again.",
)
