"""Rounding of integer weights by what it does to the result of a layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.compression import remove_unread
from graphopt.compression.integer_layers import integer_layers
from graphopt.compression.levels import divided, levels_of
from graphopt.compression.repairs import (
    Repairable,
    repairable_layers,
    rounding_noise,
    store_integers,
)
from graphopt.compression.rounding import damped, product_error, rounded_on
from graphopt.rewrite import (
    Approximate,
    ChannelMoments,
    Contract,
    Editor,
    Facts,
    Needs,
    Pass,
    option,
)

__all__ = ["RoundAdaptively"]


@dataclass(frozen=True, kw_only=True)
class RoundAdaptively(Pass):
    """Choose integers of weights so that the error of the layer's result is small.

    What it does
        The weight of a `Conv`, `Gemm`, `MatMul` or `MatMulInteger` that a quantizer rounded to the
        nearest integers is rounded again: one weight after the other is set to the integer that
        makes the expected squared error of the layer's result smallest given all others, over what
        the quantized model feeds the layer on the samples. Scales and zero points stay. It pays at
        4 bits and below, less at 8. Run it behind a quantizer:
        `quantize-weights{bits=4},round-adaptively`.

    When it refuses
        `no-counterpart`    the original has no layer of the same name and shape of weight.
        `no-gain`           the error falls by less than `minimum_gain`.
        `not-measured`      what the layer reads was empty in every sample.
        `not-finite`        what it reads was NaN or infinite in some sample.
        `unsupported-form`  the integers are shared, or stored in another shape than they are read
                            in; automatic padding; a Gemm with transA, alpha or beta.
        `inside-subgraph`   the layer is in a branch, loop or function, which is not measured.
        `excluded`          the name matches `exclude`.

    What it keeps
        Every operator, every scale, and the range of the integers.

    Cost
        One run per sample for each of `runs` steps. A Gram matrix of each layer of a step: 75 MB
        at 3072 channels. Time O(channels^2 x outputs) for each round.

    Example
        behind quantize-dynamic{minimum_elements=1 per_channel=false}
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
        Behdin et al. 2023, "QuantEase: Optimization-based Quantization for Language Models",
        algorithm 2. Nagel et al. 2020, "Up or Down? Adaptive Rounding for Post-Training
        Quantization", equation 13.
    """

    name: ClassVar[str] = "round-adaptively"
    contract: ClassVar[Contract] = Contract(
        numerics=Approximate(metric="sqnr_db"), is_idempotent=False
    )

    rounds: int = option(
        4, help="most times to go through all weights", unit="rounds", minimum=1, maximum=100
    )
    damping: float = option(
        0.01,
        help="added to the diagonal of the Gram matrix, as part of its mean",
        unit="fraction",
        minimum=0.0,
        maximum=10.0,
    )
    runs: int = option(
        4,
        help="steps, each given those before it; 1: all layers at once",
        unit="steps",
        minimum=1,
        maximum=4096,
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
        """Round every layer that allows it again."""
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
            reads = [items[node].reads for node in step]
            found = facts.measure.moments(model, [], grams=reads)
            for node, read in zip(step, reads, strict=True):
                replaced += self._round(items[node], found.get(read), edit)
        remove_unread(model, edit, replaced)

    def _round(
        self, item: Repairable, moments: ChannelMoments | None, edit: Editor
    ) -> list[ir.Value]:
        if moments is None or moments.gram is None or moments.channels != _channels(item):
            edit.refuse(item.node, "not-measured", why=f"`{item.reads.value}` had no rows")
            return []
        if not moments.is_finite:
            edit.refuse(item.node, "not-finite", why=f"`{item.reads.value}` was not finite")
            return []
        noise = rounding_noise(item, moments)
        grams = moments.gram.reshape(len(item.weight), *moments.gram.shape[-2:])
        found, before, after = [], 0.0, 0.0
        for number, gram in enumerate(grams):
            matrix = damped(gram, self.damping, noise)
            grid, weight = item.matrix.grids[number], item.weight[number]
            start = item.matrix.integers[number]
            integers = rounded_on(grid, weight, matrix, start, self.rounds)
            found.append(integers)
            before += product_error(matrix, grid.values(start) - weight)
            after += product_error(matrix, grid.values(integers) - weight)
        gain = 10.0 * np.log10(before / after) if after > 0.0 else 0.0
        if gain < self.minimum_gain:
            edit.refuse(item.node, "no-gain", why=f"{gain:.2f} dB")
            return []
        because = f"expected error {gain:.1f} dB lower"
        return [store_integers(item, np.stack(found), edit, because)]


def _channels(item: Repairable) -> int:
    groups, channels, _ = item.weight.shape
    return int(groups * channels)
