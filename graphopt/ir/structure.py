"""A model's structure as a protobuf in which weights are references, not bytes.

Serializing the structure of 40,000 nodes takes well under a second and no weight is read, so it
serves as a checkpoint, as the input of shape inference, and as the base of digests and of saving.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from graphopt.ir.constants import initializer_tensors

__all__ = ["Checkpoint", "Structure", "clone", "model_tensor_protos", "take_structure"]

_PREFIX = "graphopt-weight:"


@dataclass(frozen=True)
class Structure:
    """A protobuf without weights, and the weights.

    Attributes:
        proto: The model; each initializer is an external tensor whose location is a reference.
        tensors: The weights, in the order of the references.
    """

    proto: onnx.ModelProto
    tensors: tuple[ir.TensorProtocol, ...]

    def weights(self) -> Iterator[tuple[onnx.TensorProto, ir.TensorProtocol]]:
        """Yield each reference in `proto` with the weight that belongs there."""
        for proto in model_tensor_protos(self.proto):
            index = _reference(proto)
            if index is not None:
                yield proto, self.tensors[index]


def take_structure(model: ir.Model) -> Structure:
    """Serialize ``model`` with its initializers by reference; ``model`` is left as it was."""
    held = list(initializer_tensors(model))
    try:
        for index, (value, tensor) in enumerate(held):
            value.const_value = _placeholder(index, value.name or "", tensor)
        proto = ir.to_proto(model)
    finally:
        for value, tensor in held:
            value.const_value = tensor
    _drop_repeated_types(proto.graph)
    for imported in proto.opset_import:
        if not imported.domain:
            imported.ClearField("domain")  # as exporters leave it out: two bytes
    return Structure(proto, tuple(tensor for _, tensor in held))


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
    """A state of a model that it can be put back to; holds no copy of any weight."""

    def __init__(self, structure: Structure) -> None:
        self._structure = structure

    @classmethod
    def take(cls, model: ir.Model) -> Checkpoint:
        """Remember the present state of ``model``."""
        return cls(take_structure(model))

    def new_model(self) -> ir.Model:
        """Build another model in the remembered state, sharing the weights."""
        model = ir.from_proto(self._structure.proto)
        for value, tensor in initializer_tensors(model):
            index = int(str(tensor.location)[len(_PREFIX) :])  # type: ignore[attr-defined]
            value.const_value = self._structure.tensors[index]
        return model

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
    return Checkpoint.take(model).new_model()
