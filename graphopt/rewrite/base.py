"""The base class of every pass."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import ClassVar, Self

import onnx_ir as ir

from graphopt.rewrite.contract import Contract
from graphopt.rewrite.editor import Editor
from graphopt.rewrite.facts import Facts, Needs, TargetFacts, standalone_facts
from graphopt.rewrite.journal import Journal
from graphopt.rewrite.options import check_options, format_value, option_specs

__all__ = ["Pass"]


@dataclass(frozen=True, kw_only=True)
class Pass(ir.passes.InPlacePass, abc.ABC):
    """One named, typed, frozen value that changes a model through an editor.

    A subclass is a frozen keyword-only dataclass whose fields are its options (declared with
    `option`); ``str()`` is its pipeline text. It runs in graphopt's pass manager, which gives it
    what it `needs`, and in any onnx-ir pass manager, where it must do with the model alone.

    Attributes:
        name: What it is called in pipeline text.
        contract: What it promises.
        is_preparation: It is approximate in name only: it makes the model easier to approximate,
            and what it makes is what later passes are held against (`Facts.original`).
        is_foreign: It is a program of others: that it fails is told, and is no error.
        anchors: Operator types (of any domain) without which it has nothing to do, so that the
            manager need not ask; ``None``: it always runs.
        spares: Names of idempotent passes that have nothing to do after its edits where they had
            nothing before; any other one, of a plug-in too, may have and runs again.
    """

    name: ClassVar[str]
    contract: ClassVar[Contract]
    is_preparation: ClassVar[bool] = False
    is_foreign: ClassVar[bool] = False
    anchors: ClassVar[frozenset[str] | None] = None
    spares: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            OptionError: An option has a wrong type or value.
        """
        check_options(self, self.name)

    def needs(self, model: ir.Model) -> Needs:  # noqa: ARG002 - subclasses look at the model
        """Return what `run` must be told about ``model`` as it is now."""
        return Needs()

    def needs_on(self, model: ir.Model, target: TargetFacts) -> Needs:  # noqa: ARG002 - as above
        """Return what `run` must be told where the model is meant for ``target``."""
        return self.needs(model)

    def without_samples(self) -> Self:
        """Return a pass that acts on the same places and measures nothing, where there is one."""
        return self

    def check_extras(self) -> None:
        """Check that what the pass needs beside graphopt is installed, before any work is done.

        Raises:
            MissingExtraError: It is not.
        """

    @abc.abstractmethod
    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:
        """Change ``model`` through ``edit``; the editor knows whether anything changed."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run alone, as an onnx-ir pass.

        Raises:
            PreconditionError: A need cannot be met without graphopt's pass manager.
        """
        facts = standalone_facts(model, self.needs(model), pass_name=self.name)
        editor = Editor(model, pass_name=self.name, journal=Journal())
        self.run(model, editor, facts)
        return ir.passes.PassResult(model, modified=bool(editor.journal.edits))

    def __str__(self) -> str:
        given = [
            f"{spec.name}={format_value(getattr(self, spec.name))}"
            for spec in option_specs(type(self))
            # Only what differs: the text of a pass stays the same when options are added to it
            # later.
            if getattr(self, spec.name) != spec.default
        ]
        return f"{self.name}{{{' '.join(given)}}}" if given else self.name
