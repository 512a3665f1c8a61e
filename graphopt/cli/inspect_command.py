"""`graphopt inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from graphopt.cli.options import cli_command, model_argument
from graphopt.cli.output import print_result
from graphopt.cli.settings import Settings
from graphopt.errors import UsageError

if TYPE_CHECKING:
    from graphopt.analysis import ModelSummary, PortSummary

__all__ = ["command"]


@cli_command(
    "inspect",
    examples=(
        "graphopt inspect model.onnx",
        "graphopt inspect model.onnx --samples samples/ --eval labelled.npz",
    ),
)
@model_argument
@click.option(
    "--samples", metavar="PATH|MODULE:FUNCTION", help="Show samples too, and doubts about them."
)
@click.option(
    "--eval", "evaluation", metavar="PATH|MODULE:FUNCTION", help="Samples to compare them with."
)
def command(settings: Settings, model: Path, samples: str | None, evaluation: str | None) -> int:
    """Show what a model is made of.

    With samples it also shows what they are like, and what is doubtful about them.
    """
    from graphopt import api

    if evaluation is not None and samples is None:
        raise UsageError("`--eval` has nothing to compare with", hint="add `--samples PATH`")
    summary = api.inspect(model)
    text, document = _as_text(summary), {"model": str(model), **summary.to_dict()}
    if samples is not None:
        report = api.inspect_samples(model, samples, evaluation=evaluation)
        text, document = f"{text}\n\n{report}", {**document, "samples": report.to_dict()}
    print_result(settings, text=text, document=document)
    return 0


def _as_text(summary: ModelSummary) -> str:
    from graphopt.report import format_fields, format_table

    macs = "unknown" if summary.macs is None else f"{summary.macs:,}"
    opsets = ", ".join(f"{domain or 'ai.onnx'} {n}" for domain, n in summary.opsets.items())
    fields = [
        ("nodes", f"{summary.nodes:,}"),
        ("parameters", f"{summary.parameters:,}"),
        ("weight bytes", f"{summary.weight_bytes:,}"),
        ("MACs", f"{macs}  (dynamic dimensions taken as 1)"),
        ("opsets", opsets),
    ]
    ports = [("input", port) for port in summary.inputs]
    ports += [("output", port) for port in summary.outputs]
    rows = [(kind, port.name, port.type, _dims(port)) for kind, port in ports]
    counts = list(summary.operators.items())
    return "\n\n".join(
        (
            format_fields(fields),
            format_table(("", "name", "type", "shape"), rows),
            format_table(("operator", "nodes"), counts, right=(1,)),
        )
    )


def _dims(port: PortSummary) -> str:
    if port.dims is None:
        return "unknown rank"
    return "(" + ", ".join("?" if dim is None else str(dim) for dim in port.dims) + ")"
