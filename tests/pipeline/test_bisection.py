import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.pipeline.bisection import Guilty, find_guilty


class Replay:
    """A run that is bad as soon as a certain transaction is applied; counts what it is asked."""

    def __init__(self, spans, bad_edit):
        self.spans, self.bad_edit, self.calls = spans, bad_edit, 0

    def __call__(self, steps, edits):
        self.calls += 1
        applied = self.spans[steps - 1][1] if steps else 0
        return min(applied, applied if edits is None else edits) < self.bad_edit


@given(st.lists(st.integers(0, 9), min_size=1, max_size=30), st.data())
def test_guilty_edit_is_found_in_few_replays(counts, data):
    spans, total = [], 0
    for count in counts:
        spans.append((total, total + count))
        total += count
    if not total:
        return
    bad = data.draw(st.integers(1, total))
    replay = Replay(spans, bad)
    guilty = find_guilty(spans, replay)
    before, after = spans[guilty.step]
    assert before < bad <= after
    assert guilty.edit == bad
    assert replay.calls <= 2 + len(spans).bit_length() + (after - before).bit_length()


def test_bad_start_blames_nobody():
    assert find_guilty([(0, 1)], lambda _steps, _edits: False) == Guilty(None)


def test_change_without_an_edit_blames_the_step_alone():
    def is_good(steps, edits):
        return steps < 2

    assert find_guilty([(0, 1), (1, 3), (3, 4)], is_good) == Guilty(1, None)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_last_step(count):
    spans = [(index, index + 1) for index in range(count)]
    assert find_guilty(spans, Replay(spans, count)) == Guilty(count - 1, count)
