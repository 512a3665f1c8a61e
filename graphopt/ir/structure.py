"""A model's structure as a protobuf in which weights are references, not bytes.

Serializing the structure of 40,000 nodes takes well under a second and no weight is read, so it
serves as a checkpoint, as the input of shape inference, and as the base of digests and of saving.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import onnx
import onnx_ir as ir

from graphopt.ir.constants import initializer_tensors
from graphopt.ir.walk import nodes

__all__ = [
    "Checkpoint",
    "Structure",
    "clone",
    "drop_notes",
    "model_tensor_protos",
    "take_structure",
]

_PREFIX = "graphopt-weight:"
_LARGE_ATTRIBUTE_BYTES = 1 << 12
"""Tensors in attributes go by reference from here on; smaller ones are a part of the structure."""


@dataclass(frozen=True)
class Structure:
    """A protobuf without weights, and the weights.

    Attributes:
        proto: The model; each initializer, and each large tensor of an attribute, is an external
            tensor whose location is a reference.
        tensors: The weights, in the order of the references.
        initializers: How many of them are initializers; these come first.
    """

    proto: onnx.ModelProto
    tensors: tuple[ir.TensorProtocol, ...]
    initializers: int

    def weights(
        self, *, initializers_only: bool = False
    ) -> Iterator[tuple[onnx.TensorProto, ir.TensorProtocol]]:
        """Yield each reference in `proto` with the weight that belongs there."""
        end = self.initializers if initializers_only else len(self.tensors)
        for proto in model_tensor_protos(self.proto):
            index = _reference(proto)
            if index is not None and index < end:
                yield proto, self.tensors[index]


def take_structure(model: ir.Model) -> Structure:
    """Serialize ``model`` with its initializers by reference; ``model`` is left as it was."""
    held = list(initializer_tensors(model))
    constants = list(_large_constants(model))
    tensors = (*(tensor for _, tensor in held), *(attr.value for _, attr in constants))
    try:
        for index, (value, tensor) in enumerate(held):
            value.const_value = _placeholder(index, value.name or "", tensor)
        for index, (node, attr) in enumerate(constants, len(held)):
            stand_in = _placeholder(index, attr.value.name or "", attr.value)
            node.attributes[attr.name] = ir.AttrTensor(attr.name, stand_in, attr.doc_string)
        proto = ir.to_proto(model)
    # Whatever happens: a model whose weights are references is no model.
    finally:
        for value, tensor in held:
            value.const_value = tensor
        for node, attr in constants:
            node.attributes[attr.name] = attr
    _drop_repeated_types(proto.graph)
    for imported in proto.opset_import:
        if not imported.domain:
            imported.ClearField("domain")  # as exporters leave it out: two bytes
    return Structure(proto, tensors, len(held))


def _large_constants(model: ir.Model) -> Iterator[tuple[ir.Node, ir.Attr]]:
    """Yield the attributes that hold a large tensor, with their nodes."""
    for node in nodes(model):
        for attr in node.attributes.data.values():
            if attr.type == ir.AttributeType.TENSOR and not attr.is_ref():
                tensor = attr.value
                if tensor.dtype != ir.DataType.STRING and tensor.nbytes >= _LARGE_ATTRIBUTE_BYTES:
                    yield node, attr


def _drop_repeated_types(graph: onnx.GraphProto) -> None:
    """Drop what the IR declares about initializers beside what their tensors say themselves."""
    held = {tensor.name for tensor in graph.initializer}
    declared = [info for info in graph.value_info if info.name not in held or _says_more(info)]
    if len(declared) < len(graph.value_info):
        kept = onnx.GraphProto(value_info=declared)
        graph.ClearField("value_info")
        graph.value_info.extend(kept.value_info)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _drop_repeated_types(attribute.g)
            for inner in attribute.graphs:
                _drop_repeated_types(inner)


def drop_notes(graph: onnx.GraphProto) -> None:
    """Drop `metadata_props` and `doc_string` of all nodes of a graph and of its subgraphs.

    Where in the source of a model each node comes from is most of what torch's exporter writes.
    """
    for node in graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                drop_notes(attribute.g)
            for inner in attribute.graphs:
                drop_notes(inner)


def _says_more(info: onnx.ValueInfoProto) -> bool:
    """Tell whether something is declared that a tensor does not say itself."""
    dims = info.type.tensor_type.shape.dim
    has_denotation = info.type.denotation or any(dim.denotation for dim in dims)
    return bool(info.doc_string or info.metadata_props or has_denotation)


def _placeholder(index: int, name: str, tensor: ir.TensorProtocol) -> ir.ExternalTensor:
    return ir.ExternalTensor(
        f"{_PREFIX}{index}",
        offset=None,
        length=None,
        dtype=tensor.dtype,
        shape=ir.Shape(tensor.shape.numpy()),
        name=name,
        doc_string=tensor.doc_string,
        metadata_props=dict(tensor.metadata_props),
    )


def _index(tensor: ir.TensorProtocol) -> int:
    assert isinstance(tensor, ir.ExternalTensor)
    return int(str(tensor.location)[len(_PREFIX) :])


def _references(model: ir.Model) -> Iterator[tuple[ir.Node, ir.Attr]]:
    """Yield the attributes that hold a reference, with their nodes."""
    for node in nodes(model):
        for attr in tuple(node.attributes.data.values()):
            held = attr.value if attr.type == ir.AttributeType.TENSOR else None
            if isinstance(held, ir.ExternalTensor) and str(held.location).startswith(_PREFIX):
                yield node, attr


def _reference(proto: onnx.TensorProto) -> int | None:
    if proto.data_location != onnx.TensorProto.EXTERNAL or not proto.external_data:
        return None
    location = proto.external_data[0].value
    return int(location[len(_PREFIX) :]) if location.startswith(_PREFIX) else None


def model_tensor_protos(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield every dense tensor of a model, functions included."""
    yield from tensor_protos(model.graph)
    for function in model.functions:
        for node in function.node:
            yield from attribute_tensor_protos(node)


def tensor_protos(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Yield every dense tensor of a graph and its subgraphs, those in attributes included."""
    yield from graph.initializer
    for node in graph.node:
        yield from attribute_tensor_protos(node)


def attribute_tensor_protos(node: onnx.NodeProto) -> Iterator[onnx.TensorProto]:
    """Yield every dense tensor in the attributes of a node, subgraphs included."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.TENSOR:
            yield attribute.t
        elif attribute.type == onnx.AttributeProto.TENSORS:
            yield from attribute.tensors
        elif attribute.type == onnx.AttributeProto.GRAPH:
            yield from tensor_protos(attribute.g)
        elif attribute.type == onnx.AttributeProto.GRAPHS:
            for graph in attribute.graphs:
                yield from tensor_protos(graph)


class Checkpoint:
    """A state of a model that it can be put back to; holds no copy of any weight.

    Held are the bytes of the structure: as objects they take twice as much.
    """

    def __init__(self, structure: Structure) -> None:
        self._bytes = structure.proto.SerializeToString()
        self._tensors = structure.tensors
        self._initializers = structure.initializers

    @classmethod
    def take(cls, model: ir.Model) -> Checkpoint:
        """Remember the present state of ``model``."""
        return cls(take_structure(model))

    def new_model(self) -> ir.Model:
        """Build another model in the remembered state, sharing the weights."""
        proto = onnx.ModelProto.FromString(self._bytes)
        return _model_of(Structure(proto, self._tensors, self._initializers))

    def restore(self, model: ir.Model) -> None:
        """Put ``model`` back, in place; nodes and values taken from it before are stale."""
        fresh = self.new_model()
        model.graph = fresh.graph
        model.functions.clear()
        model.functions.update(fresh.functions)
        model.metadata_props.clear()
        model.metadata_props.update(fresh.metadata_props)
        for field in ("ir_version", "producer_name", "producer_version", "domain"):
            setattr(model, field, getattr(fresh, field))
        model.model_version = fresh.model_version
        model.doc_string = fresh.doc_string


def clone(model: ir.Model) -> ir.Model:
    """Return an independent copy of ``model`` that shares its weights."""
    return _model_of(take_structure(model))


def _model_of(structure: Structure) -> ir.Model:
    """Return a new model of a structure, with its weights in place."""
    model = ir.from_proto(structure.proto)
    for value, tensor in initializer_tensors(model):
        value.const_value = structure.tensors[_index(tensor)]
    left = len(structure.tensors) - structure.initializers
    if left:  # seldom: spares the walk of all attributes
        for node, attr in islice(_references(model), left):
            tensor = structure.tensors[_index(attr.value)]
            node.attributes[attr.name] = ir.AttrTensor(attr.name, tensor, attr.doc_string)
    return model
