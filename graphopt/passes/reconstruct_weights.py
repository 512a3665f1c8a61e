"""Reconstruction of integer weights from what the original computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis.operands import operand
from graphopt.compression import remove_unread
from graphopt.compression.integer_layers import integer_layers
from graphopt.compression.levels import divided, levels_of
from graphopt.compression.repairs import (
    Repairable,
    repairable_layers,
    rounding_noise,
    store_integers,
)
from graphopt.compression.rounding import (
    anchored_solution,
    damped,
    product_error,
    rounded_on,
)
from graphopt.rewrite import (
    Approximate,
    Contract,
    CrossMoments,
    Editor,
    Facts,
    Needs,
    Pass,
    option,
)

__all__ = ["ReconstructWeights"]


@dataclass(frozen=True, kw_only=True)
class ReconstructWeights(Pass):
    """Fit the weights of quantized layers to what the original computes.

    What it does
        Each layer with integer weights is given what the quantized model feeds it, errors of the
        layers before it and all, and its weight becomes the one whose result is nearest to that of
        the original, by least squares anchored at the weight that it has; then it is rounded again,
        one weight after the other so that the error of the result is small. Scales and zero points
        stay. Layers are fitted in the order of the graph, each given those before it. Run it behind
        a quantizer: `quantize-dynamic,reconstruct-weights`.

    When it refuses
        `no-counterpart`    the original has no layer of the same name and shape of weight, or
                            computes other rows.
        `no-gain`           the expected error falls by less than `minimum_gain`.
        `too-few-rows`      samples give fewer rows than `minimum_rows` for each channel: the fit
                            would be one to noise.
        `not-finite`        values were NaN or infinite in some sample.
        `unsupported-form`  the integers are shared, or stored in another shape than they are read
                            in; automatic padding; a Gemm with transA, alpha or beta.
        `inside-subgraph`   the layer is in a branch, loop or function, which is not measured.
        `excluded`          the name matches `exclude`.

    What it keeps
        Every operator, every scale, and the range of the integers.

    Cost
        One run of both models per sample for each of at most `runs` steps. A Gram matrix of each
        layer of a step: 75 MB at 3072 channels. Time O(channels^3) for each layer.

    Example
        behind quantize-dynamic{minimum_elements=1 per_channel=false}
        options {minimum_rows=0.0}
        samples x: [[1.0, 1.0]]
        before  (float[N,2] x) => (float[N,2] y) <float[2,2] w = {127.0, 0.375, 0.0, 0.375}>
                { y = MatMul(x, w) }
        after   (float[N,2] x) => (float[N,2] y) <int8[2,2] w8 = {127, 1, 0, 0}, float s = {1.0}>
                { q, t, z = DynamicQuantizeLinear(x)
                  i = MatMulInteger(q, w8, z)
                  f = Cast<to = 1>(i)
                  u = Mul(t, s)
                  y = Mul(f, u) }

    References
        Hubara et al. 2021, "Accurate Post Training Quantization With Small Calibration Sets",
        section 3 (layer by layer, quantized inputs); ridge regression anchored as in He et al.
        2017, "Channel Pruning for Accelerating Very Deep Neural Networks", section 3.1.
    """

    name: ClassVar[str] = "reconstruct-weights"
    contract: ClassVar[Contract] = Contract(
        numerics=Approximate(metric="sqnr_db"), is_idempotent=False
    )

    ridge: float = option(
        0.1,
        help="how firmly weights are anchored, as part of the mean square of their inputs",
        unit="fraction",
        minimum=1e-6,
        maximum=1e3,
    )
    rounds: int = option(
        4, help="most times to go through all weights", unit="rounds", minimum=1, maximum=100
    )
    runs: int = option(
        64, help="steps at most, each given those before it", unit="steps", minimum=1, maximum=4096
    )
    minimum_rows: float = option(
        1.0, help="rows of samples for each channel", unit="rows", minimum=0.0, maximum=1e6
    )
    minimum_gain: float = option(
        0.1, help="the error must fall by as much", unit="dB", minimum=0.0, maximum=100.0
    )
    exclude: tuple[str, ...] = option((), help="layers to leave alone", unit="name pattern")

    def needs(self, model: ir.Model) -> Needs:
        """Ask for the samples and the original, where there is anything in integers."""
        is_any = any(True for _ in integer_layers(model.graph))
        return Needs(samples=is_any, original=is_any)

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:
        """Fit every layer that allows it, step by step."""
        if facts.measure is None or facts.original is None:
            return
        items: dict[ir.Node, Repairable] = {}
        for item in repairable_layers(model, facts.original, self.exclude):
            if isinstance(item, Repairable):
                items[item.node] = item
            else:
                edit.refuse(item.node, item.slug, why=item.why)
        replaced: list[ir.Value] = []
        for step in divided(levels_of(model.graph, list(items)), self.runs):
            pairs = [(items[node].reads, items[node].target) for node in step]
            found = facts.measure.cross(model, facts.original, pairs)
            for node, moments in zip(step, found, strict=True):
                replaced += self._fit(items[node], moments, edit)
        remove_unread(model, edit, replaced)

    def _fit(self, item: Repairable, moments: CrossMoments | None, edit: Editor) -> list[ir.Value]:
        groups, channels, outputs = item.weight.shape
        is_alike = (
            moments is not None
            and moments.product is not None
            and moments.first.gram is not None
            and moments.first.channels == groups * channels
            and moments.second.channels == groups * outputs
        )
        is_alike &= item.layer.bias is not None or not _has_bias(item.original)
        if not is_alike or moments is None:
            edit.refuse(item.node, "no-counterpart", why="the original computes other rows")
            return []
        if not (moments.first.is_finite and moments.second.is_finite):
            edit.refuse(item.node, "not-finite", why=f"`{item.reads.value}` was not finite")
            return []
        if moments.first.count < self.minimum_rows * channels:
            why = f"{moments.first.count} rows for {channels} channels"
            edit.refuse(item.node, "too-few-rows", why=why)
            return []
        integers, gain = self._fitted(item, moments)
        if gain < self.minimum_gain:
            edit.refuse(item.node, "no-gain", why=f"{gain:.2f} dB")
            return []
        because = f"expected error {gain:.1f} dB lower"
        return [store_integers(item, integers, edit, because)]

    def _fitted(
        self, item: Repairable, moments: CrossMoments
    ) -> tuple[npt.NDArray[np.float64], float]:
        """Return new integers, and by how many dB they are nearer to the target than the old."""
        groups, channels, outputs = item.weight.shape
        assert moments.first.gram is not None
        assert moments.product is not None
        grams = moments.first.gram.reshape(groups, channels, channels)
        products = moments.product.reshape(groups, channels, outputs)
        products = products - _through_bias(item, moments)
        noise = rounding_noise(item, moments.first)
        found, before, after = [], 0.0, 0.0
        for number, gram in enumerate(grams):
            grid, start = item.matrix.grids[number], item.matrix.integers[number]
            # Anchored at the original weight: what its integers stand for has their error in it.
            fitted = anchored_solution(
                gram, products[number], item.weight[number], self.ridge, noise
            )
            matrix = damped(gram, self.ridge, noise)
            integers = rounded_on(grid, fitted, matrix, start, self.rounds)
            found.append(integers)
            before += product_error(matrix, grid.values(start) - fitted)
            after += product_error(matrix, grid.values(integers) - fitted)
        gain = 10.0 * np.log10(before / after) if after > 0.0 else 0.0
        return np.stack(found), float(gain)


def _has_bias(node: ir.Node) -> bool:
    """Tell whether the result of a layer of the original holds a bias."""
    return node.op_type != "MatMul" and operand(node, 2) is not None


def _through_bias(item: Repairable, moments: CrossMoments) -> npt.NDArray[np.float64]:
    """Return what the bias of the layer itself has in the products with the target."""
    groups, channels, outputs = item.weight.shape
    bias = item.layer.bias
    if bias is None or not _has_bias(item.original):
        return np.zeros((groups, channels, outputs))
    mean = moments.first.mean.reshape(groups, channels, 1)
    return mean * bias.values.reshape(groups, 1, outputs)
