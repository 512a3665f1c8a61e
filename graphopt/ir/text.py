"""ONNX text: models for people, goldens and docstrings."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from graphopt.errors import InvalidModelError
from graphopt.ir.normalise import normalise
from graphopt.ir.structure import take_structure

__all__ = ["from_text", "to_text"]


def from_text(text: str) -> ir.Model:
    """Parse a model from ONNX text; a header is supplied where it starts with a graph.

    Raises:
        InvalidModelError: The text is not a model.
    """
    source = text.strip()
    if not source.startswith("<"):
        source = f'<ir_version: 10, opset_import: ["" : 20]>\n{_named(source)}'
    try:
        proto = onnx.parser.parse_model(source)
    except onnx.parser.ParseError as error:
        raise InvalidModelError("ONNX text cannot be parsed", why=str(error)) from error
    return normalise(ir.from_proto(proto))


def _named(graph_text: str) -> str:
    return f"g {graph_text}" if graph_text.startswith("(") else graph_text


def to_text(model: ir.Model, *, max_elements: int = 64) -> str:
    """Return ``model`` as ONNX text; weights with more than ``max_elements`` are left out."""
    structure = take_structure(model)
    for proto, tensor in structure.weights():
        if tensor.size <= max_elements:
            filled = ir.to_proto(tensor)
            # A tied tensor has one name, and each initializer its own.
            filled.name = proto.name
            proto.CopyFrom(filled)
    return str(onnx.printer.to_text(structure.proto))
