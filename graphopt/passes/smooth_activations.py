"""Smoothing of activations before quantization."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis import is_annotated
from graphopt.analysis.channel_scales import channels_scaled_above
from graphopt.analysis.constant_arithmetic import Replacement, is_shared, put_constant
from graphopt.analysis.layer_inputs import replacements_for
from graphopt.compression import NoWeight, WeightSource, remove_unread, trace_weight
from graphopt.compression.blockwise import BlockFormat
from graphopt.compression.smoothing import Smoothing, choose_block_smoothing, choose_smoothing
from graphopt.ir import graphs
from graphopt.rewrite import Approximate, Change, Contract, Editor, Facts, Needs, Pass, option

__all__ = ["SmoothActivations"]

_OPERATORS = ("MatMul", "Gemm")
_BLOCK_BITS = 4
_MATRIX_RANK = 2


class _Reader(NamedTuple):
    """A linear layer, and its weight as ``(inputs, outputs)``."""

    node: ir.Node
    weight: npt.NDArray[np.float32]


class _Refused(NamedTuple):
    slug: str
    why: str


@dataclass(frozen=True, kw_only=True)
class SmoothActivations(Pass):
    """Divide outlier channels of activations, and multiply the weights that read them.

    What it does
        Where `MatMul` or `Gemm` with constant weights read an activation, each of its channels is
        divided by a scale, and the rows of their weights are multiplied by it: the product stays
        the same, and both sides fit into 8 bits better. All layers that read one activation share
        the scales, so that it is still quantized once. ``max|X|^alpha / max|W|^(1 - alpha)`` is the
        scale of a channel; `alpha` is the one with the least expected error of the layers' outputs,
        activation by activation. The division goes into the weights of what comes before, where
        that is exact and nobody else reads the activation: a normalization, a linear layer
        (also through `Relu`, a gate, or the heads of attention to the values). Else a `Mul` is
        inserted. With `aim=weights` the scales are ``E[x^2]^(alpha / 2)``, and the error that of
        weights in blocks of 4 bits under float activations. Run it before a quantizer:
        `smooth-activations,quantize-dynamic`; passes that fold factors would undo it.

    When it refuses
        `no-gain`              the expected error falls by less than `minimum_gain`.
        `read-elsewhere`       the division cannot go into what comes before, as others read the
                               activation or a weight too, and `insert` is false.
        `not-foldable`         what comes before cannot take a division, and `insert` is false.
        `weight-not-constant`  the layer has no constant weight, or has it behind a `Transpose`.
        `weight-overridable`   the weight is also an input of the model.
        `already-quantized`    the weight comes from integers.
        `not-float32`          the weight has another type.
        `weight-not-finite`    the weight holds NaN or infinity.
        `weight-rank`          the weight is not a matrix.
        `shared-weight`        the weight has readers that would have to read another copy.
        `unsupported-form`     the activation is transposed.
        `not-measured`         the activation is constant, or was empty in every sample.
        `not-finite`           the activation was NaN or infinite in some sample.
        `inside-subgraph`      the layer is in a branch, loop or function, which is not measured.
        `excluded`             the name matches `exclude`.

    What it keeps
        Inputs and outputs of the model; every value up to rounding, those that are divided apart.

    Cost
        One run per sample; reads each weight once for each `alpha` tried. A `Mul` that is inserted
        is computed on every run.

    Example
        options {alpha=0.5}
        samples x: [[4.0, 1.0]]
        before  (float[N,2] x) => (float[N,1] y) <float[2,1] w = {1.0, 4.0}> { y = MatMul(x, w) }
        after   (float[N,2] x) => (float[N,1] y) <float[2] d = {0.5, 2.0}, float[2,1] v = {2, 2}>
                { s = Mul(x, d)  y = MatMul(s, v) }

    References
        Xiao et al. 2023, "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large
        Language Models", equations 3 and 4. Lin et al. 2024, "AWQ: Activation-aware Weight
        Quantization for On-Device LLM Compression and Acceleration", section 3.2.
    """

    name: ClassVar[str] = "smooth-activations"
    # What it computes is the same up to rounding; but it is worth nothing without a quantizer
    # behind it, and stands with those.
    contract: ClassVar[Contract] = Contract(
        numerics=Approximate(metric="sqnr_db"), is_idempotent=False
    )
    is_preparation: ClassVar[bool] = True
    anchors: ClassVar[frozenset[str] | None] = frozenset(_OPERATORS)

    alpha: float | None = option(
        None,
        help="share of the difficulty that goes to the weights; searched by default",
        unit="fraction",
        minimum=0.0,
        maximum=1.0,
    )
    aim: str = option(
        "activations",
        help="what will be rounded: activations and weights to 8 bits, or weights to blocks of 4",
        choices=("activations", "weights"),
    )
    block_size: int = option(
        32,
        help="of those blocks; 0: all of an output",
        unit="elements",
        choices=(0, 16, 32, 64, 128, 256),
    )
    insert: bool = option(True, help="insert a Mul where the division can go nowhere else")
    minimum_gain: float = option(
        0.5, help="expected error must fall by as much", unit="dB", minimum=0.0, maximum=100.0
    )
    exclude: tuple[str, ...] = option((), help="layers to leave alone", unit="name pattern")

    def needs(self, model: ir.Model) -> Needs:
        """Ask for the moments of what linear layers read, and for shapes."""
        read = {
            node.inputs[0]
            for node in model.graph
            if _is_layer(node) and isinstance(self._examine(node), _Reader)
        }
        names = [value.name for value in read if value is not None and value.name]
        return Needs(moments=tuple(sorted(names)), shapes=True)

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:
        """Smooth every activation that allows it, in the order of the graph."""
        for graph in graphs(model):
            for node in () if graph is model.graph else graph:
                if _is_layer(node):
                    edit.refuse(node, "inside-subgraph", why="its values cannot be measured")
        replaced: list[ir.Value] = []
        for activation, readers in self._readers(model, edit).items():
            chosen = self._chosen(activation, readers, facts)
            if isinstance(chosen, _Refused):
                for reader in readers:
                    edit.refuse(reader.node, chosen.slug, why=chosen.why)
            else:
                replaced += self._smooth(activation, readers, chosen, edit, facts)
        remove_unread(model, edit, replaced)

    def _readers(self, model: ir.Model, edit: Editor) -> dict[ir.Value, list[_Reader]]:
        """Return the layers that may take scales, by the activation that they read."""
        found: dict[ir.Value, list[_Reader]] = {}
        for node in model.graph:
            if not _is_layer(node):
                continue
            reader = self._examine(node)
            if isinstance(reader, _Refused):
                edit.refuse(node, reader.slug, why=reader.why)
            elif (activation := node.inputs[0]) is not None:
                found.setdefault(activation, []).append(reader)
        return found

    def _examine(self, node: ir.Node) -> _Reader | _Refused:
        if any(fnmatch.fnmatchcase(node.name or "", pattern) for pattern in self.exclude):
            return _Refused("excluded", "by the options of the pass")
        source = trace_weight(node.inputs[1])
        if isinstance(source, NoWeight):
            return _Refused(source.slug, source.why)
        if source.origin is not node.inputs[1]:
            return _Refused("weight-not-constant", "it is computed; `fold-constants` makes it one")
        return _read(node, source)

    def _chosen(
        self, activation: ir.Value, readers: list[_Reader], facts: Facts
    ) -> Smoothing | _Refused:
        """Return the scales of an activation, or why it has none."""
        moments = facts.moments.get(activation.name or "")
        if moments is None or moments.channels != len(readers[0].weight):
            return _Refused("not-measured", f"`{activation.name}` had no rows in any sample")
        if not moments.is_finite:
            return _Refused("not-finite", f"`{activation.name}` was not finite in some sample")
        weight = np.concatenate([reader.weight for reader in readers], axis=1)
        if self.aim == "weights":
            form = BlockFormat(_BLOCK_BITS, self.block_size, symmetric=False)
            chosen = choose_block_smoothing(moments, weight, form, self.alpha)
        else:
            chosen = choose_smoothing(moments, weight, self.alpha)
        if chosen.gain_db < self.minimum_gain:
            return _Refused("no-gain", f"{chosen.gain_db:.2f} dB at alpha {chosen.alpha:g}")
        return chosen

    def _smooth(
        self,
        activation: ir.Value,
        readers: list[_Reader],
        chosen: Smoothing,
        edit: Editor,
        facts: Facts,
    ) -> list[ir.Value]:
        """Carry out one choice; return the constants that other ones took the place of."""
        # Rounded once: what one side is divided by is just what the other is multiplied by.
        scales = chosen.scales.astype(np.float32).astype(np.float64)
        inverse = 1.0 / scales
        above = channels_scaled_above(activation, inverse, facts.shapes)
        folded = above if isinstance(above, tuple) and _only_read_by(activation, readers) else ()
        if not folded and not self.insert:
            slug = "not-foldable" if above is None else "read-elsewhere"
            for reader in readers:
                edit.refuse(reader.node, slug, why=f"`{activation.name}` would need a Mul")
            return []
        because = f"alpha {chosen.alpha:g}: expected error {chosen.gain_db:.1f} dB lower"
        replacements = [*folded, *_rows_scaled(readers, scales)]
        replaced = [one.node.inputs[one.index] for one in replacements]
        with edit.rewrite(readers[0].node, because=because) as change:
            if not folded:
                _insert(change, activation, readers, inverse)
            for replacement in replacements:
                put_constant(replacement, change)
        return [value for value in replaced if value is not None]


def _read(node: ir.Node, source: WeightSource) -> _Reader | _Refused:
    if len(source.shape) != _MATRIX_RANK:
        return _Refused("weight-rank", f"the weight has rank {len(source.shape)}")
    if node.attributes.get_int("transA", 0):
        return _Refused("unsupported-form", "the activation is transposed")
    if is_shared(source.origin):
        return _Refused("shared-weight", "others read the weight, or its range is annotated")
    weight = source.array()
    if node.attributes.get_int("transB", 0):
        weight = weight.T
    if not np.isfinite(weight).all():
        return _Refused("weight-not-finite", "the weight holds NaN or infinity")
    return _Reader(node, weight)


def _is_layer(node: ir.Node) -> bool:
    return not node.domain and node.op_type in _OPERATORS


def _only_read_by(value: ir.Value, readers: list[_Reader]) -> bool:
    """Tell whether nobody sees ``value`` but these layers, each as its first input."""
    nodes = {reader.node for reader in readers}
    is_read = all(use.node in nodes and use.idx == 0 for use in value.uses())
    return is_read and not value.is_graph_output() and not is_annotated(value)


def _insert(
    change: Change,
    activation: ir.Value,
    readers: list[_Reader],
    inverse: npt.NDArray[np.float64],
) -> None:
    name = f"{activation.name}_smoothed"
    factors = change.initializer(inverse.astype(np.float32), name=f"{name}_scale")
    smooth = change.node("Mul", [activation, factors], name=name, like=activation)
    for reader in readers:
        change.set_input(reader.node, 0, smooth)


def _rows_scaled(readers: list[_Reader], scales: npt.NDArray[np.float64]) -> Iterator[Replacement]:
    for reader in readers:
        found = replacements_for(reader.node, scales, None)
        assert isinstance(found, tuple)  # `_examine` has ruled out everything else
        yield from found
