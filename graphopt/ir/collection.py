"""Python's collector of garbage, while models are at work."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["patient_collection"]

_YOUNG, _MIDDLE, _OLD = 20_000, 20, 100


@contextmanager
def patient_collection() -> Iterator[None]:
    """Let the collector look for garbage less often, within the block.

    A graph is a great many small objects that refer to one another and stay. By default each few
    hundred new ones make the collector look at many again: a tenth of the time that passes take.
    """
    before, is_frozen = gc.get_threshold(), gc.get_freeze_count() > 0
    gc.set_threshold(_YOUNG, _MIDDLE, _OLD)
    if not is_frozen:
        gc.freeze()  # what was there before, modules above all, is not looked through meanwhile
    try:
        yield
    finally:
        if not is_frozen:
            gc.unfreeze()
        gc.set_threshold(*before)
