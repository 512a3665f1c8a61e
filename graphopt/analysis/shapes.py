"""Types and shapes of every value, from ONNX's own inference on a model without weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx
import onnx_ir as ir

from graphopt.analysis.contrib_functions import contrib_functions, stand_in_name
from graphopt.analysis.misread import MISREAD_OPERATORS, is_misread, is_misread_result
from graphopt.analysis.operators import Operators
from graphopt.analysis.proto_writer import ProtoWriter
from graphopt.ir import constant_tensor, graphs, nodes, opset_version
from graphopt.rewrite import ShapeTable, ValueShape, provide_shapes_with

__all__ = ["infer_shapes"]

_MAX_ELEMENTS = 64
"""Larger constants are shown to the inference by type only: no shape is computed from them."""

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
    about values that inference cannot tell, about values inside functions, and where a value is
    not a tensor.

    Time O(nodes + edges); no weight above 64 elements is read.
    """
    suspects = [node for node in nodes(model) if node.op_type in MISREAD_OPERATORS]
    opaque: frozenset[ir.Node] = frozenset()
    while True:
        found = _inferred_table(model, opaque)
        misread = [node for node in suspects if is_misread_result(node, found.get)]
        if opaque.issuperset(misread):
            return ShapeTable(found)
        opaque = opaque.union(misread)


def _inferred_table(model: ir.Model, opaque: frozenset[ir.Node]) -> dict[ir.Value, ValueShape]:
    """Run inference once; nothing is believed about the results of ``opaque`` nodes."""
    writer = _StrippedWriter(opaque)
    proto = writer.model(model)
    found = dict(_known_from_the_model(model))
    inferred = _run(proto)
    if inferred is not None:
        by_name = {name: shape for name, shape in _inferred(inferred.graph) if shape is not None}
        for value, name in writer.names():
            if name in by_name:
                found.setdefault(value, by_name[name])
    return found


def _run(proto: onnx.ModelProto) -> onnx.ModelProto | None:
    """Return the inferred model, or ``None`` where inference gives up on the whole of it."""
    for data_prop in (True, False):
        try:
            return onnx.shape_inference.infer_shapes(proto, data_prop=data_prop)
        except _FAILURES:
            continue
    return None


class _StrippedWriter(ProtoWriter):
    """Writes a whole model; weights become inputs of the main graph, which subgraphs can see.

    What inference would misread is written as an operator that it does not know.
    """

    def __init__(self, opaque: frozenset[ir.Node]) -> None:
        super().__init__()
        self._opaque = opaque

    def model(self, model: ir.Model) -> onnx.ModelProto:
        """Return ``model`` with weights and declared intermediate types left out."""
        proto = onnx.ModelProto(ir_version=max(model.ir_version, _MINIMUM_IR_VERSION))
        for domain, version in model.opset_imports.items():
            proto.opset_import.add(domain=domain, version=version)
        proto.opset_import.add(domain=_OPAQUE_DOMAIN, version=1)
        self._operators = Operators(model)
        for function in model.functions.values():
            self._function(function, proto.functions.add())
        proto.functions.extend(contrib_functions(nodes(model), opset_version(model)))
        self._model, self._main = model, proto.graph
        self.graph(model.graph, proto.graph)
        return proto

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
                self._stub(node.outputs[0], tensor)
                return
        written = proto.node.add()
        self.node(node, written)
        written.op_type = stand_in_name(node) or node.op_type
        if node in self._opaque or is_misread(node, self._operators.version(node) or 1):
            written.domain = _OPAQUE_DOMAIN
        elif node.op_type == "PRelu" and not node.domain and not node.attributes:
            written.op_type = "Add"  # the runtime broadcasts both ways, inference only one

    def _function(self, function: ir.Function, proto: onnx.FunctionProto) -> None:
        proto.CopyFrom(ir.to_proto(function))
        proto.opset_import.add(domain=_OPAQUE_DOMAIN, version=1)
        for node, written in zip(function, proto.node, strict=True):
            if is_misread(node, self._operators.version(node) or 1):
                written.domain = _OPAQUE_DOMAIN

    def initializer(self, value: ir.Value, proto: onnx.GraphProto) -> None:
        """Write a small initializer; one that can be overridden is known by its input already."""
        tensor = value.const_value
        if tensor is None or value.is_graph_input():
            return
        if _is_small(tensor):
            self.tensor(value, tensor, proto.initializer.add())
        else:
            self._stub(value, tensor)

    def _stub(self, value: ir.Value, tensor: ir.TensorProtocol) -> None:
        info = self._main.input.add(name=self.name(value))
        info.type.tensor_type.elem_type = tensor.dtype.value
        dims = info.type.tensor_type.shape
        dims.SetInParent()  # a scalar has a shape without dimensions, not no shape
        for size in tensor.shape.numpy():
            dims.dim.add(dim_value=size)


def _is_small(tensor: ir.TensorProtocol) -> bool:
    return tensor.size <= _MAX_ELEMENTS and tensor.dtype != ir.DataType.STRING


def _known_from_the_model(model: ir.Model) -> Iterator[tuple[ir.Value, ValueShape]]:
    for value in model.graph.inputs:
        if isinstance(value.type, ir.TensorType):
            yield value, ValueShape(value.dtype, _dims(value.shape))
    for graph in graphs(model):
        for value in graph.initializers.values():
            tensor = constant_tensor(value)
            if tensor is not None:
                yield value, ValueShape(tensor.dtype, tuple(tensor.shape.numpy()))


def _dims(shape: ir.Shape | None) -> tuple[int | str | None, ...] | None:
    if shape is None:
        return None
    return tuple(dim if isinstance(dim, int) else dim.value for dim in shape)


def _inferred(graph: onnx.GraphProto) -> Iterator[tuple[str, ValueShape | None]]:
    for values in (graph.input, graph.value_info, graph.output):
        for info in values:
            yield info.name, _value_shape(info.type)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _inferred(attribute.g)
            elif attribute.type == onnx.AttributeProto.GRAPHS:
                for inner in attribute.graphs:
                    yield from _inferred(inner)


def _value_shape(proto: onnx.TypeProto) -> ValueShape | None:
    if not proto.HasField("tensor_type") or not proto.tensor_type.elem_type:
        return None
    tensor = proto.tensor_type
    if not tensor.HasField("shape"):
        return ValueShape(ir.DataType(tensor.elem_type), None)
    dims: list[int | str | None] = []
    for dim in tensor.shape.dim:
        if dim.HasField("dim_value"):
            dims.append(dim.dim_value)
        else:
            dims.append(dim.dim_param or None)
    return ValueShape(ir.DataType(tensor.elem_type), tuple(dims))


provide_shapes_with(infer_shapes)
