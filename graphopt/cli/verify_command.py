"""`graphopt verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from graphopt.cli.options import cli_command, seed_option, threads_option
from graphopt.cli.output import print_result
from graphopt.cli.progress import progress_shown
from graphopt.cli.settings import Settings

__all__ = ["command"]

LIMIT = click.FloatRange(min=0.0)


@cli_command(
    "verify",
    examples=(
        "graphopt verify model.onnx clean.onnx --max-abs 0",
        "graphopt verify model.onnx int8.onnx --samples samples/ --min-cosine 0.99",
    ),
)
@click.argument("reference", type=click.Path(path_type=Path))
@click.argument("candidate", type=click.Path(path_type=Path))
@click.option("--samples", metavar="PATH|MODULE:FUNCTION", help="Default: generated inputs.")
@click.option("--max-abs", type=LIMIT, metavar="LIMIT", help="Largest absolute difference.")
@click.option(
    "--max-rel", type=LIMIT, metavar="LIMIT", help="Largest difference over the largest reference."
)
@click.option(
    "--min-cosine", type=click.FloatRange(-1.0, 1.0), metavar="LIMIT", help="Smallest cosine."
)
@click.option(
    "--min-sqnr-db",
    type=float,
    metavar="LIMIT",
    help="Smallest signal to noise ratio, in decibels.",
)
@threads_option
@seed_option
def command(settings: Settings, reference: Path, candidate: Path, **given: Any) -> int:
    """Compare the outputs of two models."""
    from graphopt import api

    with progress_shown(settings) as progress:
        result = api.verify(reference, candidate, progress=progress, **given)
    print_result(settings, text=str(result), document=result.to_dict())
    return result.exit_code
