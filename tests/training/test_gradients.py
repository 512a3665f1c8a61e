"""Gradients of units, against what they are by hand."""

import numpy as np
import pytest

from graphopt.analysis import infer_shapes
from graphopt.analysis.coupling import couple, find_groups
from graphopt.errors import CalibrationDataError
from graphopt.ir import from_text
from graphopt.training import has_torch, unit_gradients

pytestmark = pytest.mark.skipif(not has_torch(), reason="torch is not installed (extra `torch`)")
MODEL = """(float[N,2] x) => (float[N,OUT] y)
<float[2,3] w = {1, 0, 2, 0, 1, 1}, float[3,OUT] v = {VALUES}>
{ h = MatMul(x, w)  r = Relu(h)  y = MatMul(r, v) }"""
FEEDS = [{"x": np.array([row], np.float32)} for row in ([1.0, 2.0], [3.0, -1.0], [0.5, 0.5])]


def neurons(values, outputs=1):
    model = from_text(MODEL.replace("OUT", str(outputs)).replace("VALUES", values))
    coupling = couple(model, infer_shapes(model))
    groups = [group for group in find_groups(coupling) if group.kind == "neurons"]
    assert len(groups) == 1
    return model, coupling.units, groups


def by_hand(values):
    """Return by neuron the derivatives of the only output by its mask, over the output."""
    v = np.array(values)
    found = []
    for feed in FEEDS:
        h = np.maximum(feed["x"] @ np.array([[1, 0, 2], [0, 1, 1]]), 0)[0]
        found.append(h * v / abs(float(h @ v)))
    return np.array(found)


def test_one_output_has_the_gradient_of_its_relative_change():
    model, units, groups = neurons("1, -2, 0.5")
    found = unit_gradients(model, units, groups, FEEDS)
    expected = by_hand([1, -2, 0.5])
    order = groups[0].units
    taylor, fisher = zip(*(found[unit] for unit in order), strict=True)
    np.testing.assert_allclose(taylor, np.abs(expected).mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(fisher, np.square(expected).mean(axis=0), rtol=1e-5)


def test_half_of_fisher_is_what_the_loss_grows_by():
    """A unit's weights are small: the loss is quadratic there, as the second order says."""
    model, units, groups = neurons("1, 1, 0.001, 1, -1, 0.002", outputs=2)
    found = unit_gradients(model, units, groups, FEEDS[:1], draws=2000)
    h = np.array([1.0, 2.0, 4.0])
    v = np.array([[1, 1], [0.001, 1], [-1, 0.002]])
    output = h @ v
    for place, unit in enumerate(groups[0].units):
        grown = np.square(h[place] * v[place]).sum() / np.square(output).sum()
        assert found[unit].fisher == pytest.approx(grown, rel=0.1)


def test_logits_have_the_curvature_of_the_divergence():
    model, units, groups = neurons("1, -1, 0, 0, 0.5, 0.5", outputs=2)
    found = unit_gradients(model, units, groups, FEEDS[:1], loss="kl", draws=4000)
    h, v = np.array([1.0, 2.0, 4.0]), np.array([[1, -1], [0, 0], [0.5, 0.5]])
    p = np.exp(h @ v) / np.exp(h @ v).sum()
    for place, unit in enumerate(groups[0].units):
        change = h[place] * v[place]
        expected = p @ change**2 - (p @ change) ** 2  # of the distribution of the classes
        assert found[unit].fisher == pytest.approx(expected, rel=0.1, abs=1e-9)


def test_the_same_seed_gives_the_same_and_samples_are_bounded():
    model, units, groups = neurons("1, 1, 0.001, 1, -1, 0.002", outputs=2)
    one = unit_gradients(model, units, groups, FEEDS, seed=3)
    assert one == unit_gradients(model, units, groups, FEEDS, seed=3)
    assert one != unit_gradients(model, units, groups, FEEDS, seed=4)
    assert unit_gradients(model, units, groups, FEEDS, most=1) == unit_gradients(
        model, units, groups, FEEDS[:1]
    )


def test_without_samples_or_with_infinite_ones_there_is_no_score():
    model, units, groups = neurons("1, -2, 0.5")
    with pytest.raises(CalibrationDataError, match="no sample"):
        unit_gradients(model, units, groups, [])
    with pytest.raises(CalibrationDataError, match="not finite"):
        unit_gradients(model, units, groups, [{"x": np.array([[np.inf, 1.0]], np.float32)}])
