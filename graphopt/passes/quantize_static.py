"""Static 8-bit quantization of convolutional and linear layers."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis.contrib import CONTRIB_DOMAIN, import_contrib
from graphopt.compression import (
    LAYER_OPERATORS,
    PLACEMENTS,
    IntegerPlan,
    Placement,
    PlanQuestion,
    Scheme,
    StaticQuantizer,
    opset_obstacle,
    plan_integers,
    remove_unread,
)
from graphopt.compression.integer_plan import TYPED_OPSET
from graphopt.compression.quantization import LARGEST_VALUE, SMALLEST_VALUE
from graphopt.errors import OptionError
from graphopt.ir import graphs, opset_version
from graphopt.rewrite import (
    Approximate,
    Change,
    Contract,
    Editor,
    Facts,
    Needs,
    Pass,
    RangeMethod,
    ShapeTable,
    TargetFacts,
    ValueRange,
    option,
)

__all__ = ["QuantizeStatic"]

_MINIMUM_OPSET = 13  # DequantizeLinear with one scale per channel
_WIDE_OPSET = 21  # QuantizeLinear to 16 bits
_WIDE = ("u16", "s16")
_LEVELS, _SYMMETRIC_LEVELS = 256, 255


@dataclass(frozen=True, kw_only=True)
class QuantizeStatic(Pass):
    """Compute layers in 8-bit integers, with ranges measured on samples.

    What it does
        Puts `QuantizeLinear` and `DequantizeLinear` around `Conv`, `Gemm` and `MatMul` with
        constant weights, and around what lies between them and has an integer kernel (`Add`,
        `Mul`, `Concat`, pooling, `Sigmoid`, operators that only move elements), so that whole
        convolutional graphs run in integers. A `ReduceMean` over height and width becomes
        `GlobalAveragePool`, which has an integer kernel. A `Relu` or `Clip` behind an integer
        operator becomes the saturation of its quantizer. Weights are symmetric with one scale per
        output channel, biases 32-bit with the product of the other two scales. `MatMul`, and a
        `Gemm` whose result somebody reads as float, keep a float result. Other placements follow
        what other runtimes fuse; `docs/quantization.md` has a table of them.

    When it refuses
        `range-unknown`        a value that the layer reads or computes has no finite range, or one
                               that reaches what stands for infinity (1e30), or was 0 in every
                               sample, or as good as (1e-13).
        `weight-not-constant`  the layer has no constant weight.
        `weight-overridable`   the weight is also an input of the model.
        `already-quantized`    the weight comes from integers.
        `not-float32`          the weight has another type.
        `weight-not-finite`    the weight holds NaN or infinity.
        `weight-rank`          the weight has a rank for which there is no integer kernel.
        `bias-not-constant`    the bias is not one finite constant per channel.
        `unsupported-form`     a `Gemm` with transA, alpha or beta; a `ConvTranspose` in groups; of
                               signed integers in opset 21 and above, a product of a vector, or
                               before a sum with a computed one: ONNX Runtime does not load it.
        `no-integer-kernel`    ONNX Runtime computes the operator in float only: `ConvTranspose`,
                               and `HardSwish` and `Pad` beside a layer.
        `not-faster`           its integer kernel saves no time: a convolution of up to three
                               channels, a depthwise one between float operators (placement
                               `x86-cpu`).
        `wrong-kernel`         it reads an average that ONNX Runtime's integer kernel gets wrong: of
                               windows that reach beyond the padding, which counts.
        `dynamic-shape`        a size is not fixed (placement `qnn-htp`).
        `inside-subgraph`      the layer is in a branch, loop or function, which is not measured.
        `excluded`             the name matches `exclude`.
        `opset-too-old`        the model imports an opset below 13, and the target takes none above,
                               or an operator in it would change its meaning.

    What it keeps
        Inputs and outputs of the model, which stay float, and every operator that it does not name.

    Cost
        Reads each weight once: time and memory O(weights), beside one run per sample to measure
        ranges. The file shrinks to about a quarter.

    Example
        before  (float[N,2] x) => (float[N,1] y) <float[2,1] w = {127.0, -3.0}>
                { y = MatMul(x, w) }
        after   (float[N,2] x) => (float[N,1] y)
                <float s = {0.03137255}, uint8 z = {127}, int8[2,1] w8 = {127, -3},
                 float[1] t = {1.0}, int8[1] o = {0}>
                { q = QuantizeLinear(x, s, z)
                  d = DequantizeLinear(q, s, z)
                  e = DequantizeLinear<axis = 1>(w8, t, o)
                  y = MatMul(d, e) }

    References
        ONNX `QuantizeLinear`, `DequantizeLinear` (opset 13). Jacob et al. 2018, sections 2.1 to
        2.4. Per-channel weights: Krishnamoorthi 2018, "Quantizing deep convolutional networks for
        efficient inference: A whitepaper", section 3.1.
    """

    name: ClassVar[str] = "quantize-static"
    contract: ClassVar[Contract] = Contract(numerics=Approximate(metric="sqnr_db"))

    activation_type: str | None = option(
        None,
        help="integer type of activations; the target's by default",
        choices=("u8", "s8", "u16", "s16"),
    )
    weight_type: str | None = option(
        None, help="integer type of weights; the target's by default", choices=("u8", "s8")
    )
    symmetric: bool | None = option(
        None, help="activations have their zero point in the middle; as `placement` says by default"
    )
    per_channel: bool = option(True, help="one weight scale per output channel, not per tensor")
    reduce_range: bool = option(False, help="7-bit weights, for x86 processors without VNNI")
    reduce_range_layers: tuple[str, ...] = option(
        (), help="layers with 7-bit weights", unit="name pattern"
    )
    method: str = option(
        "minmax",
        help="how ranges are taken from samples",
        choices=("minmax", "percentile", "entropy", "mse"),
    )
    percentile: float = option(
        99.99, help="values that `percentile` keeps", unit="percent", minimum=50.0, maximum=100.0
    )
    padding: bool = option(
        False, help="values at positions that padding fills are in the ranges, too"
    )
    placement: str | None = option(
        None, help="where quantizers stand; the target's by default", choices=tuple(PLACEMENTS)
    )
    exclude: tuple[str, ...] = option((), help="nodes that stay in float", unit="name pattern")

    def __post_init__(self) -> None:
        """Check the options, and that they go together."""
        super().__post_init__()
        if self.activation_type in _WIDE and self.method in ("entropy", "mse"):
            raise OptionError(
                f"`method={self.method}` does not go with `activation_type={self.activation_type}`",
                where=f"pass `{self.name}`",
                why="it weighs clipping against rounding to 8 bits",
                hint="use `method=minmax` or `method=percentile`",
            )

    def needs(self, model: ir.Model) -> Needs:
        """Ask for what `needs_on` asks for, with nothing known of the target."""
        return self.needs_on(model, TargetFacts())

    def needs_on(self, model: ir.Model, target: TargetFacts) -> Needs:
        """Ask for the range of every value that would be quantized, for shapes and the target."""
        if _obstacle(model, target) is not None:
            return Needs()
        placement = self._placement(target)
        carried = self._plan(model, placement, target).carried
        names = tuple(dict.fromkeys(item.like.name or "" for item in carried))
        is_symmetric = self._is_symmetric(placement)
        method = RangeMethod(
            name=self.method,
            percentile=self.percentile,
            levels=_SYMMETRIC_LEVELS if is_symmetric else _LEVELS,
            symmetric=is_symmetric,
            padding=self.padding,
        )
        return Needs(ranges=names, range_method=method, shapes=bool(names), target=bool(names))

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:
        """Quantize every layer that allows it; refuse the others one by one."""
        if (obstacle := _obstacle(model, facts.target)) is not None:
            _refuse_layers(model, edit, "opset-too-old", obstacle)
            return
        _refuse_layers(model, edit, "inside-subgraph", "its values cannot be measured")
        placement = self._placement(facts.target)
        plan = self._measured_plan(model, facts, placement)
        for node, refused in plan.refused:
            edit.refuse(node, refused.slug, why=refused.why)
        if not plan.layers:
            return
        if plan.averages:
            facts = _rephrase_averages(plan.averages, model, edit, facts)
            plan = self._measured_plan(model, facts, placement)
        facts = replace(facts, ranges={**facts.ranges, **_table_ranges(plan)})
        scheme = self._scheme(placement, facts.target)
        wanted = _wanted_opset(model, facts.target, is_wide=scheme.activation in _WIDE)
        if opset_version(model) < wanted:
            with edit.rewrite(model.graph, because="quantizers of this form") as change:
                change.set_opset("", wanted)
        if scheme.activation in _WIDE and wanted < _WIDE_OPSET:
            scheme = replace(scheme, domain=CONTRIB_DOMAIN)
            with edit.rewrite(model.graph, because="16-bit quantizers in every opset") as change:
                import_contrib(model, change)
        StaticQuantizer(edit, plan, scheme, facts).run()

    def _placement(self, target: TargetFacts) -> Placement:
        return PLACEMENTS[self.placement or target.placement]

    def _is_symmetric(self, placement: Placement) -> bool:
        return placement.symmetric if self.symmetric is None else self.symmetric

    def _scheme(self, placement: Placement, target: TargetFacts) -> Scheme:
        # Whoever names a placement wants its types, not those of a target for something else.
        is_targets = self.placement in (None, target.placement)
        activation = target.activation_type if is_targets else placement.activation
        weight = target.weight_type if is_targets else placement.weight
        channels = placement.per_channel
        return Scheme(
            activation=self.activation_type or activation,
            weight=self.weight_type or weight,
            symmetric=self._is_symmetric(placement),
            per_channel=lambda node: (
                self.per_channel and (channels is None or node.op_type in channels)
            ),
            reduce_range=lambda node: self.reduce_range or _matches(node, self.reduce_range_layers),
            integer_bias=placement.integer_bias,
        )

    def _plan(
        self,
        model: ir.Model,
        placement: Placement,
        target: TargetFacts,
        shapes: ShapeTable | None = None,
        without_range: frozenset[ir.Value] = frozenset(),
    ) -> IntegerPlan:
        question = PlanQuestion(
            graph=model.graph,
            is_excluded=lambda node: _matches(node, self.exclude),
            without_range=without_range,
            absorbs_limits=not self._is_symmetric(placement),
            is_signed_and_typed=self._scheme(placement, target).activation == "s8"
            and opset_version(model) >= TYPED_OPSET,
            shapes=shapes,
        )
        return plan_integers(question, placement)

    def _measured_plan(self, model: ir.Model, facts: Facts, placement: Placement) -> IntegerPlan:
        """Return a plan that quantizes only values whose range is known and finite."""
        unknown: frozenset[ir.Value] = frozenset()
        while True:
            plan = self._plan(model, placement, facts.target, facts.shapes, unknown)
            missing = {
                carried.like
                for carried in plan.carried
                if not _is_known(facts.ranges.get(carried.like.name or ""))
            }
            if not missing:
                return plan
            unknown |= missing


def _matches(node: ir.Node, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(node.name or "", pattern) for pattern in patterns)


def _rephrase_averages(nodes: list[ir.Node], model: ir.Model, edit: Editor, facts: Facts) -> Facts:
    """Give each average over images the form that has an integer kernel.

    Returns:
        Facts of the changed model: what was measured of a result holds for what replaces it.
    """
    ranges = dict(facts.ranges)
    axes = [value for node in nodes for value in node.inputs[1:] if value is not None]
    for node in nodes:
        with edit.rewrite(node, because="has an integer kernel in this form") as change:
            if node.op_type == "AveragePool":
                change.set_attributes(node, {"count_include_pad": 0})
            else:
                ranges |= _pool_globally(change, node, facts)
    remove_unread(model, edit, axes)
    return replace(facts, ranges=ranges, shapes=facts.shapes.renewed(model))


def _pool_globally(change: Change, node: ir.Node, facts: Facts) -> dict[str, ValueRange]:
    """Replace a ``ReduceMean``; return the ranges of the values that come of it."""
    result, source = node.outputs[0], node.inputs[0]
    measured = facts.ranges.get(result.name or "")
    pooled = final = change.node("GlobalAveragePool", [source], name=f"{node.name}_pooled")
    if node.attributes.get_int("keepdims") == 0:
        final = change.node("Flatten", [pooled], attributes={"axis": 1}, like=result)
    change.replace(result, final)
    change.remove(node)
    return {} if measured is None else {item.name or "": measured for item in (pooled, final)}


def _table_ranges(plan: IntegerPlan) -> dict[str, ValueRange]:
    """Return the ranges of rows of constant tables by the names of what reads them.

    The row has the scale of its table, so that no element is rounded twice; and rows that no
    sample asked for have their place in it.
    """
    return {
        node.outputs[0].name or "": ValueRange(float(table.min()), float(table.max()))
        for node, _, table in plan.constants
        if node.op_type == "Gather"
    }


def _obstacle(model: ir.Model, target: TargetFacts) -> str | None:
    """Return why the model cannot hold quantized layers, or ``None``."""
    opset = opset_version(model)
    if opset >= _MINIMUM_OPSET:
        return None
    if target.maximum_opset is not None and target.maximum_opset < _MINIMUM_OPSET:
        return f"the target takes opset {target.maximum_opset} at most"
    found = opset_obstacle(model, _MINIMUM_OPSET)
    return None if found is None else f"the model imports opset {opset}: {found}"


def _wanted_opset(model: ir.Model, target: TargetFacts, *, is_wide: bool) -> int:
    """Return the opset that the quantizers need and that the target takes."""
    opset = max(opset_version(model), _MINIMUM_OPSET)
    if not is_wide or opset >= _WIDE_OPSET:
        return opset
    is_taken = target.maximum_opset is None or target.maximum_opset >= _WIDE_OPSET
    return _WIDE_OPSET if is_taken and opset_obstacle(model, _WIDE_OPSET) is None else opset


def _is_known(found: ValueRange | None) -> bool:
    if found is None or not np.isfinite([found.minimum, found.maximum]).all():
        return False
    # What was 0 in every sample has no scale: any other value that it takes later would be lost.
    return SMALLEST_VALUE < max(-found.minimum, found.maximum) < LARGEST_VALUE


def _refuse_layers(model: ir.Model, edit: Editor, slug: str, why: str) -> None:
    """Refuse every layer, or, for ``inside-subgraph``, those that are not in the main graph."""
    for graph in graphs(model):
        if slug == "inside-subgraph" and graph is model.graph:
            continue
        for node in graph:
            if not node.domain and node.op_type in LAYER_OPERATORS:
                edit.refuse(node, slug, why=why)
