"""Models and feeds that the tests of the pass manager share."""

import numpy as np
import pytest
from toy_passes import AskForFacts, toy_plug_ins

from graphopt.ir import from_text


@pytest.fixture
def chain():
    """Six nodes in a row; all Abs but the first change nothing."""
    return from_text(
        """(float[N] x) => (float[N] y) {
            a = Abs(x)  b = Abs(a)  c = Relu(b)  d = Abs(c)  e = Abs(d)  y = Abs(e)
        }"""
    )


@pytest.fixture
def feeds():
    return [{"x": np.array([-1.5, 0.0, 2.5], np.float32)}, {"x": np.array([-3.0], np.float32)}]


@pytest.fixture
def toys(monkeypatch):
    """Let pipeline text name the toy passes."""
    monkeypatch.setattr("graphopt.pipeline.registry.plug_ins", toy_plug_ins)
    AskForFacts.seen.clear()
