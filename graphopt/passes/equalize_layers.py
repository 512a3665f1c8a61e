"""Equalization of the weights of neighbouring layers."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis import Operators, is_annotated
from graphopt.analysis.constant_arithmetic import Replacement, is_shared, put_constant
from graphopt.analysis.layer_inputs import Uptake, find_uptake, replacements_for
from graphopt.analysis.scale_paths import absorbed_by
from graphopt.analysis.weighted_layers import WeightedLayer, find_weighted_layer
from graphopt.compression import NoWeight, remove_unread, trace_weight
from graphopt.compression.equalization import Bounds, Side, equalized_scales
from graphopt.ir import constant_array, graphs
from graphopt.rewrite import (
    Approximate,
    Channels,
    Contract,
    Editor,
    Facts,
    Needs,
    Pass,
    option,
)

__all__ = ["EqualizeLayers"]

_LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_HALVES = frozenset({"LeakyRelu", "PRelu", "Relu"})
_GAIN = 1.05  # a scale nearer to 1 than that is not worth another rounding of two weights


class _Refused(NamedTuple):
    slug: str
    why: str


@dataclass(frozen=True, eq=False)
class _Pair:
    """Two layers with nothing between them that factors cannot pass.

    Attributes:
        first: The layer whose output channels are divided.
        result: What it computes, with its bias.
        second: The layer whose input channels are multiplied.
        clip: A `Clip` between them that nothing may reach.
    """

    first: WeightedLayer
    result: ir.Value
    second: Uptake
    clip: ir.Node | None

    @property
    def limit(self) -> float:
        """Where the clip begins; infinite without one."""
        return np.inf if self.clip is None else _upper_limit(self.clip) or np.inf


@dataclass(frozen=True, kw_only=True)
class EqualizeLayers(Pass):
    """Make the ranges of weights alike between layers that follow one another.

    What it does
        Where a `Conv`, `Gemm` or `MatMul` with constant weights alone reads what another such layer
        (a `ConvTranspose` too) computes, directly or through `Relu`, `LeakyRelu`, `PRelu` or an
        addition of constants, output channels of the first are divided by scales and the input
        channels of the second multiplied by them, so that the largest weights of both become equal.
        One scale for all channels of a weight then loses little. Layers in chains are gone through
        up to `rounds` times. Behind a `Clip` at 0 and a limit, as of ReLU6, a channel is scaled
        only as far as no sample reaches the limit before or after. Run it before a quantizer:
        `equalize-layers,quantize-static{per_channel=false}`.

    When it refuses
        `read-elsewhere`       others read what is between the layers, or it is an output.
        `not-homogeneous`      between the layers is something that factors do not pass.
        `no-following-layer`   nothing with a constant weight reads it.
        `clipped`              samples reach the limit of the `Clip` in every channel that could
                               gain, or were not given.
        `no-gain`              every scale is nearly 1.
        `weight-not-constant`  a layer has no constant weight, or has it behind a `Transpose`.
        `weight-overridable`   a weight is also an input of the model.
        `already-quantized`    a weight comes from integers.
        `not-float32`          a weight has another type.
        `weight-not-finite`    a weight holds NaN or infinity.
        `shared-weight`        a weight or bias has readers that would have to read another copy.
        `excluded`             the name matches `exclude`.

    What it keeps
        Inputs and outputs of the model, and every operator; results up to rounding, and up to what
        a `Clip` does to inputs that exceed all samples.

    Cost
        Reads each weight once for each round; one run per sample where there is a `Clip`.

    Example
        before  (float[N,1] x) => (float[N,1] y) <float[1,2] w = {16.0, 1.0}, float[2,1] v = {1.0, 1.0}>
                { h = MatMul(x, w)  r = Relu(h)  y = MatMul(r, v) }
        after   (float[N,1] x) => (float[N,1] y) <float[1,2] u = {4.0, 1.0}, float[2,1] t = {4.0, 1.0}>
                { h = MatMul(x, u)  r = Relu(h)  y = MatMul(r, t) }

    References
        Nagel et al. 2019, "Data-free quantization through weight equalization and bias correction",
        section 4.1.
    """  # noqa: E501 - the example is one line of ONNX text

    name: ClassVar[str] = "equalize-layers"
    contract: ClassVar[Contract] = Contract(
        numerics=Approximate(metric="sqnr_db"), is_idempotent=False
    )
    is_preparation: ClassVar[bool] = True
    anchors: ClassVar[frozenset[str] | None] = _LAYERS

    rounds: int = option(
        20, help="most times to go through chains of layers", unit="rounds", minimum=1, maximum=100
    )
    exclude: tuple[str, ...] = option((), help="layers to leave alone", unit="name pattern")

    def needs(self, model: ir.Model) -> Needs:
        """Ask for the moments of what a Clip between two layers reads."""
        found = [self._pair_at(node) for graph in graphs(model) for node in graph]
        pairs = [pair for pair in found if isinstance(pair, _Pair) and _is_main(pair, model)]
        return Needs(moments=tuple(_clipped(pair) for pair in pairs if pair.clip is not None))

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:
        """Equalize all pairs together."""
        operators = Operators(model)
        pairs: list[_Pair] = []
        for graph in graphs(model):
            for node in () if operators.is_in_function(graph) else graph:
                found = self._pair_at(node)
                if isinstance(found, _Refused):
                    edit.refuse(node, found.slug, why=found.why)
                elif found is not None:
                    pairs.append(found)
        self._equalize(pairs, model, edit, facts)

    def _equalize(self, pairs: list[_Pair], model: ir.Model, edit: Editor, facts: Facts) -> None:
        weights = _Weights()
        possible: list[tuple[_Pair, Bounds | None]] = []
        for pair in pairs:
            allowed = _allowed_scales(pair, facts)
            if isinstance(allowed, str):
                edit.refuse(pair.first.node, "clipped", why=allowed)
            else:
                possible.append((pair, allowed))
        sides = [weights.sides(pair) for pair, _ in possible]
        scales = equalized_scales(sides, [allowed for _, allowed in possible], self.rounds)
        replaced: list[ir.Value] = []
        for (pair, _), found in zip(possible, scales, strict=True):
            if max(found.max(initial=1.0), 1.0 / found.min(initial=1.0)) < _GAIN:
                edit.refuse(pair.first.node, "no-gain", why="every scale is nearly 1")
            else:
                replaced += _scale(pair, found, facts, edit)
        remove_unread(model, edit, replaced)

    def _pair_at(self, node: ir.Node) -> _Pair | _Refused | None:
        """Return the pair whose first layer ``node`` is; ``None`` where it is no layer."""
        if node.domain or node.op_type not in _LAYERS:
            return None
        if self._is_excluded(node):
            return _Refused("excluded", "by the options of the pass")
        weight = _weight_refusal(node)
        if weight is not None:
            return weight
        first = find_weighted_layer(node)
        if first is None or first.channels is None:
            return _Refused("weight-not-constant", "the weight has no output channels")
        return self._following(first)

    def _is_excluded(self, node: ir.Node) -> bool:
        return any(fnmatch.fnmatchcase(node.name or "", pattern) for pattern in self.exclude)

    def _following(self, first: WeightedLayer) -> _Pair | _Refused:
        """Go on from the first layer to the one behind it."""
        result, value, clip = first.node.outputs[0], first.node.outputs[0], None
        while True:
            reader = _only_reader(value)
            if reader is None:
                return _Refused("read-elsewhere", f"`{value.name}` is read by others, or an output")
            node, index = reader
            if not node.domain and node.op_type in _LAYERS and index == 0:
                break
            if _adds_constant(node, index) and value is result:
                result = value = node.outputs[0]
            elif not node.domain and node.op_type in _HALVES and index == 0:
                value = node.outputs[0]
            elif node.op_type == "Clip" and _upper_limit(node) and clip is None:
                clip, value = node, node.outputs[0]
            else:
                return _Refused("not-homogeneous", f"{node.op_type} `{node.name}` reads it")
        return self._pair(first, result, node, clip)

    def _pair(
        self, first: WeightedLayer, result: ir.Value, node: ir.Node, clip: ir.Node | None
    ) -> _Pair | _Refused:
        if node.op_type == "ConvTranspose":
            return _Refused("no-following-layer", "its channels are not the inputs of a Conv")
        if self._is_excluded(node):
            return _Refused("excluded", f"`{node.name}` is, by the options of the pass")
        refused = _weight_refusal(node)
        if refused is not None:
            return _Refused("no-following-layer", refused.why)
        second = find_uptake(node)
        # Behind a Conv channels are the second axis, behind a Gemm the last: both are told by how
        # many axes follow them.
        if second is None or (second.channels, second.trailing) != (first.channels, first.trailing):
            return _Refused("no-following-layer", f"`{node.name}` has other channels")
        return _Pair(first, result, second, clip)


class _Weights:
    """Magnitudes of weights, one array for each layer, whichever side of a pair it is on."""

    def __init__(self) -> None:
        self._held: dict[ir.Node, npt.NDArray[np.float64]] = {}

    def sides(self, pair: _Pair) -> tuple[Side, Side]:
        first, second = pair.first, pair.second
        return (
            Side(self._of(first.node, first.tensor).reshape(first.view), first.spread),
            Side(self._of(second.node, second.tensor).reshape(second.view), second.spread),
        )

    def _of(self, node: ir.Node, tensor: ir.TensorProtocol) -> npt.NDArray[np.float64]:
        if node not in self._held:
            magnitudes = np.abs(tensor.numpy().astype(np.float64))
            self._held[node] = np.ascontiguousarray(magnitudes)  # so that views share it
        return self._held[node]


def _weight_refusal(node: ir.Node) -> _Refused | None:
    source = trace_weight(node.inputs[1])
    if isinstance(source, NoWeight):
        return _Refused(source.slug, source.why)
    if source.origin is not node.inputs[1]:
        return _Refused("weight-not-constant", "it is computed; `fold-constants` makes it one")
    if is_shared(source.origin):
        return _Refused("shared-weight", "others read the weight, or its range is annotated")
    if not np.isfinite(source.array()).all():
        return _Refused("weight-not-finite", "the weight holds NaN or infinity")
    return None


def _only_reader(value: ir.Value) -> tuple[ir.Node, int] | None:
    uses = tuple(value.uses())
    if len(uses) != 1 or value.is_graph_output() or is_annotated(value):
        return None
    producer = value.producer()
    is_here = producer is not None and uses[0].node.graph is producer.graph
    return (uses[0].node, uses[0].idx) if is_here else None


def _adds_constant(node: ir.Node, index: int) -> bool:
    if node.domain or node.op_type != "Add":
        return False
    return constant_array(node.inputs[1 - index]) is not None


def _upper_limit(clip: ir.Node) -> float | None:
    """Return the upper limit of a Clip that begins at 0."""
    if clip.domain:
        return None
    low, high = (constant_array(value) for value in (*clip.inputs[1:3], None, None)[:2])
    if "max" in clip.attributes:  # before opset 11
        low = np.array(clip.attributes.get_float("min", -np.inf))
        high = np.array(clip.attributes.get_float("max", np.inf))
    if low is None or high is None or low.size != 1 or high.size != 1 or low.item() != 0.0:
        return None
    return float(high.item()) if high.item() > 0.0 else None


def _clipped(pair: _Pair) -> Channels:
    assert pair.clip is not None
    value = pair.clip.inputs[0]
    assert value is not None
    return Channels(value.name or "", axis=-1 - pair.first.trailing)


def _is_main(pair: _Pair, model: ir.Model) -> bool:
    return pair.first.node.graph is model.graph


def _allowed_scales(pair: _Pair, facts: Facts) -> Bounds | str | None:
    """Return the scales that keep each channel below a Clip, ``None`` for any, or why none do.

    A channel that some sample brings to the limit must stay as it is.
    """
    if pair.clip is None:
        return None
    moments = facts.moments.get(_clipped(pair))
    if moments is None or not moments.is_finite:
        return "nothing is known of what the Clip reads"
    largest = moments.limits[1]
    if (largest >= pair.limit).all():
        return f"samples reach {pair.limit:g} in every channel"
    is_free = largest < pair.limit
    least = np.where(is_free, np.maximum(largest, 0.0) / pair.limit, 1.0)
    return least, np.where(is_free, np.inf, 1.0)


def _scale(
    pair: _Pair, scales: npt.NDArray[np.float64], facts: Facts, edit: Editor
) -> list[ir.Value]:
    """Carry out one pair; return the constants that other ones took the place of."""
    rounded = scales.astype(np.float32).astype(np.float64)
    factors = rounded.reshape((-1,) + (1,) * pair.first.trailing)
    producer = pair.result.producer()
    assert producer is not None
    above = absorbed_by(producer, pair.result, 1.0 / factors, facts.shapes, 2)
    below = replacements_for(pair.second.node, factors, None)
    if not isinstance(above, tuple) or not isinstance(below, tuple):
        edit.refuse(pair.first.node, "shared-weight", why="its bias cannot take the scales")
        return []
    because = f"scales of {rounded.min():.2g} to {rounded.max():.2g} to `{pair.second.node.name}`"
    return _replaced([*above, *below], pair.first.node, because, edit)


def _replaced(
    replacements: list[Replacement], node: ir.Node, because: str, edit: Editor
) -> list[ir.Value]:
    old = [one.node.inputs[one.index] for one in replacements]
    with edit.rewrite(node, because=because) as change:
        for replacement in replacements:
            put_constant(replacement, change)
    return [value for value in old if value is not None]
