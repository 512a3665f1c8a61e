"""Any onnx-ir pass, as a graphopt pass."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import ClassVar

import onnx_ir as ir

from graphopt.analysis import forget_annotations
from graphopt.errors import InvalidModelError, OptionError, PostconditionError
from graphopt.ir import (
    Checkpoint,
    forget_graphs,
    initializer_tensors,
    nodes,
    normalise,
    structure_digest,
)
from graphopt.rewrite import (
    Contract,
    Edit,
    Editor,
    Exact,
    Facts,
    Pass,
    Rounding,
    describe,
    option,
)

__all__ = ["ExternalOnnxIr"]

_BUILT_IN_PYTHON = " (built in Python)"


@dataclass(frozen=True, kw_only=True)
class ExternalOnnxIr(Pass):
    """Run a pass written for onnx-ir, in place or functional, and record what it changed.

    What it does
        Runs the pass that `factory` names, a class or function that returns a pass when called
        without arguments. Whatever the pass reports, the structure before and after is compared,
        and one edit is recorded where they differ.

    When it refuses
        Never: which places the foreign pass declined is not known.

    What it keeps
        What the foreign pass keeps. Its numerics are taken to be exact, and are checked as such,
        unless `rounding` allows a difference.

    Cost
        That of the foreign pass, and twice the serialization of the structure. No weight is read.

    Example
        options {factory="onnx_ir.passes.common:RemoveUnusedNodesPass"}
        before  (float[N] x) => (float[N] z) { u = Exp(x)  z = Relu(x) }
        after   (float[N] x) => (float[N] z) { z = Relu(x) }

    References
        The pass interface of onnx-ir, `onnx_ir.passes.PassBase`.
    """

    name: ClassVar[str] = "external-onnx-ir"
    contract: ClassVar[Contract] = Contract(numerics=Exact(), is_idempotent=False)

    factory: str = option(
        "onnx_ir.passes.common:TopologicalSortPass",
        help="class or function that returns the pass",
        unit="module:name",
    )
    rounding: float = option(
        0.0, help="largest |difference| / max|reference|; 0: bit for bit", unit="ratio", minimum=0.0
    )
    changes_interface: bool = option(False, help="it may change inputs or outputs of the model")
    foreign: ir.passes.PassBase | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Check the options and derive the contract of this instance from them."""
        super().__post_init__()
        numerics = Rounding(self.rounding, "stated by the caller") if self.rounding else Exact()
        contract = Contract(
            numerics=numerics, is_idempotent=False, changes_interface=self.changes_interface
        )
        object.__setattr__(self, "contract", contract)
        if self.foreign is None:
            object.__setattr__(self, "foreign", _resolved(self.factory))

    @classmethod
    def of(cls, foreign: ir.passes.PassBase, *, rounding: float = 0.0) -> ExternalOnnxIr:
        """Wrap an onnx-ir pass that exists already.

        Args:
            foreign: The pass.
            rounding: Largest allowed ``|difference| / max|reference|``; 0 is bit for bit.
        """
        kind = type(foreign)
        factory = f"{kind.__module__}:{kind.__qualname__}"
        if vars(foreign):  # arguments that text cannot repeat
            factory += _BUILT_IN_PYTHON
        return cls(factory=factory, rounding=rounding, foreign=foreign)

    def __eq__(self, other: object) -> bool:
        """Compare options; a foreign pass with arguments equals itself alone."""
        if not isinstance(other, ExternalOnnxIr):
            return NotImplemented
        same_foreign = self.foreign is other.foreign or not self.factory.endswith(_BUILT_IN_PYTHON)
        return str(self) == str(other) and same_foreign

    def __hash__(self) -> int:
        return hash(str(self))

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:  # noqa: ARG002
        """Run the foreign pass as one transaction."""
        number = edit.journal.next_number()
        if not edit.journal.admits(number):
            return
        held = list(initializer_tensors(model))  # a freed tensor's identity could be used again
        digest, names = structure_digest(model), _node_names(model)
        self._apply(model)
        is_same = structure_digest(model) == digest
        del held
        if is_same:
            return
        after = _node_names(model)
        edit.journal.touched.everything = True
        edit.journal.edits.append(
            Edit(
                number=number,
                pass_name=self.name,
                where=describe(model.graph),
                because=f"changed by {self.factory}",
                added=tuple(name for name in after if name not in names),
                removed=tuple(name for name in names if name not in after),
            )
        )

    def _apply(self, model: ir.Model) -> None:
        assert self.foreign is not None
        result = self.foreign(model).model
        forget_annotations(model)
        forget_graphs(model)
        for node in nodes(result):
            if node.domain == "ai.onnx":  # `graphopt.ir.Node` takes what it is given
                node.domain = ""
        if result is not model:
            Checkpoint.take(result).restore(model)
        try:
            normalise(model)
        except InvalidModelError as error:
            raise PostconditionError(
                f"`{self.factory}` left an invalid model", where=error.where, why=error.message
            ) from error


def _node_names(model: ir.Model) -> dict[str, None]:
    return dict.fromkeys(node.name or "" for node in nodes(model))


def _resolved(factory: str) -> ir.passes.PassBase:
    module, _, attribute = factory.partition(":")
    try:
        found = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
        foreign = found()  # type: ignore[operator]
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise _unusable(factory, str(error)) from error
    if not isinstance(foreign, ir.passes.PassBase):
        raise _unusable(factory, f"it returned `{type(foreign).__name__}`")
    return foreign


def _unusable(factory: str, why: str) -> OptionError:
    return OptionError(
        f"option `factory` of pass `external-onnx-ir` cannot be `{factory}`",
        why=f"expected `module:name` of something that returns an onnx-ir pass; {why}",
        hint="where the pass takes arguments, write a function without any that returns it",
    )
