"""Python's collector of garbage, while models are at work."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["patient_collection"]

_YOUNG, _MIDDLE, _OLD = 100_000, 20, 100

_ENOUGH = 300_000
"""So many new objects may wait unexamined for the next block: some tens of megabytes."""

_unexamined = 0


@contextmanager
def patient_collection() -> Iterator[None]:
    """Let the collector look for garbage less often, within the block.

    A graph is a great many small objects that refer to one another and stay. By default each few
    hundred new ones make the collector look at many again: a tenth of the time that passes take.
    What is left when the block ends, it does not look through at once, either: most programs end
    then. Where a program has many such blocks, it does so at the start of one, when much waits.
    """
    global _unexamined  # noqa: PLW0603 - the collector is one for the whole process, too
    before, is_frozen = gc.get_threshold(), gc.get_freeze_count() > 0
    if _unexamined > _ENOUGH:
        gc.collect()
        _unexamined = 0
    gc.set_threshold(_YOUNG, _MIDDLE, _OLD)
    if not is_frozen:
        gc.freeze()  # what was there before, modules above all, is not looked through meanwhile
    try:
        yield
    finally:
        if not is_frozen:
            _unexamined += gc.get_count()[0]
            gc.freeze()  # new objects go straight to the old ones, which counts as examined
            gc.unfreeze()
        gc.set_threshold(*before)
