"""Giving layers that lost inputs the weights with which they come nearest to what they computed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from graphopt.compression.compensation import Affine, compensate, shifted_bias
from graphopt.compression.contractions import Contraction
from graphopt.compression.fit_error import Teacher, relative_error
from graphopt.compression.layer_bias import bias_of
from graphopt.compression.pruning_options import PruningOptions
from graphopt.compression.quantized_weights import remove_unread
from graphopt.compression.surgery import Surgery
from graphopt.rewrite import Editor, LayerFit, Measure

__all__ = ["Fitting", "teachers_of"]


def teachers_of(
    model: ir.Model, measure: Measure, asked: Iterable[Contraction], surgery: Surgery
) -> dict[Contraction, Teacher]:
    """Return what layers compute before anything is cut, of those outputs that will stay."""
    layers = list(dict.fromkeys(asked))
    measured = measure.moments(model, [layer.leaving() for layer in layers])
    found = {}
    for layer in layers:
        whole = _affine(layer)
        kept = surgery.masks(layer.weight).get(layer.output_axis, slice(None))
        output = measured.get(layer.leaving())
        found[layer] = Teacher(
            Affine(whole.matrix[:, kept], whole.bias[kept]),
            None if output is None else output.of(kept),
            is_biased=bias_of(layer.node, whole.matrix.shape[1]).node is layer.node,
        )
    return found


def _affine(layer: Contraction) -> Affine:
    matrix = layer.matrix()
    return Affine(matrix, bias_of(layer.node, matrix.shape[1]).values)


@dataclass(frozen=True)
class Fitting:
    """Fits layers of a model that is cut to what they computed in the original one."""

    model: ir.Model
    original: ir.Model
    edit: Editor
    measure: Measure
    options: PruningOptions
    fits: dict[Contraction, LayerFit] = field(default_factory=dict)

    def fit_all(self, teachers: Mapping[Contraction, Teacher]) -> Mapping[Contraction, LayerFit]:
        """Give layers other weights, one after the other, and return how well each was fitted."""
        for layer, teacher in teachers.items():
            self._fit(layer, teacher)
        return self.fits

    def _fit(self, layer: Contraction, teacher: Teacher) -> None:
        """Give a layer other weights, or say why not."""
        kept, full = _affine(layer), teacher.layer
        if kept.matrix.shape == full.matrix.shape or kept.matrix.shape[1] != full.matrix.shape[1]:
            return  # not all rewrites were carried out
        if len(layer.weight.uses()) > 1:
            self.edit.refuse(layer.node, "shared-weight", why="others read the weight, too")
            return
        is_full = self.options.compensation == "least-squares"
        asked = layer.entering()
        pairs = [(asked, asked)]
        moments = self.measure.cross(self.model, self.original, pairs, products=True)[0]
        if moments is None or not moments.first.is_finite or not moments.second.is_finite:
            self.edit.refuse(layer.node, "not-measured", why="what enters it is not finite")
            return
        found = (
            compensate(kept, full, moments, self.options.ridge)
            if is_full
            else shifted_bias(kept, full, moments)
        )
        if not (np.isfinite(found.matrix).all() and np.isfinite(found.bias).all()):
            self.edit.refuse(layer.node, "not-measured", why="the fit has no finite solution")
            return
        self.fits[layer] = LayerFit(
            layer=layer.node.name or "",
            compensation=self.options.compensation,
            before=relative_error(kept, teacher, moments),
            after=relative_error(found, teacher, moments),
            rows=moments.first.count,
        )
        bias = bias_of(layer.node, found.matrix.shape[1])
        unread = [layer.weight, *filter(None, [bias.value])]
        because = f"{self.options.compensation} on what stays"
        with self.edit.rewrite(layer.node, because=because) as change:
            if is_full:
                name = f"{layer.weight.name}_fitted"
                weight = change.initializer(layer.stored(found.matrix), name=name)
                change.set_input(layer.node, layer.use.operand, weight)
            bias.put(change, found.bias, kept.matrix.dtype)
        remove_unread(self.model, self.edit, unread, because="weights before they were fitted")
