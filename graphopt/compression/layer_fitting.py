"""Giving layers that lost inputs the weights with which they come nearest to what they computed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis.coupling import Coupling
from graphopt.compression.compensation import (
    RIDGES,
    Affine,
    Fit,
    NormalEquations,
    best_fit,
    bias_fit,
    ridge_fit,
)
from graphopt.compression.contractions import Contraction, contraction_of
from graphopt.compression.fit_moments import FitQuestion, normal_equations
from graphopt.compression.fit_targets import FitTarget, counterpart, fit_target
from graphopt.compression.layer_bias import bias_of
from graphopt.compression.pruning_options import PruningOptions
from graphopt.compression.quantized_weights import remove_unread
from graphopt.compression.relay import Relay
from graphopt.compression.surgery import Surgery
from graphopt.ir import clone, constant_tensor, tensor_dims
from graphopt.rewrite import Editor, Facts, LayerFit, Measure, ShapeTable

__all__ = ["Fitting", "Lesson", "plan_lessons"]

HELD_OUT = 0.2
"""Share of the samples by which fits are judged."""

_ROWS_OF_AN_INPUT = 8  # with fewer, least squares wants a stronger pull


@dataclass(frozen=True)
class Lesson:
    """What one layer is to learn.

    Attributes:
        layer: The layer.
        target: Where its result goes, in the model that is cut.
        teacher: The model that knows what it should be.
        wanted: The value of `teacher` to come to.
        kept: Which of its channels the layer still computes once all is cut.
        is_joinable: What enters and the stream have as many axes, channels last.
    """

    layer: Contraction
    target: FitTarget
    teacher: ir.Model
    wanted: ir.Value
    kept: npt.NDArray[np.bool_] | slice
    is_joinable: bool


def plan_lessons(
    model: ir.Model,
    facts: Facts,
    coupling: Coupling,
    surgery: Surgery,
    asked: Iterable[Contraction],
) -> list[Lesson]:
    """Return what layers are to learn, in the order of the graph; before anything is cut.

    Beside the layers asked for these are all that an earlier pass left with fewer inputs than the
    original has: what enters them changes once more, and errors are made up for where they meet.

    Args:
        model: The model, not cut yet.
        facts: Its shapes, and the original model, if any.
        coupling: What the model ties together.
        surgery: What will be cut.
        asked: Layers that lose inputs.
    """
    here = clone(model)
    teachers = [here] if facts.original is None else [facts.original, here]
    outputs = [_computed(teacher) for teacher in teachers]
    layers = {layer.node: layer for layer in asked}
    for layer in filter(None, map(contraction_of, coupling.uses)):
        if layer.node not in layers and _is_narrower(layer, outputs[0]):
            layers[layer.node] = layer
    order = {node: place for place, node in enumerate(model.graph)}
    found = []
    for node in sorted(layers, key=lambda node: order.get(node, len(order))):
        layer = layers[node]
        target = fit_target(layer, facts.shapes)
        kept = surgery.masks(layer.weight).get(layer.output_axis, slice(None))
        for teacher, values in zip(teachers, outputs, strict=True):
            wanted = counterpart(target.value, values.get(target.value.name or ""))
            if wanted is not None and _has_all_outputs(layer, values):
                joinable = _is_joinable(layer, target, facts.shapes)
                found.append(Lesson(layer, target, teacher, wanted, kept, joinable))
                break
    return found


def _computed(model: ir.Model) -> dict[str, ir.Value]:
    return {output.name or "": output for node in model.graph for output in node.outputs}


def _weight_shape(node: ir.Node | None, operand: int) -> tuple[int, ...] | None:
    value = node.inputs[operand] if node is not None and len(node.inputs) > operand else None
    tensor = constant_tensor(value)
    return None if tensor is None else tensor_dims(tensor)


def _has_all_outputs(layer: Contraction, values: Mapping[str, ir.Value]) -> bool:
    """Tell whether the layer of another model has as many outputs as it has in this one."""
    theirs = values.get(layer.node.outputs[0].name or "")
    if theirs is None:
        return False
    shape = _weight_shape(theirs.producer(), layer.use.operand)
    mine, axis = _weight_shape(layer.node, layer.use.operand), layer.output_axis
    return shape is not None and mine is not None and shape[axis] == mine[axis]


def _is_narrower(layer: Contraction, values: Mapping[str, ir.Value]) -> bool:
    """Tell whether a layer sums over less than the same layer of the original does."""
    theirs = values.get(layer.node.outputs[0].name or "")
    node = None if theirs is None else theirs.producer()
    if node is None or node.op_identifier() != layer.node.op_identifier():
        return False
    shape, mine = (_weight_shape(one, layer.use.operand) for one in (node, layer.node))
    axis = layer.use.axis
    return shape is not None and mine is not None and mine[axis] < shape[axis]


def _is_joinable(layer: Contraction, target: FitTarget, shapes: ShapeTable) -> bool:
    if layer.node.op_type == "Conv" or target.stream is None:
        return False
    found = [shapes.of(value) for value in (layer.node.inputs[0], target.stream)]
    dims = [shape.dims for shape in found if shape is not None and shape.dims is not None]
    return len(dims) == 2 and dims[0][:-1] == dims[1][:-1]  # noqa: PLR2004 - both are known


@dataclass(frozen=True)
class Fitting:
    """Fits layers of a model that is cut to what they computed in the original one."""

    model: ir.Model
    edit: Editor
    measure: Measure
    options: PruningOptions
    fits: dict[Contraction, LayerFit] = field(default_factory=dict)

    def fit_all(self, lessons: Iterable[Lesson]) -> Mapping[Contraction, LayerFit]:
        """Give layers other weights, one after the other, and return how well each was fitted."""
        parts = self.measure.split(HELD_OUT) if self.options.compensation == "best" else None
        relays = [Relay(part) for part in parts or (self.measure,)]
        left = list(lessons)
        while left:
            self._fit(left[0], relays, left)
            lesson = left.pop(0)
            for relay in relays:
                ahead = [value for one in left for value in self._entering(one)]
                pending = {one.layer.node for one in left}
                relay.go_on(self.model, lesson.target.value, ahead, pending)
        return self.fits

    def _entering(self, lesson: Lesson) -> list[ir.Value]:
        """Return what is measured of the model that is cut."""
        ends = (lesson.layer.node.inputs[0], lesson.target.stream)
        return [value for value in ends if value is not None]

    def _fit(self, lesson: Lesson, relays: Sequence[Relay], left: Sequence[Lesson]) -> None:
        """Give a layer other weights, or say why not."""
        layer, kept = lesson.layer, _affine(lesson.layer)
        if len(layer.weight.uses()) > 1:
            self.edit.refuse(layer.node, "shared-weight", why="others read the weight, too")
            return
        parts = self._equations(lesson, relays, left)
        if any(part is None or len(part.system) != len(kept.matrix) + 1 for part in parts):
            self.edit.refuse(layer.node, "not-measured", why="what enters it is not finite")
            return
        known = [part for part in parts if part is not None]
        fit = self._fitted(known, kept)
        if fit is None:
            self.edit.refuse(layer.node, "not-measured", why="the fit has no finite solution")
            return
        self.fits[layer] = LayerFit(
            layer=layer.node.name or "",
            compensation=fit.method,
            before=known[-1].error(kept),
            after=fit.error,
            rows=known[-1].count,
            is_held_out=len(known) > 1,
        )
        if fit.method != "off":
            self._put(layer, fit, kept)

    def _equations(
        self, lesson: Lesson, relays: Sequence[Relay], left: Sequence[Lesson]
    ) -> list[NormalEquations | None]:
        """Return equations of all rows; or of those to fit to, and of those held out."""
        teacher = lesson.teacher
        question = FitQuestion(
            self.model,
            lesson.layer,
            lesson.target.stream,
            teacher,
            lesson.wanted,
            lesson.kept,
            lesson.is_joinable,
        )
        ahead = [one.wanted for one in left if one.teacher is teacher]
        found = []
        for relay in relays:
            if len(ahead) > 1:  # the last one is measured while the model runs
                relay.go_on(teacher, lesson.wanted, ahead)
            held = (relay.held(self.model), relay.held(teacher))
            found.append(normal_equations(question, relay.measure, held))
        return found

    def _fitted(self, parts: list[NormalEquations], kept: Affine) -> Fit | None:
        if len(parts) > 1:
            fit = best_fit(parts[0], parts[1], kept)
        elif self.options.compensation == "bias":
            fit = bias_fit(parts[0], kept)
        else:
            fit = ridge_fit(parts[0], kept, self._ridge(parts[0]))
        # In the type of the weights: half precision ends at 65504.
        with np.errstate(over="ignore"):
            stored = [part.astype(kept.matrix.dtype).astype(np.float64) for part in fit.layer]
        return fit if all(np.isfinite(part).all() for part in stored) else None

    def _ridge(self, equations: NormalEquations) -> float:
        """Return the pull that was asked for, or one that few rows want where none was held out."""
        is_chosen = self.options.compensation == "least-squares"
        if is_chosen or equations.count >= _ROWS_OF_AN_INPUT * len(equations.system):
            return self.options.ridge
        return max(self.options.ridge, RIDGES[-1])

    def _put(self, layer: Contraction, fit: Fit, kept: Affine) -> None:
        bias = bias_of(layer.node, kept.matrix.shape[1])
        unread = [layer.weight, *filter(None, [bias.value])]
        method = fit.method if not fit.ridge else f"{fit.method} (ridge {fit.ridge:g})"
        with self.edit.rewrite(layer.node, because=f"{method} on what stays") as change:
            if fit.method == "least-squares":
                name = f"{layer.weight.name}_fitted"
                weight = change.initializer(layer.stored(fit.layer.matrix), name=name)
                change.set_input(layer.node, layer.use.operand, weight)
            bias.put(change, fit.layer.bias, kept.matrix.dtype)
        remove_unread(self.model, self.edit, unread, because="weights before they were fitted")


def _affine(layer: Contraction) -> Affine:
    matrix = layer.matrix()
    return Affine(matrix, bias_of(layer.node, matrix.shape[1]).values)
