"""What callers of a model can see, taken before a change and checked after it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Self

import onnx_ir as ir

from graphopt.errors import StructureMismatch
from graphopt.verification.operators import type_text

__all__ = ["Interface", "Signature", "check_interface"]


@dataclass(frozen=True)
class Signature:
    """One input or output as callers see it.

    Attributes:
        name: Its public name.
        type: Its type as the specification writes it, ``tensor(float)``; ``None`` where unknown.
        dims: Each dimension as a number, a symbol, or ``None``; ``None`` for unknown rank.
        is_overridable: An input with a default (an initializer of the same name).
    """

    name: str
    type: str | None
    dims: tuple[int | str | None, ...] | None
    is_overridable: bool = False

    @classmethod
    def of(cls, value: ir.Value) -> Self:
        """Describe an input or output of a graph."""
        dims = None
        if value.shape is not None:
            dims = tuple(
                dim if isinstance(dim, int) else (str(dim.value) if dim.value else None)
                for dim in value.shape
            )
        kind = None if value.type is None else type_text(value.type)
        # onnx-ir gives such an input a constant value, too: it is a default, which any caller may
        # replace.
        is_overridable = value.is_graph_input() and value.is_initializer()
        return cls(value.name or "", kind, dims, is_overridable)

    def __str__(self) -> str:
        if self.dims is None:
            return self.type or "of unknown type"
        dims = ", ".join("?" if dim is None else str(dim) for dim in self.dims)
        return f"{self.type or 'of unknown type'}[{dims}]"


@dataclass(frozen=True)
class Interface:
    """Inputs, outputs and metadata of a model.

    Attributes:
        inputs: In order, overridable ones included.
        outputs: In order.
        metadata: The model's own metadata entries.
    """

    inputs: tuple[Signature, ...]
    outputs: tuple[Signature, ...]
    metadata: Mapping[str, str]

    @classmethod
    def of(cls, model: ir.Model) -> Self:
        """Take the interface of a model; a copy, so that it outlives changes of the model."""
        return cls(
            tuple(Signature.of(value) for value in model.graph.inputs),
            tuple(Signature.of(value) for value in model.graph.outputs),
            dict(model.metadata_props),
        )

    def differences(self, after: Interface) -> list[str]:
        """Return what changed from this interface to `after`.

        Metadata entries may be added; none may be lost or changed.
        """
        found = list(_signature_differences("input", self.inputs, after.inputs))
        found += _signature_differences("output", self.outputs, after.outputs)
        for key, text in self.metadata.items():
            if key not in after.metadata:
                found.append(f"metadata `{key}` is lost")
            elif after.metadata[key] != text:
                found.append(f"metadata `{key}` is `{after.metadata[key]}`, was `{text}`")
        return found


def check_interface(before: Interface, model: ir.Model, *, where: str | None = None) -> None:
    """Check that a model still has the interface that it had.

    Args:
        before: `Interface.of` the model before it was changed.
        model: The model now.
        where: Who changed it, for the message.

    Raises:
        StructureMismatch: A name, its place, type, shape, default or metadata entry changed.
    """
    found = before.differences(Interface.of(model))
    if found:
        others = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise StructureMismatch(
            f"the interface of the model changed: {found[0]}{others}",
            where=where,
            why="names, order, types and shapes of inputs and outputs are a promise to callers",
        )


def _signature_differences(
    what: str, before: tuple[Signature, ...], after: tuple[Signature, ...]
) -> Iterator[str]:
    names_before = [signature.name for signature in before]
    names_after = [signature.name for signature in after]
    lost = [name for name in names_before if name not in names_after]
    added = [name for name in names_after if name not in names_before]
    yield from (f"{what} `{name}` is lost" for name in lost)
    yield from (f"{what} `{name}` is new" for name in added)
    # Callers may feed by position, so that the order is a promise as well; told only where it is
    # the whole difference.
    if not lost and not added and names_before != names_after:
        yield f"{what}s are in the order {names_after}, were {names_before}"
    found = {signature.name: signature for signature in after}
    for old in before:
        new = found.get(old.name)
        if new is None or new == old:
            continue
        if (old.type, old.dims) != (new.type, new.dims):
            yield f"{what} `{old.name}` is {new}, was {old}"
        if old.is_overridable != new.is_overridable:
            state = "cannot be overridden any more" if old.is_overridable else "has a default now"
            yield f"{what} `{old.name}` {state}"
