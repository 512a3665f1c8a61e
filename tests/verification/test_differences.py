from __future__ import annotations

import json
import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from graphopt.errors import NumericMismatch
from graphopt.rewrite import Approximate, Exact, Rounding
from graphopt.verification import ErrorSummary, check_contract, compare_outputs, compare_values

X = np.array([[3.0, -4.0, 0.5], [0.0, 1.0, 2.0]], np.float32)


def test_numbers_against_hand_calculation():
    found = compare_values(np.array([3.0, 4.0]), np.array([3.0, 3.0]))
    assert found.max_abs == 1.0
    assert found.max_rel == 0.25
    assert found.cosine == pytest.approx(21 / (5 * math.sqrt(18)))
    assert found.sqnr_db == pytest.approx(10 * math.log10(25 / 1))
    assert found.top1_agreement is None
    assert not found.is_identical


def test_equal_arrays_are_perfect():
    found = compare_values(X, X.copy())
    assert (found.max_abs, found.max_rel, found.cosine, found.sqnr_db) == (0, 0, 1, math.inf)
    assert found.is_identical
    assert found.top1_agreement == 1.0


def test_sign_of_zero_is_a_difference_of_bits_only():
    found = compare_values(np.array([0.0]), np.array([-0.0]))
    assert found.max_abs == 0
    assert not found.is_identical
    with pytest.raises(NumericMismatch, match="expected the same bits"):
        check_contract({"y": found}, Exact())
    check_contract({"y": found}, Rounding(0.0, "test"))


@pytest.mark.parametrize(
    ("candidate", "message"),
    [
        (np.zeros((2, 2), np.float32), r"shape \[2, 2\], expected \[2, 3\]"),
        (X.astype(np.float64), "type float64, expected float32"),
        (np.where(X == 0.5, np.nan, X).astype(np.float32), "NaN at 1 of 6 positions, expected 0"),
        (np.where(X == 0.5, np.inf, X).astype(np.float32), r"\+inf at 1 .* difference at \[0, 2\]"),
        (None, "only one of the two is empty"),
        ([X], "one is a tensor"),
    ],
)
def test_mismatch(candidate, message):
    found = compare_values(X, candidate)
    assert found.mismatch is not None
    assert (found.max_abs, found.cosine, found.sqnr_db) == (math.inf, -1.0, -math.inf)
    for numerics in (Exact(), Rounding(1e9, "test"), Approximate("min_cosine")):
        with pytest.raises(NumericMismatch, match=message):
            check_contract({"y": found}, numerics)


def test_infinities_of_opposite_sign_do_not_match():
    assert compare_values(np.array([np.inf]), np.array([-np.inf])).mismatch


def test_shared_nan_and_infinity_are_left_out_of_the_numbers():
    reference = np.array([np.nan, np.inf, 2.0])
    found = compare_values(reference, np.array([np.nan, np.inf, 1.0]))
    assert (found.max_abs, found.max_rel) == (1.0, 0.5)
    assert compare_values(reference, reference.copy()).is_identical


def test_nan_with_other_bits_is_the_same_nan():
    bits = np.array([0x7FC00000, 0x7FC00001], np.uint32).view(np.float32)
    assert compare_values(bits[:1], bits[1:]).is_identical


@pytest.mark.parametrize(
    "dtype", [np.float16, np.float64, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn]
)
def test_every_float_type(dtype):
    reference = np.array([1.0, 2.0, -4.0]).astype(dtype)
    assert compare_values(reference, reference.copy()).is_identical
    found = compare_values(reference, np.array([1.0, 2.0, -2.0]).astype(dtype))
    assert (found.max_abs, found.max_rel) == (2.0, 0.5)
    assert found.cosine == pytest.approx(13 / (math.sqrt(21) * 3))


def test_extreme_numbers_neither_overflow_nor_vanish():
    for scale in (1e300, 1e-300):
        found = compare_values(np.array([3.0, 4.0]) * scale, np.array([3.0, 3.0]) * scale)
        assert found.sqnr_db == pytest.approx(10 * math.log10(25))
        assert found.cosine == pytest.approx(21 / (5 * math.sqrt(18)))
    assert compare_values(np.array([1.7e308]), np.array([-1.7e308])).sqnr_db == -math.inf


def test_zero_reference():
    zero = np.zeros(3, np.float32)
    assert compare_values(zero, zero.copy()).cosine == 1.0
    found = compare_values(zero, np.full(3, 1e-9, np.float32))
    assert (found.cosine, found.sqnr_db, found.max_rel) == (0.0, -math.inf, math.inf)
    with pytest.raises(NumericMismatch):
        check_contract({"y": found}, Rounding(0.5, "test"))


@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0)])
def test_empty_arrays_are_equal(shape):
    found = compare_values(np.zeros(shape, np.float32), np.zeros(shape, np.float32))
    assert found.is_identical
    assert (found.max_abs, found.cosine) == (0.0, 1.0)


def test_complex_numbers():
    reference = np.array([3 + 4j])
    assert compare_values(reference, reference.copy()).is_identical
    assert compare_values(reference, np.array([3 + 3j])).max_abs == 1.0


@pytest.mark.parametrize(
    ("reference", "candidate"),
    [
        (np.array([1, 2, 3, 4]), np.array([1, 2, 3, 5])),
        (np.array([True, True, False, True]), np.array([True, True, False, False])),
        (np.array(["a", "b", "c", "d"], object), np.array(["a", "b", "c", "é"], object)),
        (np.array([1, 2, 3, 4], ml_dtypes.int4), np.array([1, 2, 3, 5], ml_dtypes.int4)),
    ],
)
def test_discrete_outputs_must_be_equal_unless_the_contract_is_approximate(reference, candidate):
    assert compare_values(reference, reference.copy()).is_identical
    found = compare_values(reference, candidate)
    assert found.top1_agreement == 0.75
    assert (found.cosine, found.sqnr_db, found.mismatch) == (None, None, None)
    for numerics in (Exact(), Rounding(0.2, "test")):
        with pytest.raises(NumericMismatch):
            check_contract({"y": found}, numerics)
    check_contract({"y": found}, Approximate("min_cosine"))


def test_difference_of_extreme_integers():
    low, high = np.iinfo(np.int64).min, np.iinfo(np.int64).max
    assert compare_values(np.array([low]), np.array([high])).max_abs == float(2**64 - 1)


def test_top1_agreement_counts_rows():
    assert compare_values(X, X[:, ::-1].copy()).top1_agreement == 0.0
    assert compare_values(X, np.array([X[0], X[1][::-1]])).top1_agreement == 0.5


def test_sequences_and_optionals():
    assert compare_values(None, None).is_identical
    assert compare_values([X, X], [X, X + 1]).max_abs == 1.0
    assert compare_values([X], [X, X]).mismatch == "sequence of 2 elements, expected 1"
    assert compare_values([], []).is_identical


def test_missing_and_extra_outputs_are_mismatches():
    found = compare_outputs({"a": X, "b": X}, {"a": X, "c": X})
    assert found["a"].is_identical
    assert found["b"].mismatch == "the candidate has no such output"
    assert found["c"].mismatch == "the reference has no such output"


def test_rounding_bound_is_relative_to_the_largest_value():
    found = compare_values(np.array([100.0, 0.001]), np.array([100.0, 0.002]))
    check_contract({"y": found}, Rounding(1.1e-5, "test"))
    with pytest.raises(NumericMismatch, match="allowed 9e-06"):
        check_contract({"y": found}, Rounding(9e-6, "test"))


def test_summary_keeps_the_worst_and_the_means():
    summary = ErrorSummary()
    summary.update({"y": X}, {"y": X})
    summary.update({"y": X}, {"y": X[:, ::-1].copy()})
    summary.update({"y": X}, {"y": X + np.float32(0.125)})
    worst = summary.outputs["y"]
    assert summary.samples == 3
    assert worst.max_abs == 2.5
    assert summary.worst_sample("y") == 1
    assert worst.cosine == summary.worst_cosine() < summary.mean_cosine("y") < 1
    assert worst.top1_agreement == pytest.approx(2 / 3)
    assert summary.worst_sqnr_db() == worst.sqnr_db == pytest.approx(1.69, abs=0.01)
    assert not worst.is_identical


def test_summary_of_discrete_outputs_only():
    summary = ErrorSummary()
    summary.update({"y": np.array([1, 2])}, {"y": np.array([1, 2])})
    assert (summary.worst_cosine(), summary.worst_sqnr_db()) == (1.0, math.inf)
    summary.update({"y": np.array([1, 2])}, {"y": np.array([1, 3])})
    assert (summary.worst_cosine(), summary.worst_sqnr_db()) == (0.75, -math.inf)


def test_summary_of_nothing_measures_nothing():
    assert ErrorSummary().worst_cosine() is None
    assert ErrorSummary().worst_sqnr_db() is None
    assert ErrorSummary().worst_max_rel() is None


def test_json_holds_no_infinity_and_no_nan():
    summary = ErrorSummary()
    summary.update({"a": X, "b": X, "c": X}, {"a": X, "b": X[:1], "c": np.zeros_like(X)})
    text = json.dumps(summary.to_dict(), allow_nan=False)
    assert json.loads(text)["a"]["sqnr_db"] is None
    assert json.loads(text)["a"]["is_identical"] is True


FLOATS = hnp.arrays(
    np.float32, hnp.array_shapes(max_dims=3, max_side=4), elements=st.floats(width=32)
)


@given(FLOATS)
def test_any_array_is_identical_to_its_copy(array):
    found = compare_values(array, array.copy())
    assert found.is_identical
    assert found.mismatch is None
    check_contract({"y": found}, Exact())


@given(FLOATS, st.data())
def test_any_changed_element_is_noticed(array, data):
    index = data.draw(st.integers(0, array.size - 1))
    other = array.copy()
    replacement = data.draw(st.floats(width=32, allow_nan=False))
    other.flat[index] = replacement
    is_same = array.flat[index].tobytes() == other.flat[index].tobytes()
    assert compare_values(array, other).is_identical == is_same


def test_equal_outputs_have_a_cosine_of_exactly_one():
    rng = np.random.default_rng(0)
    for array in rng.standard_normal((50, 7)).astype(np.float32):
        assert compare_values(array, array.copy()).cosine == 1.0
