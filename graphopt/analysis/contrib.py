"""Operators of ONNX Runtime's own domain: what passes that emit them have in common."""

from __future__ import annotations

import onnx_ir as ir

from graphopt.rewrite import Change, ShapeTable, TargetFacts

__all__ = ["CONTRIB_DOMAIN", "CPU_PROVIDER", "import_contrib", "is_supported_type"]

CONTRIB_DOMAIN = "com.microsoft"
CPU_PROVIDER = "CPUExecutionProvider"


def import_contrib(model: ir.Model, change: Change) -> None:
    """Import the domain of ONNX Runtime, where ``model`` does not yet."""
    if CONTRIB_DOMAIN not in model.opset_imports:
        change.set_opset(CONTRIB_DOMAIN, 1)


def is_supported_type(value: ir.Value, shapes: ShapeTable, target: TargetFacts) -> bool:
    """Tell whether the fused operators have kernels for the elements of ``value``.

    That is float32, and float16 on other providers than the CPU.
    """
    known = shapes.of(value)
    if known is None or known.dtype is None:
        return False
    if known.dtype == ir.DataType.FLOAT16:
        return target.provider != CPU_PROVIDER
    return known.dtype == ir.DataType.FLOAT
