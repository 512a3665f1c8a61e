"""Passes that say what they look for are not asked about models without it."""

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
agraph (float[2] x) => (float[2] y) { y = Relu(x) }
"""


@dataclass(frozen=True, kw_only=True)
class LookForTanh(Pass):
    """Must never be run on a model without Tanh."""

    name: ClassVar[str] = "look-for-tanh"
    contract: ClassVar[Contract] = Contract(numerics=Exact(), is_idempotent=False)
    anchors: ClassVar[frozenset[str] | None] = frozenset({"Tanh"})

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:
        """Tell that it was asked."""
        edit.refuse(next(iter(model.graph)), "asked", why="it was run")


@pytest.mark.parametrize(("operator", "status"), [("Relu", "skipped"), ("Tanh", "unchanged")])
def test_a_pass_runs_only_where_one_of_its_anchors_is(operator: str, status: str) -> None:
    model = from_text(_MODEL.replace("Relu", operator))

    ledger = PassManager(verify="off").run(model, Pipeline.of(LookForTanh())).ledger

    assert [entry.status for entry in ledger.entries] == [status]
    assert len(ledger.journal.refusals) == (operator == "Tanh")
