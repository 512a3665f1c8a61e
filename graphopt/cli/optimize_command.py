"""`graphopt optimize`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from graphopt.cli.options import (
    DIMS,
    GATE,
    LATENCY,
    STAGE,
    TARGET,
    THREADS,
    calibration_cache_option,
    calibration_option,
    cli_command,
    force_option,
    model_argument,
    seed_option,
)
from graphopt.cli.output import print_result
from graphopt.cli.progress import progress_shown
from graphopt.cli.settings import Settings

__all__ = ["command"]


def _print_schema(context: click.Context, _option: click.Parameter, is_given: bool) -> None:
    if is_given:
        from graphopt.report import result_schema

        print(json.dumps(result_schema(), indent=2))
        context.exit()


@cli_command(
    "optimize",
    examples=(
        "graphopt optimize model.onnx --target cpu-int8 --calibration samples/",
        "graphopt optimize model.onnx --target cpu-int8 --eval labelled.npz --metric top1 \\",
        "    --gate max_metric_drop=0.005 -o dist/model",
    ),
)
@model_argument
@click.option("--target", type=TARGET, required=True, help="A target's name, or its TOML file.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Bundle. Default: MODEL.TARGET."
)
@calibration_option
@calibration_cache_option
@click.option(
    "--eval",
    "evaluation",
    metavar="PATH|MODULE:FUNCTION",
    help="Samples to judge by, labelled or not, or a metric.",
)
@click.option("--metric", metavar="NAME", help="top1, f1, spearman, mse or perplexity.")
@click.option(
    "--gate",
    "gates",
    type=GATE,
    metavar="NAME=VALUE|off",
    multiple=True,
    help="Set a limit; repeatable.",
)
@click.option(
    "--stage",
    "stages",
    type=STAGE,
    metavar="NAME=on|off",
    multiple=True,
    help="Switch a stage; repeatable.",
)
@click.option(
    "--threads",
    type=THREADS,
    metavar="N",
    help="Threads inside one operator. Default: the target's.",
)
@click.option(
    "--dims",
    type=DIMS,
    metavar="SYMBOL=SIZE,...",
    multiple=True,
    help="Sizes to fix, for targets that take no open ones; repeated: a variant for each.",
)
@seed_option
@click.option(
    "--latency",
    "latency_budget_s",
    type=LATENCY,
    metavar="off|SECONDS",
    default="10",
    show_default=True,
    help="Time to measure each candidate.",
)
@click.option(
    "--repair",
    "repair_budget_s",
    type=LATENCY,
    metavar="off|SECONDS",
    default="120",
    show_default=True,
    help="Time to find what must stay in float where no quantized candidate is right.",
)
@click.option(
    "--json-schema",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_schema,
    help="Print the schema of the --json document and do nothing.",
)
@click.option("--trust", is_flag=True, help="Load pickles of what is exported.")
@click.option(
    "--interpreter",
    metavar="PATH",
    default="",
    help="Python that has the framework of what is exported.",
)
@click.option("--dry-run", is_flag=True, help="Print the plan and do nothing.")
@force_option
def command(
    settings: Settings, model: Path, dry_run: bool, force: bool, output: Path | None, **given: Any
) -> int:
    """Write the best bundle of a model for a target, measured.

    MODEL is an ONNX file, or what `graphopt export` takes, as torch:MODULE:FACTORY or hf:FOLDER.
    """
    from graphopt import api
    from graphopt.targets import load_target, parse_gates

    given |= {"gates": parse_gates(given["gates"]), "stages": dict(given["stages"])}
    variants = given.pop("dims")
    given["dims"] = variants[0] if variants else ()
    place = output or api.default_output(model, load_target(given["target"]))
    if dry_run:
        unused = {"calibration_cache", "evaluation", "metric", "seed"}
        unused |= {"latency_budget_s", "repair_budget_s"}
        kept = {key: value for key, value in given.items() if key not in unused}
        # As they were typed: what the plan prints can be run.
        words = [word for word in settings.arguments if word != "--dry-run"]
        plan = api.plan(model, output=place, arguments=("graphopt", *words), **kept)
        if len(variants) > 1:
            others = " and ".join(f"`{','.join(sizes)}`" for sizes in variants[1:])
            first = f"this is the plan for `{','.join(variants[0])}`"
            plan.shared.notes.append(f"{first}: {others} go through the same recipes")
        print_result(settings, text=str(plan), document=plan.to_dict())
        return 0
    if len(variants) > 1:
        return _variants(settings, model, place, variants, given | {"force": force})
    with progress_shown(settings) as progress:
        result = api.optimize(model, output=place, force=force, progress=progress, **given)
    print_result(settings, text=str(result), document=result.report.to_dict())
    return result.exit_code


def _variants(
    settings: Settings, model: Path, place: Path, variants: Any, given: dict[str, Any]
) -> int:
    """Make one bundle with a variant for each set of sizes."""
    from graphopt import api

    del given["dims"]
    with progress_shown(settings) as progress:
        found = api.optimize_variants(
            model, variants=variants, output=place, progress=progress, **given
        )
    print_result(settings, text=str(found), document=found.to_dict())
    return found.exit_code
