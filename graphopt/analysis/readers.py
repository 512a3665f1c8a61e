"""Who reads a value."""

from __future__ import annotations

import onnx_ir as ir

from graphopt.analysis.annotations import is_annotated

__all__ = ["only_reader"]


def only_reader(value: ir.Value) -> ir.Node | None:
    """Return the standard operator of the same graph that alone reads ``value``, and reads it once.

    There is none where the graph returns ``value``, or a quantization annotation describes it: it
    has to stay then.
    """
    uses, producer = value.uses(), value.producer()
    if len(uses) != 1 or value.is_graph_output() or producer is None or is_annotated(value):
        return None
    reader = next(iter(uses)).node
    return reader if not reader.domain and reader.graph is producer.graph else None
