from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.errors import OptionError, UnknownNameError
from graphopt.targets import GATES, Measured, gates_met, is_correct, judge, parse_gates


def only(name, limit, measured, **options):
    (result,) = judge({name: limit}, {name: measured}, **options)
    return result


@pytest.mark.parametrize("name", GATES)
def test_limits_hold_in_the_direction_of_the_name(name):
    better, worse = (2.0, 0.5) if name.startswith("min_") else (0.5, 2.0)
    assert only(name, 1.0, better).passed is True
    assert only(name, 1.0, 1.0).passed is True
    assert only(name, 1.0, worse).passed is False
    assert only(name, 1.0, math.nan).passed is False


@pytest.mark.parametrize("name", GATES)
def test_a_gate_without_a_value_fails(name):
    for result in (
        only(name, 1.0, None),
        judge({name: 1.0}, {})[0],
        only(name, 1.0, Measured(None)),
    ):
        assert result.passed is False
        assert result.status == "not-measured"


@pytest.mark.parametrize("name", GATES)
def test_only_waivable_gates_may_go_unmeasured(name):
    result = only(name, 1.0, Measured(None, "not-requested"))
    assert result.status == "not-measured"
    assert result.passed is (None if GATES[name].waiver else False)
    assert only(name, 1.0, Measured(None, "not-requested"), demanded=[name]).passed is False


def test_which_gates_are_waivable():
    waivable = {name for name, gate in GATES.items() if gate.waiver}
    assert waivable == {
        "max_metric_drop",
        "max_latency_ratio",
        "max_peak_memory_ratio",
        "max_partitions",
        "max_share_off_accelerator",
    }


def test_kinds():
    correctness = {name for name, gate in GATES.items() if gate.kind == "correctness"}
    assert correctness == {"max_rel_error", "min_cosine", "min_sqnr_db", "max_metric_drop"}


@pytest.mark.parametrize(
    ("ratio", "verdict", "limit", "passed", "status"),
    [
        (0.4, "faster", 0.5, True, "passed"),
        (0.6, "faster", 0.5, False, "failed"),
        (1.004, "same", 1.0, True, "passed"),
        (0.97, "same", 0.95, False, "failed"),
        (1.2, "slower", 1.0, False, "failed"),
        (0.4, "too-noisy", 1.0, False, "too-noisy"),
    ],
)
def test_latency_verdicts(ratio, verdict, limit, passed, status):
    result = only("max_latency_ratio", limit, Measured.latency(ratio, verdict))
    assert (result.passed, result.status, result.value) == (passed, status, ratio)


def test_infinite_signal_to_noise_passes_and_becomes_null():
    result = only("min_sqnr_db", 20.0, math.inf)
    assert result.passed is True
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False))["value"] is None


def test_correctness_and_goals_are_told_apart():
    gates = {"min_cosine": 0.99, "max_latency_ratio": 0.5}
    good_but_slow = judge(gates, {"min_cosine": 0.999, "max_latency_ratio": 0.9})
    assert (is_correct(good_but_slow), gates_met(good_but_slow)) == (True, False)
    fast_but_wrong = judge(gates, {"min_cosine": 0.5, "max_latency_ratio": 0.1})
    assert (is_correct(fast_but_wrong), gates_met(fast_but_wrong)) == (False, False)
    fine = judge(gates, {"min_cosine": 0.999, "max_latency_ratio": 0.1})
    assert (is_correct(fine), gates_met(fine)) == (True, True)


def test_results_are_in_the_order_of_the_gates():
    results = judge({"max_size_ratio": 1.0, "min_cosine": 0.9}, {})
    assert [result.name for result in results] == ["min_cosine", "max_size_ratio"]


def test_judging_an_unknown_gate_is_an_error():
    with pytest.raises(UnknownNameError):
        judge({"max_size": 1.0}, {})


def test_parse_gates():
    assert parse_gates(["max_metric_drop=0.005", " max_size_ratio = 3e-1 ", "min_cosine=off"]) == {
        "max_metric_drop": 0.005,
        "max_size_ratio": 0.3,
        "min_cosine": None,
    }


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("max_metric_drop", "expected `NAME=VALUE`"),
        ("max_metric_drop=1%", "is a percentage"),
        ("max_metric_drop=", "neither a number nor `off`"),
        ("max_metric_drop=nan", "is not a number"),
        ("max_size_ratio=inf", "expected a number of at least 0"),
        ("max_size_ratio=-1", "expected a number of at least 0"),
        ("min_cosine=1.5", "at least -1 and at most 1"),
        ("max_partitions=0", "at least 1"),
    ],
)
def test_bad_settings_say_why_and_give_an_example(text, why):
    with pytest.raises(OptionError) as caught:
        parse_gates([text])
    assert why in caught.value.why
    assert "--gate " in caught.value.hint


def test_unknown_gate_suggests_the_nearest():
    with pytest.raises(UnknownNameError) as caught:
        parse_gates(["max_latncy_ratio=1"])
    assert "`max_latency_ratio`" in caught.value.hint


@given(st.sampled_from(sorted(GATES)), st.floats(allow_nan=False), st.floats())
def test_json_form_never_holds_nan_or_infinity(name, limit, value):
    if math.isfinite(limit):
        json.dumps(only(name, limit, value).to_dict(), allow_nan=False)
