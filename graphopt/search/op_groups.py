"""Which operators a pipeline quantizes, and the same pipeline with some of them left in float."""

from __future__ import annotations

import dataclasses
import glob
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from graphopt.compression import NoWeight, trace_weight
from graphopt.pipeline import Element, Ledger, Pipeline
from graphopt.rewrite import Approximate, Pass
from graphopt.targets import Candidate

__all__ = ["OpGroup", "can_exclude", "divided", "pipeline_of", "quantized_groups", "without"]

_WEIGHT_INPUTS = {"MatMul": 1, "Gemm": 1, "Conv": 1, "ConvTranspose": 1, "Gather": 0}
_SHARING = frozenset({"MatMul", "Gemm"})  # layers that share the quantization of their input


@dataclass(frozen=True)
class OpGroup:
    """Operators that are quantized together, or not at all.

    Attributes:
        nodes: Their names.
        kind: Their operator.
        passes: Names of the passes that quantize operators of that kind.
    """

    nodes: tuple[str, ...]
    kind: str
    passes: frozenset[str]

    def __str__(self) -> str:
        more = f" and {len(self.nodes) - 1} more" if len(self.nodes) > 1 else ""
        return f"`{self.nodes[0]}`{more}"


def pipeline_of(candidate: Candidate) -> Pipeline:
    """Return the pipeline of a candidate; it may be empty."""
    return Pipeline.parse(candidate.pipeline) if candidate.pipeline else Pipeline()


def can_exclude(step: object) -> bool:
    """Tell whether a pass quantizes, and leaves alone what it is told to."""
    return (
        isinstance(step, Pass)
        and isinstance(step.contract.numerics, Approximate)
        and isinstance(getattr(step, "exclude", None), tuple)
    )


def divided(pipeline: Pipeline) -> tuple[Pipeline, Pipeline]:
    """Return what prepares the model, and the rest from the first pass that can leave nodes alone.

    Names of nodes that such a pass is told are those of the model behind the first part.
    """
    places = [number for number, step in enumerate(pipeline.elements) if can_exclude(step)]
    first = places[0] if places else len(pipeline.elements)
    return Pipeline(pipeline.elements[:first]), Pipeline(pipeline.elements[first:])


def without(pipeline: Pipeline, groups: Iterable[OpGroup]) -> Pipeline:
    """Return the pipeline with groups left in float, by the option ``exclude`` of its passes."""
    wanted = list(groups)
    return Pipeline(tuple(_excluding(step, wanted) for step in pipeline.elements))


def _excluding(step: Element, groups: Iterable[OpGroup]) -> Element:
    if not isinstance(step, Pass) or not can_exclude(step):
        return step
    # Names from exporters hold slashes and brackets: a pattern must mean just this name.
    patterns = sorted(
        glob.escape(name)
        for group in groups
        if step.name in group.passes or group.kind in getattr(step, "ops", ())
        for name in group.nodes
    )
    options: dict[str, Any] = {"exclude": (*getattr(step, "exclude", ()), *patterns)}
    return dataclasses.replace(step, **options) if patterns else step


def quantized_groups(model: ir.Model, ledger: Ledger) -> list[OpGroup]:
    """Return the operators with constant weights that a run of a pipeline quantized.

    Args:
        model: As it was before the first pass that quantizes.
        ledger: Of the run.
    """
    steps = {step.name for step in Pipeline.parse(ledger.pipeline).passes() if can_exclude(step)}
    touched: dict[str, str] = {}
    for edit in ledger.journal.edits:
        if edit.pass_name in steps:
            touched |= dict.fromkeys((*edit.removed, *edit.changed), edit.pass_name)
    members: dict[object, list[ir.Node]] = {}
    passes: dict[str, set[str]] = {}
    for node in _weighted(model):
        if node.name in touched:
            passes.setdefault(node.op_type, set()).add(touched[node.name])
            is_sharing = node.op_type in _SHARING
            # Left in float alone, one of those that share the quantizer of their input would spare
            # no conversion.
            key = (node.inputs[0], node.op_type) if is_sharing else node
            members.setdefault(key, []).append(node)
    return [
        OpGroup(
            nodes=tuple(node.name or "" for node in found),
            kind=found[0].op_type,
            passes=frozenset(passes[found[0].op_type]),
        )
        for found in members.values()
    ]


def _weighted(model: ir.Model) -> Iterator[ir.Node]:
    for node in model.graph:
        index = _WEIGHT_INPUTS.get(node.op_type)
        if node.domain or index is None or index >= len(node.inputs):
            continue
        if not isinstance(trace_weight(node.inputs[index]), NoWeight):
            yield node
