"""Python's collector of garbage while models are at work."""

import gc
import weakref

import pytest

from graphopt.ir import collection, patient_collection


class _Ring:
    def __init__(self):
        self.me = self


def test_what_was_set_is_set_again():
    before = gc.get_threshold()
    with pytest.raises(ValueError, match="inside"), patient_collection():
        assert gc.get_threshold() != before
        assert gc.get_freeze_count() > 0
        raise ValueError("inside")
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0


def test_what_is_frozen_already_stays_so():
    gc.freeze()
    try:
        with patient_collection():
            pass
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()


def test_many_blocks_do_not_pile_up_garbage(monkeypatch):
    monkeypatch.setattr(collection, "_ENOUGH", 1000)
    monkeypatch.setattr(collection, "_unexamined", 0)
    with patient_collection():
        garbage = weakref.ref(_Ring())
        kept = [[] for _ in range(2000)]
    assert len(kept) == 2000
    assert garbage() is not None
    with patient_collection():
        pass
    assert garbage() is None
