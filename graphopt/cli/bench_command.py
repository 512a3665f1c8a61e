"""`graphopt bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from graphopt.cli.options import cli_command, seed_option, threads_option
from graphopt.cli.output import print_result
from graphopt.cli.progress import progress_shown
from graphopt.cli.settings import Settings

__all__ = ["command"]


@cli_command(
    "bench",
    examples=("graphopt bench model.onnx model.cpu-int8/model.onnx --budget 20",),
)
@click.argument("baseline", type=click.Path(path_type=Path))
@click.argument("candidate", type=click.Path(path_type=Path))
@click.option("--samples", metavar="PATH|MODULE:FUNCTION", help="Default: generated inputs.")
@click.option(
    "--budget",
    "budget_s",
    type=click.FloatRange(min=0.0, min_open=True),
    metavar="SECONDS",
    default=10.0,
    show_default=True,
    help="Most seconds to measure.",
)
@threads_option
@seed_option
def command(settings: Settings, baseline: Path, candidate: Path, **given: Any) -> int:
    """Compare the latency of two models."""
    from graphopt import api

    with progress_shown(settings) as progress:
        result = api.bench(baseline, candidate, progress=progress, **given)
    print_result(settings, text=str(result), document=result.to_dict())
    return 0
