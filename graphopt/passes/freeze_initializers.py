"""Weights that are listed as inputs become constants."""

from __future__ import annotations

import fnmatch
import functools
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from graphopt.rewrite import Contract, Editor, Exact, Facts, Pass, option

__all__ = ["FreezeInitializers"]

_INITIALIZERS_ALONE_SINCE = 4  # IR version


@dataclass(frozen=True, kw_only=True)
class FreezeInitializers(Pass):
    """Take weights out of the inputs of the model, so that no caller can give them other values.

    What it does
        An initializer that is an input too has the value of the file by default, and whatever a
        caller gives instead otherwise: nothing about it is certain, and no pass may fold, quantize
        or share it. Exporters used to list every weight so, and nearly nobody gives another. The
        inputs go, the initializers stay. A model of an IR version before 4, in which every
        initializer has to be an input, becomes one of version 4.

    When it refuses
        `excluded`  the name matches `exclude`.

    What it keeps
        Inputs without a default, outputs, every node; what the model computes where no caller gives
        weights. One that does is told by the runtime that there is no such input.

    Cost
        Time O(inputs). No weight is read.

    Example
        before  (float[2] x, float[2] w = {1.0, 2.0}) => (float[2] y) { y = Add(x, w) }
        after   (float[2] x) => (float[2] y) <float[2] w = {1.0, 2.0}> { y = Add(x, w) }

    References
        ONNX IR specification, "Graphs": initializers and default values of inputs; IR version 4.
    """

    name: ClassVar[str] = "freeze-initializers"
    contract: ClassVar[Contract] = Contract(
        numerics=Exact(), is_idempotent=True, changes_interface=True
    )

    exclude: tuple[str, ...] = option((), help="inputs that stay", unit="name pattern")

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:  # noqa: ARG002
        """Freeze every initializer of the main graph that is an input."""
        for value in list(model.graph.inputs):
            if not value.is_initializer():
                continue
            name = value.name or ""
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in self.exclude):
                edit.refuse(value, "excluded", why="by the options of the pass")
                continue
            with edit.rewrite(value, because="a weight is a constant") as change:
                change.then(functools.partial(_freeze, model, value), changed=[name])


def _freeze(model: ir.Model, value: ir.Value) -> None:
    model.graph.inputs.remove(value)
    model.ir_version = max(model.ir_version, _INITIALIZERS_ALONE_SINCE)
