"""Values of a model on every sample, kept on disk, so that runs go on from there."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.ir import clone, scratch_folder

__all__ = ["HeldValues", "needed_part"]

_MOST_BYTES = 1 << 30
"""Of all samples together; to compute more again is cheaper than to read it."""
_DOUBT = 2  # the first samples may be larger than the others


class HeldValues:
    """What some values of a model were on each sample.

    The files go with their owner.

    Args:
        count: Samples that there are: what will be too large is given up after the first of them.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        stack = ExitStack()
        self._folder = stack.enter_context(scratch_folder())
        self._remove = weakref.finalize(self, stack.close)
        self._samples, self._bytes = 0, 0
        self.types: dict[str, tuple[ir.DataType, int]] = {}
        """Element type and rank of each value, by its name."""

    def add(self, values: Mapping[str, npt.NDArray[Any]]) -> bool:
        """Keep what the values are on the next sample; tell whether that was possible.

        It is not where one is no tensor of numbers or changes its rank, or all are too large.
        """
        arrays = {name: array for name, array in values.items() if isinstance(array, np.ndarray)}
        if len(arrays) < len(values) or any(
            item.dtype.kind not in "biuf" for item in arrays.values()
        ):
            return False
        types = {name: (ir.DataType.from_numpy(a.dtype), a.ndim) for name, a in arrays.items()}
        self._bytes += sum(array.nbytes for array in arrays.values())
        self._samples += 1
        whole = self._bytes / self._samples * self._count
        if (self.types and types != self.types) or self._bytes > _MOST_BYTES:
            return False
        if whole > _DOUBT * _MOST_BYTES:
            return False
        self.types = types
        np.savez(self._folder / f"{self._samples}.npz", *arrays.values())
        return True

    def feed(self, number: int, side: int) -> dict[str, npt.NDArray[Any]]:
        """Return what a model that goes on from here is fed, for a sample counted from 1."""
        with np.load(self._folder / f"{number}.npz") as found:
            arrays = [found[f"arr_{place}"] for place in range(len(self.types))]
        return {_input(name, side): one for name, one in zip(self.types, arrays, strict=True)}

    def close(self) -> None:
        """Remove the files now."""
        self._remove()


def _go_on_from(model: ir.Model, held: HeldValues, side: int) -> None:
    """Let a model be fed what was held, in place of computing it, under names of its own.

    Every value keeps its name: what was held is handed on by an Identity.

    Args:
        model: The model, with the values that were held; those it has no more are not fed.
        held: The values.
        side: Number of the model among those that run on the same feeds, to tell inputs apart.
    """
    values = {output.name: output for node in model.graph for output in node.outputs}
    for name, (dtype, rank) in held.types.items():
        value = values.get(name)
        if value is None:
            continue
        fed = ir.val(_input(name, side), dtype, [None] * rank)
        node = ir.node("Identity", [fed], name=fed.name)
        handed = node.outputs[0]
        handed.dtype, handed.shape = dtype, value.shape
        value.replace_all_uses_with(handed, replace_graph_outputs=True)
        value.name, handed.name = f"{name}//computed", name
        model.graph.inputs.append(fed)
        model.graph.insert_before(model.graph[0], node)


def needed_part(
    model: ir.Model,
    names: Sequence[str] | Mapping[str, None],
    held: HeldValues | None = None,
    side: int = 0,
) -> ir.Model:
    """Return a copy of ``model`` that computes the named values, and nothing else.

    The runtime computes whatever a model holds, wanted or not.

    Args:
        model: The model.
        names: The values.
        held: What the copy is fed in place of computing it.
        side: Number of the model among those that run on the same feeds, to tell inputs apart.
    """
    copy = clone(model)
    if held is not None:
        _go_on_from(copy, held, side)
    values = {output.name: output for node in copy.graph for output in node.outputs}
    # A value that is held has become an input under another name; its own name is the Identity's.
    values |= {value.name: value for value in copy.graph.inputs if value.name not in values}
    # A model may return a constant.
    values |= {value.name: value for value in copy.graph.initializers.values()}
    if not names:
        return copy
    copy.graph.outputs[:] = [values[name] for name in names]
    # All passes of the IR come with it, and with them OpenSSL: 5 MB that ranges alone do not need.
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    RemoveUnusedNodesPass()(copy)
    return copy


def _input(name: str, side: int) -> str:
    return f"held/{side}/{name}"
