"""Weights as products of two thin matrices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.compression.factored_layers import FactoredLayer, form_obstacle
from graphopt.compression.gptq import shrunk_gram
from graphopt.compression.layer_race import ratio_of_factors
from graphopt.compression.levels import divided, levels_of
from graphopt.compression.low_rank import (
    Decomposition,
    decompose,
    followed_matrix,
    rank_of_ratio,
)
from graphopt.compression.quantized_weights import remove_unread
from graphopt.compression.read_weights import Wanted, read_weights
from graphopt.compression.weight_grams import multiplied_rows
from graphopt.errors import OptionError
from graphopt.ir import clone
from graphopt.rewrite import (
    Approximate,
    Channels,
    Contract,
    CrossMoments,
    Editor,
    Facts,
    Measure,
    Needs,
    Pass,
    option,
)

__all__ = ["FactorizeWeights"]

_RATIO = 0.6
_MOST_LENGTH = 8192
_FLOAT_BYTES = 4
_NOISE = 1e-6
"""Of a mean square: a variance below is what rounding left, of products in single precision."""

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class _Plan:
    """What a layer becomes.

    Attributes:
        factors: ``(inputs, rank)`` and ``(rank, outputs)``.
        bias: What it adds instead of its bias; ``None``: what it added before.
        lost: Share of the energy of its output that is lost.
    """

    factors: tuple[Array, Array]
    bias: Array | None
    lost: float


@dataclass(frozen=True, kw_only=True)
class FactorizeWeights(Pass):
    """Multiply by two thin matrices instead of one, where that is smaller.

    What it does
        A weight of `inputs x outputs` becomes the product of `inputs x rank` and `rank x outputs`:
        of a `MatMul` or `Gemm`, as a `MatMul` before it; of a convolution, as one of the same
        window into `rank` channels and one of 1 x 1. Of all products of that rank, `whitened`
        chooses the one whose result is nearest to that of the weight on what the layer multiplies;
        `fitted` the one that is nearest to what the layer computed in the original model, given
        what the factored layers before it make. A bias, where there is one, keeps the mean. For the
        same size, removing neurons costs an encoder less (`prune-neurons`).

    When it refuses
        `weight-not-constant`  the operand is computed at run time.
        `weight-overridable`   the weight is also an input of the model.
        `already-quantized`    the weight comes from integers.
        `not-float32`          the weight has another type.
        `weight-not-finite`    the weight holds NaN, infinity, or what stands for it (1e30).
        `weight-rank`          the weight is a scalar or a vector.
        `unsupported-form`     a convolution in groups, a weight of rank 3, a Gemm with transA,
                               alpha or beta, a bias of a convolution that is computed.
        `too-small`            it has fewer than `minimum_elements`.
        `names-an-output`      a graph returns the weight under its name.
        `annotated`            a quantization annotation describes the weight.
        `overwritten`          an operator updates the weight in place.
        `shared-with-others`   something else reads the weight, too.
        `shared-by-layers`     several layers read the weight: each would need factors of its own.
        `excluded`             the name matches `exclude`, or the operator is not in `ops`.
        `not-measured`         what enters is in a branch, was empty or not finite on the samples.
        `no-saving`            the factors that keep enough save less than `minimum_saving`.
        `not-faster`           with `faster_at`: two products were measured to be no faster.

    What it keeps
        Every operator, with its name, as the second of the two; inputs and outputs of the model.

    Cost
        A decomposition of each weight, O(inputs outputs min(inputs, outputs)); but for `plain`,
        one run of the model per sample for each of at most `runs` steps, and a Gram matrix of
        each layer of a step, 8 inputs^2 bytes. `faster_at` takes a second for each shape, and
        makes results depend on the machine.

    Example
        options {method=plain ratio=1.0 minimum_elements=1 minimum_saving=0.0 multiple=1}
        before  (float[N,3] x) => (float[N,3] y)
                <float[3,3] w = {4.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0}> { y = MatMul(x, w) }
        after   (float[N,3] x) => (float[N,3] y)
                <float[3,1] w_first = {2.0, 0.0, 0.0}, float[1,3] w_second = {2.0, 0.0, 0.0}>
                { h = MatMul(x, w_first)  y = MatMul(h, w_second) }

    References
        Wang et al. 2024, "SVD-LLM", section 3.1. He et al. 2017, "Channel Pruning for Accelerating
        Very Deep Neural Networks", section 3.1 (targets of the original). Zhang et al. 2015,
        "Accelerating Very Deep Convolutional Networks", section 3 (convolutions).
    """

    name: ClassVar[str] = "factorize-weights"
    contract: ClassVar[Contract] = Contract(
        numerics=Approximate(metric="sqnr_db"),
        is_idempotent=False,  # factors can be factored again
    )
    anchors: ClassVar[frozenset[str] | None] = frozenset({"MatMul", "Gemm", "Conv", "Gather"})

    ratio: float | None = option(
        None,
        help="share of each weight that its factors have; 0.6 where `energy` is not given",
        unit="fraction",
        minimum=0.01,
        maximum=1.0,
    )
    energy: float | None = option(
        None,
        help="share of the energy of each layer's result that is kept, whatever the rank",
        unit="fraction",
        minimum=0.0,
        maximum=1.0,
    )
    method: str = option(
        "fitted",
        help="what the products are near to; all but plain need samples",
        choices=("plain", "whitened", "fitted"),
    )
    ridge: float = option(
        0.01,
        help="pull of fitted towards the weight, as part of its inputs",
        minimum=1e-6,
        maximum=1e6,
    )
    multiple: int = option(8, help="ranks are multiples of this", minimum=1)
    minimum_saving: float = option(
        0.1, help="share of the weights that must go", unit="fraction", minimum=0.0, maximum=0.99
    )
    faster_at: int | None = option(
        None,
        help="keep factors only where so many rows are multiplied faster",
        unit="rows",
        minimum=1,
    )
    runs: int = option(
        64, help="steps at most, each given those before it", unit="steps", minimum=1, maximum=4096
    )
    ops: tuple[str, ...] = option(
        ("MatMul", "Gemm", "Conv"),
        help="operators whose weights are treated; a Gather becomes one of short rows",
        unit="op_type",
        choices=("MatMul", "Gemm", "Conv", "Gather"),
    )
    minimum_elements: int = option(
        4096, help="smaller weights stay as they are", unit="elements", minimum=1
    )
    exclude: tuple[str, ...] = option((), help="nodes to leave alone", unit="name pattern")

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            OptionError: An option has a wrong value, or both say what the rank is.
        """
        super().__post_init__()
        if self.ratio is not None and self.energy is not None:
            raise OptionError(
                "options `ratio` and `energy` of pass `factorize-weights` exclude each other",
                why="each says what the rank is",
                hint="see `graphopt explain factorize-weights`",
            )

    def needs(self, model: ir.Model) -> Needs:  # noqa: ARG002 - whatever the model
        """Ask for samples where results are to be near, not weights."""
        return Needs(samples=self.method != "plain")

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:
        """Factor every weight that allows it; refuse the others one by one."""
        layers = list(self._layers(model, edit))
        read = [layer.node.inputs[0 if layer.node.op_type == "Gather" else 1] for layer in layers]
        ratios: dict[tuple[object, ...], float] = {}
        for layer, plan in self._plans(model, layers, edit, facts.measure):
            if (why := self._refusal(layer, plan, ratios)) is not None:
                edit.refuse(layer.node, *why[:1], why=why[1])
                continue
            first, second = plan.factors
            rows, columns = len(first), second.shape[1]
            because = f"{rows} x {columns} by rank {first.shape[1]}, {plan.lost:.2%} lost"
            with edit.rewrite(layer.node, because=because) as change:
                if plan.bias is not None:
                    bias = layer.bias()
                    read.append(bias.value)
                    bias.put(change, plan.bias, np.float32)
                layer.put(change, first, second)
        remove_unread(model, edit, filter(None, read))

    def _layers(self, model: ir.Model, edit: Editor) -> Iterator[FactoredLayer]:
        wanted = Wanted(ops=self.ops, minimum_elements=self.minimum_elements, exclude=self.exclude)
        for weight in read_weights(model, edit, wanted):
            reading = weight.readings[0]
            if len(weight.readings) > 1:
                for other in weight.readings:
                    edit.refuse(other.node, "shared-by-layers", why=f"`{weight.name}`")
            elif (why := form_obstacle(reading)) is not None:
                edit.refuse(reading.node, "unsupported-form", why=why)
            else:
                yield FactoredLayer(reading)

    def _plans(
        self,
        model: ir.Model,
        layers: Sequence[FactoredLayer],
        edit: Editor,
        measure: Measure | None,
    ) -> Iterator[tuple[FactoredLayer, _Plan]]:
        """Yield layers with what they become, each after those that it depends on."""
        asked: dict[ir.Node, tuple[FactoredLayer, Channels]] = {}
        for layer in layers:
            reading = layer.reading
            if measure is None or reading.is_lookup:  # nothing is multiplied by a table
                if (plan := self._plan(layer.matrix(), None)) is not None:
                    yield layer, plan
                continue
            if (rows := self._rows(model, layer)) is None:
                why = "what enters is in a branch, of another form, or very wide"
                edit.refuse(layer.node, "not-measured", why=why)
            else:
                asked[layer.node] = (layer, rows)
        if measure is None or not asked:
            return
        original = clone(model) if self.method == "fitted" else model
        for step in divided(levels_of(model.graph, list(asked)), self.runs):
            # What enters may have another name by now: a table before it was factored.
            pairs = [
                (self._rows(model, asked[node][0]) or asked[node][1], asked[node][1])
                for node in step
            ]
            found = measure.cross(model, original, pairs)
            for node, moments in zip(step, found, strict=True):
                plan = self._measured(asked[node][0], moments)
                if plan is None:
                    why = "what enters was 0, empty or not finite on the samples"
                    edit.refuse(node, "not-measured", why=why)
                else:
                    yield asked[node][0], plan

    def _rows(self, model: ir.Model, layer: FactoredLayer) -> Channels | None:
        source = layer.reading.source
        return multiplied_rows(model.graph, layer.node, source, most_length=_MOST_LENGTH)

    def _measured(self, layer: FactoredLayer, moments: CrossMoments | None) -> _Plan | None:
        """Return the plan for a layer by what enters it; ``None`` where that says nothing."""
        if moments is None or not (moments.first.is_finite and moments.second.is_finite):
            return None
        gram, product = moments.first.gram, moments.product
        assert gram is not None
        assert product is not None
        whole, bias = layer.matrix(), layer.bias()
        shape = (len(whole), len(whole))
        now, before = moments.first.mean, moments.second.mean
        # What a bias can make up for is no error.
        centre = 0.0 if bias.node is None else 1.0
        uncentred = gram.reshape(shape)
        covariance = uncentred - centre * np.outer(now, now)
        # Of inputs that never change the difference is what rounding left.
        varies = np.diagonal(covariance) > _NOISE * np.diagonal(uncentred)
        covariance = covariance * np.outer(varies, varies)
        matrix: Array = whole
        if self.method == "fitted":
            cross = product.reshape(shape) - centre * np.outer(now, before)
            cross *= varies[:, None]
            matrix = followed_matrix(whole, covariance, cross, ridge=self.ridge)
        if not np.isfinite(matrix).all():
            return None
        plan = self._plan(matrix, shrunk_gram(covariance, moments.first.count))
        if plan is None or bias.node is None:
            return plan
        first, second = plan.factors
        shift = before @ whole - now @ first @ second
        return _Plan(plan.factors, bias.values + shift, plan.lost)

    def _plan(self, matrix: Array, covariance: Array | None) -> _Plan | None:
        found = decompose(matrix, covariance)
        if found is None:
            return None
        rank = self._rank(found, *matrix.shape)
        return _Plan(found.factors(rank), None, found.lost_share(rank))

    def _rank(self, found: Decomposition, inputs: int, outputs: int) -> int:
        most = len(found.values)
        if self.energy is not None:
            exact = found.rank_of_energy(self.energy)
            return min(-(-exact // self.multiple) * self.multiple, most)
        ratio = _RATIO if self.ratio is None else self.ratio
        exact = rank_of_ratio(inputs, outputs, ratio)
        return min(max(exact // self.multiple * self.multiple, 1), most)

    def _refusal(
        self, layer: FactoredLayer, plan: _Plan, ratios: dict[tuple[object, ...], float]
    ) -> tuple[str, str] | None:
        """Return why a layer stays as it is: a slug, and a sentence."""
        first, second = plan.factors
        (inputs, rank), outputs = first.shape, second.shape[1]
        kept = rank * (inputs + outputs) / (inputs * outputs)
        if kept >= 1.0 - self.minimum_saving:
            return "no-saving", f"rank {rank} of {min(inputs, outputs)}: {kept:.2f} of its size"
        if self.faster_at is None or layer.reading.is_lookup:
            return None
        shapes = [(inputs, outputs), first.shape, second.shape]
        if layer.node.op_type == "Conv":
            window = layer.reading.source.shape[1:]
            ones = (1,) * (len(window) - 1)
            shapes = [(outputs, *window), (rank, *window), (outputs, rank, *ones)]
        windows = (str(value) for value in layer.node.attributes.values())
        key = (layer.node.op_type, *shapes, *windows)
        if key not in ratios:
            ratios[key] = ratio_of_factors(layer.node, shapes, self.faster_at)
        if ratios[key] >= 1.0:
            return "not-faster", f"rank {rank} takes {ratios[key]:.2f} of its time"
        return None
