"""16-bit floats: the runtime's own rounding is not held against an exact pass."""

import numpy as np
import onnx_ir as ir
import pytest

from graphopt import ir as gir
from graphopt.errors import NumericMismatch
from graphopt.pipeline import Pipeline
from graphopt.pipeline.half_precision import runtime_tolerance
from graphopt.pipeline.numerics import NumericJudge
from graphopt.rewrite import Approximate, Exact

HALF = """
(float16[N,8] x) => (float16[N,8] z)
{ a = Mul(x, x)  b = Identity(a)  c = Sqrt(b)  d = Identity(c)  e = Add(d, x)  z = Exp(e) }
"""


def test_an_exact_pass_is_kept_on_a_model_in_16_bits():
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


def test_a_result_that_needs_the_tolerance_is_said_to_need_it():
    judge = NumericJudge(
        gir.Checkpoint.take(gir.from_text(HALF)),
        feeds=[{"x": np.linspace(0.1, 3.0, 1024, dtype=np.float16).reshape(128, 8)}],
    )
    # Moving 16-bit floats needs no kernel for 32 bits, so that they are rounded on the way.
    more_roundings = HALF.replace("b = Identity(a)", "t = Transpose(a)  b = Transpose(t)")
    judge.check(gir.from_text(HALF), Exact())
    assert judge.remarks() == []
    judge.check(gir.from_text(more_roundings), Exact())
    (remark,) = judge.remarks()
    assert remark.startswith("compared within 0.00390625, not bit for bit: the runtime drops")


def test_the_tolerance_hides_no_wrong_result():
    model = gir.from_text(HALF)
    judge = NumericJudge(gir.Checkpoint.take(model), feeds=[{"x": np.ones((2, 8), np.float16)}])
    wrong = gir.from_text(HALF.replace("Sqrt", "Exp"))
    assert isinstance(wrong, ir.Model)
    with pytest.raises(NumericMismatch):
        judge.check(wrong, Exact())
