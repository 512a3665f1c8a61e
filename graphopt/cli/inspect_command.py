"""`graphopt inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from graphopt.cli.options import DIMS, TARGET, cli_command, model_argument
from graphopt.cli.output import print_result
from graphopt.cli.settings import Settings
from graphopt.errors import UsageError

if TYPE_CHECKING:
    from graphopt.analysis import ModelSummary, PortSummary
    from graphopt.runtime import Placement
    from graphopt.search import LayerSaturation
    from graphopt.search.sensitivity import Sensitivity

__all__ = ["command"]


@cli_command(
    "inspect",
    examples=(
        "graphopt inspect model.onnx",
        "graphopt inspect model.onnx --samples samples/ --eval labelled.npz",
        "graphopt inspect model.onnx --samples samples/ --sensitivity static",
        "graphopt inspect model.onnx --structure",
        "graphopt inspect model.onnx --placement edge-xnnpack",
    ),
)
@model_argument
@click.option(
    "--samples", metavar="PATH|MODULE:FUNCTION", help="Show samples too, and doubts about them."
)
@click.option(
    "--eval", "evaluation", metavar="PATH|MODULE:FUNCTION", help="Samples to compare them with."
)
@click.option(
    "--sensitivity",
    metavar="CANDIDATE",
    help="Show what each operator that a candidate of a target quantizes costs alone.",
)
@click.option(
    "--target",
    type=TARGET,
    metavar="TARGET",
    default="cpu-int8",
    show_default=True,
    help="Of the candidate.",
)
@click.option(
    "--structure", is_flag=True, help="Show layers, heads, neurons and channels, and which can go."
)
@click.option(
    "--placement", type=TARGET, metavar="TARGET", help="Show which provider of a target runs what."
)
@click.option(
    "--dims", type=DIMS, metavar="SYMBOL=SIZE,...", default=(), help="Sizes to fix for that."
)
def command(settings: Settings, model: Path, **given: Any) -> int:
    """Show what a model is made of.

    With samples it also shows what they are like, and what is doubtful about them; of a quantized
    model also what its layers would lose on x86 processors without VNNI.
    """
    from graphopt import api

    samples, evaluation = given["samples"], given["evaluation"]
    if evaluation is not None and samples is None:
        raise UsageError("`--eval` has nothing to compare with", hint="add `--samples PATH`")
    if given["sensitivity"] is not None and samples is None:
        raise UsageError("`--sensitivity` is measured on samples", hint="add `--samples PATH`")
    if given["dims"] and given["placement"] is None:
        raise UsageError("`--dims` has nothing to fix sizes for", hint="add `--placement TARGET`")
    summary = api.inspect(model)
    text, document = _as_text(summary), {"model": str(model), **summary.to_dict()}
    if samples is not None:
        report = api.inspect_samples(model, samples, evaluation=evaluation)
        text, document = f"{text}\n\n{report}", {**document, "samples": report.to_dict()}
        if layers := api.inspect_saturation(model, samples):
            text = f"{text}\n\n{_saturation_text(layers)}"
            document["without_vnni"] = [layer.to_dict() for layer in layers]
    if given["sensitivity"] is not None:
        costs = api.inspect_sensitivities(
            model, samples, given["sensitivity"], target=given["target"]
        )
        text = f"{text}\n\n{_sensitivity_text(costs)}"
        document["sensitivities"] = [cost.to_dict() for cost in costs]
    if given["structure"]:
        groups = api.inspect_structure(model)
        blocks = api.inspect_layers(model)
        text = f"{text}\n\n{blocks}\n\n{groups}"
        document |= {"structure": groups.to_dict(), "blocks": blocks.to_dict()}
    if given["placement"] is not None:
        placed = api.inspect_placement(model, given["placement"], dims=given["dims"])
        text = f"{text}\n\n{_placement_text(placed)}"
        document["placement"] = placed.to_dict()
    print_result(settings, text=text, document=document)
    return 0


def _as_text(summary: ModelSummary) -> str:
    from graphopt.analysis.quantized_forms import QUANTIZED_FORMS
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
    counted = [f"{count} {QUANTIZED_FORMS[form]}" for form, count in summary.quantized.items()]
    if counted:
        fields.append(("quantized", ", ".join(counted)))
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


def _placement_text(placement: Placement) -> str:
    """Show how many nodes each provider runs, and what the first one leaves to others."""
    from graphopt.report import format_table

    parts = [f"placement {placement.summary()}"]
    parts.append(format_table(("provider", "nodes"), list(placement.nodes.items()), right=(1,)))
    if placement.operators_off:
        rows = list(placement.operators_off.items())
        parts.append(format_table(("elsewhere", "nodes"), rows, right=(1,)))
    return "\n\n".join(parts)


def _saturation_text(layers: list[LayerSaturation]) -> str:
    """Show the layers that lose anything without VNNI, the worst first, and count the others."""
    from graphopt.report import format_table

    pairs = [(layer, layer.saturation) for layer in layers]
    harmed = [(layer, found) for layer, found in pairs if found is not None and found.saturated]
    # By the share of the signal that is lost, not by how often a sum saturates.
    harmed.sort(key=lambda pair: -pair[1].lost / max(pair[1].signal, 1e-300))
    rows = [
        (
            layer.name,
            layer.operator,
            f"{found.rate:.2%}",
            _decibels(found.sqnr_db),
            _decibels(found.saturated_sqnr_db),
            "yes" if found.is_worse_than_seven_bits else "",
        )
        for layer, found in harmed
    ]
    headers = ("layer", "operator", "saturate", "SQNR dB", "without VNNI", "7 bits better")
    told = [format_table(headers, rows, right=(2, 3, 4))] if rows else []
    quiet = len(layers) - len(harmed)
    told.append(
        f"without VNNI, sums of 16 bits would saturate in {len(harmed)} of {len(layers)} integer "
        f"layers" + (f"; {quiet} lose nothing" if quiet and harmed else "")
    )
    return "\n".join(told)


def _sensitivity_text(costs: list[Sensitivity]) -> str:
    """Show groups of operators, the most sensitive first."""
    from graphopt.report import format_table

    rows = [
        (
            cost.group.nodes[0],
            str(len(cost.group.nodes)),
            cost.group.kind,
            _decibels(cost.sqnr_db),
            "-" if cost.cosine is None else f"{cost.cosine:.6f}",
        )
        for cost in costs
    ]
    if not rows:
        return "the candidate quantizes no operator with a constant weight"
    headers = ("quantized alone", "nodes", "operator", "SQNR dB", "cosine")
    return format_table(headers, rows, right=(1, 3, 4))


def _decibels(number: float | None) -> str:
    return "-" if number is None else f"{number:.1f}"


def _dims(port: PortSummary) -> str:
    if port.dims is None:
        return "unknown rank"
    return "(" + ", ".join("?" if dim is None else str(dim) for dim in port.dims) + ")"
