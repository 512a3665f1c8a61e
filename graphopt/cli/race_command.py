"""`graphopt race`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from graphopt.cli.options import cli_command, force_option, seed_option
from graphopt.cli.output import print_result
from graphopt.cli.progress import progress_shown
from graphopt.cli.settings import Settings

__all__ = ["command"]


@cli_command(
    "race",
    examples=(
        "graphopt race model.onnx",
        "graphopt race model.onnx --only onnxsim --only 'graphopt @exact' --keep results",
    ),
)
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--only", multiple=True, metavar="NAME", help="An optimizer; may be repeated.")
@click.option(
    "--interpreter",
    metavar="PATH",
    default="",
    help="Python that has the other optimizers. Default: the one that runs graphopt.",
)
@click.option(
    "--model-type",
    metavar="NAME",
    default="bert",
    show_default=True,
    help="Architecture, for ONNX Runtime's transformer optimizer.",
)
@click.option(
    "--keep", metavar="DIR", type=click.Path(path_type=Path), help="Keep what they wrote."
)
@click.option(
    "--latency",
    "latency_budget_s",
    type=click.FloatRange(min=0.0),
    metavar="SECONDS",
    default=5.0,
    show_default=True,
    help="Most seconds to time each result; 0: do not.",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0.1),
    metavar="SECONDS",
    default=600.0,
    show_default=True,
    help="Most seconds for one optimizer.",
)
@force_option
@seed_option
def command(settings: Settings, model: Path, latency_budget_s: float, **given: Any) -> int:
    """Run all optimizers that are installed on one model.

    Each, graphopt among them, runs in a process of its own with a time limit, from the path of the
    model to the saved file. What it left is held against the original: inputs and outputs, numbers
    up to rounding, and the time of a run, measured in turns.
    """
    from graphopt import api

    with progress_shown(settings) as progress:
        budget = latency_budget_s or None
        result = api.race(model, latency_budget_s=budget, progress=progress, **given)
    print_result(settings, text=str(result), document=result.to_dict())
    return 0
