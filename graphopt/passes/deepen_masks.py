"""Masks of attention that leave numbers too small to be multiplied fast."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.compression import remove_unread
from graphopt.ir import constant_array, graphs, opset_version
from graphopt.rewrite import (
    Approximate,
    Contract,
    Editor,
    Facts,
    Needs,
    Pass,
    ShapeTable,
)

__all__ = ["DeepenMasks"]

_LAST_AXIS_SINCE = 13  # before it, Softmax is over axis 1 where none is named
# Natural logarithms in float32: of the smallest normal number, and of half the smallest subnormal
# one, below which a power of e is 0; and of half a step at 1.
_SMALLEST_NORMAL, _ZERO, _NOTHING = -87.33, -103.98, -17.33
_HEADROOM = 2.0  # samples may show half of how far scores lie apart


class _Mask(NamedTuple):
    """An addition of a constant to what enters a Softmax.

    Attributes:
        add: The addition.
        place: Which of its inputs is the constant.
        values: The constant, float32.
    """

    add: ir.Node
    place: int
    values: npt.NDArray[np.float32]

    @property
    def scores(self) -> ir.Value:
        """What the constant is added to."""
        value = self.add.inputs[1 - self.place]
        assert value is not None
        return value


class _Refused(NamedTuple):
    slug: str
    why: str


@dataclass(frozen=True, kw_only=True)
class DeepenMasks(Pass):
    """Lower the entries of masks of attention so far that what they hide counts as zero.

    What it does
        A constant of 0 and of -100, say, that is added to the scores of attention leaves weights of
        e^-100 behind `Softmax`: subnormal numbers, which processors multiply up to a hundred times
        slower than others: in Swin, a sixth of the time of the whole model. Where samples show
        that the hidden positions carry nothing that float32 could hold, their entries are lowered
        until the weights are zeros.

    When it refuses
        `not-negligible`   scores lie so far apart that hidden positions may count.
        `range-unknown`    the scores have no finite range.
        `mask-overridable` the constant is also an input of the model.
        `read-elsewhere`   the masked scores have other readers, or are an output.
        `other-rows`       the Softmax is not known to be over the last axis of the mask.
        `inside-subgraph`  it is in a branch, loop or function, which is not measured.

    What it keeps
        Inputs and outputs of the model, every operator, rows that are hidden as a whole, and
        entries of minus infinity. Results up to what float32 rounds off, for scores that lie no
        more than twice as far apart as those of the samples.

    Cost
        Time and memory O(elements of the masks); one run per sample for the range of the scores.

    Example
        before  (float[1,2] x) => (float[1,2] y) <float[1,2] m = {0.0, -100.0}>
                { s = Add(x, m)  y = Softmax(s) }
        after   (float[1,2] x) => (float[1,2] y) <float[1,2] n = {0.0, -128.0}>
                { s = Add(x, n)  y = Softmax(s) }

    References
        IEEE 754-2019, section 2.1.56 (subnormal numbers). Liu et al. 2021, "Swin Transformer",
        section 3.2 (masks of shifted windows). ONNX `Softmax` (opset 13).
    """

    name: ClassVar[str] = "deepen-masks"
    contract: ClassVar[Contract] = Contract(numerics=Approximate(metric="sqnr_db"))
    is_preparation: ClassVar[bool] = True
    anchors: ClassVar[frozenset[str] | None] = frozenset({"Softmax"})

    def needs(self, model: ir.Model) -> Needs:
        """Ask for the range of scores that a mask is added to, and for shapes."""
        found = [_mask_of(node, model) for node in model.graph if _is_softmax(node)]
        names = {mask.scores.name or "": None for mask in found if isinstance(mask, _Mask)}
        return Needs(ranges=tuple(names), shapes=bool(names))

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:
        """Lower the entries of every mask that needs it, or refuse it."""
        lowered: dict[tuple[ir.Value, float], ir.Value] = {}
        for graph in graphs(model):
            for node in graph:
                mask = _mask_of(node, model) if _is_softmax(node) else None
                if isinstance(mask, _Mask) and not _is_by_row(node, mask, model, facts.shapes):
                    why = "the Softmax is not known to be over the last axis of the mask"
                    mask = _Refused("other-rows", why)
                if isinstance(mask, _Refused):
                    edit.refuse(node, mask.slug, why=mask.why)
                elif mask is not None:
                    self._lower(mask, edit, facts, lowered)
        remove_unread(model, edit, [constant for constant, _ in lowered])

    def _lower(
        self,
        mask: _Mask,
        edit: Editor,
        facts: Facts,
        lowered: dict[tuple[ir.Value, float], ir.Value],
    ) -> None:
        span = facts.ranges.get(mask.scores.name or "")
        apart = math.nan if span is None else _HEADROOM * (span.maximum - span.minimum)
        if not math.isfinite(apart):
            why = f"`{mask.scores.name}` has no finite range"
            edit.refuse(mask.add, "range-unknown", why=why)
            return
        top = mask.values.max(axis=-1, keepdims=True)
        gap = top - mask.values
        # Weights lie between e^-(gap + apart) and e^(apart - gap).
        is_slow = (-gap - apart < _SMALLEST_NORMAL) & (apart - gap > _ZERO) & np.isfinite(gap)
        if not is_slow.any():
            return
        share = apart - float(gap[is_slow].min()) + math.log(mask.values.shape[-1])
        if share > _NOTHING:
            why = f"hidden positions may count e^{share:.1f} for scores that are {apart:.1f} apart"
            edit.refuse(mask.add, "not-negligible", why=why)
            return
        depth = 2.0 ** math.ceil(math.log2(apart - _ZERO))
        constant = mask.add.inputs[mask.place]
        assert constant is not None
        with edit.rewrite(mask.add, because=f"{int(is_slow.sum())} entries hide nothing") as change:
            key = (constant, depth)
            if key not in lowered:
                values = np.where(is_slow, top - np.float32(depth), mask.values)
                name = f"{constant.name}_deepened"
                lowered[key] = change.initializer(values.astype(np.float32), name=name)
            change.set_input(mask.add, mask.place, lowered[key])


def _is_softmax(node: ir.Node) -> bool:
    return node.op_type == "Softmax" and not node.domain


def _mask_of(softmax: ir.Node, model: ir.Model) -> _Mask | _Refused | None:
    """Return the mask added to what enters ``softmax``, reshapes aside; ``None``: there is none."""
    value = softmax.inputs[0]
    node = value.producer() if value is not None else None
    passed = [value]
    while node is not None and node.op_type in ("Identity", "Reshape") and not node.domain:
        value = node.inputs[0]
        passed.append(value)
        node = value.producer() if value is not None else None
    if node is None or node.op_type != "Add" or node.domain:
        return None
    found = _constant_of(node)
    if found is None or not _hides(found[1]):
        return None
    if softmax.graph is not model.graph:
        return _Refused("inside-subgraph", "the scores cannot be measured")
    constant = node.inputs[found[0]]
    if constant is not None and constant.is_graph_input():
        return _Refused("mask-overridable", f"`{constant.name}` is an input of the model")
    for step in passed:
        if step is None or step.is_graph_output() or len(tuple(step.uses())) != 1:
            return _Refused("read-elsewhere", f"`{step.name if step else ''}` is read elsewhere")
    return _Mask(node, *found)


def _constant_of(add: ir.Node) -> tuple[int, npt.NDArray[np.float32]] | None:
    """Return which input is a float32 constant, and its value."""
    for index, value in enumerate(add.inputs):
        held = value.const_value if value is not None else None
        array = constant_array(value)
        if array is None and held is not None and value is not None and value.is_graph_input():
            array = held.numpy()  # to be refused aloud
        if array is not None and array.dtype == np.float32 and array.ndim:
            return index, array
    return None


def _hides(mask: npt.NDArray[np.float32]) -> bool:
    """Tell whether some entries lie so far below others that they are to hide something."""
    if not mask.size or np.isnan(mask).any() or np.isposinf(mask).any():
        return False
    with np.errstate(invalid="ignore"):  # rows of minus infinity
        gap = mask.max(axis=-1, keepdims=True) - mask
    return bool(((gap > -_NOTHING) & np.isfinite(gap)).any())


def _is_by_row(softmax: ir.Node, mask: _Mask, model: ir.Model, shapes: ShapeTable) -> bool:
    """Tell whether the Softmax is over the last axis of the mask."""
    before, after = shapes.of(mask.add.outputs[0]), shapes.of(softmax.inputs[0])
    if before is None or after is None or not before.dims or not after.dims:
        return False
    # A reshape that keeps the length of rows keeps the rows.
    length = mask.values.shape[-1]
    if before.dims[-1] != length or after.dims[-1] != length:
        return False
    default = -1 if opset_version(model) >= _LAST_AXIS_SINCE else 1
    axis = softmax.attributes.get_int("axis", default)
    return axis in (-1, len(after.dims) - 1)
