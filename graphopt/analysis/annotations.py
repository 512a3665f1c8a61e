"""Quantization annotations: tensors that other tensors point at by name."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from graphopt.ir import HAS_NO_ANNOTATIONS, graphs

__all__ = ["annotation_parameters", "forget_annotations", "is_annotated"]

_FIELD = "quant_parameter_tensor_names"  # where onnx-ir keeps `GraphProto.quantization_annotation`


def is_annotated(value: ir.Value) -> bool:
    """Tell whether a quantization annotation describes ``value``."""
    return bool(value.meta.get(_FIELD))


def annotation_parameters(model: ir.Model) -> frozenset[str]:
    """Return the names of scales and zero points that only annotations may refer to."""
    if model.meta.get(HAS_NO_ANNOTATIONS):
        return frozenset()
    found = frozenset(
        name for value in _values(model) for name in dict(value.meta.get(_FIELD) or {}).values()
    )
    # Nearly no model has any, no pass adds one, and the search looks at every value.
    model.meta[HAS_NO_ANNOTATIONS] = not found
    return found


def forget_annotations(model: ir.Model) -> None:
    """Search ``model`` again when somebody asks: it was changed by other means than an editor."""
    model.meta.pop(HAS_NO_ANNOTATIONS, None)


def _values(model: ir.Model) -> Iterator[ir.Value]:
    for graph in graphs(model):
        yield from graph.inputs
        yield from graph.initializers.data.values()
        for node in graph:
            yield from node.outputs
