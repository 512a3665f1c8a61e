"""What becomes useless when a node is replaced."""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from graphopt.analysis.operators import Effect, Operators

__all__ = ["orphans"]


def orphans(
    replaced: Collection[ir.Node], kept: Collection[ir.Value], operators: Operators
) -> list[ir.Node]:
    """Return the nodes that nobody needs once ``replaced`` are gone, readers first.

    They are ``replaced`` and the pure nodes that only those read.

    Args:
        replaced: Nodes that give way to new ones.
        kept: Values that the new nodes read; what computes them stays.
        operators: The operators of the model.
    """
    gone = dict.fromkeys(replaced)
    pending = list(replaced)
    while pending:
        for value in pending.pop().inputs:
            node = value.producer() if value is not None else None
            if node is None or node in gone or not _is_needless(node, gone, kept, operators):
                continue
            gone[node] = None
            pending.append(node)
    return _readers_first(gone)


def _is_needless(
    node: ir.Node,
    gone: Collection[ir.Node],
    kept: Collection[ir.Value],
    operators: Operators,
) -> bool:
    if any(output in kept or output.is_graph_output() for output in node.outputs):
        return False
    if any(user not in gone for output in node.outputs for user, _ in output.uses()):
        return False
    return operators.effect(node) is Effect.PURE


def _readers_first(found: Collection[ir.Node]) -> list[ir.Node]:
    """Order nodes so that each comes after those that read it."""
    ordered: list[ir.Node] = []
    left = dict.fromkeys(found)
    waiting = {
        node: sum(user in left for output in node.outputs for user, _ in output.uses())
        for node in left
    }
    ready = [node for node, count in waiting.items() if not count]
    while ready:
        node = ready.pop()
        ordered.append(node)
        for value in node.inputs:
            producer = value.producer() if value is not None else None
            if producer in waiting:
                waiting[producer] -= 1
                if not waiting[producer]:
                    ready.append(producer)
    return ordered
