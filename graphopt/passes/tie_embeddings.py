"""Tables and weights that are each other's transpose."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis import Operators, annotation_parameters, is_annotated
from graphopt.ir import initializer_tensors, tensor_dims
from graphopt.rewrite import Contract, Editor, Exact, Facts, Pass, is_overwritten, option

__all__ = ["TieEmbeddings"]

_MATRIX_RANK = 2
_ROWS_AT_ONCE = 1024
_SAMPLE = 64
Bits = npt.NDArray[np.unsignedinteger]
Weight = tuple[ir.Value, ir.TensorProtocol]


@dataclass(frozen=True, kw_only=True)
class TieEmbeddings(Pass):
    """Store a table and the weight that is its transpose once.

    What it does
        Some exporters write an embedding table, and the output layer that is tied to it as a
        transposed copy. The copy goes: its readers read the table through `Transpose`, which ONNX
        Runtime computes once, when it loads the model, so that memory and latency of the loaded
        model stay what they were. What rows are looked up in is kept as it is. Equal tables are
        for `share-weights`. Only bits that are the same are the same weight.

    When it refuses
        `overridable`      the copy is an input too, so that a caller may give it another value.
        `names-an-output`  a graph returns the copy under its name.
        `annotated`        a quantization annotation describes the copy or refers to it by name.
        `overwritten`      an operator updates the copy in place.
        `out-of-sight`     they are in two branches, neither of which sees the other.

    What it keeps
        The model's inputs and outputs; every bit of what it computes.

    Cost
        Time O(weights) where pairs are; of others of transposed shapes a sample is read. A runtime
        that does not fold constants transposes the table on every run.

    Example
        options {minimum_elements=1}
        before  (int64[N] i, float[N,2] x) => (float[N,2] y, float[N,3] z)
                <float[3,2] t = {1.0, 2.0, 3.0, 4.0, 5.0, 6.0}, float[2,3] w = {1.0, 3.0, 5.0, 2.0, 4.0, 6.0}>
                { y = Gather(t, i)  z = MatMul(x, w) }
        after   (int64[N] i, float[N,2] x) => (float[N,2] y, float[N,3] z)
                <float[3,2] t = {1.0, 2.0, 3.0, 4.0, 5.0, 6.0}>
                { w = Transpose<perm = [1, 0]>(t)  y = Gather(t, i)  z = MatMul(x, w) }

    References
        Press and Wolf 2017, "Using the Output Embedding to Improve Language Models". ONNX
        `Transpose`.
    """  # noqa: E501 - a line of ONNX text

    name: ClassVar[str] = "tie-embeddings"
    contract: ClassVar[Contract] = Contract(numerics=Exact(), is_idempotent=True)

    minimum_elements: int = option(
        16384, help="smaller weights stay copies", unit="elements", minimum=1
    )

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:  # noqa: ARG002
        """Tie every pair of which one can go."""
        referred = annotation_parameters(model)
        gone: set[ir.Value] = set()
        for first, second in list(self._pairs(model)):
            if first in gone or second in gone:
                continue
            # Rows are better looked up in a table that nothing has to transpose first.
            kept, copy = (second, first) if _is_table(second) else (first, second)
            why = _obstacle(model, kept, copy, referred)
            if why is not None and _obstacle(model, copy, kept, referred) is None:
                kept, copy, why = copy, kept, None
            if why is None:
                _tie(kept, copy, edit)
                gone.add(copy)
            else:
                edit.refuse(copy, why, why=f"it is the transpose of `{kept.name}`")

    def _pairs(self, model: ir.Model) -> Iterator[tuple[ir.Value, ir.Value]]:
        """Yield pairs of matrices that are each other's transpose, bit for bit."""
        found: dict[tuple[object, ...], list[Weight]] = {}
        for value, tensor in _matrices(model):
            if tensor.size < self.minimum_elements:
                continue
            rows, columns = tensor_dims(tensor)
            for other, candidate in found.get((tensor.dtype, columns, rows), ()):
                if _is_transposed(candidate, tensor):
                    yield other, value
            found.setdefault((tensor.dtype, rows, columns), []).append((value, tensor))


def _matrices(model: ir.Model) -> Iterator[Weight]:
    """Yield matrices that can see each other, of types whose elements are whole bytes."""
    operators = Operators(model)
    for value, tensor in initializer_tensors(model):
        is_plain = tensor.dtype != ir.DataType.STRING and tensor.dtype.bitwidth % 8 == 0
        if value.graph is None or operators.is_in_function(value.graph) or not is_plain:
            continue
        if len(tensor_dims(tensor)) == _MATRIX_RANK:
            yield value, tensor


def _is_transposed(first: ir.TensorProtocol, second: ir.TensorProtocol) -> bool:
    rows, columns = _bits(first), _bits(second)
    if not np.array_equal(rows[0, :_SAMPLE], columns[:_SAMPLE, 0]):
        return False
    # In parts: neither is copied as a whole.
    return all(
        np.array_equal(
            rows[start : start + _ROWS_AT_ONCE], columns[:, start : start + _ROWS_AT_ONCE].T
        )
        for start in range(0, len(rows), _ROWS_AT_ONCE)
    )


def _bits(tensor: ir.TensorProtocol) -> Bits:
    """Return a matrix as whole numbers: NaN is itself there, and -0.0 is not 0.0."""
    array = tensor.numpy()
    return array.view(f"u{array.dtype.itemsize}")


def _is_table(value: ir.Value) -> bool:
    return any(user.op_type == "Gather" and index == 0 for user, index in value.uses())


def _obstacle(
    model: ir.Model, kept: ir.Value, copy: ir.Value, referred: frozenset[str]
) -> str | None:
    """Return why the readers of one matrix cannot read the other one instead, or ``None``."""
    if kept.is_graph_input() or copy.is_graph_input():
        return "overridable"
    if copy.is_graph_output():
        return "names-an-output"
    if is_annotated(copy) or copy.name in referred:
        return "annotated"
    if is_overwritten(kept) or is_overwritten(copy):
        return "overwritten"
    if kept.graph is not model.graph and kept.graph is not copy.graph:
        return "out-of-sight"
    return None


def _tie(kept: ir.Value, copy: ir.Value, edit: Editor) -> None:
    assert isinstance(kept.graph, ir.Graph)
    with edit.rewrite(
        kept.graph[0], because=f"`{copy.name}` is `{kept.name}` transposed"
    ) as change:
        transposed = change.node(
            "Transpose", [kept], attributes={"perm": [1, 0]}, name=copy.name, like=copy
        )
        change.replace(copy, transposed)
        change.remove_initializer(copy)
