"""A pass that names what its edits give nothing to do has those not run again after them."""

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
class RenameSparingLook(Rename):
    """The same, and says that it gives that pass nothing to do."""

    name: ClassVar[str] = "rename-sparing-look"
    spares: ClassVar[frozenset[str]] = frozenset({"look"})


@dataclass(frozen=True, kw_only=True)
class RenameSparingAnother(Rename):
    """The same, of another pass."""

    name: ClassVar[str] = "rename-sparing-another"
    spares: ClassVar[frozenset[str]] = frozenset({"fold-constants"})


@pytest.mark.parametrize(
    ("renaming", "status"),
    [
        (Rename(), "unchanged"),
        (RenameSparingAnother(), "unchanged"),
        (RenameSparingLook(), "skipped"),
    ],
)
def test_only_what_edits_spare_is_not_run_again(renaming: Pass, status: str) -> None:
    pipeline = Pipeline.of(Look(), renaming, Look(), renaming)
    ledger = PassManager(verify="off").run(from_text(_MODEL), pipeline).ledger

    assert [entry.status for entry in ledger.entries] == [
        "unchanged",
        "applied",
        status,
        "skipped",  # it is idempotent, whatever it spares
    ]


def test_a_pass_that_never_ran_is_not_settled_by_others() -> None:
    pipeline = Pipeline.of(RenameSparingLook(), Look())
    ledger = PassManager(verify="off").run(from_text(_MODEL), pipeline).ledger

    assert [entry.status for entry in ledger.entries] == ["applied", "unchanged"]


def test_who_splits_shared_weights_looks_again_once_they_are() -> None:
    model = from_text(
        """
        <ir_version: 10, opset_import: ["" : 20]>
        agraph (float[1,1] x) => (float[1,1] y, float[1,1] z) <float[1,1] a = {2.0}, float[1,1] b = {2.0}> {
            y = MatMul(x, a)
            z = MatMul(x, b)
        }
        """
    )
    pipeline = Pipeline.parse("unshare-weights, share-weights, unshare-weights")
    entries = PassManager(verify="off").run(model, pipeline).ledger.entries

    assert [entry.status for entry in entries] == ["unchanged", "applied", "unchanged"]
