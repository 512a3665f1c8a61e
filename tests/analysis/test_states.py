"""State is recognised by name, type and shape."""

import pytest

from graphopt.analysis import state_pairs
from graphopt.ir import from_text


def model(before, after, before_type="float[2,N,8]", after_type="float[2,N,8]"):
    graph = f'({before_type} "{before}", float[N] x) => ({after_type} "{after}", float[N] y)'
    return from_text(f'{graph} {{ "{after}" = Neg("{before}")  y = Neg(x) }}')


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("state", "stateN"),
        ("state", "new_state"),
        ("h0", "hn"),
        ("c", "c_out"),
        ("hidden_in", "hidden_out"),
        ("past_key_values.3.key", "present.3.key"),
        ("past_3", "present_3"),
        ("cache_last_channel", "cache_last_channel_next"),
    ],
)
def test_usual_names_are_known(before, after):
    assert state_pairs(model(before, after)) == {before: after}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("image", "image_out"),
        ("input", "output"),
        ("h0", "cn"),
        ("past_key_values.3.key", "present.2.key"),
        ("state", "probability"),
    ],
)
def test_others_are_no_state(before, after):
    assert state_pairs(model(before, after)) == {}


def test_type_and_known_sizes_must_agree():
    assert state_pairs(model("state", "stateN", after_type="float[A,N,B]"))
    assert not state_pairs(model("state", "stateN", after_type="float[2,N,9]"))
    assert not state_pairs(model("state", "stateN", "float[2,N,8]", "float[2,N]"))


def test_two_inputs_never_share_an_output():
    text = """(float[2] state_in, float[2] state_prev) => (float[2] state_out)
    { state_out = Add(state_in, state_prev) }"""
    assert state_pairs(from_text(text)) == {}
