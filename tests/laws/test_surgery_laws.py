"""Laws of surgery, on random layers: what is free can go, and leaves nothing behind.

`GRAPHOPT_LAWS=400 pytest tests/laws/test_surgery_laws.py --hypothesis-seed=7` tries 400 others.
"""

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_layers import image_model, sequence_model

from graphopt.analysis import infer_shapes
from graphopt.analysis.coupling import couple, find_groups, structure
from graphopt.compression.masking import judge_surgery, masked
from graphopt.compression.surgery import plan_surgery
from graphopt.ir import clone, constant_tensor, from_text, model_bytes
from graphopt.rewrite import Editor, Journal
from graphopt.runtime import generate_feed_sets, shared_worker

CUMULATED = """(float[2,3] x) => (float[2,2] y)
    <float[3,4] a = {1,2,-3,4,5,-6,7,8,9,-1,2,3}, float[4,2] b = {1,2,3,4,5,6,7,8}, int64 one = {1}>
    { h = MatMul(x, a) i = CumSum(h, one) y = MatMul(i, b) }"""
AGREEMENT = 1e-4
EXAMPLES = int(os.environ.get("GRAPHOPT_LAWS", "0"))
LOUDER = -7.0
"""What a leak would be multiplied with: a largest element changes places, a mean its sign."""


def run(model, feed):
    """Return the outputs, with the runtime's optimizations disabled."""
    return list(shared_worker().evaluate(model_bytes(model), feed).values())


def hidden(model, units, factor):
    """Return a copy with zeros where sums run over units, all else of theirs times ``factor``."""
    copy = clone(model)
    shapes = infer_shapes(copy)
    coupling = couple(copy, shapes)
    surgery = plan_surgery(coupling, units)
    editor = Editor(copy, pass_name="law", journal=Journal())
    with editor.rewrite(copy.graph, because="law") as change:
        for value in list(coupling.layouts):
            tensor, masks = constant_tensor(value), surgery.masks(value)
            if tensor is None or tensor.dtype.numpy() != np.float32:
                continue
            array = tensor.numpy().copy()
            for axis, mask in masks.items():
                np.moveaxis(array, axis, 0)[~mask] *= factor
            if masks and value.is_initializer():
                change.set_tensor(value, array)
    with editor.rewrite(copy.graph, because="law") as change:
        masked(change, surgery, shapes)
    return copy


def check(model, seed):
    """Hold every group of a model to the laws; return how many could lose units."""
    coupling = couple(model, infer_shapes(model))
    groups = [group for group in find_groups(coupling) if group.pin is None]
    feeds = generate_feed_sets(model, count=2, seed=seed)
    rng = np.random.default_rng(seed)
    for group in groups:
        free = [unit for unit in group.units if coupling.units.pin(unit) is None]
        units = rng.permutation(free)[: max(len(free) // 2, 1)].tolist()
        units = units[: len(group.units) - 1]
        if not units:
            continue
        test = judge_surgery(model, [sorted(units)], feeds)
        assert test.fault is None, (group.kind, group.name, test.fault)
        quiet, loud = (run(hidden(model, units, factor), feeds[0]) for factor in (1.0, LOUDER))
        for one, other in zip(quiet, loud, strict=True):
            scale = max(float(np.abs(one).max(initial=0.0)), 1e-30)
            assert np.abs(one - other).max(initial=0.0) <= AGREEMENT * scale, (
                group.kind,
                group.name,
            )
    return len(groups)


@pytest.mark.parametrize("draw", [sequence_model, image_model])
@settings(max_examples=EXAMPLES or 25, deadline=None, derandomize=not EXAMPLES, database=None)
@given(seed=st.integers(0, 10**6))
def test_what_is_free_can_go_and_leaves_nothing_behind(draw, seed):
    check(from_text(draw(seed)), seed)


def test_the_laws_find_a_rule_that_forgets_a_statistic(monkeypatch):
    def forgetful(node, walk):
        return [walk.layout(node.inputs[0])]

    monkeypatch.setitem(structure._RULES, "CumSum", forgetful)
    with pytest.raises(AssertionError):
        check(from_text(CUMULATED), 0)
