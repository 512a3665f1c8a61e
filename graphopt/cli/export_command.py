"""`graphopt export`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from graphopt.cli.options import TARGET, cli_command, force_option
from graphopt.cli.output import print_result
from graphopt.cli.progress import progress_shown
from graphopt.cli.settings import Settings

__all__ = ["command"]


@cli_command(
    "export",
    examples=(
        "graphopt export torch:my_models:make_encoder -o encoder",
        "graphopt export hf:all-MiniLM-L6-v2@feature-extraction -o minilm",
        "graphopt export sklearn:forest.joblib --trust -o forest",
    ),
)
@click.argument("source")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="Folder to write model.onnx to.",
)
@click.option(
    "--exporter",
    type=click.Choice(("auto", "optimum", "dynamo", "torchscript")),
    default="auto",
    show_default=True,
    help="auto: optimum where it is installed, PyTorch's newer one, its older one.",
)
@click.option("--opset", type=click.IntRange(min=7), metavar="N", help="Version of the operators.")
@click.option("--target", type=TARGET, help="Write what this target loads: its newest opset.")
@click.option("--trust", is_flag=True, help="Load pickles, which can run any code.")
@click.option("--interpreter", metavar="PATH", default="", help="Python that has the framework.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=1.0),
    metavar="SECONDS",
    default=1800.0,
    show_default=True,
    help="Most seconds for the framework.",
)
@click.option(
    "--max-rel",
    type=click.FloatRange(min=0.0),
    metavar="RATIO",
    default=1e-4,
    show_default=True,
    help="Largest difference from the framework, as part of the largest value.",
)
@force_option
def command(settings: Settings, source: str, output: Path, **given: Any) -> int:
    """Export a model from PyTorch, Hugging Face or scikit-learn.

    SOURCE is torch:MODULE:FACTORY, a program saved as .pt2, hf:FOLDER[@TASK] or sklearn:FILE. A
    factory returns the module, example inputs, and which sizes may change by input and axis:
    (module, (ids,), {"ids": {0: "batch", 1: "sequence"}}). The framework runs in a process of its
    own; its outputs for several sizes have to be those of the file, or nothing is written.
    """
    from graphopt import api

    with progress_shown(settings) as progress:
        result = api.export(source, output, progress=progress, **given)
    print_result(settings, text=str(result), document=result.to_dict())
    return 0
