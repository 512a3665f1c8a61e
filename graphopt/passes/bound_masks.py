"""Masks of attention that stand for infinity, in numbers that integers can share with scores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.compression import HALF_FORMATS
from graphopt.compression.half_formats import STANDS_FOR_INFINITY
from graphopt.compression.half_stand_ins import MASKING, find_masks
from graphopt.ir import constant_array
from graphopt.rewrite import Approximate, Contract, Editor, Facts, Needs, Pass

__all__ = ["BoundMasks"]

_HEADROOM = 2.0  # samples may show half of how far scores lie apart
_NOTHING = 17.33  # e to the minus of this is half a step of float32 at 1


@dataclass(frozen=True, kw_only=True)
class BoundMasks(Pass):
    """Raise what masks of attention add for minus infinity to what hides as well.

    What it does
        Exporters write masks as 0 and the lowest float, or minus infinity, which is added to the
        scores. A quantizer of that sum would need one step for all scores together. The constant
        that stands for infinity becomes twice as far below zero as scores lie apart on samples,
        and 17.33 more: behind `Softmax` what it hides is less than float32 rounds off.

    When it refuses
        `range-unknown`   the scores were not finite on samples, or could not be measured.
        `read-elsewhere`  something other than attention reads a mask; no mask of the model is
                          changed then, as several may come from one constant.
        `no-scores`       it is not seen what the mask is added to before a `Softmax`.
        `not-a-constant`  the number is not a constant of its own, or stands for a limit above.

    What it keeps
        Inputs and outputs, every operator, every weight. What is hidden by a mask stays hidden, to
        the precision of float32, for scores no more than twice as far apart as on the samples.
        A row that is hidden as a whole attends by its scores instead of evenly.

    Cost
        Time O(nodes); one run per sample for the range of the scores. No weight is read.

    Example
        before  (float[1,2] x, bool[1,2] c) => (float[1,2] y) <float z = {0.0}, float m = {-1e38}>
                { a = Where(c, z, m)  s = Add(x, a)  y = Softmax(s) }
        after   (float[1,2] x, bool[1,2] c) => (float[1,2] y) <float z = {0.0}, float n = {-34.0}>
                { a = Where(c, z, n)  s = Add(x, a)  y = Softmax(s) }

    References
        Vaswani et al. 2017, "Attention Is All You Need", section 3.2.3 (masking before Softmax).
    """

    name: ClassVar[str] = "bound-masks"
    contract: ClassVar[Contract] = Contract(numerics=Approximate(metric="sqnr_db"))
    is_preparation: ClassVar[bool] = True
    anchors: ClassVar[frozenset[str] | None] = frozenset({"Softmax"})

    def needs(self, model: ir.Model) -> Needs:
        """Ask for the range of scores that masks are added to."""
        names = (value.name or "" for value in _Masks(model).scores)
        return Needs(ranges=tuple(dict.fromkeys(names)))

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:
        """Replace every constant that stands for infinity, or none."""
        masks = _Masks(model)
        if not masks.constants:
            return
        for node in masks.leaks:
            edit.refuse(node, "read-elsewhere")
        for node in masks.without_scores:
            edit.refuse(node, "no-scores")
        spans = [facts.ranges.get(value.name or "") for value in masks.scores]
        widths = [-1.0 if span is None else span.maximum - span.minimum for span in spans]
        for value, width in zip(masks.scores, widths, strict=True):
            if not (np.isfinite(width) and width >= 0):
                edit.refuse(value, "range-unknown")
                return
        if masks.leaks or masks.without_scores or not widths:
            return
        bound = float(np.ceil(_HEADROOM * max(widths) + _NOTHING))
        for node, place in masks.constants:
            _bound(node, place, bound, edit)


class _Masks:
    """Where numbers stand for infinity, and what becomes of them.

    Attributes:
        constants: Nodes that read such a constant, and as which operand.
        scores: What masks are added to before a Softmax.
        leaks: What reads a mask, and is neither attention nor builds masks; what makes a mask that
            the model returns.
        without_scores: Softmaxes of a mask of which it is not seen what it is added to.
    """

    def __init__(self, model: ir.Model) -> None:
        graph = model.graph
        values = find_masks(graph, None, HALF_FORMATS["float16"]).values
        self.constants = [
            (node, place)
            for node in graph
            if values.intersection(node.outputs)
            for place, value in enumerate(node.inputs)
            if _is_infinite(value)
        ]
        self.scores: list[ir.Value] = []
        self.without_scores: list[ir.Node] = []
        readers = dict.fromkeys(_readers(graph, values))
        self.leaks = [node for node in readers if node.domain or node.op_type not in _EXPECTED]
        self.leaks += [
            node
            for node in graph
            if any(value in values and value.is_graph_output() for value in node.outputs)
        ]
        for node in readers:
            if node.op_type == "Softmax" and not node.domain:
                score = _score(node, values)
                if score is None:
                    self.without_scores.append(node)
                else:
                    self.scores.append(score)


_EXPECTED = MASKING | {"Softmax"}


def _readers(graph: ir.Graph, values: set[ir.Value]) -> Iterator[ir.Node]:
    """Yield the nodes that read a mask, in the order of the graph; of outputs, what makes them."""
    for node in graph:
        for value in node.outputs:
            if value in values:
                yield from (use.node for use in value.uses())


def _score(softmax: ir.Node, values: set[ir.Value]) -> ir.Value | None:
    """Return what the mask is added to, where the sum goes right into the Softmax."""
    masked = softmax.inputs[0]
    add = masked.producer() if masked is not None else None
    if add is None or add.op_type != "Add" or add.domain:
        return None
    others = [value for value in add.inputs if value is not None and value not in values]
    return others[0] if len(others) == 1 and not _is_infinite(others[0]) else None


def _is_infinite(value: ir.Value | None) -> bool:
    """Tell whether a constant holds a number that stands for infinity."""
    array = constant_array(value, max_elements=1 << 20) if value is not None else None
    if array is None or array.dtype != np.float32 or not array.size:
        return False
    return bool(np.fmax.reduce(np.abs(array), axis=None) >= STANDS_FOR_INFINITY)


def _bound(node: ir.Node, place: int, bound: float, edit: Editor) -> None:
    value = node.inputs[place]
    array = constant_array(value, max_elements=1 << 20) if value is not None else None
    if value is None or array is None or array.max() >= STANDS_FOR_INFINITY:
        edit.refuse(node, "not-a-constant")
        return
    # NaN compares as false and stays: it is nobody's mask.
    bounded = np.where(array <= -STANDS_FOR_INFINITY, np.float32(-bound), array)
    with edit.rewrite(node, because=f"{bound:g} hides as well as infinity") as change:
        new = change.initializer(bounded.astype(np.float32), name=f"{value.name}_bounded")
        change.set_input(node, place, new)
        is_alone = len(list(value.uses())) == 1 and not value.is_graph_output()
        if is_alone and value.is_initializer() and not value.is_graph_input():
            change.remove_initializer(value)
