"""Codebooks: how near they come to the best there are, and what their errors do."""

import numpy as np
import pytest

from graphopt.compression.codebooks import cluster_weight, optimal_codebook
from graphopt.compression.packed_weight import WeightView


def error(values, importance, book):
    """Return the squared error of each value under its nearest entry, weighted."""
    return (importance * np.square(values[:, None] - book).min(axis=1)).sum()


def least_error(values, importance, levels):
    """Return the least weighted error of any codebook, by dynamic programming."""
    order = np.argsort(values)
    v, a = values[order], importance[order]
    mass, first, second = (np.concatenate([[0], np.cumsum(x)]) for x in (a, a * v, a * v * v))
    count = len(v)
    cost = np.full((count + 1, count + 1), np.inf)
    for low in range(count):
        high = np.arange(low + 1, count + 1)
        m, f, s = (x[high] - x[low] for x in (mass, first, second))
        cost[low, high] = s - f * f / m
    best = np.where(np.arange(count + 1) == 0, 0.0, np.inf)
    for _ in range(levels):
        best = (best[:, None] + cost).min(axis=0)
    return best[count]


@pytest.mark.parametrize("kind", ["normal", "laplace", "mixture"])
@pytest.mark.parametrize("levels", [4, 16])
def test_codebook_is_near_the_best_there_is(kind, levels):
    rng = np.random.default_rng(0)
    values = {
        "normal": rng.standard_normal(400),
        "laplace": rng.laplace(size=400),
        "mixture": np.concatenate([rng.normal(-5, 0.1, 100), rng.normal(1, 1, 300)]),
    }[kind]
    importance = rng.uniform(0.5, 2.0, 400)
    found = error(values, importance, optimal_codebook(values, importance, levels))
    assert found <= 1.25 * least_error(values, importance, levels)


def test_important_values_are_met():
    values = np.linspace(-1.0, 1.0, 101)
    importance = np.where(np.arange(101) == 90, 1e6, 1.0)
    assert np.abs(optimal_codebook(values, importance, 4) - values[90]).min() < 1e-3


def test_few_values_are_their_own_codebook():
    values = np.array([3.0, 1.0, 3.0, -2.0])
    assert optimal_codebook(values, np.ones(4), 16).tolist() == [-2.0, 1.0, 3.0]


def test_zeros_stay_zeros():
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((64, 32)).astype(np.float32)
    weight[rng.random(weight.shape) < 0.5] = 0.0
    found = cluster_weight(weight, WeightView(1, 64, 32), bits=4, block_size=32)
    assert (found.restored().reshape(weight.shape)[weight == 0.0] == 0.0).all()


@pytest.mark.parametrize(
    "view", [WeightView(1, 64, 48), WeightView(48, 64, 1), WeightView(4, 64, 12)]
)
@pytest.mark.parametrize("block_size", [None, 32])
def test_more_bits_and_scales_come_nearer(view, block_size):
    weight = np.random.default_rng(0).laplace(size=64 * 48).astype(np.float32)
    noise = []
    for bits in (4, 8):
        found = cluster_weight(weight, view, bits=bits, block_size=block_size)
        noise.append(np.square(found.restored().reshape(-1) - weight).mean())
        assert found.nbytes < weight.nbytes
    assert noise[1] < noise[0] / 50
    assert noise[0] < np.square(weight).mean() / 30


@pytest.mark.parametrize("groups", [1, 2])
def test_errors_that_are_made_up_for_do_less(groups):
    rng = np.random.default_rng(0)
    length, outputs = 160, 24
    x = rng.standard_normal((groups, 3000, length)) @ rng.standard_normal((groups, length, length))
    grams = x.transpose(0, 2, 1) @ x / x.shape[1]
    second = np.diagonal(grams, axis1=1, axis2=2)
    weight = rng.standard_normal((outputs, length)).astype(np.float32)
    view, errors = WeightView(outputs, length, 1), []
    for known in ({}, {"second": second}, {"second": second, "grams": grams}):
        found = cluster_weight(weight, view, bits=4, block_size=32, **known)
        rest = (found.restored().reshape(weight.shape) - weight).reshape(groups, -1, length)
        errors.append(np.square(np.einsum("grl,gol->gro", x, rest)).mean())
    assert errors[1] < 1.02 * errors[0]
    assert errors[2] < 0.8 * errors[1]
