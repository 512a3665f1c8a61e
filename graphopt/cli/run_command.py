"""`graphopt run`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from graphopt.cli.options import (
    PASS,
    TARGET,
    calibration_cache_option,
    calibration_option,
    cli_command,
    force_option,
    model_argument,
    seed_option,
)
from graphopt.cli.output import print_result
from graphopt.cli.pipeline_words import pipeline_text
from graphopt.cli.progress import progress_shown
from graphopt.cli.settings import Settings
from graphopt.errors import UnknownNameError, UsageError

if TYPE_CHECKING:
    from graphopt.pipeline import PrintAfter

__all__ = ["command"]


@cli_command(
    "run",
    examples=(
        "graphopt run model.onnx --pipeline '@exact' -o clean.onnx",
        "graphopt run model.onnx -p fold-constants --set fold-constants.max_bytes=4096 -o out.onnx",
        "graphopt run model.onnx --pipeline '@exact' --check   would anything change?",
    ),
)
@model_argument
@click.option("--pipeline", metavar="TEXT", help="Quoted pipeline text, for example '@exact'.")
@click.option("--pipeline-file", type=click.Path(path_type=Path), help="A file that holds it.")
@click.option("-p", "--pass", "names", type=PASS, multiple=True, help="One pass; repeatable.")
@click.option("--set", "values", metavar="PASS.OPTION=VALUE", multiple=True, help="For -p.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The model to write.")
@click.option("--target", type=TARGET, help="The target whose facts passes are told.")
@calibration_option
@calibration_cache_option
@seed_option
@click.option(
    "--verify",
    type=click.Choice(("off", "structure", "numerics")),
    default="numerics",
    show_default=True,
    help="What is checked after each group of passes.",
)
@click.option(
    "--print-after",
    metavar="PASS|all|changed|failure",
    multiple=True,
    help="Print the model as text after a pass; repeatable.",
)
@click.option("--time-passes", is_flag=True, help="Add the seconds of each pass.")
@click.option(
    "--check", is_flag=True, help="Write nothing; exit status 1 if anything would change."
)
@force_option
def command(
    settings: Settings,
    *,
    model: Path,
    pipeline: str | None,
    pipeline_file: Path | None,
    names: tuple[str, ...],
    values: tuple[str, ...],
    output: Path | None,
    check: bool,
    time_passes: bool,
    print_after: tuple[str, ...],
    **given: Any,
) -> int:
    """Run one pipeline of passes over a model."""
    from graphopt import api

    text = pipeline_text(pipeline, pipeline_file, names, values)
    if (output is None) is not check:
        why = "`--check` writes nothing" if check else "the result has no place to go"
        raise UsageError("give either `-o` or `--check`", why=why, hint="for example `-o out.onnx`")
    with progress_shown(settings) as progress:
        result = api.run_pipeline(
            model,
            text,
            output,
            print_after=_printer(print_after, settings),
            progress=progress,
            **given,
        )
    print_result(settings, text=result.to_text(time_passes=time_passes), document=result.to_dict())
    return 1 if check and result.changed else 0


def _printer(words: tuple[str, ...], settings: Settings) -> PrintAfter | None:
    if not words:
        return None
    from graphopt.pipeline import PassEvent, PrintAfter, pass_names

    known = {*pass_names(), "all", "changed", "failure"}
    for word in words:
        if word not in known:
            raise UnknownNameError("pass in `--print-after`", word, known)
    # With --json, standard output is one document and nothing else.
    stream = sys.stderr if settings.json else sys.stdout

    def show(event: PassEvent, text: str) -> None:
        """Print the model as it is after a pass."""
        print(f"# after {event.text}, {event.status}\n{text.strip()}\n", file=stream)

    return PrintAfter(when=words, sink=show)
