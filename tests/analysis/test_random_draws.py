"""Draws of random numbers that a model makes."""

from graphopt.analysis.random_draws import random_draws
from graphopt.ir import from_text


def test_draws_in_branches_count_and_dead_ones_do_not():
    model = from_text("""
        (bool c, float[2] x) => (float[2] y) {
            dead = RandomNormalLike(x)
            y = If(c) <
                then_branch = t () => (float[2] a) { r = RandomNormalLike(x)  a = Add(r, x) },
                else_branch = e () => (float[2] b) { b = Identity(x) }
            >
        }""")
    assert random_draws(model) == 1
