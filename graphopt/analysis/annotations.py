"""Quantization annotations: tensors that other tensors point at by name."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from graphopt.ir import graphs

__all__ = ["annotation_parameters", "is_annotated"]

_FIELD = "quant_parameter_tensor_names"  # where onnx-ir keeps `GraphProto.quantization_annotation`


def is_annotated(value: ir.Value) -> bool:
    """Tell whether a quantization annotation describes ``value``."""
    return bool(value.meta.get(_FIELD))


def annotation_parameters(model: ir.Model) -> frozenset[str]:
    """Return the names of scales and zero points that only annotations may refer to."""
    return frozenset(
        name for value in _values(model) for name in dict(value.meta.get(_FIELD) or {}).values()
    )


def _values(model: ir.Model) -> Iterator[ir.Value]:
    for graph in graphs(model):
        yield from graph.inputs
        yield from graph.initializers.values()
        for node in graph:
            yield from node.outputs
