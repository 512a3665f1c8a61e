"""What exporters note of the machine that they ran on."""

from __future__ import annotations

import onnx_ir as ir

from graphopt.ir.walk import nodes

__all__ = ["drop_traces"]

# PyTorch notes with each node which lines of which files led to it.
_TRACES = ("pkg.torch.onnx.stack_trace",)


def drop_traces(model: ir.Model) -> None:
    """Take stack traces out of nodes: they name folders of a machine, and nobody runs them.

    No pass does it, as it is no change of what a model is: it is done where a file is written that
    leaves the machine.
    """
    for node in nodes(model):
        if node.metadata_props:
            for key in _TRACES:
                node.metadata_props.pop(key, None)
