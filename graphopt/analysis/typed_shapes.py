"""Types and shapes of every value in one walk over a model, by rules of our own.

`SymbolicShapes` knows dimensions and small tensors as expressions; here the walk finds the element
types, too, so that it needs no inference before it. A node without a rule is shown to ONNX's
inference alone, with all that is known of what it reads.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable

import onnx_ir as ir

from graphopt.analysis.kept_table import News
from graphopt.analysis.part_writer import Part, is_held_alike
from graphopt.analysis.result_types import types_of_results
from graphopt.analysis.shapes import Inference, declared_shapes
from graphopt.analysis.size_names import SizeNames
from graphopt.analysis.symbolic_expressions import Integer
from graphopt.analysis.symbolic_shapes import Dims, SymbolicShapes
from graphopt.ir import CONTAINERS, constant_tensor, opset_version, ordered_nodes, subgraphs_of
from graphopt.rewrite import ShapeTable, Touched, ValueShape

__all__ = ["TypedShapes", "has_uncovered", "is_covered"]

_OLDEST_OPSET = 7
_HAS_SEQUENCES = frozenset(
    """
    ConcatFromSequence Optional OptionalGetElement OptionalHasElement SequenceAt
    SequenceConstruct SequenceEmpty SequenceErase SequenceInsert SequenceLength SplitToSequence
    """.split()  # noqa: SIM905 - a block of names reads better
)
_UNCOVERED = CONTAINERS | _HAS_SEQUENCES


def is_covered(model: ir.Model) -> bool:
    """Tell whether `TypedShapes` can follow ``model``.

    Not with functions, subgraphs, sequences, or an opset before 7: what a node of those computes
    does not follow from the types and shapes of its inputs alone.
    """
    if model.functions or opset_version(model) < _OLDEST_OPSET:
        return False
    if not all(isinstance(value.type, ir.TensorType) for value in model.graph.inputs):
        return False
    return not has_uncovered(ordered_nodes(model))


def has_uncovered(nodes: Iterable[ir.Node]) -> bool:
    """Tell whether a node is of an operator that `TypedShapes` cannot follow."""
    return any(
        node.op_type in _UNCOVERED or (node.domain != "" and bool(subgraphs_of(node)))
        for node in nodes
    )


class TypedShapes(SymbolicShapes):
    """What is known of the values of one model that `is_covered`.

    Believed are the inputs of the model and constants alone. Time O(nodes + edges).
    """

    def __init__(self, model: ir.Model) -> None:
        declared = dict(declared_shapes(model.graph.inputs))
        self._types: dict[ir.Value, ir.DataType | None] = {}
        self._shown: dict[tuple[ir.DataType, Dims | None], ValueShape] = {}
        self._inference = Inference(model)
        self._declared = frozenset(
            dim for shape in declared.values() for dim in shape.dims or () if isinstance(dim, str)
        )
        super().__init__(model, ShapeTable(declared))

    @functools.cached_property
    def names(self) -> SizeNames:
        """The names of sizes in what `shape` returns."""
        return SizeNames(self.symbols, self._declared)

    # -- asking ------------------------------------------------------------------------------

    def dtype(self, value: ir.Value | None) -> ir.DataType | None:
        """Return the element type of ``value``, or ``None``."""
        if value is None:
            return None
        known = self._types.get(value)
        if known is None and value not in self._types:
            known = self._types[value] = super().dtype(value)
        return known

    def shape(self, value: ir.Value | None) -> ValueShape | None:
        """Return type and shape of ``value`` as a shape table tells them."""
        dtype = self.dtype(value)
        if dtype is None:
            return None
        dims = self.dims(value)
        known = self._shown.get((dtype, dims))  # values share few shapes
        if known is None:
            names = None if dims is None else tuple(map(self.names.name_of, dims))
            known = self._shown[dtype, dims] = ValueShape(dtype, names)
        return known

    def count(self) -> int:
        """Return of how many values the type is known."""
        return sum(dtype is not None for dtype in self._types.values())

    def knows_all(self, nodes: Iterable[ir.Node], edited: Iterable[ir.Value]) -> bool:
        """Tell whether type and shape are known of all that ``nodes`` read and compute.

        Args:
            nodes: Nodes of the model.
            edited: Initializers that hold another tensor than when the analysis was made.
        """
        for value in edited:
            self._types.pop(value, None)
            self._dims.pop(value, None)
        return all(
            self.shape(value) is not None
            for node in nodes
            for value in (*node.inputs, *node.outputs)
            if value is not None and value.name
        )

    # -- following edits ---------------------------------------------------------------------

    def follow_edits(self, touched: Touched) -> bool:
        """Follow what edits changed; tell whether that leads where a new analysis would lead."""
        if touched.everything or has_uncovered(touched.nodes):
            return False
        news = News(set(touched.nodes), set(touched.values))
        news.nodes.update(
            user for user, old, new in touched.replaced if not self._stands_for(old, new)
        )
        if any(value.is_graph_input() for value in touched.values):
            self._table = ShapeTable(dict(declared_shapes(self._model.graph.inputs)))
        for value in touched.values:
            self._types.pop(value, None)
        for node in touched.nodes:
            self._inference.forget(node)
            if node.graph is None:  # nobody reads what it computed
                self._forget(node.outputs)
            elif node.op_type == "Constant":  # which no walk visits
                news.values.update(node.outputs)
                self._forget(node.outputs)
        return self.follow(news)

    def _stands_for(self, old: ir.Value, new: ir.Value) -> bool:
        """Tell whether ``new`` is a constant of which no rule tells more than of ``old``.

        Most edits put such ones in the place of Constants, and of what computes sizes: to visit
        all their readers again is half of what following takes.
        """
        after = constant_tensor(new)
        if after is None:
            return False
        before = constant_tensor(old)
        if before is not None:
            return is_held_alike(before, after)
        known = self._elements.get(old)
        return (
            known is not None
            and self._types.get(old) is self.dtype(new)
            and self._dims.get(old) == self.dims(new)
            and self._holds(new, known)
        )

    def _forget(self, values: Iterable[ir.Value]) -> None:
        for value in values:
            self._types.pop(value, None)
            self._dims.pop(value, None)
            self._elements.pop(value, None)
            self._computed.discard(value)

    def _changed_by(self, node: ir.Node) -> list[ir.Value]:
        types = [self._types.pop(value, None) for value in node.outputs]
        changed = super()._changed_by(node)
        pairs = zip(node.outputs, types, strict=True)
        return changed + [value for value, dtype in pairs if self.dtype(value) is not dtype]

    # -- walking -----------------------------------------------------------------------------

    def _visit(self, node: ir.Node) -> None:
        outputs = node.outputs
        types = types_of_results(node, self.dtype)
        if types is not None:
            for value, dtype in zip(outputs, types, strict=False):
                self._types[value] = dtype
        super()._visit(node)
        for value in outputs:
            is_told = self._dims.get(value) is not None and self._types.get(value) is not None
            if not is_told and value.name != "":
                self.ask_inference(node)
                return

    def _merged(self, _value: ir.Value, dims: Dims) -> Dims:
        """Keep expressions as short as may be; there is no inference to compare with."""
        return tuple([dim if isinstance(dim, int) else self.symbols.bounded(dim) for dim in dims])

    def ask_inference(self, node: ir.Node) -> Dims | None:
        """Show ``node`` alone to ONNX's inference; take over what no rule tells of its outputs.

        Returns:
            The dimensions that it finds for the first output.
        """
        inputs = dict.fromkeys(value for value in node.inputs if value is not None)
        known = {value: shape for value in inputs if (shape := self.shape(value)) is not None}
        if inputs and all(shape.dims is None for shape in known.values()):
            return None
        self._inference.forget_inputs(node)
        part = Part([node], known, self._held(inputs))
        found = self._inference.run(part) or {}
        sizes: dict[str, Integer] = {}
        for value in node.outputs:
            shape = found.get(value)
            if shape is None:
                continue
            if self._types.get(value) is None:
                self._types[value] = shape.dtype
            if self._dims.get(value) is None and shape.dims is not None:
                self._dims[value] = self._sizes(value, shape.dims, sizes)
        return self._dims.get(node.outputs[0])

    def _held(self, values: Iterable[ir.Value]) -> dict[ir.Value, ir.TensorProtocol]:
        """Return the computed ones of ``values`` whose elements are numbers, as tensors."""
        arrays = {value: self.array(value) for value in values if value in self._computed}
        return {value: ir.tensor(array) for value, array in arrays.items() if array is not None}

    def _sizes(
        self, value: ir.Value, dims: Iterable[int | str | None], met: dict[str, Integer]
    ) -> Dims:
        """Return what inference says of ``value`` as expressions; ``met``: names of its own."""
        found: list[Integer] = []
        for axis, dim in enumerate(dims):
            if isinstance(dim, int):
                found.append(dim)
            elif dim is not None and self.names.is_given(dim):
                found.append(self.names.size_of(dim))
            else:
                new = self.symbols.of(("dim", value, axis), is_size=True)
                found.append(new if dim is None else met.setdefault(dim, new))
        return tuple(found)
