"""Storage of weights in 8 bits, for models that compute in floats."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis import annotation_parameters, is_annotated
from graphopt.compression import (
    WEIGHT_INPUTS,
    NoWeight,
    PackedWeight,
    QuantizedWeights,
    WeightSource,
    WeightView,
    WidthChoice,
    choose_wide,
    multiplied_rows,
    pack_weight,
    remove_unread,
    trace_weight,
    unpack_weight,
    weight_grams,
    weight_view,
)
from graphopt.ir import graphs, opset_version
from graphopt.rewrite import (
    Approximate,
    Change,
    Channels,
    Contract,
    Editor,
    Facts,
    Needs,
    Pass,
    is_overwritten,
    option,
)

__all__ = ["PackWeights"]

_MINIMUM_OPSET = 7  # Mul broadcasts as numpy does
_LARGEST_WEIGHT = 1e30
_NARROW, _WIDE = 8, 16  # bits


@dataclass
class _Weight:
    """A constant, who reads it as a weight, and how."""

    source: WeightSource
    view: WeightView
    readers: list[ir.Node] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, ...]:
        """As it is stored."""
        return tuple(self.source.tensor.shape.numpy())


@dataclass(frozen=True)
class _Measured:
    """Weights in 8 bits, rounded for the inputs that they see, and which must not be held so."""

    packed: dict[ir.Value, PackedWeight]
    choice: WidthChoice


@dataclass(frozen=True)
class _Refused:
    slug: str
    why: str


@dataclass(frozen=True, kw_only=True)
class PackWeights(Pass):
    """Hold weights in 8 bits, and let the runtime restore them when it loads the model.

    What it does
        Weights of convolutions, linear and recurrent layers become integers with a scale for each
        block of about 32, behind `Cast` and `Mul`, which ONNX Runtime computes once, when it loads
        the model: the file shrinks to a quarter, and the model runs as it did, in floats, on any
        provider. Integers are chosen such that their errors cancel within each kernel and each
        output channel. Small weights are held in 16 bits, as are those of nodes named by `wide`;
        with `min_sqnr_db` those that need it, measured on samples, one by one and together. Then
        integers are chosen for what samples say that each weight is multiplied by.
        Weights in branches, loop bodies and functions are packed like all others; a weight that
        several operators read stays one.

    When it refuses
        `weight-not-constant`  the operand is computed at run time.
        `weight-overridable`   the weight is also an input of the model.
        `already-quantized`    the weight comes from integers.
        `not-float32`          the weight has another type.
        `weight-not-finite`    the weight holds NaN, infinity, or what stands for it (1e30).
        `weight-rank`          the weight is a scalar or a vector.
        `too-small`            it has fewer than `minimum_elements`.
        `names-an-output`      a graph returns the weight under its name.
        `annotated`            a quantization annotation describes the weight.
        `overwritten`          an operator updates the weight in place.
        `excluded`             the name matches `exclude`, or the operator is not in `ops`.
        `opset-too-old`        the model imports an opset below 7.

    What it keeps
        Inputs and outputs of the model, every operator, and biases. Whoever else reads a packed
        weight reads what was restored.

    Cost
        Reads each weight once: time O(n log n) in the length of a channel, memory of a few times
        the largest weight; with `min_sqnr_db` 8 to 256 runs of the model for each. Loading takes
        longer by the restoration; memory and latency of the loaded model are those of floats.

    Example
        options {minimum_elements=1 wide_below=1}
        before  (float[N,2] x) => (float[N,2] y) <float[2,2] w = {127.0, 64.0, -3.0, -254.0}>
                { y = MatMul(x, w) }
        after   (float[N,2] x) => (float[N,2] y)
                <int8[2,2] w8 = {127, 32, -3, -127}, float[1,2] w_scale = {1.0, 2.0}>
                { i = Cast<to = 1>(w8)
                  r = Mul(i, w_scale)
                  y = MatMul(x, r) }

    References
        ONNX `Cast` (opset 6), `Mul` (opset 7). Errors that cancel: Guo et al. 2022, "SQuant:
        On-the-Fly Data-Free Quantization via Diagonal Hessian Approximation", section 3; with
        samples: Frantar et al. 2023, "GPTQ", section 3.
    """

    name: ClassVar[str] = "pack-weights"
    contract: ClassVar[Contract] = Contract(
        numerics=Approximate(metric="sqnr_db"), is_idempotent=True
    )

    ops: tuple[str, ...] = option(
        ("Conv", "ConvTranspose", "MatMul", "Gemm", "LSTM", "GRU", "RNN"),
        help="operators whose weights are packed",
        unit="op_type",
        choices=("Conv", "ConvTranspose", "MatMul", "Gemm", "LSTM", "GRU", "RNN", "Gather"),
    )
    block_size: int = option(
        32, help="weights that share a scale, about", unit="elements", minimum=8, maximum=1024
    )
    minimum_elements: int = option(
        512, help="smaller weights stay in float", unit="elements", minimum=1
    )
    wide_below: int = option(
        4096, help="smaller weights are held in 16 bits", unit="elements", minimum=1
    )
    wide: tuple[str, ...] = option(
        (), help="nodes whose weights are held in 16 bits", unit="name pattern"
    )
    min_sqnr_db: float | None = option(
        None, help="what outputs must keep, by holding weights in 16 bits", unit="dB", minimum=0.0
    )
    exclude: tuple[str, ...] = option((), help="nodes to leave alone", unit="name pattern")

    def needs(self, model: ir.Model) -> Needs:  # noqa: ARG002
        """Ask for samples where the outputs are to keep a signal-to-noise ratio."""
        return Needs(samples=self.min_sqnr_db is not None)

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:
        """Pack every weight that allows it; refuse the others one by one."""
        weights = list(self._weights(model, edit))
        measured = self._measured(model, weights, facts)
        packing = _Packing(model, edit)
        for weight in weights:
            bits, why = self._bits(weight, measured.choice)
            packed = measured.packed.get(weight.source.origin) if bits == _NARROW else None
            packing.pack(weight, packed or self._packed(weight, bits), bits, why)
        packing.remove_originals()

    def _measured(self, model: ir.Model, weights: list[_Weight], facts: Facts) -> _Measured:
        """Measure what 8 bits cost, weight by weight; nothing without `min_sqnr_db`."""
        if self.min_sqnr_db is None or facts.measure is None:
            return _Measured({}, WidthChoice(frozenset(), {}, 0.0))
        tried = {
            weight.source.origin: weight
            for weight in weights
            if weight.source.origin.is_initializer() and not self._is_wide(weight)
        }
        rows: dict[Channels, list[_Weight]] = {}
        for weight in tried.values():
            channels = multiplied_rows(model.graph, weight.readers[0], weight.source)
            if channels is not None:
                rows.setdefault(channels, []).append(weight)
        packed: dict[ir.Value, PackedWeight] = {}
        lengths = [(channels, readers[0].view.length) for channels, readers in rows.items()]
        for channels, grams in weight_grams(model, facts.measure, lengths):
            for weight in rows[channels]:
                packed[weight.source.origin] = self._packed(weight, _NARROW, grams)
        for origin, weight in tried.items():
            packed.setdefault(origin, self._packed(weight, _NARROW))
        rounded = {
            origin.name or "": unpack_weight(packed[origin], weight.shape)
            for origin, weight in tried.items()
        }
        return _Measured(packed, choose_wide(model, facts.measure, rounded, self.min_sqnr_db))

    def _packed(
        self, weight: _Weight, bits: int, grams: npt.NDArray[np.float64] | None = None
    ) -> PackedWeight:
        block_size = self.block_size if bits == _NARROW else None
        array = weight.source.tensor.numpy()
        return pack_weight(array, weight.view, bits=bits, block_size=block_size, grams=grams)

    def _is_wide(self, weight: _Weight) -> bool:
        return any(_matches(node, self.wide) for node in weight.readers)

    def _bits(self, weight: _Weight, measured: WidthChoice) -> tuple[int, str]:
        """Return how many bits hold a weight, and why."""
        name = weight.source.origin.name or ""
        if self._is_wide(weight):
            return _WIDE, "named by `wide`"
        if name in measured.alone_db:
            alone = f"8 bits alone leave {measured.alone_db[name]:.1f} dB"
            return (_WIDE if name in measured.wide else _NARROW), alone
        if weight.source.tensor.size < self.wide_below:
            return _WIDE, f"only {weight.source.tensor.size} elements"
        return _NARROW, ""

    def _weights(self, model: ir.Model, edit: Editor) -> Iterable[_Weight]:
        """Return what can be packed, by its origin, once for all its readers."""
        found: dict[ir.Value, _Weight] = {}
        refused: dict[ir.Value, _Refused] = {}
        annotations = annotation_parameters(model)
        is_old = opset_version(model) < _MINIMUM_OPSET
        for node, value in _operands(model):
            examined = (
                _Refused("opset-too-old", f"the model imports opset {opset_version(model)}")
                if is_old
                else self._examine(node, value, annotations)
            )
            if isinstance(examined, _Refused):
                edit.refuse(node, examined.slug, why=examined.why)
                source = trace_weight(value)
                if isinstance(source, WeightSource) and _matches(node, self.exclude):
                    refused[source.origin] = examined
            else:
                held = found.setdefault(examined.source.origin, examined)
                held.readers.append(node)
        for origin, refusal in refused.items():
            # Left alone for one reader, it is left alone for all: two copies would be larger.
            for node in found.pop(origin).readers if origin in found else ():
                edit.refuse(node, refusal.slug, why="another reader of the weight is excluded")
        return found.values()

    def _examine(
        self, node: ir.Node, value: ir.Value | None, annotations: frozenset[str]
    ) -> _Weight | _Refused:
        source = trace_weight(value)
        if isinstance(source, NoWeight):
            return _Refused(source.slug, source.why)
        if (refused := self._choice_refusal(node, source)) is not None:
            return refused
        if (refused := _origin_refusal(source.origin, annotations)) is not None:
            return refused
        view = weight_view(node, source)
        if view is None:
            return _Refused("weight-rank", f"the weight has rank {len(source.shape)}")
        return _Weight(source, view)

    def _choice_refusal(self, node: ir.Node, source: WeightSource) -> _Refused | None:
        if node.op_type not in self.ops or _matches(node, self.exclude):
            return _Refused("excluded", "by the options of the pass")
        if source.tensor.size < self.minimum_elements:
            return _Refused("too-small", f"{source.tensor.size} elements")
        if not np.all(np.abs(source.tensor.numpy()) < _LARGEST_WEIGHT):
            return _Refused("weight-not-finite", "the weight holds NaN or infinity, or nearly")
        return None


def _origin_refusal(origin: ir.Value, annotations: frozenset[str]) -> _Refused | None:
    """Return why something else than the layers needs the weight as it is, or ``None``."""
    if origin.is_graph_output():
        return _Refused("names-an-output", f"a graph returns `{origin.name}`")
    if is_annotated(origin) or origin.name in annotations:
        return _Refused("annotated", f"an annotation refers to `{origin.name}`")
    if is_overwritten(origin):
        return _Refused("overwritten", f"`{origin.name}` is updated in place")
    return None


def _operands(model: ir.Model) -> Iterator[tuple[ir.Node, ir.Value | None]]:
    """Yield each operator that has weights, with each of them."""
    for graph in graphs(model):
        for node in graph:
            for index in () if node.domain else WEIGHT_INPUTS.get(node.op_type, ()):
                yield node, node.inputs[index] if index < len(node.inputs) else None


class _Packing:
    """Puts packed weights where all their readers see them."""

    def __init__(self, model: ir.Model, edit: Editor) -> None:
        self._model = model
        self._edit = edit
        self._constants = QuantizedWeights(model)
        self._originals: list[ir.Value] = []
        # A function sees nothing outside, so that its weights are restored within it.
        self._homes = {
            id(inner): function.graph
            for function in model.functions.values()
            for inner in (function, function.graph, *function.graph.subgraphs())
        }

    def pack(self, weight: _Weight, packed: PackedWeight, bits: int, why: str) -> None:
        """Replace one weight by its integers, scales, and what restores it."""
        home = self._homes.get(id(weight.readers[0].graph), self._model.graph)
        because = f"`{weight.source.origin.name}` held in {bits} bits" + (why and f": {why}")
        with self._edit.rewrite(home[0], because=because) as change:
            self._restore(change, weight, packed, bits, home[0])
        self._originals.append(weight.source.origin)

    def _restore(
        self, change: Change, weight: _Weight, packed: PackedWeight, bits: int, first: ir.Node
    ) -> None:
        origin, shape = weight.source.origin, weight.shape
        name = origin.name or "weight"
        is_whole = packed.blocks == 1
        held = shape if is_whole else _without_ones(packed.integers.shape)
        scale = packed.scale.reshape(
            _scale_shape(weight.view, shape) if is_whole else _scale_of_blocks(packed.scale.shape)
        )
        integers = self._constants.constant(
            change, first, packed.integers.reshape(held), f"{name}_{bits}bit"
        )
        factor = self._constants.constant(change, first, scale, f"{name}_scale")
        to_float = {"to": ir.DataType.FLOAT}
        if scale.dtype == np.float16:
            factor = change.node("Cast", [factor], attributes=to_float, name=f"{name}_scale_float")
        restored = change.node("Cast", [integers], attributes=to_float, name=f"{name}_float")
        like = origin if is_whole else None
        restored = change.node("Mul", [restored, factor], name=f"{name}_restored", like=like)
        if not is_whole:
            whole = self._constants.constant(change, first, np.array(shape, np.int64), "shape")
            restored = change.node("Reshape", [restored, whole], name=f"{name}_shaped", like=origin)
        change.replace(origin, restored)

    def remove_originals(self) -> None:
        """Remove the float weights."""
        remove_unread(self._model, self._edit, self._originals)


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    outer, blocks, block, inner = shape
    return (*((outer,) if outer > 1 else ()), blocks, block, *((inner,) if inner > 1 else ()))


def _scale_of_blocks(shape: tuple[int, ...]) -> tuple[int, ...]:
    outer, blocks, _, inner = shape
    return (*((outer,) if outer > 1 else ()), blocks, 1, *((inner,) if inner > 1 else ()))


def _scale_shape(view: WeightView, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of one scale per output: 1 along the axes that are summed over."""
    outer, result = 1, list(shape)
    for axis, size in enumerate(shape):
        is_before = outer < view.outer
        outer *= size
        if not is_before and outer <= view.outer * view.length:
            result[axis] = 1
    return tuple(result)


def _matches(node: ir.Node, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(node.name or "", pattern) for pattern in patterns)
