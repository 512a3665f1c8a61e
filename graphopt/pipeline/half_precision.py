"""How far the runtime itself is from exact where a model computes in 16-bit floats.

The CPU provider has 32-bit kernels only for most operators. It casts to 32 bits and back, and drops
a pair of casts between neighbouring nodes, at every optimization level. Whether a value is rounded
to 16 bits thus depends on which nodes are neighbours, and a pass that removes an Identity moves the
last bits although it is exact by the specification.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from graphopt.ir import constant_tensor, graphs
from graphopt.rewrite import Exact, Numerics, Rounding

__all__ = ["runtime_tolerance"]

_UNIT_ROUNDOFF = {ir.DataType.FLOAT16: 2.0**-11, ir.DataType.BFLOAT16: 2.0**-8}

_LOST_ROUNDINGS = 8
"""Roundings that may be dropped on the way to one output and still add up, relative to its largest
value; neighbouring ones partly cancel."""


def runtime_tolerance(model: ir.Model, numerics: Numerics) -> Rounding | None:
    """Return what must be allowed instead of `Exact` because of 16-bit floats, or ``None``."""
    if not isinstance(numerics, Exact):
        return None
    # Types of values between nodes are mostly not declared; 16 bits come from an input, a weight, a
    # Cast or a Constant.
    found = [_UNIT_ROUNDOFF[kind] for kind in _types(model) if kind in _UNIT_ROUNDOFF]
    if not found:
        return None
    return Rounding(
        bound=_LOST_ROUNDINGS * max(found),
        source="the runtime drops roundings to 16 bits between neighbouring nodes",
    )


def _types(model: ir.Model) -> Iterator[ir.DataType]:
    for graph in graphs(model):
        for value in (*graph.inputs, *graph.initializers.values()):
            if value.dtype is not None:
                yield value.dtype
        for node in graph:
            if node.op_type == "Cast" and "to" in node.attributes:
                yield ir.DataType(node.attributes["to"].as_int())
            elif node.op_type == "Constant" and node.outputs:
                tensor = constant_tensor(node.outputs[0])
                if tensor is not None:
                    yield tensor.dtype
