"""Small passes with known faults, for testing what runs passes."""

from dataclasses import dataclass, replace
from typing import ClassVar

import onnx_ir as ir

from graphopt.rewrite import Approximate, Contract, Exact, Needs, Pass, Rounding, option


@dataclass(frozen=True, kw_only=True)
class RelabelOperators(Pass):
    """Turn every `old` operator into `new`, in order or in reverse, at most `limit` of them."""

    name: ClassVar[str] = "relabel-operators"
    contract: ClassVar[Contract] = Contract(numerics=Exact())
    old: str = option("Abs", help="operator that is replaced", unit="op_type")
    new: str = option("Identity", help="operator that replaces it", unit="op_type")
    reverse: bool = option(False, help="from the last node to the first")
    limit: int = option(1000, help="most nodes changed", unit="nodes", minimum=0)

    def __post_init__(self):
        super().__post_init__()
        contract = replace(type(self).contract, is_idempotent=self.limit in (0, 1000))
        object.__setattr__(self, "contract", contract)

    def run(self, model, edit, facts):
        nodes = [node for node in model.graph if node.op_type == self.old]
        for node in nodes[:: -1 if self.reverse else 1][: self.limit]:
            with edit.rewrite(node, because="relabelled") as change:
                change.set_operator(node, self.new)


@dataclass(frozen=True, kw_only=True)
class RoundRelabel(RelabelOperators):
    """The same under a rounding contract."""

    name: ClassVar[str] = "round-relabel"
    contract: ClassVar[Contract] = Contract(numerics=Rounding(0.01, "a test"))


@dataclass(frozen=True, kw_only=True)
class ApproximateRelabel(RelabelOperators):
    """The same under an approximate contract."""

    name: ClassVar[str] = "approximate-relabel"
    contract: ClassVar[Contract] = Contract(numerics=Approximate("sqnr_db"))


@dataclass(frozen=True, kw_only=True)
class ToggleOperators(Pass):
    """Turn Relu into Abs and Abs into Relu: never at rest, always back after two rounds."""

    name: ClassVar[str] = "toggle-operators"
    contract: ClassVar[Contract] = Contract(numerics=Exact(), is_idempotent=False)

    def run(self, model, edit, facts):
        other = {"Relu": "Abs", "Abs": "Relu"}
        for node in list(model.graph)[1:]:
            if node.op_type in other:
                with edit.rewrite(node, because="toggled") as change:
                    change.set_operator(node, other[node.op_type])


@dataclass(frozen=True, kw_only=True)
class RaiseError(Pass):
    """Edit once, then raise."""

    name: ClassVar[str] = "raise-error"
    contract: ClassVar[Contract] = Contract(numerics=Exact())

    def run(self, model, edit, facts):
        node = next(iter(model.graph))
        with edit.rewrite(node, because="about to fail") as change:
            change.set_operator(node, "Neg")
        raise ZeroDivisionError("toy failure")


@dataclass(frozen=True, kw_only=True)
class BreakStructure(Pass):
    """Let the second node read a value that nothing defines."""

    name: ClassVar[str] = "break-structure"
    contract: ClassVar[Contract] = Contract(numerics=Exact())

    def run(self, model, edit, facts):
        node = list(model.graph)[1]
        with edit.rewrite(node, because="to break it") as change:
            change.set_input(node, 0, ir.Value(name="nowhere"))


@dataclass(frozen=True, kw_only=True)
class GoBehindTheEditor(Pass):
    """Record an edit of one node, and change another without a record."""

    name: ClassVar[str] = "go-behind-the-editor"
    contract: ClassVar[Contract] = Contract(numerics=Exact())

    def run(self, model, edit, facts):
        first, second = list(model.graph)[:2]
        first.op_type = "Ceil"
        with edit.rewrite(second, because="openly") as change:
            change.set_operator(second, "Identity")


@dataclass(frozen=True, kw_only=True)
class AskForFacts(Pass):
    """Need everything, and keep what it got for the test to see."""

    name: ClassVar[str] = "ask-for-facts"
    contract: ClassVar[Contract] = Contract(numerics=Exact())
    names: tuple[str, ...] = option((), help="values whose range is needed", unit="value")
    needs_target: bool = option(False, help="whether the target is needed")
    seen: ClassVar[list] = []

    def needs(self, model):
        return Needs(shapes=True, ranges=self.names, target=self.needs_target)

    def run(self, model, edit, facts):
        self.seen.append(facts)


@dataclass(frozen=True, kw_only=True)
class RelyOnEdits(Pass):
    """Turn two nodes into Neg, the second only where the first has become one."""

    name: ClassVar[str] = "rely-on-edits"
    contract: ClassVar[Contract] = Contract(numerics=Exact())

    def run(self, model, edit, facts):
        for node in list(model.graph)[:2]:
            with edit.rewrite(node, because="relied on") as change:
                change.set_operator(node, "Neg")
            if node.op_type != "Neg":
                raise LookupError("where is my edit?")


@dataclass(frozen=True, kw_only=True)
class AddAnAxis(Pass):
    """Turn the operator of the last node into Unsqueeze, which adds an axis to the output."""

    name: ClassVar[str] = "add-an-axis"
    contract: ClassVar[Contract] = Contract(numerics=Exact())

    def run(self, model, edit, facts):
        node = model.graph[-1]
        if node.op_type == "Squeeze":
            with edit.rewrite(node, because="for a rank more") as change:
                change.set_operator(node, "Unsqueeze")


TOY_PASSES = (
    RelabelOperators,
    RoundRelabel,
    ApproximateRelabel,
    ToggleOperators,
    RaiseError,
    BreakStructure,
    RelyOnEdits,
    AddAnAxis,
    GoBehindTheEditor,
    AskForFacts,
)


def toy_plug_ins():
    """Stand in for `graphopt.pipeline.registry.plug_ins`: every toy pass is one."""
    from importlib.metadata import EntryPoint

    return [
        EntryPoint(name=cls.name, value=f"toy_passes:{cls.__name__}", group="graphopt.passes")
        for cls in TOY_PASSES
    ]
