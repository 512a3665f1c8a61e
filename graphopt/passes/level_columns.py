"""Weights whose columns are alike in range, for processors with one scale for a whole matrix."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis import Operators
from graphopt.compression import NoWeight, remove_unread, trace_weight
from graphopt.compression.weight_source import reader_count
from graphopt.ir import graphs
from graphopt.rewrite import Contract, Editor, Facts, Pass, Rounding, option

__all__ = ["LevelColumns"]

_MATRIX_RANK = 2
_BROADCASTS_SINCE = 7  # the opset
_MOST_DOUBLINGS = 64  # the factors behind the product must stay normal numbers


class _Refused(NamedTuple):
    slug: str
    why: str


@dataclass(frozen=True, kw_only=True)
class LevelColumns(Pass):
    """Double the small columns of a weight until they are as large as the others.

    What it does
        Where a `MatMul` has a constant matrix, each column is multiplied by the power of two that
        brings its largest element nearest to the largest of the matrix, and a `Mul` behind the
        product divides again. A quantizer with one scale for the whole weight, which is all that
        some processors take, then rounds every column as finely as the largest one. Run it last
        before such a quantizer: `level-columns,quantize-static`; passes that fold factors would
        undo it.

    When it refuses
        `no-gain`              the expected error of one scale falls by less than `minimum_gain`.
        `weight-not-constant`  the product has no constant weight.
        `weight-overridable`   the weight is also an input of the model.
        `already-quantized`    the weight comes from integers.
        `not-float32`          the weight has another type.
        `weight-not-finite`    the weight holds NaN or infinity.
        `weight-rank`          the weight is not a matrix.
        `shared-weight`        the weight has readers that would have to read another copy.
        `opset-too-old`        before opset 7 a `Mul` does not broadcast.
        `excluded`             the name matches `exclude`.

    What it keeps
        Inputs and outputs of the model. Results up to what float32 loses below its normal numbers:
        powers of two round nothing.

    Cost
        Reads each weight once. One more elementwise operator for each product.

    Example
        before  (float[N,1] x) => (float[N,2] y) <float[1,2] w = {6.0, 0.5}> { y = MatMul(x, w) }
        after   (float[N,1] x) => (float[N,2] y) <float[1,2] v = {6, 4}, float[2] s = {1, 0.125}>
                { p = MatMul(x, v)  y = Mul(p, s) }

    References
        Nagel et al. 2021, "A White Paper on Neural Network Quantization", section 2.2 (one scale
        for a tensor or one for each channel). ONNX `MatMul`, `Mul` (opset 7).
    """

    name: ClassVar[str] = "level-columns"
    contract: ClassVar[Contract] = Contract(
        numerics=Rounding(1e-6, "powers of two; numbers below the normal ones keep more digits"),
        is_idempotent=True,
    )
    is_preparation: ClassVar[bool] = True
    anchors: ClassVar[frozenset[str] | None] = frozenset({"MatMul"})

    minimum_gain: float = option(
        1.5, help="times by which the expected squared error must fall", unit="ratio", minimum=1.0
    )
    exclude: tuple[str, ...] = option((), help="products to leave alone", unit="name pattern")

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:  # noqa: ARG002
        """Level every weight that is worth it."""
        operators = Operators(model)
        replaced: list[ir.Value] = []
        for graph in graphs(model):
            for node in () if operators.is_in_function(graph) else list(graph):
                if node.domain or node.op_type != "MatMul":
                    continue
                found = self._columns(node, operators.version(node) or 1)
                if isinstance(found, _Refused):
                    edit.refuse(node, found.slug, why=found.why)
                else:
                    weight = node.inputs[1]
                    assert weight is not None
                    replaced.append(weight)
                    _level(node, *found, edit)
        remove_unread(model, edit, replaced)

    def _columns(
        self, node: ir.Node, version: int
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]] | _Refused:
        """Return the weight and how often each of its columns is doubled, or why none is."""
        if any(fnmatch.fnmatchcase(node.name or "", pattern) for pattern in self.exclude):
            return _Refused("excluded", "by the options of the pass")
        weight = _weight_of(node, version)
        if isinstance(weight, _Refused):
            return weight
        doublings = _doublings(weight)
        # An error of one scale is as large in every column; after, as small as its factor.
        gain = 1.0 / float(np.mean(np.exp2(-2.0 * doublings)))
        if not doublings.any() or gain < self.minimum_gain:
            return _Refused("no-gain", f"the error would fall by {gain:.3g} only")
        return weight, doublings


def _weight_of(node: ir.Node, version: int) -> npt.NDArray[np.float32] | _Refused:
    source = trace_weight(node.inputs[1])
    if isinstance(source, NoWeight):
        return _Refused(source.slug, source.why)
    weight = source.array()
    told = {
        "weight-rank": weight.ndim != _MATRIX_RANK or not weight.size,
        "shared-weight": reader_count(source.origin) > 1,
        "weight-not-finite": not np.isfinite(weight).all(),
        "opset-too-old": version < _BROADCASTS_SINCE,
    }
    slug = next((slug for slug, holds in told.items() if holds), None)
    if slug is None:
        return weight
    return _Refused(slug, f"`{source.origin.name}` {list(weight.shape)}, opset {version}")


def _doublings(weight: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Return how often each column of ``(rows, columns)`` fits into the largest: ``(columns,)``."""
    largest = np.abs(weight).max(axis=0).astype(np.float64)
    whole = largest.max(initial=0.0)
    is_used = largest > 0.0  # zeros stay what they are
    ratios = np.divide(whole, largest, out=np.ones_like(largest), where=is_used)
    found: npt.NDArray[np.int64] = np.minimum(np.floor(np.log2(ratios)), _MOST_DOUBLINGS).astype(
        np.int64
    )
    return found


def _level(
    node: ir.Node,
    weight: npt.NDArray[np.float32],
    doublings: npt.NDArray[np.int64],
    edit: Editor,
) -> None:
    activation, old, result = node.inputs[0], node.inputs[1], node.outputs[0]
    assert activation is not None
    assert old is not None
    levelled = np.ldexp(weight, doublings).astype(np.float32)
    factors = np.ldexp(np.float32(1.0), -doublings).astype(np.float32)
    with edit.rewrite(node, because="one scale then suits every column") as change:
        new = change.initializer(ir.tensor(levelled), name=f"{old.name}_levelled")
        scales = change.initializer(ir.tensor(factors), name=f"{old.name}_factors")
        product = change.node("MatMul", [activation, new], name=node.name)
        final = change.node("Mul", [product, scales], name=f"{node.name}_levelled", like=result)
        change.replace(result, final)
        change.remove(node)
