"""Gathering moments of what one or two sessions compute, where they compute it (worker side)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.runtime.collecting import array_view
from graphopt.runtime.moments import PairSums, Rows, RowSums, rows_of, without_padding
from graphopt.runtime.ort_values import ort_value_of
from graphopt.runtime.values import Feeds

__all__ = ["Gatherer"]


class Gatherer:
    """Sums over rows of values of one or two sessions, over all runs on the same feeds.

    Args:
        sessions: Of the runtime, one or two.
        plan: `watched`: for each value its `name`, the `side` that computes it (which session),
            `is_input`, `axis`, `window`, `positions`, `has_gram`, and `padding` (``None``, or a
            `mask` input and the `axes` of the value that are its axes). `pairs`: for each pair the
            numbers of two watched values, which are in no other pair, and whether products are
            wanted.
    """

    def __init__(self, sessions: Sequence[Any], plan: Mapping[str, Any]) -> None:
        self._sessions = list(sessions)
        self._watched: list[dict[str, Any]] = plan["watched"]
        self._pairs: list[tuple[int, int, bool]] = [tuple(pair) for pair in plan["pairs"]]
        self._sums = [RowSums(item["has_gram"]) for item in self._watched]
        self._products = [PairSums(is_wanted) for _, _, is_wanted in self._pairs]
        self._runs = 0

    def add(self, feeds: Feeds) -> None:
        """Run every session once, and add the rows of all that is watched."""
        held: dict[int, Rows] = {}
        # Of a pair, only what both have counts: products and moments are over the same rows.
        partners = {number for first, second, _ in self._pairs for number in (first, second)}
        for side, session in enumerate(self._sessions):
            for number, array in self._computed(side, session, feeds):
                rows = self._rows(self._watched[number], array, feeds)
                if rows is None:
                    continue
                if number in partners:
                    held[number] = rows
                else:
                    self._sums[number].add(rows)
        for (first, second, _), sums in zip(self._pairs, self._products, strict=True):
            if first in held and second in held and len(held[first]) == len(held[second]):
                sums.add(held[first], held[second])
                self._sums[first].add(held[first])
                self._sums[second].add(held[second])
        self._runs += 1

    def found(self) -> dict[str, npt.NDArray[Any]]:
        """Return all sums: ``watched/NUMBER/PART`` and ``pairs/NUMBER/PART``, `count` included."""
        found: dict[str, npt.NDArray[Any]] = {}
        sums: list[tuple[str, RowSums | PairSums]] = [
            *((f"watched/{number}", item) for number, item in enumerate(self._sums)),
            *((f"pairs/{number}", item) for number, item in enumerate(self._products)),
        ]
        for place, item in sums:
            found[f"{place}/count"] = np.array(item.count, np.int64)
            found |= {f"{place}/{part}": array for part, array in item.found().items()}
        return found

    def _computed(
        self, side: int, session: Any, feeds: Feeds
    ) -> list[tuple[int, npt.NDArray[Any]]]:
        """Run a session; return what is watched of it, by number, without copying it."""
        mine = [(number, item) for number, item in enumerate(self._watched) if item["side"] == side]
        found = [(number, feeds[item["name"]]) for number, item in mine if item["is_input"]]
        wanted = list(dict.fromkeys(item["name"] for _, item in mine if not item["is_input"]))
        if not wanted:
            return found
        known = {node.name for node in session.get_inputs()}
        fed = {name: array for name, array in feeds.items() if name in known}
        if any(array.dtype.kind == "O" for array in fed.values()):
            computed = dict(zip(wanted, session.run(wanted, fed), strict=True))
        else:
            given = {name: ort_value_of(array) for name, array in fed.items()}
            values = session.run_with_ort_values(wanted, given)
            # The arrays are views: the values behind them must live as long.
            self._alive = values
            computed = {name: array_view(value) for name, value in zip(wanted, values, strict=True)}
        return found + [(n, computed[item["name"]]) for n, item in mine if not item["is_input"]]

    def _rows(self, item: Mapping[str, Any], array: npt.NDArray[Any], feeds: Feeds) -> Rows | None:
        if not isinstance(array, np.ndarray):
            return None
        spec = dict(item)
        padding = item["padding"]
        if padding is not None and item["window"] is None and array.ndim:
            mask = feeds[padding["mask"]]
            array, spec["axis"] = without_padding(array, item["axis"], mask, padding["axes"])
        return rows_of(array, spec, self._runs)
