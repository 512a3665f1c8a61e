"""16-bit floats: the runtime's own rounding is not held against an exact pass."""

import numpy as np
import pytest

from graphopt import ir as gir
from graphopt.pipeline import Pipeline
from graphopt.pipeline.half_precision import runtime_tolerance
from graphopt.rewrite import Approximate, Exact

HALF = """
(float16[N,8] x) => (float16[N,8] z)
{ a = Mul(x, x)  b = Identity(a)  c = Sqrt(b)  d = Identity(c)  e = Add(d, x)  z = Exp(e) }
"""


def test_an_exact_pass_is_kept_on_a_model_in_16_bits_and_the_ledger_says_how_it_was_judged():
    model = gir.from_text(HALF)
    ledger = Pipeline.parse("@exact").run(model).ledger
    assert [node.op_type for node in model.graph] == ["Mul", "Sqrt", "Add", "Exp"]
    assert not ledger.rolled_back()


def test_only_16_bit_floats_and_only_exact_contracts_get_a_tolerance():
    half, single = gir.from_text(HALF), gir.from_text(HALF.replace("float16", "float"))
    assert runtime_tolerance(half, Exact()).bound == pytest.approx(8 * 2.0**-11)
    assert runtime_tolerance(single, Exact()) is None
    assert runtime_tolerance(half, Approximate("sqnr_db")) is None


def test_a_cast_or_a_constant_of_16_bits_counts():
    cast = gir.from_text("(float[N] x) => (float[N] z) { h = Cast<to=16>(x)  z = Cast<to=1>(h) }")
    assert runtime_tolerance(cast, Exact()).bound == pytest.approx(8 * 2.0**-8)
    constant = gir.from_text("(float16[N] x) => (float16[N] z) { z = Relu(x) }")
    assert runtime_tolerance(constant, Exact()) is not None


def test_the_tolerance_hides_no_wrong_result():
    import onnx_ir as ir

    from graphopt.errors import NumericMismatch
    from graphopt.pipeline.numerics import NumericJudge

    model = gir.from_text(HALF)
    judge = NumericJudge(gir.Checkpoint.take(model), feeds=[{"x": np.ones((2, 8), np.float16)}])
    wrong = gir.from_text(HALF.replace("Sqrt", "Exp"))
    assert isinstance(wrong, ir.Model)
    with pytest.raises(NumericMismatch):
        judge.check(wrong, Exact())
