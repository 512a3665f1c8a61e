"""What every command is told: JSON or text, colour, progress, tracebacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TextIO

__all__ = ["COLOR_CHOICES", "Settings"]

COLOR_CHOICES = ("auto", "always", "never")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a command speaks; read from the bare arguments, so that it holds for usage errors too.

    Args:
        arguments: The words after ``graphopt``.
        json: Print one JSON document on standard output, for errors as well.
        traceback: Print the Python traceback before an error.
        color: ``auto``, ``always`` or ``never``.
        progress: Show progress on standard error where that is a terminal.
    """

    arguments: tuple[str, ...] = ()
    json: bool = False
    traceback: bool = False
    color: str = "auto"
    progress: bool = True

    @classmethod
    def read(cls, arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
        """Return the settings that arguments and environment ask for; arguments win."""
        options = list(arguments)
        if "--" in options:
            # What follows it are arguments, whatever they look like.
            options = options[: options.index("--")]
        return cls(
            arguments=tuple(arguments),
            json="--json" in options,
            traceback="--traceback" in options,
            color=_color(options) or _environment_color(environment),
            progress="--no-progress" not in options and not environment.get("GRAPHOPT_NO_PROGRESS"),
        )

    def use_color(self, stream: TextIO) -> bool:
        """Return whether text for `stream` is to be coloured."""
        return self.color == "always" or (self.color == "auto" and stream.isatty())

    def show_progress(self, stream: TextIO) -> bool:
        """Return whether progress belongs on `stream`: never on a pipe or in a file."""
        return self.progress and stream.isatty()


def _color(options: Sequence[str]) -> str | None:
    chosen = None
    for index, argument in enumerate(options):
        if argument.startswith("--color="):
            chosen = argument.partition("=")[2]
        elif argument == "--color" and index + 1 < len(options):
            chosen = options[index + 1]
    return chosen if chosen in COLOR_CHOICES else None


def _environment_color(environment: Mapping[str, str]) -> str:
    # https://no-color.org: any value but the empty one switches colour off.
    if environment.get("NO_COLOR") or environment.get("TERM") == "dumb":
        return "never"
    return "auto"
