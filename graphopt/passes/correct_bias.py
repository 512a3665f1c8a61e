"""Correction of biases after quantization."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.compression import remove_unread
from graphopt.compression.integer_layers import (
    Bias,
    IntegerLayer,
    NoIntegerLayer,
    integer_layers,
)
from graphopt.compression.levels import last_of_parts, levels_of
from graphopt.ir import graphs, nodes
from graphopt.rewrite import (
    Approximate,
    Asked,
    Channels,
    Contract,
    CrossMoments,
    Editor,
    Facts,
    Needs,
    Pass,
    option,
)

__all__ = ["CorrectBias"]


@dataclass(frozen=True)
class _Site:
    """A bias, and the value of the original that its sum stands for."""

    layer: IntegerLayer
    bias: Bias
    counterpart: str

    @property
    def asked(self) -> tuple[Asked, Asked]:
        """The two values to compare; channels of a Conv are axis 1, all its positions are rows."""
        axis = 1 if self.layer.node.op_type == "Conv" else -1
        return Channels(self.bias.sum.name or "", axis), Channels(self.counterpart, axis)


@dataclass(frozen=True, kw_only=True)
class CorrectBias(Pass):
    """Take from biases what quantization adds to the mean of each output channel.

    What it does
        Rounded weights and activations shift the mean of what a layer computes, channel by channel,
        and layers behind it add up such shifts. Quantized and original model run side by side on
        the samples; the mean difference of each channel is taken off the bias: of `Conv`, `Gemm`
        and `MatMul` with integer weights behind `DequantizeLinear`, of `MatMulInteger`, and of
        ONNX Runtime's `MatMulIntegerToFloat`. Layers are corrected in the order of the graph,
        each given those before it, layers that do not depend on one another together. Run it behind
        a quantizer: `quantize-static,correct-bias`.

    When it refuses
        `no-bias`           nothing constant is added to what the layer computes.
        `no-counterpart`    the original has no value of the same name with as many rows.
        `no-gain`           the shift is a smaller part of the error than `minimum_share`.
        `left-to-next`      more layers follow one another than `runs` allows; the next one that is
                            corrected takes over.
        `not-finite`        the values were NaN or infinite in some sample.
        `unsupported-form`  the layer is an operator that holds its bias inside.
        `inside-subgraph`   the layer is in a branch, loop or function, which is not measured.
        `excluded`          the name matches `exclude`.

    What it keeps
        Every operator, every weight, and the scales of all that is quantized.

    Cost
        One run of both models per sample for each of at most `runs` steps.

    Example
        behind quantize-dynamic{minimum_elements=1 per_channel=false}
        samples x: [[255.0]]
        before  (float[N,1] x) => (float[N,2] y)
                <float[1,2] w = {127.0, 0.75}, float[2] b = {0.5, 0.5}>
                { p = MatMul(x, w)  y = Add(p, b) }
        after   (float[N,1] x) => (float[N,2] y)
                <int8[1,2] w8 = {127, 1}, float s = {1.0}, float[2] b = {0.5, -63.25}>
                { q, t, z = DynamicQuantizeLinear(x)
                  i = MatMulInteger(q, w8, z)
                  f = Cast<to = 1>(i)
                  u = Mul(t, s)
                  p = Mul(f, u)
                  y = Add(p, b) }

    References
        Nagel et al. 2019, "Data-free quantization through weight equalization and bias correction",
        section 4.2 and appendix D.
    """

    name: ClassVar[str] = "correct-bias"
    contract: ClassVar[Contract] = Contract(
        numerics=Approximate(metric="sqnr_db"), is_idempotent=False
    )

    runs: int = option(
        256,
        help="steps at most; where more layers follow one another, some are left to the next",
        unit="steps",
        minimum=1,
        maximum=4096,
    )
    minimum_share: float = option(
        0.001,
        help="part of the squared error that the shift must be",
        unit="fraction",
        minimum=0.0,
        maximum=1.0,
    )
    exclude: tuple[str, ...] = option((), help="layers to leave alone", unit="name pattern")

    def needs(self, model: ir.Model) -> Needs:
        """Ask for the samples and the original, where there is anything in integers."""
        is_any = any(True for _ in integer_layers(model.graph))
        return Needs(samples=is_any, original=is_any)

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:
        """Correct every bias that allows it, step by step."""
        for graph in graphs(model):
            for layer in () if graph is model.graph else integer_layers(graph):
                edit.refuse(layer.node, "inside-subgraph", why="its values cannot be measured")
        if facts.measure is None or facts.original is None:
            return
        replaced: list[ir.Value] = []
        sites = list(self._sites(model, facts.original, edit))
        by_node = {site.layer.node: site for site in sites}
        levels = levels_of(model.graph, list(by_node))
        taken = last_of_parts(len(levels), self.runs)
        for number, level in enumerate(levels):
            if number not in taken:
                # Corrected with what it depends on, it would take off the same shift once more.
                for node in level:
                    edit.refuse(node, "left-to-next", why="the steps that `runs` allows are fewer")
                continue
            chosen = [by_node[node] for node in level]
            found = facts.measure.cross(
                model, facts.original, [site.asked for site in chosen], products=False
            )
            for site, moments in zip(chosen, found, strict=True):
                replaced += self._correct(site, moments, edit)
        remove_unread(model, edit, replaced)

    def _sites(self, model: ir.Model, original: ir.Model, edit: Editor) -> Iterator[_Site]:
        names = {output.name for node in original.graph for output in node.outputs}
        results = {node.name or "": node.outputs[0].name for node in nodes(original)}
        for layer in integer_layers(model.graph):
            if isinstance(layer, NoIntegerLayer):
                edit.refuse(layer.node, "unsupported-form", why=layer.why)
            elif any(fnmatch.fnmatchcase(layer.node.name or "", one) for one in self.exclude):
                edit.refuse(layer.node, "excluded", why="by the options of the pass")
            elif layer.bias is None:
                edit.refuse(layer.node, "no-bias", why="nothing constant is added to its result")
            else:
                counterpart = _counterpart(layer.bias, names, results)
                if counterpart is None:
                    why = f"the original has no `{layer.bias.sum.name}`"
                    edit.refuse(layer.node, "no-counterpart", why=why)
                else:
                    yield _Site(layer, layer.bias, counterpart)

    def _correct(self, site: _Site, moments: CrossMoments | None, edit: Editor) -> list[ir.Value]:
        """Correct one bias; return the constant that another took the place of."""
        node, bias = site.layer.node, site.bias
        if moments is None or moments.shift is None or len(moments.shift) != len(bias.values):
            edit.refuse(node, "no-counterpart", why=f"`{site.counterpart}` has another shape")
            return []
        assert moments.error is not None
        if not (np.isfinite(moments.shift).all() and np.isfinite(moments.error).all()):
            edit.refuse(node, "not-finite", why=f"`{bias.sum.name}` was not finite in some sample")
            return []
        error, shifted = float(moments.error.sum()), float((moments.shift**2).sum())
        if shifted <= self.minimum_share * error:
            share = shifted / error if error else 0.0
            edit.refuse(node, "no-gain", why=f"the shift is {share:.2%} of the squared error")
            return []
        stored = bias.stored(bias.values + moments.shift)
        reader, index = (bias.reader, bias.index)
        if bias.scale is not None:
            source = bias.reader.inputs[bias.index]
            dequantizer = source.producer() if source is not None else None
            assert dequantizer is not None
            reader, index = dequantizer, 0
        old = reader.inputs[index]
        assert old is not None
        because = f"the shift was {shifted / error:.1%} of the squared error"
        with edit.rewrite(node, because=because) as change:
            shape = tuple(old.shape.numpy()) if old.shape is not None else stored.shape
            new = change.initializer(stored.reshape(shape), name=f"{old.name}_corrected")
            change.set_input(reader, index, new)
        return [old]


def _counterpart(bias: Bias, names: set[str | None], results: dict[str, str | None]) -> str | None:
    """Return what the sum is called in the original.

    A quantizer that replaces a `Gemm` names the addition after it.
    """
    if bias.sum.name in names:
        return bias.sum.name
    return results.get((bias.reader.name or "").removesuffix("_biased"))
