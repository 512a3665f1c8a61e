"""Some of the samples that were given."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import compress

from graphopt.calibration.samples import Row, Samples

__all__ = ["SamplePart"]


class SamplePart(Samples):
    """Some of other samples, which are not read far beyond the last of these.

    Args:
        whole: The others.
        places: Their numbers, counted from 0; they come in the order of `whole`.
    """

    def __init__(self, whole: Samples, places: Iterable[int]) -> None:
        self.source = whole.source
        self.prepared = whole.prepared
        self._whole = whole
        self._places = frozenset(places)
        self._count = len(self._places)

    def _labelled(self) -> Iterator[Row]:
        numbers = range(max(self._places, default=-1) + 1)
        wanted = (number in self._places for number in numbers)
        return compress(self._whole._labelled(), wanted)  # noqa: SLF001 - of its own kind
