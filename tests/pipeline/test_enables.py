"""A pass that says what its edits give to do has no other idempotent pass run again after them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir
import pytest

from graphopt.ir import from_text
from graphopt.pipeline import PassManager, Pipeline
from graphopt.rewrite import Contract, Editor, Exact, Facts, Pass

_MODEL = """
<ir_version: 10, opset_import: ["" : 20]>
agraph (float[2] x) => (float[2] y) { a = Relu(x)  y = Relu(a) }
"""
_IDEMPOTENT = Contract(numerics=Exact(), is_idempotent=True)


@dataclass(frozen=True, kw_only=True)
class Look(Pass):
    """Edits nothing."""

    name: ClassVar[str] = "look"
    contract: ClassVar[Contract] = _IDEMPOTENT

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:
        """Do nothing."""


@dataclass(frozen=True, kw_only=True)
class Rename(Pass):
    """Edits once, and may give any pass something to do."""

    name: ClassVar[str] = "rename"
    contract: ClassVar[Contract] = _IDEMPOTENT

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:
        """Let one node be another operator."""
        node = next(iter(model.graph))
        if node.op_type == "Relu":
            with edit.rewrite(node, because="a test") as change:
                change.set_operator(node, "Abs")


@dataclass(frozen=True, kw_only=True)
class RenameForNobody(Rename):
    """The same, and says that it gives no pass anything to do."""

    name: ClassVar[str] = "rename-for-nobody"
    enables: ClassVar[frozenset[str] | None] = frozenset()


@dataclass(frozen=True, kw_only=True)
class RenameForLook(Rename):
    """The same, and names the one pass that has to look again."""

    name: ClassVar[str] = "rename-for-look"
    enables: ClassVar[frozenset[str] | None] = frozenset({"look"})


@pytest.mark.parametrize(
    ("renaming", "status"),
    [(Rename(), "unchanged"), (RenameForLook(), "unchanged"), (RenameForNobody(), "skipped")],
)
def test_only_what_edits_enable_runs_again(renaming: Pass, status: str) -> None:
    pipeline = Pipeline.of(Look(), renaming, Look(), renaming)
    ledger = PassManager(verify="off").run(from_text(_MODEL), pipeline).ledger

    assert [entry.status for entry in ledger.entries] == [
        "unchanged",
        "applied",
        status,
        "skipped",  # it is idempotent, whatever it enables
    ]


def test_a_pass_that_never_ran_is_not_settled_by_others() -> None:
    pipeline = Pipeline.of(RenameForNobody(), Look())
    ledger = PassManager(verify="off").run(from_text(_MODEL), pipeline).ledger

    assert [entry.status for entry in ledger.entries] == ["applied", "unchanged"]
