"""Types and shapes of every value, from ONNX's own inference on a model without weights."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

import onnx
import onnx_ir as ir

from graphopt.analysis.misread import MISREAD_OPERATORS, is_misread_result
from graphopt.analysis.operators import Operators
from graphopt.analysis.part_writer import Part, PartWriter, Written, inner_nodes, shape_of_tensor
from graphopt.ir import graphs, may_hold_graphs
from graphopt.rewrite import ShapeTable, ValueShape, provide_shapes_with

__all__ = ["Inference", "declared_shapes", "infer_shapes", "known_from_the_model"]

_FAILURES = (
    onnx.shape_inference.InferenceError,
    onnx.checker.ValidationError,
    RuntimeError,
    ValueError,
)


def infer_shapes(model: ir.Model) -> ShapeTable:
    """Infer type and shape of every value of ``model``, subgraphs included.

    Believed are the inputs of the model, its initializers and constants. Not believed is what the
    model declares for any other value, its outputs included: files lie there. Symbolic dimensions
    keep the names that the inputs give them; equal names are equal sizes. The table is silent
    about what inference cannot tell, what is inside functions, and what is not a tensor.

    Time O(nodes + edges); no weight above 64 elements is read.
    """
    known = known_from_the_model(model)
    found = Inference(model).run(Part(list(model.graph), known))
    return ShapeTable((found or {}) | known)


class Inference:
    """Runs ONNX's shape inference on parts of one model.

    A size of which nothing is known gets a name, the same one whenever it is first met as the same
    dimension of the same value.

    Attributes:
        has_failed: Inference gave up on a part, or on the elements of small tensors in it.
        met_again: Values of the last part with a size that is also one of what the part reads,
            under the same name, but was another one to the inference.
    """

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._operators = Operators(model)
        self._declared = _declared_symbols(model)
        self._names: dict[ir.Value, dict[int, str]] = {}
        self._types: dict[bytes, ValueShape | None] = {}
        self._written = Written()
        self._values: dict[str, ir.Value] = {}
        self._count = -1
        self.has_failed = False
        self.met_again: set[ir.Value] = set()

    def run(self, part: Part) -> dict[ir.Value, ValueShape] | None:
        """Return the shapes of what ``part`` computes, by value in order; none are declared.

        ``None`` where inference gives up on the whole of it.
        """
        suspects = _suspects(part.nodes)
        opaque: frozenset[ir.Node] = frozenset()
        while True:
            found = self._run_once(part, opaque)
            if found is None:
                return None
            known = functools.partial(_lookup, found, part.known)
            misread = [node for node in suspects if is_misread_result(node, known)]
            if opaque.issuperset(misread):
                return self._renamed(found, part)
            opaque = opaque.union(misread)

    def _run_once(
        self, part: Part, opaque: frozenset[ir.Node]
    ) -> dict[ir.Value, ValueShape] | None:
        """Run inference once; nothing is believed about the results of ``opaque`` nodes."""
        writer = PartWriter(self._model, self._operators, opaque, self._written)
        inferred = self._infer(writer.part(part))
        if inferred is None:
            return None
        named = self._values
        named.update((name, value) for value, name in islice(writer.names(), len(named), None))
        found = self._shapes_in(inferred.graph, has_subgraphs=writer.has_subgraphs)
        return {named[name]: shape for name, shape in found if name in named} | writer.constants

    def _infer(self, proto: bytes) -> onnx.ModelProto | None:
        """Return the inferred model, or ``None`` where inference gives up on it."""
        # Some operators fail where elements are followed, and infer types and shapes without them.
        for data_prop in (True, False):
            try:
                return onnx.shape_inference.infer_shapes(proto, data_prop=data_prop)
            except _FAILURES:
                self.has_failed = True
        return None

    def _shapes_in(
        self, graph: onnx.GraphProto, *, has_subgraphs: bool
    ) -> Iterator[tuple[str, ValueShape]]:
        """Yield what inference says of values, inputs of the main graph apart."""
        types = self._types
        for values in (graph.value_info, graph.output):
            for info in values:
                kind = info.type.SerializeToString()
                if kind not in types:  # of thousands of values a few dozen types differ
                    types[kind] = _value_shape(info.type)
                if (shape := types[kind]) is not None:
                    yield info.name, shape
        if not has_subgraphs:
            return
        for inner in _subgraphs_in(graph):
            for info in inner.input:
                if (shape := _value_shape(info.type)) is not None:
                    yield info.name, shape
            yield from self._shapes_in(inner, has_subgraphs=True)

    def _renamed(
        self, found: Mapping[ir.Value, ValueShape], part: Part
    ) -> dict[ir.Value, ValueShape]:
        """Return the shapes with names for sizes that do not depend on the run of inference."""
        given = {dim for shape in set(part.known.values()) for dim in _symbols(shape)}
        names = {dim: dim for dim in given} | self._declared
        renamed = {}
        done: dict[int, ValueShape] = {}  # values share few shapes, the very same objects
        self.met_again = set()
        for value, shape in found.items():
            known = done.get(id(shape))
            if known is None:
                for axis, dim in enumerate(shape.dims or ()):
                    if isinstance(dim, str) and dim not in names:
                        names[dim] = self._name_of(value, axis)
                        if names[dim] in given:
                            self.met_again.add(value)
                known = done[id(shape)] = shape.renamed(names)
            renamed[value] = known
        return renamed

    def rename(self, old: ir.Value, new: ir.Value) -> None:
        """Let ``new`` give the sizes of ``old``, which is no more, their names."""
        if old in self._names:
            self._names[new] = self._names.pop(old)

    def forget(self, node: ir.Node) -> None:
        """Take note that ``node`` is another one: its sizes get new names when they are met."""
        self.forget_inputs(node)
        for value in node.outputs:
            self._names.pop(value, None)

    def forget_inputs(self, node: ir.Node) -> None:
        """Take note that ``node`` reads other values."""
        self._written.nodes.pop(node, None)

    def _name_of(self, value: ir.Value, axis: int) -> str:
        names = self._names.setdefault(value, {})
        known = names.get(axis)
        if known is None:
            self._count += 1
            while f"unk__{self._count}" in self._declared:
                self._count += 1
            known = names[axis] = f"unk__{self._count}"
        return known


def _suspects(nodes: Iterable[ir.Node]) -> list[ir.Node]:
    """Return the nodes, inner ones included, of whose results inference may claim too much."""
    plain = [node for node in nodes if node.op_type in MISREAD_OPERATORS or may_hold_graphs(node)]
    return [node for node in inner_nodes(plain) if node.op_type in MISREAD_OPERATORS]


def _lookup(
    found: Mapping[ir.Value, ValueShape], known: Mapping[ir.Value, ValueShape], value: ir.Value
) -> ValueShape | None:
    return found.get(value) or known.get(value)


def _symbols(shape: ValueShape) -> Iterator[str]:
    return (dim for dim in shape.dims or () if isinstance(dim, str))


def _declared_symbols(model: ir.Model) -> dict[str, str]:
    """Return the names that the inputs of the model give to sizes, each for itself."""
    shapes = (known for _, known in declared_shapes(model.graph.inputs))
    return {dim: dim for shape in shapes for dim in _symbols(shape)}


def known_from_the_model(model: ir.Model) -> dict[ir.Value, ValueShape]:
    """Return what needs no inference: the inputs of the model, and initializers."""
    known = dict(declared_shapes(model.graph.inputs))
    for graph in graphs(model):
        for value in graph.initializers.values():
            if value.const_value is not None and not value.is_graph_input():
                known[value] = shape_of_tensor(value.const_value)
    return known


def declared_shapes(inputs: Iterable[ir.Value]) -> Iterator[tuple[ir.Value, ValueShape]]:
    """Yield the types and shapes that ``inputs`` of the model are declared with, if tensors."""
    for value in inputs:
        if isinstance(value.type, ir.TensorType):
            yield value, ValueShape(value.dtype, _dims(value.shape))


def _dims(shape: ir.Shape | None) -> tuple[int | str | None, ...] | None:
    if shape is None:
        return None
    return tuple(dim if isinstance(dim, int) else dim.value for dim in shape)


def _subgraphs_in(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield attribute.g
            elif attribute.type == onnx.AttributeProto.GRAPHS:
                yield from attribute.graphs


_DTYPES = {dtype.value: dtype for dtype in ir.DataType}


def _value_shape(proto: onnx.TypeProto) -> ValueShape | None:
    tensor = proto.tensor_type
    if not (dtype := _DTYPES.get(tensor.elem_type)):
        return None
    if not tensor.HasField("shape"):
        return ValueShape(dtype, None)
    # A size of 0 and one left out read alike.
    return ValueShape(
        dtype,
        tuple(
            dim.dim_value or (0 if dim.HasField("dim_value") else dim.dim_param or None)
            for dim in tensor.shape.dim
        ),
    )


provide_shapes_with(infer_shapes)
