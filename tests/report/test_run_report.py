"""What the result of a pipeline says to a person."""

from __future__ import annotations

from graphopt.report.run_report import refusals_text
from graphopt.rewrite import Refusal


def test_refusals_are_told_by_reason_with_the_first_place() -> None:
    cache = [
        Refusal(pass_name="prune-heads", where=f"MatMul `m{at}`", slug="model-input", why="it is")
        for at in range(2)
    ]
    bare = Refusal(pass_name="prune-heads", where="graph `g`", slug="no-layers")
    assert refusals_text([*cache, bare]).splitlines() == [
        "refused by   times  reason       first",
        "prune-heads      2  model-input  MatMul `m0`: it is",
        "prune-heads      1  no-layers    graph `g`",
    ]
