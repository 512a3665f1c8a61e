"""Integer weights under float activations, for layers and embedding tables."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.compression import (
    BLOCKS_OPSET,
    BlockFormat,
    BlockWeights,
    LayerInputs,
    NoWeightLayer,
    StoredBlocks,
    WeightLayer,
    gathered_rows,
    is_transposed_copy,
    multiply_stored,
    opset_obstacle,
    quantize_blocks,
    quantize_compensated,
    remove_unread,
    stored_blocks,
    weight_layer,
    weight_nodes,
)
from graphopt.compression.weight_source import reader_count
from graphopt.compression.width_choice import choose_finer
from graphopt.ir import opset_version
from graphopt.rewrite import Approximate, Change, Contract, Editor, Facts, Needs, Pass, option

__all__ = ["QuantizeWeights"]

_CHANNELS_OPSET = 13  # DequantizeLinear with one scale per channel
_BLOCKS_IR_VERSION = 10  # 4-bit integers
_BYTE = 8
_SHORTEST_ROW = 8  # below, the scale of a row outweighs what its integers save


class _Planned(NamedTuple):
    """A layer or table that will be stored as integers."""

    layer: WeightLayer
    form: BlockFormat
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class QuantizeWeights(Pass):
    """Store constant weights in 4 or 8 bits, and compute with them in float.

    What it does
        The weight of a `MatMul` or `Gemm` becomes integers with a scale, and for 4 bits a zero
        point, for each block of `block_size` inputs of an output, read through `DequantizeLinear`.
        ONNX Runtime fuses the pair into one operator that never forms the float weight: layers over
        few rows, as in a decoder with past, take as long as it takes to read the integers. A
        `Gather` from a constant table reads integer rows; a table that an output layer is tied to,
        also as a transposed copy, is stored once. Layers named by `eight_bits` keep 8 bits, and
        with `eight_bits_share` those that cost most for their size when each is rounded alone and
        the outputs are compared: in blocks of their own, as those cost them no accuracy.

    When it refuses
        `weight-not-constant`  both operands are computed at run time.
        `weight-on-the-left`   the constant is the left operand.
        `weight-overridable`   the weight is also an input of the model.
        `already-quantized`    the weight comes from integers.
        `not-float32`          the weight has another type.
        `weight-not-finite`    the weight holds NaN or infinity.
        `weight-rank`          the weight is not a matrix.
        `too-small`            it has fewer than `minimum_elements`, or its rows are too short.
        `unsupported-form`     a transposed activation, or a table gathered along another axis.
        `shared-by-layers`     several layers read the weight, and the runtime would form its float
                               values on every run.
        `excluded`             the name matches `exclude`, or the operator is not in `ops`.
        `opset-too-old`        the opset has no such integers, and cannot be raised.

    What it keeps
        Inputs and outputs of the model, biases, and every operator that it does not name.

    Cost
        Reads each weight once, a stretch of columns at a time; 15 rounds of arithmetic on 4-bit
        weights. The file shrinks to about 0.15 (4 bits, blocks of 32) or 0.28 (8 bits).

    Example
        options {bits=8 block_size=0 minimum_elements=1}
        before  (float[N,2] x) => (float[N,2] y) <float[2,2] w = {127.0, 64.0, -3.0, -254.0}>
                { y = MatMul(x, w) }
        after   (float[N,2] x) => (float[N,2] y)
                <int8[2,2] w8 = {127, 32, -3, -127}, float[2] w_scale = {1.0, 2.0}>
                { d = DequantizeLinear<axis = 1>(w8, w_scale)
                  y = MatMul(x, d) }

    References
        ONNX `DequantizeLinear` (opset 21). Frantar et al. 2023, "GPTQ: Accurate Post-Training
        Quantization for Generative Pre-trained Transformers". Lin et al. 2024, "AWQ:
        Activation-aware Weight Quantization for On-Device LLM Compression and Acceleration".
    """

    name: ClassVar[str] = "quantize-weights"
    contract: ClassVar[Contract] = Contract(numerics=Approximate(metric="sqnr_db"))
    anchors: ClassVar[frozenset[str] | None] = frozenset({"MatMul", "Gemm", "Gather"})

    bits: int = option(4, help="of a weight of a layer", unit="bits", choices=(4, 8))
    block_size: int = option(
        32,
        help="inputs that share a scale; 0: all of an output",
        unit="elements",
        choices=(0, 16, 32, 64, 128, 256),
    )
    symmetric: bool = option(False, help="4-bit integers without zero points; 8-bit never have any")
    eight_bits: tuple[str, ...] = option((), help="layers that keep 8 bits", unit="name pattern")
    eight_bits_share: float = option(
        0.0,
        help="of all weights of 4 bits, may keep 8: those that cost most at the outputs",
        unit="fraction",
        minimum=0.0,
        maximum=1.0,
    )
    eight_bits_block_size: int | None = option(
        None,
        help="inputs that share a scale in layers that keep 8 bits; `block_size` by default",
        unit="elements",
        choices=(0, 16, 32, 64, 128, 256),
    )
    table_bits: int = option(
        8, help="of a table, and at least of a layer tied to one", unit="bits", choices=(4, 8)
    )
    method: str = option(
        "rtn",
        help="round to the nearest, or (gptq) let later rows make up for errors; needs samples",
        choices=("rtn", "gptq"),
    )
    damping: float = option(
        0.01, help="of the inputs' Gram matrix in gptq", unit="fraction", minimum=1e-6, maximum=1.0
    )
    act_order: bool = option(True, help="gptq rounds the rows of the largest inputs first")
    ops: tuple[str, ...] = option(
        ("MatMul", "Gemm", "Gather"),
        help="operators to quantize",
        unit="op_type",
        choices=("MatMul", "Gemm", "Gather"),
    )
    minimum_elements: int = option(
        1024, help="smaller weights stay in float", unit="elements", minimum=1
    )
    exclude: tuple[str, ...] = option((), help="nodes to leave alone", unit="name pattern")

    def needs(self, model: ir.Model) -> Needs:  # noqa: ARG002
        """Ask for samples where weights are rounded, or given bits, by what they do to them."""
        return Needs(samples=self.method != "rtn" or self.eight_bits_share > 0.0)

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:
        """Quantize every layer and table that allows it; refuse the others one by one."""
        opset = _usable_opset(model, facts.target.maximum_opset)
        planned = list(self._planned(model, edit, opset))
        if not planned:
            return
        planned = self._finer(model, planned, facts)
        opset = max(opset_version(model), *(_needed_opset(item.form) for item in planned))
        _Quantizer(self, edit, facts, opset).run(planned)
        remove_unread(model, edit, [item.layer.operand for item in planned])

    def _finer(self, model: ir.Model, planned: list[_Planned], facts: Facts) -> list[_Planned]:
        """Give 8 bits to the layers that cost most at the outputs."""
        if self.eight_bits_share == 0.0 or facts.measure is None:
            return planned
        tried = {
            item.layer.weight.origin.name or "": item for item in planned if _is_alone(item, model)
        }

        def rounded(name: str) -> npt.NDArray[np.float32]:
            layer, form, _ = tried[name]
            weight = quantize_blocks(layer.weight.array(), form).dequantized()
            return weight.transpose(layer.weight.order)

        sizes = {name: item.layer.weight.tensor.size for name, item in tried.items()}
        choice = choose_finer(model, facts.measure, sizes, rounded, self.eight_bits_share)
        alone = {tried[name].layer: f", alone {db:.1f} dB" for name, db in choice.alone_db.items()}
        wide = {tried[name].layer for name in choice.wide}
        eight = BlockFormat(_BYTE, self._size_of_eight, symmetric=True)
        return [
            _Planned(
                item.layer, eight if item.layer in wide else item.form, alone.get(item.layer, "")
            )
            for item in planned
        ]

    def _planned(self, model: ir.Model, edit: Editor, opset: int) -> Iterator[_Planned]:
        found: list[WeightLayer] = []
        for node in weight_nodes(model):
            layer = self._examine(node, opset)
            if isinstance(layer, NoWeightLayer):
                edit.refuse(node, layer.slug, why=layer.why)
            else:
                found.append(layer)
        shared = _shared_by_layers(found)
        tables = [layer for layer in found if layer.is_table]
        for layer in found:
            if layer in shared:
                edit.refuse(layer.node, "shared-by-layers", why="each would need its own copy")
            else:
                yield _Planned(layer, self._form(layer, tables, opset))

    def _examine(self, node: ir.Node, opset: int) -> WeightLayer | NoWeightLayer:
        layer = weight_layer(node)
        if isinstance(layer, NoWeightLayer):
            return layer
        if node.op_type not in self.ops or _matches(node, self.exclude):
            return NoWeightLayer("excluded", "by the options of the pass")
        return self._size_refusal(layer) or self._opset_refusal(layer, opset) or layer

    def _size_refusal(self, layer: WeightLayer) -> NoWeightLayer | None:
        if layer.weight.tensor.size < self.minimum_elements:
            return NoWeightLayer("too-small", f"{layer.weight.tensor.size} elements")
        if layer.is_table and layer.weight.shape[1] < _SHORTEST_ROW:
            return NoWeightLayer("too-small", f"rows of {layer.weight.shape[1]} elements")
        if layer.is_table and layer.weight.is_reordered:
            return NoWeightLayer("unsupported-form", "the table is transposed before it is read")
        return None

    def _opset_refusal(self, layer: WeightLayer, opset: int) -> NoWeightLayer | None:
        if opset < _needed_opset(BlockFormat(self._bits(layer), 0, symmetric=True)):
            return NoWeightLayer("opset-too-old", f"opset {opset} is all there can be")
        return None

    def _bits(self, layer: WeightLayer) -> int:
        if layer.is_table:
            return self.table_bits
        return _BYTE if _matches(layer.node, self.eight_bits) else self.bits

    @property
    def _size_of_eight(self) -> int:
        """Inputs that share a scale in a layer of 8 bits: rounding is 40 dB below either way."""
        size = self.eight_bits_block_size
        return self.block_size if size is None else size

    def _form(self, layer: WeightLayer, tables: list[WeightLayer], opset: int) -> BlockFormat:
        bits, size = self._bits(layer), self.block_size if opset >= BLOCKS_OPSET else 0
        if layer.is_table:
            size = 0 if bits == _BYTE else size
        elif bits == _BYTE and opset >= BLOCKS_OPSET:
            size = self._size_of_eight
        elif any(_is_tied(layer, table) for table in tables):
            bits = max(bits, self.table_bits)
        return BlockFormat(bits, size, self.symmetric or bits == _BYTE)


def _is_alone(item: _Planned, model: ir.Model) -> bool:
    """Tell whether a layer of few bits is all that reads its weight, so that it can be tried."""
    origin = item.layer.weight.origin
    is_there = origin.is_initializer() and origin.graph is model.graph
    is_tried = not item.layer.is_table and item.form.bits < _BYTE
    return is_there and is_tried and reader_count(origin) == 1


def _needed_opset(form: BlockFormat) -> int:
    return BLOCKS_OPSET if form.size or form.bits < _BYTE else _CHANNELS_OPSET


def _usable_opset(model: ir.Model, newest: int | None) -> int:
    """Return the opset that the model has, or the one it can be given."""
    opset = opset_version(model)
    for wanted in (BLOCKS_OPSET, _CHANNELS_OPSET):
        is_allowed = newest is None or wanted <= newest
        if opset < wanted and is_allowed and opset_obstacle(model, wanted) is None:
            return wanted
    return opset


def _shared_by_layers(layers: Iterable[WeightLayer]) -> set[WeightLayer]:
    readers: dict[tuple[object, ...], list[WeightLayer]] = {}
    for layer in layers:
        if not layer.is_table:
            key = (layer.weight.origin, layer.node.graph)
            readers.setdefault(key, []).append(layer)
    return {layer for group in readers.values() if len(group) > 1 for layer in group}


def _is_tied(layer: WeightLayer, table: WeightLayer) -> bool:
    is_beside = layer.node.graph is table.node.graph and _alpha(layer) == 1.0
    return is_beside and is_transposed_copy(table.weight, layer.weight)


def _alpha(layer: WeightLayer) -> float:
    return float(layer.node.attributes.get_float("alpha", 1.0))


def _matches(node: ir.Node, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(node.name or "", pattern) for pattern in patterns)


class _Quantizer:
    """Carries out a plan, layer by layer; each rewrite leaves a valid model."""

    def __init__(self, options: QuantizeWeights, edit: Editor, facts: Facts, opset: int) -> None:
        self._options = options
        self._edit = edit
        self._measure = facts.measure
        self._opset = opset
        self._inputs: LayerInputs | None = None
        self._layers: list[tuple[WeightLayer, ir.Graph | ir.Function | None, StoredBlocks]] = []
        self._tables: dict[ir.Value, StoredBlocks] = {}

    def run(self, planned: Sequence[_Planned]) -> None:
        """Quantize layers, then the tables, which may read what a layer stores."""
        layers = [item.layer for item in planned if not item.layer.is_table]
        if self._options.method != "rtn" and self._measure is not None:
            self._inputs = LayerInputs(self._edit.model, self._measure, layers)
        for layer, form, note in sorted(planned, key=lambda item: item.layer.is_table):
            stored = self._stored_already(layer) if layer.is_table else None
            weights, how = (None, "") if stored is not None else self._weights(layer, form)
            if stored is None and weights is None:
                continue
            self._raise_opset()
            because = f"{form.bits}-bit {'rows' if layer.is_table else 'weight'}{how}{note}"
            with self._edit.rewrite(layer.node, because=because) as change:
                if stored is None:
                    assert weights is not None
                    stored = self._store(change, layer, weights)
                if layer.is_table:
                    self._gather(change, layer, stored)
                else:
                    multiply_stored(change, layer, stored)

    def _raise_opset(self) -> None:
        model = self._edit.model
        if opset_version(model) < self._opset:
            with self._edit.rewrite(model.graph, because="the opset of the integers") as change:
                change.set_opset("", self._opset)
                if self._opset >= BLOCKS_OPSET:
                    change.set_ir_version(max(model.ir_version, _BLOCKS_IR_VERSION))

    def _stored_already(self, table: WeightLayer) -> StoredBlocks | None:
        held = self._tables.get(table.weight.origin)
        if held is not None:
            return held
        return next(
            (
                stored
                for layer, graph, stored in self._layers
                if graph is table.node.graph and is_transposed_copy(table.weight, layer.weight)
            ),
            None,
        )

    def _weights(self, layer: WeightLayer, form: BlockFormat) -> tuple[BlockWeights | None, str]:
        """Return the integers, and what to say of how they were found."""
        array = layer.weight.array()
        if layer.is_table:
            array = array.T
        elif (alpha := _alpha(layer)) != 1.0:
            array = array * np.float32(alpha)
        gram = None if self._inputs is None or layer.is_table else self._inputs.gram(layer)
        try:
            # At 8 bits there is too little to make up for: rounding is 40 dB below the weights.
            if gram is not None and form.bits < _BYTE and np.diagonal(gram).any():
                options = self._options
                return quantize_compensated(
                    array, gram, form, damping=options.damping, by_activation=options.act_order
                ), ""
            how = "" if self._inputs is None or layer.is_table else ", of inputs not measured"
            return quantize_blocks(array, form), how
        except ValueError as error:
            self._edit.refuse(layer.node, "weight-not-finite", why=str(error))
            return None, ""

    def _store(self, change: Change, layer: WeightLayer, weights: BlockWeights) -> StoredBlocks:
        # The runtime fuses what lies in the graph of the layer, and fails to load a branch whose
        # layer reads such a weight from the graph around it.
        is_local = change.can_own_initializers() and isinstance(layer.node.graph, ir.Graph)
        stored = stored_blocks(
            change,
            weights,
            layer.weight.origin.name or "weight",
            graph=layer.node.graph if is_local and not layer.is_table else None,
            by_row=layer.is_table,
        )
        if not layer.is_table:
            if _alpha(layer) == 1.0:
                self._layers.append((layer, layer.node.graph, stored))
        elif change.can_own_initializers():
            self._tables[layer.weight.origin] = stored
        return stored

    def _gather(self, change: Change, table: WeightLayer, stored: StoredBlocks) -> None:
        columns = table.weight.shape[1]
        rows = gathered_rows(change, stored, table.node, columns, self._opset)
        change.replace(table.node.outputs[0], rows)
        change.remove(table.node)
