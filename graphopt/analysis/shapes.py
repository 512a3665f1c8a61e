"""Types and shapes of every value, from ONNX's own inference on a model without weights."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import onnx
import onnx_ir as ir

from graphopt.analysis.contrib_functions import contrib_functions, stand_in_name
from graphopt.analysis.misread import (
    MISREAD_OPERATORS,
    MISREAD_PARAMETERS,
    is_misread,
    is_misread_result,
)
from graphopt.analysis.operators import Operators
from graphopt.analysis.proto_writer import ProtoWriter
from graphopt.ir import constant_tensor, graphs, opset_version, subgraphs_of
from graphopt.rewrite import ShapeTable, ValueShape, provide_shapes_with

__all__ = [
    "Inference",
    "Part",
    "PartWriter",
    "declared_shapes",
    "infer_shapes",
    "inner_nodes",
    "is_shown_alike",
    "known_from_the_model",
    "reads",
    "shape_of_tensor",
]

_MAX_ELEMENTS = 64
"""Larger constants are shown to the inference by type only: no shape is computed from them."""

_MAX_RANK = 16
_MINIMUM_IR_VERSION = 10
_OPAQUE_DOMAIN = "graphopt.opaque"
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


@dataclass(frozen=True)
class Part:
    """Nodes of the main graph of which shapes are inferred together.

    Attributes:
        nodes: In an order in which they could run.
        known: The shapes of what they read and do not compute themselves.
    """

    nodes: Sequence[ir.Node]
    known: Mapping[ir.Value, ValueShape] = field(default_factory=dict)


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
        self._names: dict[tuple[ir.Value, int], str] = {}
        self._count = -1
        self.has_failed = False
        self.met_again: set[ir.Value] = set()

    def run(self, part: Part) -> dict[ir.Value, ValueShape] | None:
        """Return the shapes of what ``part`` computes, by value in order; none are declared.

        ``None`` where inference gives up on the whole of it.
        """
        suspects = [node for node in inner_nodes(part.nodes) if node.op_type in MISREAD_OPERATORS]
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
        writer = PartWriter(self._model, self._operators, opaque)
        inferred = self._infer(writer.part(part))
        if inferred is None:
            return None
        by_name = dict(_inferred(inferred.graph))
        named = ((value, by_name.get(name)) for value, name in writer.names())
        return {value: shape for value, shape in named if shape is not None}

    def _infer(self, proto: onnx.ModelProto) -> onnx.ModelProto | None:
        """Return the inferred model, or ``None`` where inference gives up on it."""
        for data_prop in (True, False):
            try:
                return onnx.shape_inference.infer_shapes(proto, data_prop=data_prop)
            except _FAILURES:
                self.has_failed = True
        return None

    def _renamed(
        self, found: Mapping[ir.Value, ValueShape], part: Part
    ) -> dict[ir.Value, ValueShape]:
        """Return the shapes with names for sizes that do not depend on the run of inference."""
        given = {dim for shape in part.known.values() for dim in _symbols(shape)}
        names = {dim: dim for dim in given} | self._declared
        renamed = {}
        self.met_again = set()
        for value, shape in found.items():
            for axis, dim in enumerate(shape.dims or ()):
                if isinstance(dim, str) and dim not in names:
                    names[dim] = self._name_of(value, axis)
                    if names[dim] in given:
                        self.met_again.add(value)
            renamed[value] = shape.renamed(names)
        return renamed

    def rename(self, old: ir.Value, new: ir.Value) -> None:
        """Let ``new`` give the sizes of ``old``, which is no more, their names."""
        for axis in range(_MAX_RANK):
            name = self._names.pop((old, axis), None)
            if name is not None:
                self._names[new, axis] = name

    def _name_of(self, value: ir.Value, axis: int) -> str:
        known = self._names.get((value, axis))
        if known is None:
            self._count += 1
            while f"unk__{self._count}" in self._declared:
                self._count += 1
            known = self._names[value, axis] = f"unk__{self._count}"
        return known


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


def inner_nodes(nodes: Iterable[ir.Node]) -> Iterator[ir.Node]:
    """Yield ``nodes`` and the nodes of their subgraphs."""
    for node in nodes:
        yield node
        for graph in subgraphs_of(node):
            yield from inner_nodes(graph)


class PartWriter(ProtoWriter):
    """Writes nodes as a whole model; weights become inputs of the main graph.

    What inference would misread is written as an operator that it does not know.
    """

    def __init__(self, model: ir.Model, operators: Operators, opaque: frozenset[ir.Node]) -> None:
        super().__init__()
        self._model = model
        self._operators = operators
        self._opaque = opaque
        self._main = onnx.GraphProto()

    def part(self, part: Part) -> onnx.ModelProto:
        """Return ``part`` with weights and declared intermediate types left out."""
        model = self._model
        proto = onnx.ModelProto(ir_version=max(model.ir_version, _MINIMUM_IR_VERSION))
        for domain, version in model.opset_imports.items():
            proto.opset_import.add(domain=domain, version=version)
        proto.opset_import.add(domain=_OPAQUE_DOMAIN, version=1)
        for function in model.functions.values():
            self._function(function, proto.functions.add())
        proto.functions.extend(contrib_functions(inner_nodes(part.nodes), opset_version(model)))
        proto.graph.name = "part"
        self._main = proto.graph
        is_there: set[ir.Value | None] = {None}
        for node in part.nodes:
            for value in reads(node):
                if value not in is_there:
                    is_there.add(value)
                    self._read_from_outside(value, part)
            self.inner_node(node, proto.graph)
            is_there.update(node.outputs)
        return proto

    def _read_from_outside(self, value: ir.Value, part: Part) -> None:
        """Write what ``part`` reads and does not compute: a constant, or an input of its type."""
        tensor = constant_tensor(value)
        known = part.known.get(value)
        if tensor is not None:
            self._constant(value, tensor, self._main)
        elif value.is_graph_input():
            self.input(value, self._main.input.add())
        elif known is not None:
            self._stub(value, known)

    def names(self) -> Iterable[tuple[ir.Value, str]]:
        """Return every value written, with the name it was given."""
        return self._names.items()

    def input(self, value: ir.Value, proto: onnx.ValueInfoProto) -> None:
        """Write an input; of the inputs of subgraphs the type counts, the shape may vary."""
        super().input(value, proto)
        if value.graph is not self._model.graph and proto.type.HasField("tensor_type"):
            proto.type.tensor_type.ClearField("shape")

    def inner_node(self, node: ir.Node, proto: onnx.GraphProto) -> None:
        """Write a node, or a typed input in the place of a large constant."""
        if node.op_type == "Constant" and not node.domain:
            tensor = constant_tensor(node.outputs[0])
            if tensor is not None and not _is_small(tensor):
                self._stub(node.outputs[0], shape_of_tensor(tensor))
                return
        written = proto.node.add()
        self.node(node, written)
        if node.domain:
            written.op_type = stand_in_name(node) or node.op_type
        if node in self._opaque or self._is_misread(node):
            written.domain = _OPAQUE_DOMAIN
        elif node.op_type == "PRelu" and not node.domain and not node.attributes:
            written.op_type = "Add"  # the runtime broadcasts both ways, inference only one

    def _is_misread(self, node: ir.Node) -> bool:
        if node.op_type not in MISREAD_PARAMETERS:
            return False
        return is_misread(node, self._operators.version(node) or 1)

    def _function(self, function: ir.Function, proto: onnx.FunctionProto) -> None:
        proto.CopyFrom(ir.to_proto(function))
        proto.opset_import.add(domain=_OPAQUE_DOMAIN, version=1)
        for node, written in zip(function, proto.node, strict=True):
            if self._is_misread(node):
                written.domain = _OPAQUE_DOMAIN

    def initializer(self, value: ir.Value, proto: onnx.GraphProto) -> None:
        """Write an initializer of a subgraph; one that can be overridden is an input already."""
        if value.const_value is not None and not value.is_graph_input():
            self._constant(value, value.const_value, proto)

    def _constant(self, value: ir.Value, tensor: ir.TensorProtocol, proto: onnx.GraphProto) -> None:
        if _is_small(tensor):
            self.tensor(value, tensor, proto.initializer.add())
        else:
            self._stub(value, shape_of_tensor(tensor))

    def _stub(self, value: ir.Value, shape: ValueShape) -> None:
        """Write an input of the main graph, which subgraphs can see, too."""
        info = self._main.input.add(name=self.name(value))
        if shape.dtype is not None:
            info.type.tensor_type.elem_type = shape.dtype.value
        if shape.dims is None:
            return
        dims = info.type.tensor_type.shape
        dims.SetInParent()  # a scalar has a shape without dimensions, not no shape
        for size in shape.dims:
            if isinstance(size, int):
                dims.dim.add(dim_value=size)
            else:
                dims.dim.add(dim_param=size)


def reads(node: ir.Node) -> Iterator[ir.Value]:
    """Yield what ``node`` reads, and what its subgraphs read of outer values."""
    yield from (value for value in node.inputs if value is not None)
    inner = subgraphs_of(node)
    if not inner:
        return
    own: set[ir.Value] = set()
    used: dict[ir.Value, None] = {}
    for graph in inner:
        own.update(graph.inputs)
        own.update(graph.initializers.values())
        used.update(dict.fromkeys(graph.outputs))
        for child in graph:
            used.update(dict.fromkeys(reads(child)))
            own.update(child.outputs)
    yield from (value for value in used if value not in own)


def _is_small(tensor: ir.TensorProtocol) -> bool:
    return tensor.dtype != ir.DataType.STRING and tensor.size <= _MAX_ELEMENTS


def is_shown_alike(first: ir.TensorProtocol, second: ir.TensorProtocol) -> bool:
    """Tell whether inference is shown the same of two constants."""
    if first is second:
        return True
    if shape_of_tensor(first) != shape_of_tensor(second):
        return False
    return not _is_small(first) or first.tobytes() == second.tobytes()


def shape_of_tensor(tensor: ir.TensorProtocol) -> ValueShape:
    """Return the type and shape of a constant."""
    return ValueShape(tensor.dtype, tuple(tensor.shape.numpy()))


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


def _inferred(graph: onnx.GraphProto) -> Iterator[tuple[str, ValueShape]]:
    for values in (graph.input, graph.value_info, graph.output):
        for info in values:
            shape = _value_shape(info.type)
            if shape is not None:
                yield info.name, shape
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _inferred(attribute.g)
            elif attribute.type == onnx.AttributeProto.GRAPHS:
                for inner in attribute.graphs:
                    yield from _inferred(inner)


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
