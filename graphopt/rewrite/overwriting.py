"""Values that running a model changes.

BatchNormalization in training mode, the one with several outputs, puts the new mean and variance
where it found the old ones: ONNX Runtime gives them the same memory, that of an initializer too.
Such a value must stay a copy of its own, for whatever else reads it would see the statistics.
"""

from __future__ import annotations

import onnx_ir as ir

__all__ = ["is_overwritten", "overwritten_by"]

# Inputs `input_mean` and `input_var`.
_RUNNING_STATISTICS = slice(3, 5)


def overwritten_by(node: ir.Node) -> tuple[ir.Value, ...]:
    """Return the inputs of ``node`` that ONNX Runtime may overwrite when it runs."""
    if node.op_type != "BatchNormalization" or sum(bool(out.name) for out in node.outputs) < 2:  # noqa: PLR2004
        return ()
    return tuple(value for value in node.inputs[_RUNNING_STATISTICS] if value is not None)


def is_overwritten(value: ir.Value) -> bool:
    """Tell whether ONNX Runtime may write into the memory of ``value`` when a reader runs."""
    for user, _ in value.uses():
        if user.op_type == "BatchNormalization" and value in overwritten_by(user):
            return True
    return False
