"""Stages that look at calibration samples: what every candidate loses before it is quantized."""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir

from graphopt.errors import PreconditionError
from graphopt.pipeline import Pipeline
from graphopt.targets import Stage, Target

__all__ = [
    "check_extras",
    "check_samples",
    "measured_stages",
    "without_measured_stages",
]


def check_extras(target: Target) -> None:
    """Check that what stages and candidates need is installed, before any of them is built.

    Raises:
        MissingExtraError: It is not.
    """
    texts = [target.stage_text(), target.last_text()]
    texts += [candidate.pipeline for candidate in target.enabled_candidates()]
    for text in filter(None, texts):
        for step in Pipeline.parse(text).passes():
            step.check_extras()


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
