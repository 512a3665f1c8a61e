"""Two models that carry state, run over a sequence, each on the state that it made itself."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from graphopt.errors import RunError
from graphopt.runtime import Session

__all__ = ["run_in_turn"]

Feeds: TypeAlias = Mapping[str, Any]

_FEWEST_STEPS = 8  # so that errors have time to add up; feeds come again where there are fewer


def run_in_turn(
    reference: Session, candidate: Session, feeds: Sequence[Feeds], states: Mapping[str, str]
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield the outputs of both models, step by step, from the second step on.

    The first step starts from the state in the first of the feeds; later ones take everything else
    from the feeds, in order. The sequence ends where what the reference hands on does not fit, as
    a cache that grows at every step, or where it fails.

    Args:
        reference: The model that is right by definition.
        candidate: The model that is judged.
        feeds: Inputs of the steps, those that are state included.
        states: Inputs that are state, with the outputs that are handed on to them.

    Raises:
        RunError: The candidate fails where the reference runs.
    """
    if not feeds or not states:
        return
    sides = [(reference, dict(feeds[0])), (candidate, dict(feeds[0]))]
    steps = max(len(feeds), _FEWEST_STEPS)
    for number, feed in enumerate(itertools.islice(itertools.cycle(feeds), steps)):
        outputs: list[dict[str, Any]] = []
        for index, (session, state) in enumerate(sides):
            # Each side its own state, never the reference's: what is measured is how errors add up
            # in use.
            given = {name: state.get(name) for name in states}
            try:
                found = session.run({**feed, **given})
            except RunError:
                if index:
                    raise
                return
            outputs.append(found)
            handed = {name: found.get(output) for name, output in states.items()}
            # By the reference alone: where its state fits, a candidate whose state does not is
            # wrong, and the runtime says so in the next step.
            if not index and not all(_fits(feed[name], handed[name]) for name in states):
                return
            state.update(handed)
        if number:  # the first step is a run on the feed as it is, and known
            yield outputs[0], outputs[1]


def _fits(fed: Any, handed: Any) -> bool:
    """Tell whether an output can take the place of an input."""
    if not (isinstance(fed, np.ndarray) and isinstance(handed, np.ndarray)):
        return False
    return bool(fed.shape == handed.shape and fed.dtype == handed.dtype)
