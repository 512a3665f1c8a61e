"""How many units of which groups go."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.compression.unit_budget import Budget, within_budget
from graphopt.compression.unit_pruning import UnitPruning
from graphopt.compression.unit_selection import Ranking, Selection
from graphopt.errors import OptionError, UnknownNameError
from graphopt.passes.prune_heads import PruneHeads
from graphopt.passes.prune_neurons import PruneNeurons


def ranking(*scores: float, name: str = "a", pinned: tuple[int, ...] = ()) -> Ranking:
    free = np.array([place not in pinned for place in range(len(scores))])
    return Ranking(name, np.array(scores, float), free)


def counts(selection: Selection, *sizes: int) -> list[int]:
    found = selection.removals([ranking(*range(size)) for size in sizes])
    return [len(places) for places in found]


def test_a_ratio_takes_the_lowest_of_every_group() -> None:
    found = Selection(ratio=0.5).removals([ranking(3, 1, 2, 0), ranking(0, 5)])
    assert found == [(1, 3), (0,)]


def test_a_count_is_the_same_for_every_group() -> None:
    assert counts(Selection(count=3), 4, 8) == [3, 3]


def test_at_least_one_unit_stays() -> None:
    assert counts(Selection(count=9), 4) == [3]
    assert counts(Selection(ratio=0.95), 2) == [1]


@pytest.mark.parametrize(
    ("multiple", "total", "kept"), [(64, 1536, 1152), (64, 100, 64), (64, 32, 24), (10, 25, 20)]
)
def test_what_stays_is_a_multiple(multiple: int, total: int, kept: int) -> None:
    selection = Selection(ratio=0.25, multiple=multiple)
    assert counts(selection, total) == [total - kept]


def test_the_minimum_holds_with_the_multiple() -> None:
    assert counts(Selection(ratio=0.9, multiple=8, minimum=12), 64) == [64 - 16]


def test_units_that_cannot_go_are_passed_over() -> None:
    assert Selection(count=2).removals([ranking(0, 1, 2, 3, pinned=(0,))]) == [(1, 2)]


def test_units_go_by_name() -> None:
    selection = Selection(units=("a:2", "b*:0-1"))
    found = selection.removals([ranking(0, 1, 2), ranking(0, 1, 2, name="b1")])
    assert found == [(2,), (0, 1)]
    assert selection.exclusion("c") is not None
    assert selection.exclusion("b7") is None


@pytest.mark.parametrize("entry", ["a", "a:", ":1", "a:x", "a:3-1", "a:-1"])
def test_what_names_no_units_is_an_error(entry: str) -> None:
    with pytest.raises(OptionError, match="cannot hold"):
        Selection(units=(entry,)).check({"a": 4})


def test_unknown_groups_and_units_are_errors() -> None:
    with pytest.raises(UnknownNameError):
        Selection(units=("z:1",)).check({"a": 4})
    with pytest.raises(OptionError, match="there is no unit 4"):
        Selection(units=("a:4",)).check({"a": 4})
    with pytest.raises(OptionError, match="cannot lose 4 of its 4"):
        Selection(units=("a:0-3",)).check({"a": 4})


def test_globally_the_lowest_relative_scores_go() -> None:
    rankings = [ranking(1, 1, 1, 1), ranking(10, 0, 0, 30, name="b")]
    selection = Selection(ratio=0.25, allocation="global")
    assert selection.removals(rankings) == [(), (1, 2)]


def test_globally_every_group_keeps_its_minimum() -> None:
    rankings = [ranking(9, 9, 9, 9), ranking(0, 0, 0, 0.1, name="b")]
    found = Selection(ratio=0.5, allocation="global", minimum=2).removals(rankings)
    assert [len(places) for places in found] == [2, 2]


def test_groups_and_exclude_choose_by_pattern() -> None:
    selection = Selection(ratio=0.5, groups=("enc*",), exclude=("*7",))
    assert selection.exclusion("enc1") is None
    assert selection.exclusion("enc7") == "`enc7` matches `exclude`"
    assert selection.exclusion("dec1") == "`dec1` matches none of `groups`"


def test_brackets_in_a_name_are_no_pattern() -> None:
    assert Selection(groups=("a[0]",)).exclusion("a[0]") is None


# -- budgets -----------------------------------------------------------------------------------


def test_a_share_takes_the_least_that_holds() -> None:
    ratio, tried = within_budget(Budget(0.7, "parameters"), lambda ratio: 1.0 - ratio)
    assert ratio is not None
    assert 0.3 <= ratio < 0.31
    assert all(cost == 1.0 - at for at, cost in tried)


def test_an_error_takes_the_most_that_holds() -> None:
    ratio, _ = within_budget(Budget(0.2, "error"), lambda ratio: ratio**2)
    assert ratio is not None
    assert 0.43 < ratio <= 0.2**0.5


def test_what_cannot_be_met_is_none() -> None:
    assert within_budget(Budget(0.1, "macs"), lambda ratio: 1.0 - 0.5 * ratio)[0] is None
    assert within_budget(Budget(0.1, "error"), lambda _: float("nan"))[0] is None


# -- options of passes -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"ratio": 0.5, "count": 1},
        {"ratio": 0.5, "budget": 0.5},
        {"count": 1, "units": ("a:1",)},
        {"units": ("a:1",), "multiple": 4},
        {"count": 1, "allocation": "global"},
    ],
)
def test_options_that_contradict_each_other(options: dict[str, object]) -> None:
    with pytest.raises(OptionError):
        PruneHeads(**options)  # type: ignore[arg-type]


def selection_of(step: UnitPruning) -> Selection:
    return step._options().selection


def test_widths_are_those_that_kernels_like_unless_units_are_counted() -> None:
    assert selection_of(PruneNeurons()).multiple == 64
    assert selection_of(PruneNeurons()).ratio == 0.25
    assert selection_of(PruneNeurons(multiple=1)).multiple == 1
    assert selection_of(PruneNeurons(count=3)).multiple == 1
    assert selection_of(PruneHeads()).multiple == 1
