"""Stages that look at calibration samples: what every candidate loses before it is quantized."""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir

from graphopt.errors import PreconditionError, UsageError
from graphopt.pipeline import Pipeline
from graphopt.targets import Stage, Target

__all__ = [
    "check_extras",
    "check_samples",
    "measured_stages",
    "without_measured_stages",
]


def check_extras(target: Target) -> None:
    """Check that what stages and candidates need is there, before any of them is built.

    Raises:
        MissingExtraError: It is not installed.
        UsageError: Their text cannot be parsed, or names a pass or an option that there is not.
    """
    texts = [(f"stage `{stage.name}`", stage.passes) for stage in target.stages if stage.enabled]
    texts += [(f"candidate `{item.name}`", item.pipeline) for item in target.enabled_candidates()]
    for owner, text in texts:
        for step in _parsed(text, f"{owner} of target `{target.name}`").passes():
            step.check_extras()


def _parsed(text: str, where: str) -> Pipeline:
    try:
        return Pipeline.parse(text) if text else Pipeline()
    except UsageError as error:
        # Told of a text alone they would leave open in which line of which file it stands.
        error.where = error.where or where
        raise


def measured_stages(target: Target, model: ir.Model) -> tuple[Stage, ...]:
    """Return the stages that are on and hold a pass that needs samples."""
    return tuple(
        stage
        for stage in target.stages
        if stage.enabled
        and any(step.needs(model).is_measured for step in Pipeline.parse(stage.passes).passes())
    )


def check_samples(target: Target, model: ir.Model, *, has_samples: bool) -> bool:
    """Tell whether stages need samples.

    Raises:
        PreconditionError: They do, and there are none: a stage that was asked for is not left out
            in silence.
    """
    stages = measured_stages(target, model)
    if stages and not has_samples:
        name = stages[0].name
        raise PreconditionError(
            f"stage `{name}` needs calibration samples",
            why=f"it measures on them what `{stages[0].passes}` may do",
            where=f"target `{target.name}`",
            hint=f"give samples with `--calibration PATH`, or say `--stage {name}=off`",
        )
    return bool(stages)


def without_measured_stages(target: Target, model: ir.Model) -> tuple[Target, tuple[str, ...]]:
    """Return a target without the stages that need samples, and the names of these."""
    names = {stage.name for stage in measured_stages(target, model)}
    if not names:
        return target, ()
    kept = tuple(
        replace(one, enabled=one.enabled and one.name not in names) for one in target.stages
    )
    return replace(target, stages=kept), tuple(sorted(names))
