"""`graphopt inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from graphopt.cli.options import cli_command, model_argument
from graphopt.cli.output import print_result
from graphopt.cli.settings import Settings

if TYPE_CHECKING:
    from graphopt.analysis import ModelSummary, PortSummary

__all__ = ["command"]


@cli_command("inspect")
@model_argument
def command(settings: Settings, model: Path) -> int:
    """Show what a model is made of."""
    from graphopt import api

    summary = api.inspect(model)
    document = {"model": str(model), **summary.to_dict()}
    print_result(settings, text=_as_text(summary), document=document)
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
