"""Conversion to 16-bit floats."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass, replace
from typing import ClassVar

import onnx_ir as ir

from graphopt.analysis import Operators, infer_shapes
from graphopt.compression import (
    HALF_FORMATS,
    HalfFormat,
    HalfPlan,
    HalfRewriter,
    plan_half,
    store_weights,
    with_types,
)
from graphopt.ir import graphs, opset_version
from graphopt.rewrite import Approximate, Contract, Editor, Facts, Needs, Pass, option

__all__ = ["ConvertFloat16"]

_MINIMUM_OPSET = {"float16": 7, "bfloat16": 13}  # Cast, and most operators, take it from there on


@dataclass(frozen=True, kw_only=True)
class ConvertFloat16(Pass):
    """Compute in 16-bit floats where samples show that there is room, or only store weights so.

    What it does
        Operators, their constants and results become float16. What reaches too far on the samples
        stays float32, with one `Cast` per value at each border. Constants that stand for infinity
        in masks become half of the largest number, so that adding two of them, or a score, stays
        finite; limits of `Clip` and comparisons become the largest. Infinities stay. Inputs and
        outputs of the model stay float32 unless `keep_io_types` is false.

        With `weights_only` no operator changes: weights are stored in 16 bits behind a `Cast`,
        which the runtime computes once, when it loads the model. The file shrinks to a half, and
        the model is as fast as it was. It needs no samples.

    When it refuses
        `range-exceeds`        a value, or a constant that is no mask, is larger than `limit`.
        `range-too-small`      a value is too small for all of its digits.
        `range-unknown`        a value was NaN or infinite on a sample, or could not be measured.
        `constant-underflows`  a constant is too small for all of its digits, as 1e-12.
        `position-arithmetic`  floats made of integers, for angles, indices or comparisons.
        `block-list`           the operator loses too much (sums of squares, box coordinates,
                               scales of integers), or draws random numbers.
        `no-half-type`         the schema of the operator, or the provider, has no such type.
        `unknown-operator`     nothing is known of the operator's types.
        `inside-subgraph`      values of branches, loops and functions are not measured.
        `lone-island`          conversions around it would cost more than it.
        `excluded`             by `keep_ops` or `exclude`.
        `opset-too-old`        the model imports an opset below 7 (13 for bfloat16).
        `weight-overridable`   with `weights_only`: the weight is also an input of the model.
        `weight-read-by-integers`  with `weights_only`: quantizers read it, and are fused by it.
        `too-small`            with `weights_only`: it has fewer than `minimum_elements`.

    What it keeps
        Names of inputs and outputs, and with `keep_io_types` their types; subgraphs.

    Cost
        Reads each weight once: time and memory O(weights), beside one run per sample to measure
        ranges. The file shrinks to about a half. ONNX Runtime's CPU provider has few kernels of
        16-bit floats and converts around the others, so that nothing is gained there but size.

    Example
        options {measure=false}
        before  (float[N,2] x) => (float[N,1] y) <float[2,1] w = {1.0, -2.0}>
                { y = MatMul(x, w) }
        after   (float[N,2] x) => (float[N,1] y) <float16[2,1] h = {15360, 49152}>
                { c = Cast<to = 10>(x)
                  z = MatMul(c, h)
                  y = Cast<to = 1>(z) }

    References
        Micikevicius et al. 2018, "Mixed Precision Training", section 3. IEEE 754-2019, binary16.
        bfloat16: Kalamkar et al. 2019, "A Study of BFLOAT16 for Deep Learning Training".
    """

    name: ClassVar[str] = "convert-float16"
    contract: ClassVar[Contract] = Contract(numerics=Approximate(metric="sqnr_db"))

    format: str = option("float16", help="the 16-bit type", choices=("float16", "bfloat16"))
    weights_only: bool = option(False, help="store weights in 16 bits, compute in 32")
    keep_io_types: bool = option(True, help="inputs and outputs of the model stay float32")
    measure: bool = option(True, help="keep in float32 what reaches too far on samples")
    limit: float | None = option(
        None,
        help="largest magnitude of a 16-bit value; 1e4, or 1e37 for bfloat16, by default",
        minimum=1.0,
    )
    keep_ops: tuple[str, ...] = option((), help="operators that stay float32", unit="op_type")
    exclude: tuple[str, ...] = option((), help="nodes that stay float32", unit="name pattern")
    minimum_elements: int = option(
        256,
        help="smaller weights stay as they are, with `weights_only`",
        unit="elements",
        minimum=1,
    )

    def __post_init__(self) -> None:
        """Check the options; without `keep_io_types` the interface may change."""
        super().__post_init__()
        if not self.keep_io_types and not self.weights_only:
            contract = Contract(
                numerics=type(self).contract.numerics, is_idempotent=True, changes_interface=True
            )
            object.__setattr__(self, "contract", contract)

    def needs(self, model: ir.Model) -> Needs:
        """Ask for shapes, the target, and the range of every value that an operator computes."""
        if self.weights_only or self._is_too_old(model):
            return Needs()
        names = _float_values(model) if self.measure else ()
        return Needs(shapes=True, ranges=names, target=bool(names))

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:
        """Convert what allows it; refuse every other node that computes floats."""
        half = HALF_FORMATS[self.format]
        if self._is_too_old(model):
            why = f"the model imports opset {opset_version(model)}"
            edit.refuse(model.graph, "opset-too-old", why=why)
        elif self.weights_only:
            store_weights(model, edit, half, minimum_elements=self.minimum_elements)
        else:
            shapes = with_types(model.graph, facts.shapes, Operators(model))
            plan = self._plan(model, half, replace(facts, shapes=shapes))
            _refuse(model, plan, edit)
            rewriter = HalfRewriter(model, edit, half, plan, shapes)
            rewriter.run(keeps_interface=self.keep_io_types)

    def _is_too_old(self, model: ir.Model) -> bool:
        return opset_version(model) < _MINIMUM_OPSET[self.format]

    def _plan(self, model: ir.Model, half: HalfFormat, facts: Facts) -> HalfPlan:
        return plan_half(
            model.graph,
            half,
            shapes=facts.shapes,
            operators=Operators(model),
            ranges=facts.ranges if self.measure else None,
            provider=facts.target.provider,
            limit=half.limit if self.limit is None else min(self.limit, half.largest),
            is_kept=self._why_kept,
        )

    def _why_kept(self, node: ir.Node) -> str | None:
        if node.op_type in self.keep_ops:
            return "the operator is in `keep_ops`"
        if any(fnmatch.fnmatchcase(node.name or "", pattern) for pattern in self.exclude):
            return "the name matches `exclude`"
        return None


def _float_values(model: ir.Model) -> tuple[str, ...]:
    """Return the names of what the main graph is given and computes in float32."""
    shapes = with_types(model.graph, infer_shapes(model), Operators(model))
    values = [*model.graph.inputs, *(value for node in model.graph for value in node.outputs)]
    known = ((value, shapes.of(value)) for value in values)
    return tuple(
        value.name or ""
        for value, shape in known
        if shape is not None and shape.dtype == ir.DataType.FLOAT
    )


def _refuse(model: ir.Model, plan: HalfPlan, edit: Editor) -> None:
    for node, slug, why in plan.refused:
        edit.refuse(node, slug, why=why)
    for graph in graphs(model):
        if graph is model.graph:
            continue
        for node in graph:
            if any(value.dtype == ir.DataType.FLOAT for value in node.outputs):
                edit.refuse(node, "inside-subgraph", why="its values are not measured")
