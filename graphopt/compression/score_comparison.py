"""How other scores rank the units of which one chooses: for the record alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import onnx_ir as ir

from graphopt.analysis.coupling import Coupling
from graphopt.compression.pruning_options import PruningOptions
from graphopt.compression.unit_ranking import rank_groups
from graphopt.rewrite import Editor, Facts, Journal

__all__ = ["OtherScores", "other_scores"]

OtherScores = Mapping[str, tuple[tuple[str, tuple[float, ...]], ...]]
"""By the name of a group: pairs of the name of a score and one score for each unit."""


def other_scores(
    model: ir.Model, coupling: Coupling, facts: Facts, options: PruningOptions
) -> OtherScores:
    """Rank the units of every group by each score that is asked for beside the one that counts.

    Args:
        model: The model, not cut yet.
        coupling: What it ties together.
        facts: Its shapes, and the samples where a score is measured.
        options: What the pass is told; `compare` names the scores.

    Returns:
        The scores of each group, in the order asked for; a group that a score cannot rank is
        without it, and the score that counts is not told twice.
    """
    found: dict[str, tuple[tuple[str, tuple[float, ...]], ...]] = {}
    for score in dict.fromkeys(options.compare):
        if score == options.score:
            continue
        # What cannot be ranked by this one is no refusal of the pass: nothing hangs on it.
        aside = Editor(model, pass_name="comparison", journal=Journal())  # noqa: S106 - no secret
        by_score = replace(options, score=score, compare=(), rankings={})
        for one in rank_groups(model, coupling, aside, facts, by_score):
            mine = (score, tuple(one.ranking.scores.tolist()))
            found[one.group.name] = (*found.get(one.group.name, ()), mine)
    return found
