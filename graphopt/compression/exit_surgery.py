"""Putting an exit into a model: the layers behind it move into a branch of an ``If``."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_ir as ir

from graphopt.analysis import is_annotated
from graphopt.analysis.reads import values_read
from graphopt.compression.exit_features import Pooling, reduced
from graphopt.compression.exit_head import ExitRule
from graphopt.ir import opset_version, subgraphs_of
from graphopt.rewrite import Change

__all__ = ["ExitPlan", "emit_exit", "exit_obstacle", "moved_nodes"]


@dataclass(frozen=True, eq=False)
class ExitPlan:
    """One exit.

    Attributes:
        pooling: What the head sees, and of which stream.
        rule: The head, and when it is believed.
        certainty: By what: ``probability`` or ``entropy``.
        scores: What the model returns: logits, or probabilities.
        has_softmax: `scores` are probabilities.
        is_single: Stream and scores are of single precision.
    """

    pooling: Pooling
    rule: ExitRule
    certainty: str
    scores: ir.Value
    has_softmax: bool
    is_single: bool


def moved_nodes(graph: ir.Graph, stream: ir.Value, scores: ir.Value) -> list[ir.Node]:
    """Return the nodes that only ``scores`` need, in order: those that an exit spares.

    What reads them for nothing goes with them.
    """
    early, late = _needed([stream]), _needed([scores])
    found: list[ir.Node] = []
    inside = set[ir.Value]()
    for node in graph:
        if node not in early and (node in late or not inside.isdisjoint(values_read(node))):
            found.append(node)
            inside.update(node.outputs)
    return found


def _needed(values: Iterable[ir.Value]) -> set[ir.Node]:
    pending, found = list(values), set[ir.Node]()
    while pending:
        node = pending.pop().producer()
        if node is not None and node not in found:
            found.add(node)
            pending.extend(values_read(node))
            pending.extend(v for graph in subgraphs_of(node) for v in graph.outputs)
    return found


def exit_obstacle(graph: ir.Graph, stream: ir.Value, scores: ir.Value) -> tuple[str, str] | None:
    """Return why the layers behind a stream cannot move: a slug, and a sentence."""
    moved = moved_nodes(graph, stream, scores)
    if scores.producer() not in moved:
        return "not-worthwhile", "the scores are computed before it"
    for node in moved:
        for value in node.outputs:
            if is_annotated(value):
                return "annotated", f"an annotation of the graph describes `{value.name}`"
    return None


def emit_exit(
    change: Change, model: ir.Model, plan: ExitPlan, threshold: float | None = None
) -> None:
    """Let a model return the scores of the head where it is sure of all rows of a batch.

    Args:
        change: A rewrite at the main graph.
        model: The model.
        plan: The exit.
        threshold: Instead of that of the rule: infinite, and nobody leaves; minus infinity, and
            everybody does.
    """
    graph = model.graph
    moved = moved_nodes(graph, plan.pooling.stream, plan.scores)
    rest = ir.Graph([], [], nodes=[], name=change.fresh_name("go_on"))
    scores = _scores(change, model, plan)
    sure = _is_sure(change, model, plan, scores, threshold)
    result = scores
    if plan.has_softmax:
        result = change.node("Softmax", [scores], attributes={"axis": 1})
    if not plan.is_single:
        dtype = plan.scores.dtype
        assert dtype is not None
        result = change.node("Cast", [result], attributes={"to": int(dtype)})
    given = ir.Value(
        name=change.fresh_name("early_scores"),
        type=plan.scores.type,
        shape=None if plan.scores.shape is None else ir.Shape(plan.scores.shape),
    )
    leave = ir.Graph(
        [],
        [given],
        nodes=[ir.node("Identity", [result], outputs=[given], name=change.fresh_name("leave"))],
        name=change.fresh_name("leave_early"),
    )
    branches = {"then_branch": leave, "else_branch": rest}
    found = change.node("If", [sure], attributes=branches, like=plan.scores, name="exit_early")
    late = plan.scores
    change.replace(late, found)
    for node in moved:  # last: before, what is returned has to be of the main graph
        change.then(partial(_move, node, rest))
    change.then(lambda: rest.outputs.append(late))


def _move(node: ir.Node, rest: ir.Graph) -> None:
    assert node.graph is not None
    node.graph.remove(node)
    rest.append(node)


def _scores(change: Change, model: ir.Model, plan: ExitPlan) -> ir.Value:
    features = plan.pooling.emit(change, opset_version(model), is_single=plan.is_single)
    head = plan.rule.head
    weight = change.initializer(head.matrix.astype(np.float32), name="exit_weight")
    bias = change.initializer(head.bias.astype(np.float32), name="exit_bias")
    return change.node("Gemm", [features, weight, bias], name="exit_head")


def _is_sure(
    change: Change,
    model: ir.Model,
    plan: ExitPlan,
    scores: ir.Value,
    threshold: float | None,
) -> ir.Value:
    opset = opset_version(model)
    level = plan.rule.threshold if threshold is None else threshold
    if plan.certainty == "probability":
        shares = change.node("Softmax", [scores], attributes={"axis": 1})
        certain = reduced(change, "ReduceMax", shares, (1,), opset)
    else:
        logs = change.node("LogSoftmax", [scores], attributes={"axis": 1})
        terms = change.node("Mul", [change.node("Exp", [logs]), logs])
        certain = reduced(change, "ReduceSum", terms, (1,), opset)
    least = reduced(change, "ReduceMin", certain, (), opset)
    if math.isinf(level):  # compared with finite numbers alone
        level = math.copysign(float(np.finfo(np.float32).max), level)
    limit = change.initializer(np.array(level, np.float32), name="exit_threshold")
    return change.node("Greater", [least, limit])
