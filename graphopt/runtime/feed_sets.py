"""Several generated feeds of one model, at dimensions at which it is known to run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from graphopt.errors import RunError, UnsupportedModelError
from graphopt.runtime.dimensions import assign, fallbacks, proposals, with_totals
from graphopt.runtime.feeds import FeedPlan
from graphopt.runtime.options import SessionOptions
from graphopt.runtime.session import Session
from graphopt.runtime.shared import shared_worker

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["generate_feed_sets", "representative_feed"]

Feed = dict[str, np.ndarray[Any, Any]]


def generate_feed_sets(
    model: ir.Model, *, count: int = 2, seed: int = 0, session: Session | None = None
) -> list[Feed]:
    """Return feeds that the model runs on, each with other values and, where it can, other sizes.

    Every open dimension that can vary takes at least two sizes over the feeds. Dimensions that
    are open in name only keep the one size that runs.

    Args:
        model: The model.
        count: How many feeds; one is too few to vary a dimension.
        seed: Of the first feed; the others count on from it.
        session: Where sizes are tried. By default the model is saved to a temporary file and
            loaded without optimizations in the shared worker, if anything needs to be tried.

    Raises:
        UnsupportedModelError: The runtime ran the model at none of the sizes tried, or an input is
            of a type that cannot be generated.
        WorkerCrash, WorkerTimeout, WorkerOutOfMemory: The worker ended.
    """
    plan = FeedPlan.of(model)
    if not plan.roles:
        return [plan.feeds({}, seed + number) for number in range(count)]
    with _session_for(model, session) as place:
        return _Search(plan, seed, place).sets(count)


def representative_feed(model: ir.Model, *, seed: int = 0, session: Session | None = None) -> Feed:
    """Return one feed for timing: at the sizes of a benchmark, or else the first that runs.

    The sizes are those of `generate_feeds`: batch 1, 128 tokens, images of 224 x 224.

    Args:
        model: The model.
        seed: Of the values.
        session: As for `generate_feed_sets`.

    Raises:
        UnsupportedModelError, WorkerCrash, WorkerTimeout, WorkerOutOfMemory: As there.
    """
    plan = FeedPlan.of(model)
    if not plan.roles:
        return plan.feeds({}, seed)
    with _session_for(model, session) as place:
        typical = with_totals(plan.roles, assign(plan.roles, None))
        return plan.feeds(_Search(plan, seed, place).first(typical), seed)


class _Search:
    """Tries sizes in a session and keeps what runs."""

    def __init__(self, plan: FeedPlan, seed: int, session: Session) -> None:
        self._plan = plan
        self._seed = seed
        self._session = session
        self._refusal: RunError | None = None

    def sets(self, count: int) -> list[Feed]:
        sizes = self._sizes(count)
        return [
            self._plan.feeds(sizes[number % len(sizes)], self._seed + number)
            for number in range(count)
        ]

    def first(self, preferred: Sequence[dict[str, int]]) -> dict[str, int]:
        """Return the first assignment that runs: of `preferred`, then of all there are."""
        roles = self._plan.roles
        candidates = chain(preferred, proposals(roles), fallbacks(roles))
        found = next(filter(self._runs, candidates), None)
        if found is None:
            raise UnsupportedModelError(
                "no generated input runs",
                why=None if self._refusal is None else self._refusal.why,
                hint="give samples of real inputs",
            ) from self._refusal
        return found

    def _sizes(self, count: int) -> list[dict[str, int]]:
        """Return one to `count` assignments that run, as different as the model allows."""
        roles = self._plan.roles
        candidates = list(proposals(roles))
        first = self.first(())
        found = [first]
        for candidate in candidates:
            if (
                len(found) < count
                and all(candidate[symbol] != first[symbol] for symbol in roles)
                and self._runs(candidate)
            ):
                found.append(candidate)
        if len(found) < min(count, 2):
            found += self._varied(first, candidates)
        return found[:count]

    def _varied(
        self, first: dict[str, int], candidates: list[dict[str, int]]
    ) -> list[dict[str, int]]:
        """Change one symbol at a time, then all together that can change."""
        changes: dict[str, int] = {}
        alone: list[dict[str, int]] = []
        for symbol, size in first.items():
            others = dict.fromkeys(c[symbol] for c in candidates if c[symbol] != size)
            tries = (first | {symbol: other} for other in others)
            changed = next(filter(None, map(self._completed, tries)), None)
            if changed is not None:
                changes[symbol] = changed[symbol]
                alone.append(changed)
        together = self._completed(first | changes)
        return alone if together is None else [together]

    def _completed(self, sizes: dict[str, int]) -> dict[str, int] | None:
        """Return `sizes` with totals that run, if any do."""
        return next(filter(self._runs, with_totals(self._plan.roles, sizes)), None)

    def _runs(self, sizes: dict[str, int]) -> bool:
        try:
            # That it runs is all that matters: one output is enough to come back.
            wanted = [self._session.outputs[0].name]
            self._session.run(self._plan.feeds(sizes, self._seed), wanted)
        except RunError as refusal:
            self._refusal = refusal
            return False
        return True


@contextmanager
def _session_for(model: ir.Model, session: Session | None) -> Iterator[Session]:
    """Yield `session`, or one of the model itself."""
    if session is not None:
        yield session
        return
    from graphopt.ir import save, scratch_folder

    with scratch_folder() as folder:
        path = folder / "model.onnx"
        save(model, path)
        options = SessionOptions(optimization="disabled")
        with shared_worker().load(path, options) as own:
            yield own
