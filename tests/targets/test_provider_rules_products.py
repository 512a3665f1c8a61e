"""Which products NNAPI's provider takes."""

import pytest

from graphopt.analysis import infer_shapes
from graphopt.ir import from_text
from graphopt.targets.provider_rules import provider_rules

WEIGHT = "<float[4,4] w = {1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8}>"
CASES = {
    "(float[3,4] x) => (float[3,4] y) %s { y = MatMul(x, w) }": True,
    "(float[1,3,4] x) => (float[1,3,4] y) %s { y = MatMul(x, w) }": False,
    "(float[2,3,4] x, float[2,4,5] v) => (float[2,3,5] y) %s { y = MatMul(x, v) }": True,
    "(float[2,3,4] x, float[1,4,5] v) => (float[2,3,5] y) %s { y = MatMul(x, v) }": False,
    "(float[3,4] x, float[4,5] v) => (float[3,5] y) %s { y = MatMul(x, v) }": False,
}


@pytest.mark.parametrize("text", CASES)
def test_products(text):
    model = from_text(text % WEIGHT)
    rules = provider_rules("NnapiExecutionProvider")
    assert rules.runs(next(iter(model.graph)), infer_shapes(model)) is CASES[text]
