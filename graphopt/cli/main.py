"""The entry point: the list of commands, and the exit status of each way to end.

0    done
1    ran, and the answer is no: a gate failed, two models differ
2    the command, the configuration or the input must change
3    a pass failed, or a bug in graphopt
130  interrupted (Ctrl-C); 143 terminated; 129 the terminal was closed; 141 the reader of the
     output went away
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

import click

from graphopt._version import __version__
from graphopt.cli.failures import as_graphopt_error, print_failure
from graphopt.cli.interruptions import interruptible
from graphopt.cli.lazy_group import LazyGroup
from graphopt.cli.settings import Settings
from graphopt.cli.streams import open_missing_streams, said_if_possible, silence

__all__ = ["SECTIONS", "application", "main"]

INTERRUPTED, BROKEN_PIPE = 130, 141
COMPLETION_VARIABLE = "_GRAPHOPT_COMPLETE"

SECTIONS = {
    "Make": {
        "optimize": "Write the best bundle of a model for a target, measured.",
        "export": "Export a model from PyTorch, Hugging Face or scikit-learn.",
        "run": "Run one pipeline of passes over a model.",
        "pack": "Write a bundle as one file, or signed.",
        "demo": "Optimize a small trained model and show what happened.",
    },
    "Measure": {
        "inspect": "Show what a model is made of.",
        "verify": "Compare the outputs of two models.",
        "bench": "Compare the latency of two models.",
        "race": "Run all optimizers that are installed on one model.",
        "validate": "Check a bundle on this machine, or on devices.",
        "report": "Show the page of a bundle.",
        "compare": "Compare bundles side by side.",
    },
    "Look up": {
        "passes": "List the passes, and the pipelines that have a name.",
        "targets": "List the targets, or show one.",
        "explain": "Explain a pass, a named pipeline, an error code, or a pass on a model.",
        "doctor": "Show versions, providers and what is missing.",
        "reproduce": "Run the reproducer of a failed pass again.",
        "completion": "Print the completion script of a shell.",
    },
}


@click.group(
    cls=LazyGroup,
    sections=SECTIONS,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="graphopt", message="%(prog)s %(version)s")
@click.pass_context
def application(context: click.Context) -> None:
    """Optimize ONNX models for a deployment target: measured to be right, measured to be faster.

    Exit status: 0 done, 1 the answer is no, 2 command or input must change, 3 a pass failed.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        context.exit(2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status; nothing is raised.

    Args:
        arguments: The words after ``graphopt``; those of the process by default.
    """
    # Read before click does: how an error is printed must be known when the words cannot be parsed.
    words = list(sys.argv[1:] if arguments is None else arguments)
    settings = Settings.read(words, os.environ)
    open_missing_streams()
    _accept_any_name()
    try:
        status = _dispatch(words, settings)
        # Here, where a reader that went away is noticed; at exit nobody could answer for it.
        sys.stdout.flush()
    except (KeyboardInterrupt, click.Abort):
        with said_if_possible():
            print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        silence()
        return BROKEN_PIPE
    except Exception as error:  # noqa: BLE001 - the last line of defence turns a bug into a message
        failure = as_graphopt_error(error)
        # Where nobody can read what went wrong the exit status still tells it.
        with said_if_possible():
            print_failure(failure, settings, error)
        return failure.exit_code
    return status


def _dispatch(words: list[str], settings: Settings) -> int:
    instruction = os.environ.get(COMPLETION_VARIABLE)
    if instruction:
        from click.shell_completion import shell_complete

        return shell_complete(application, {}, "graphopt", COMPLETION_VARIABLE, instruction)
    try:
        with (
            interruptible(),
            application.make_context("graphopt", words, obj=settings) as context,
        ):
            return int(application.invoke(context) or 0)
    except click.exceptions.Exit as request:
        return request.exit_code


def _accept_any_name() -> None:
    # A name in a model or a path may hold what the terminal's encoding cannot say.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
