"""Weights as indices into codebooks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.compression.codebook_storage import (
    can_hold_pairs,
    looked_up_rows,
    restored_weight,
    stored_indices,
)
from graphopt.compression.codebooks import ClusteredWeight, cluster_weight
from graphopt.compression.packed_weight import WeightView
from graphopt.compression.quantized_weights import remove_unread
from graphopt.compression.read_weights import (
    ReadWeight,
    Wanted,
    matches_any,
    read_weights,
)
from graphopt.compression.reader_inputs import NotMeasured, ReadInputs, measured_weights
from graphopt.ir import opset_version
from graphopt.rewrite import (
    Approximate,
    Change,
    Contract,
    Editor,
    Facts,
    Needs,
    Pass,
    option,
)

__all__ = ["ClusterWeights"]

_MINIMUM_OPSET = 11  # Concat along the last axis, of a rank that nobody knows
_BYTE = 8
_MATRIX_RANK = 2
_SHORTEST_ROW = 8  # below, the scale of a row outweighs what its indices save


@dataclass(frozen=True, kw_only=True)
class ClusterWeights(Pass):
    """Store weights as indices into a short list of values, for a smaller file.

    What it does
        The values of each weight are replaced by the 16 (`bits=4`) or 256 (`bits=8`) that stand for
        them best: k-means in one dimension, on values divided by the largest of their block. The
        file holds an index for each weight, a codebook, and a scale for each block; `Cast`,
        `Gather` and `Mul` restore the weight. ONNX Runtime does so once, when it loads the model:
        latency and memory of the loaded model are those of floats, loading takes longer. A table of
        embeddings stays indices in memory, too: rows are looked up first, then their values.
        `weighted` counts errors by the inputs that they are multiplied by, `compensated` lets
        weights make up for the errors of others.

    When it refuses
        `weight-not-constant`  the operand is computed at run time.
        `weight-overridable`   the weight is also an input of the model.
        `already-quantized`    the weight comes from integers.
        `not-float32`          the weight has another type.
        `weight-not-finite`    the weight holds NaN, infinity, or what stands for it (1e30).
        `weight-rank`          the weight is a scalar or a vector; a table has another rank than 2.
        `unsupported-form`     its axes are read in another order, or looked up along another axis.
        `too-small`            it has fewer than `minimum_elements`, or rows of a table are short.
        `names-an-output`      a graph returns the weight under its name.
        `annotated`            a quantization annotation describes the weight.
        `overwritten`          an operator updates the weight in place.
        `shared-with-others`   an operator that is not treated reads it, too.
        `excluded`             the name matches `exclude`, or the operator is not in `ops`.
        `opset-too-old`        the model imports an opset below 11.
        `not-smaller`          indices, codebook and scales would be as large as the weight.

    What it keeps
        Inputs and outputs of the model, every operator, and biases. Zeros stay zeros.

    Cost
        Sorts a million values of each weight at most, 50 rounds of means: about 0.1 s for a million
        weights with 16 values. `weighted` and `compensated` run the model once per sample for each
        of at most `runs` steps; `compensated` takes time O(inputs^3 + inputs^2 outputs) for a layer
        and holds its Gram matrix, 8 inputs^2 bytes.

    Example
        options {bits=8 block_size=0 minimum_elements=1}
        before  (float[N,2] x) => (float[N,2] y) <float[2,2] w = {1.0, 3.0, 3.0, 1.0}>
                { y = MatMul(x, w) }
        after   (float[N,2] x) => (float[N,2] y)
                <uint8[2,2] w_indices = {0, 1, 1, 0}, float[2] w_codebook = {1.0, 3.0}>
                { n = Cast<to = 6>(w_indices)
                  v = Gather(w_codebook, n)
                  y = MatMul(x, v) }

    References
        Han et al. 2016, "Deep Compression", section 3. Lloyd 1982, "Least Squares Quantization in
        PCM", method I. Frantar et al. 2023, "GPTQ", section 3 (`compensated`). ONNX `Gather`,
        `Cast` (opset 6), `Concat` (opset 11).
    """

    name: ClassVar[str] = "cluster-weights"
    contract: ClassVar[Contract] = Contract(
        numerics=Approximate(metric="sqnr_db"), is_idempotent=True
    )

    bits: int = option(4, help="of the index of a weight of a layer", unit="bits", choices=(4, 8))
    table_bits: int = option(
        8, help="of a table, and of a layer that reads it too", unit="bits", choices=(4, 8)
    )
    eight_bits: tuple[str, ...] = option((), help="layers that keep 8 bits", unit="name pattern")
    block_size: int = option(
        64,
        help="weights that share a scale, about; 0: none have one",
        unit="elements",
        choices=(0, 16, 32, 64, 128, 256),
    )
    method: str = option(
        "plain",
        help="what errors count; weighted and compensated need samples",
        choices=("plain", "weighted", "compensated"),
    )
    damping: float = option(
        0.01, help="of the Gram matrix in compensated", unit="fraction", minimum=1e-6, maximum=1.0
    )
    runs: int = option(
        64, help="steps at most, each given those before it", unit="steps", minimum=1, maximum=4096
    )
    ops: tuple[str, ...] = option(
        ("Conv", "ConvTranspose", "MatMul", "Gemm", "LSTM", "GRU", "RNN", "Gather"),
        help="operators whose weights are treated",
        unit="op_type",
        choices=("Conv", "ConvTranspose", "MatMul", "Gemm", "LSTM", "GRU", "RNN", "Gather"),
    )
    minimum_elements: int = option(
        1024, help="smaller weights stay as they are", unit="elements", minimum=1
    )
    exclude: tuple[str, ...] = option((), help="nodes to leave alone", unit="name pattern")

    def needs(self, model: ir.Model) -> Needs:  # noqa: ARG002 - whatever the model
        """Ask for samples where errors are counted by what they do."""
        return Needs(samples=self.method != "plain")

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:
        """Cluster every weight that allows it; refuse the others one by one."""
        wanted = Wanted(ops=self.ops, minimum_elements=self.minimum_elements, exclude=self.exclude)
        weights = list(self._allowed(read_weights(model, edit, wanted), edit))
        homes = _homes(model)
        tables = [
            item.node.inputs[0] for weight in weights for item in weight.readings if item.is_lookup
        ]
        smaller = 0
        for weight, inputs in self._with_inputs(model, weights, facts):
            clustered, because = self._clustered(weight, inputs)
            if clustered.nbytes >= weight.tensor.nbytes:
                edit.refuse(weight.place, "not-smaller", why=f"{clustered.nbytes} bytes")
                continue
            home = homes.get(id(weight.place.graph), model.graph)
            # Within a function, constants are nodes, and stand where the rewrite is.
            place = home[0] if home is not model.graph else weight.place
            with edit.rewrite(place, because=because) as change:
                _put(change, weight, clustered, home[0])
            smaller += weight.tensor.nbytes - clustered.nbytes
        originals = [weight.origin for weight in weights]
        remove_unread(model, edit, [*originals, *filter(None, tables)])
        if smaller:
            edit.note(
                f"the file is {smaller / 1e6:.2f} MB smaller; ONNX Runtime restores the weights of "
                "layers when it loads the model, which runs as fast as with floats, no faster"
            )

    def _allowed(self, weights: Iterable[ReadWeight], edit: Editor) -> Iterator[ReadWeight]:
        for weight in weights:
            rank, opset = len(weight.tensor.shape), opset_version(edit.model)
            if opset < _MINIMUM_OPSET:
                edit.refuse(weight.place, "opset-too-old", why=f"the model imports opset {opset}")
            elif _is_table(weight) and rank != _MATRIX_RANK:
                edit.refuse(weight.place, "weight-rank", why=f"a table of rank {rank}")
            elif _is_table(weight) and _view(weight).length < _SHORTEST_ROW:
                edit.refuse(weight.place, "too-small", why=f"rows of {_view(weight).length}")
            else:
                yield weight

    def _with_inputs(
        self, model: ir.Model, weights: list[ReadWeight], facts: Facts
    ) -> Iterator[tuple[ReadWeight, ReadInputs | NotMeasured]]:
        """Yield each weight with what it is multiplied by, where that counts and is known."""
        nothing = NotMeasured("", "")
        measure = facts.measure if self.method != "plain" else None
        layers = [] if measure is None else [w for w in weights if not _is_table(w)]
        for weight in weights:
            if measure is None or _is_table(weight):
                yield weight, nothing
        if measure is not None:
            grams = self.method == "compensated"
            yield from measured_weights(model, measure, layers, grams=grams, runs=self.runs)

    def _clustered(
        self, weight: ReadWeight, inputs: ReadInputs | NotMeasured
    ) -> tuple[ClusteredWeight, str]:
        """Return a weight in the form in which it will be stored, and what to say of it."""
        is_table, array = _is_table(weight), weight.array()
        is_wide = any(matches_any(item.node, self.eight_bits) for item in weight.readings)
        bits = self.table_bits if is_table else _BYTE if is_wide else self.bits
        view = _view(weight)
        found = inputs if isinstance(inputs, ReadInputs) else None
        size = view.length if is_table else self.block_size or None

        def clustered(bits: int) -> ClusteredWeight:
            return cluster_weight(
                array,
                view,
                bits=bits,
                block_size=size,
                second=None if found is None else found.second,
                grams=None if found is None else found.grams,
                damping=self.damping,
            )

        result = clustered(bits)
        because = f"`{weight.name}` in {bits}-bit indices"
        if bits < _BYTE and not can_hold_pairs(result):
            result = clustered(_BYTE)
            because = f"`{weight.name}` in 8-bit indices: an odd number of elements in a row"
        noise = np.square(result.restored().reshape(array.shape) - array, dtype=np.float64).sum()
        signal = np.square(array, dtype=np.float64).sum()
        if noise > 0.0:
            because += f", {10.0 * np.log10(signal / noise):.1f} dB"
        if isinstance(inputs, NotMeasured) and inputs.why:
            because += f"; errors count alike, as {inputs.why}"
        return result, because


def _homes(model: ir.Model) -> dict[int, ir.Graph]:
    """Return the graph of the function that a graph lies in, by identity."""
    return {
        id(inner): function.graph
        for function in model.functions.values()
        for inner in (function, function.graph, *function.graph.subgraphs())
    }


def _is_table(weight: ReadWeight) -> bool:
    return any(reading.is_lookup for reading in weight.readings)


def _view(weight: ReadWeight) -> WeightView:
    """Return how a weight is seen: by row where rows are looked up in it."""
    tables = [reading for reading in weight.readings if reading.is_lookup]
    return (tables or weight.readings)[0].view


def _put(change: Change, weight: ReadWeight, clustered: ClusteredWeight, first: ir.Node) -> None:
    """Let all readers of a weight read what its indices stand for.

    Args:
        change: The rewrite.
        weight: The weight.
        clustered: What it is stored as.
        first: The first node of the main graph, or of the function that the weight is in: what
            restores it reads constants alone, and stands before all who may read it.
    """
    stored = stored_indices(change, clustered, weight.name, is_table=_is_table(weight))
    for reading in weight.readings:
        if reading.is_lookup:
            change.replace(reading.node.outputs[0], looked_up_rows(change, stored, reading.node))
            change.remove(reading.node)
    if not all(reading.is_lookup for reading in weight.readings):
        restored = restored_weight(change, stored, weight.origin, before=first)
        change.replace(weight.origin, restored)
