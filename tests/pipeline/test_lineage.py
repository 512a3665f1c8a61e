"""States before groups are rebuilt from the first one: by repeating what was accepted since."""

from __future__ import annotations

import pytest
from toy_passes import ApproximateRelabel

from graphopt.errors import PassError
from graphopt.ir import clone, to_text
from graphopt.pipeline import PassManager, Pipeline

pytestmark = pytest.mark.usefixtures("toys")

# Three groups: two that edit, one exact and one that rounds, and one that breaks the model.
ACCEPTED = (
    "relabel-operators{old=Abs new=Relu limit=2},round-relabel{old=Relu new=Identity limit=1}"
)


def run(model, text, **settings):
    origin = settings.pop("origin", None)
    manager = PassManager(verify="structure", reproducer_dir=None, **settings)
    return manager.run(model, Pipeline.parse(text), origin=origin)


@pytest.mark.parametrize("has_origin", [False, True])
@pytest.mark.parametrize("fault", ["break-structure", "raise-error"])
def test_a_late_failure_leaves_what_was_accepted_before(chain, fault, has_origin):
    expected = clone(chain)
    run(expected, ACCEPTED)
    first = clone(chain)
    origin = (lambda: clone(first)) if has_origin else None
    with pytest.raises(PassError):
        run(chain, f"{ACCEPTED},{fault}", origin=origin)
    assert to_text(chain) == to_text(expected)
    assert to_text(chain) != to_text(first)


@pytest.mark.parametrize("has_origin", [False, True])
def test_the_rest_of_a_late_group_runs_again_without_the_guilty_pass(chain, has_origin):
    expected, first = clone(chain), clone(chain)
    more = "relabel-operators{old=Relu new=Neg limit=1}"
    run(expected, f"{ACCEPTED},{more}")
    origin = (lambda: clone(first)) if has_origin else None
    result = run(chain, f"{ACCEPTED},break-structure,{more}", on_error="drop", origin=origin)
    assert to_text(chain) == to_text(expected)
    assert [entry.status for entry in result.ledger.entries].count("rolled-back") == 1


def test_the_origin_is_not_asked_where_nothing_fails(chain):
    def origin():
        raise AssertionError("nothing had to be put back")

    run(chain, ACCEPTED, origin=origin)


def test_approximate_passes_are_not_repeated(chain, monkeypatch):
    runs = []
    original = ApproximateRelabel.run
    monkeypatch.setattr(
        ApproximateRelabel,
        "run",
        lambda self, model, edit, facts: runs.append(1) or original(self, model, edit, facts),
    )
    with pytest.raises(PassError):
        run(chain, "approximate-relabel{old=Abs new=Relu limit=2},raise-error")
    assert runs == [1]
    assert sum(node.op_type == "Relu" for node in chain.graph) == 3
