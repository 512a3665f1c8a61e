"""Measuring what least squares needs to know of a layer and of what it is fitted to."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.compression.compensation import NormalEquations
from graphopt.compression.contractions import Contraction
from graphopt.ir import clone
from graphopt.rewrite import CrossMoments, Held, Measure

__all__ = ["FitQuestion", "normal_equations"]

Array = npt.NDArray[Any]
BothHeld = tuple[Held | None, Held | None]
_JOINED = "fit//joined"


class FitQuestion(NamedTuple):
    """A layer, and what it is fitted to.

    Attributes:
        model: The model that is cut.
        layer: A layer of it.
        stream: What its result is added to in this model; ``None``: nothing.
        teacher: The model that knows.
        target: What the layer should come to there; with a stream, behind the sum.
        kept: Which of the channels of the target the layer still computes.
        is_joinable: What enters and the stream have as many axes, channels last.
    """

    model: ir.Model
    layer: Contraction
    stream: ir.Value | None
    teacher: ir.Model
    target: ir.Value
    kept: npt.NDArray[np.bool_] | slice
    is_joinable: bool = False


def normal_equations(
    question: FitQuestion, measure: Measure, held: BothHeld = (None, None)
) -> NormalEquations | None:
    """Return what least squares needs to know; ``None`` where it is not finite, or not there.

    Args:
        question: What is asked.
        measure: Runs both models.
        held: What was held of the model that is cut, and of the teacher.

    Raises:
        SessionLoadError, RuntimeFailure: A model does not run.
    """
    found = (_alone if question.stream is None else _with_stream)(question, measure, held)
    if found is None:
        return None
    parts = (found.system, found.target, np.float64(found.energy))
    return found if all(np.isfinite(part).all() for part in parts) else None


def _alone(question: FitQuestion, measure: Measure, held: BothHeld) -> NormalEquations | None:
    layer = question.layer
    pairs = [(layer.entering(), layer.leaving(question.target))]
    moments = measure.cross(question.model, question.teacher, pairs, held=held)[0]
    if moments is None or moments.product is None or moments.second.channels < 1:
        return None
    product, second = moments.product[:, question.kept], moments.second.of(question.kept)
    target = np.vstack([product, second.mean])
    return NormalEquations(
        moments.first.count, _system(moments), target, float(second.second.sum())
    )


def _with_stream(question: FitQuestion, measure: Measure, held: BothHeld) -> NormalEquations | None:
    """The target is what the teacher's stream is, less what the stream in this model is."""
    return (_joined if question.is_joinable else _apart)(question, measure, held)


def _joined(question: FitQuestion, measure: Measure, held: BothHeld) -> NormalEquations | None:
    """Read what enters and the stream as one value: one run tells all their products."""
    layer, stream = question.layer, question.stream
    assert stream is not None
    entering = layer.node.inputs[0]
    assert entering is not None
    copy = _with_joined(question.model, entering.name or "", stream.name or "")
    moments = measure.cross(
        copy, question.teacher, [(_JOINED, question.target.name or "")], held=held
    )[0]
    if moments is None or moments.product is None or moments.first.gram is None:
        return None
    inputs = layer.matrix().shape[0]
    gram, product = moments.first.gram, moments.product[:, question.kept]
    second, mean = moments.second.of(question.kept), moments.first.mean
    if len(gram) - inputs != product.shape[1]:
        return None
    target = np.vstack([product[:inputs] - gram[:inputs, inputs:], second.mean - mean[inputs:]])
    own = float(np.diag(gram)[inputs:].sum())
    energy = float(second.second.sum()) + own - 2.0 * float(np.trace(product[inputs:]))
    system = _bordered(gram[:inputs, :inputs], mean[:inputs])
    return NormalEquations(moments.first.count, system, target, max(energy, 0.0))


def _apart(question: FitQuestion, measure: Measure, held: BothHeld) -> NormalEquations | None:
    """Read them one after the other, at the same positions."""
    layer, stream = question.layer, question.stream
    assert stream is not None
    entering, around = layer.entering(), layer.leaving(stream)
    wanted = layer.leaving(question.target)
    pairs = [(entering, wanted), (around, wanted)]
    moments, streams = measure.cross(question.model, question.teacher, pairs, held=held)
    mine = measure.cross(
        question.model, question.model, [(entering, around)], held=(held[0], held[0])
    )[0]
    if moments is None or streams is None or mine is None:
        return None
    if moments.product is None or streams.product is None or mine.product is None:
        return None
    if not moments.first.count == streams.first.count == mine.first.count:
        return None
    product, second = moments.product[:, question.kept], moments.second.of(question.kept)
    if product.shape != mine.product.shape:
        return None
    target = np.vstack([product - mine.product, second.mean - streams.first.mean])
    both = float(np.trace(streams.product[:, question.kept]))
    energy = float(second.second.sum()) + float(streams.first.second.sum()) - 2.0 * both
    return NormalEquations(moments.first.count, _system(moments), target, max(energy, 0.0))


def _system(moments: CrossMoments) -> Array:
    gram = moments.first.gram
    assert gram is not None
    return _bordered(gram, moments.first.mean)


def _bordered(gram: Array, mean: Array) -> Array:
    """Return the moments of rows with a one behind them."""
    size = len(gram)
    system = np.empty((size + 1, size + 1))
    system[:size, :size], system[:size, size], system[size, :size] = gram, mean, mean
    system[size, size] = 1.0
    return system


def _with_joined(model: ir.Model, first: str, second: str) -> ir.Model:
    """Return a copy of a model that also computes two values side by side."""
    copy = clone(model)
    values = {output.name: output for node in copy.graph for output in node.outputs}
    values |= {value.name: value for value in copy.graph.inputs}
    node = ir.node("Concat", [values[first], values[second]], {"axis": -1}, name=_JOINED)
    node.outputs[0].name = _JOINED
    copy.graph.append(node)
    return copy
