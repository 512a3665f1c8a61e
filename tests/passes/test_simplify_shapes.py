"""`simplify-shapes` on random shape programs, at many sizes, held against the runtime."""

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from shape_programs import SIZES, feeds, shape_programs

from graphopt.errors import RunError
from graphopt.ir import clone, model_bytes, to_text
from graphopt.pipeline import Pipeline
from graphopt.runtime import SessionOptions, shared_worker

SETTINGS = settings(
    max_examples=200,
    phases=[Phase.generate, Phase.shrink],
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
OPTIONS = SessionOptions(optimization="disabled")


def outcome(session, feed):
    try:
        return session.run(feed)
    except RunError:
        return None


def check_program(pipeline, model):
    """Run both at every size; return how many runs succeeded, and how many nodes went."""
    before = clone(model)
    pipeline.run(model, verify="structure", reproducer_dir=None)
    compared = 0
    worker = shared_worker()
    with (
        worker.load(model_bytes(before), OPTIONS) as old,
        worker.load(model_bytes(model), OPTIONS) as new,
    ):
        for sizes in SIZES:
            expected = outcome(old, feeds(*sizes))
            if expected is None:
                continue
            actual = outcome(new, feeds(*sizes))
            assert actual is not None, f"fails at {sizes}"
            for name, array in expected.items():
                assert array.shape == actual[name].shape, f"{name} at {sizes}"
                np.testing.assert_array_equal(array, actual[name])
            compared += 1
    return compared, len(before.graph) - len(model.graph)


@pytest.mark.parametrize("text", ["simplify-shapes", "@exact"])
def test_random_programs_compute_the_same_at_every_size(text):
    totals = []

    @settings(SETTINGS, max_examples=200 if text == "simplify-shapes" else 60)
    @given(shape_programs())
    def hold(model):
        note(to_text(model))
        totals.append(check_program(Pipeline.parse(text), model))

    hold()
    compared, removed = map(sum, zip(*totals, strict=True))
    assert compared > len(totals)
    assert removed > len(totals)
