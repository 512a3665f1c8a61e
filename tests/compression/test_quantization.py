"""Formulas of affine quantization."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.compression import (
    bias_parameters,
    dequantize,
    parameters_from_range,
    quantize,
    weight_parameters,
    widen_for_bias,
)

FINITE = st.floats(-1e6, 1e6, width=32)


@given(FINITE, FINITE, st.sampled_from(["u8", "s8"]), st.booleans())
def test_zero_is_exact_and_the_range_is_reached_within_a_step(a, b, kind, symmetric):
    low, high = min(a, b), max(a, b)
    parameters = parameters_from_range(low, high, kind, symmetric=symmetric)
    values = np.array([0.0, low, high], np.float32)
    back = dequantize(quantize(values, parameters), parameters)
    assert back[0] == 0.0
    # Half a step of rounding, half a step of the zero point's own rounding.
    assert np.all(np.abs(back - values) <= 1.001 * parameters.scale + 1e-7 * np.abs(values))


def test_asymmetric_range_uses_every_integer():
    parameters = parameters_from_range(-1.0, 3.0)
    assert parameters.scale == np.float32(4 / 255)
    assert parameters.zero_point == 64
    assert quantize(np.array([-1.0, 0.0, 3.0], np.float32), parameters).tolist() == [0, 64, 255]


@pytest.mark.parametrize(
    ("low", "high", "zero_point"), [(2.0, 5.0, 0), (-5.0, -2.0, 255), (0.0, 5.0, 0)]
)
def test_range_is_widened_to_hold_zero(low, high, zero_point):
    parameters = parameters_from_range(low, high)
    assert parameters.zero_point == zero_point
    assert parameters.scale == np.float32(5 / 255)


@pytest.mark.parametrize(("kind", "middle"), [("u8", 128), ("s8", 0)])
def test_symmetric_range_has_its_zero_point_in_the_middle(kind, middle):
    parameters = parameters_from_range(-1.0, 2.0, kind, symmetric=True)
    assert parameters.zero_point == middle
    assert parameters.scale == np.float32(2 / 127)
    back = dequantize(quantize(np.array([-9.0, 2.0], np.float32), parameters), parameters)
    assert back == pytest.approx([-2.0, 2.0])


@pytest.mark.parametrize("tiny", [0.0, 1e-40])
def test_range_without_extent_has_scale_one(tiny):
    parameters = parameters_from_range(-tiny, tiny)
    assert parameters.scale == 1.0
    assert quantize(np.zeros(1, np.float32), parameters) == parameters.zero_point


@pytest.mark.parametrize("bad", [(np.nan, 1.0), (0.0, np.inf), (-np.inf, 0.0), (2.0, 1.0)])
def test_range_that_is_none_is_an_error(bad):
    with pytest.raises(ValueError, match="not a finite range"):
        parameters_from_range(*bad)


def test_rounding_is_half_to_even_and_saturates():
    parameters = parameters_from_range(0.0, 255.0)
    values = np.array([0.5, 1.5, 2.5, -7.0, 300.0], np.float32)
    assert quantize(values, parameters).tolist() == [0, 2, 2, 0, 255]


def test_each_channel_has_its_own_scale():
    weights = np.array([[1.0, -127.0], [-2.0, 0.5]], np.float32)
    by_column = weight_parameters(weights, 1)
    assert by_column.scale.tolist() == [np.float32(2 / 127), 1.0]
    by_row = weight_parameters(weights, -2)
    assert by_row.axis == 0
    assert by_row.scale.tolist() == [1.0, np.float32(2 / 127)]
    assert weight_parameters(weights, None).scale == 1.0
    assert quantize(weights, by_row)[0].tolist() == [1, -127]


def test_per_channel_error_is_at_most_half_a_step(rng):
    weights = rng.normal(size=(8, 3, 3, 3)).astype(np.float32)
    parameters = weight_parameters(weights, 0)
    error = np.abs(dequantize(quantize(weights, parameters), parameters) - weights)
    assert np.all(error <= 0.5001 * parameters.shaped_for(4)[0])


def test_unsigned_weights_are_symmetric_too():
    weights = np.array([-1.0, 0.0, 1.0], np.float32)
    parameters = weight_parameters(weights, None, "u8")
    assert quantize(weights, parameters).tolist() == [1, 128, 255]
    assert dequantize(quantize(weights, parameters), parameters) == pytest.approx(weights)


def test_seven_bit_weights_cannot_saturate_16_bit_pair_sums():
    weights = np.array([-3.0, 3.0], np.float32)
    integers = quantize(weights, weight_parameters(weights, None, reduce_range=True))
    assert integers.tolist() == [-64, 64]
    assert 2 * 255 * 64 < 2**15


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weight_that_is_not_finite_is_an_error(bad):
    with pytest.raises(ValueError, match="NaN or infinite"):
        weight_parameters(np.array([[1.0, bad]], np.float32), 0)


def test_empty_weights_have_parameters():
    parameters = weight_parameters(np.zeros((2, 0), np.float32), 0)
    assert parameters.scale.shape == (2,)
    assert quantize(np.zeros((2, 0), np.float32), parameters).shape == (2, 0)


@pytest.mark.parametrize("weight", [0.0, 1e-30, 1.0])
@pytest.mark.parametrize("bias", [0.0, 1e-3, -0.3, 1e6])
def test_bias_is_precise_and_fits_into_32_bits(weight, bias):
    weights = np.full((1, 4), weight, np.float32)
    biases, input_scale = np.array([bias], np.float32), np.float32(0.05)
    widened = widen_for_bias(weight_parameters(weights, 0), biases, float(input_scale))
    parameters = bias_parameters(widened, input_scale)
    integers = quantize(biases, parameters)
    assert integers.dtype == np.int32
    assert abs(int(integers[0])) <= 2**30 + 2**8
    step = float(input_scale) * max(weight / 127, abs(bias) / float(input_scale) / 2**30)
    assert abs(dequantize(integers, parameters)[0] - bias) <= 0.6 * step + abs(bias) * 1e-6


def test_ordinary_weights_keep_their_scale_beside_a_bias():
    parameters = weight_parameters(np.ones((2, 2), np.float32), 0)
    widened = widen_for_bias(parameters, np.array([1.0, -5.0], np.float32), 0.02)
    assert widened.scale.tolist() == parameters.scale.tolist()


def test_bias_scale_is_the_float32_product():
    parameters = weight_parameters(np.array([[0.3], [0.7]], np.float32), 0)
    input_scale = np.float32(0.01)
    assert np.array_equal(
        bias_parameters(parameters, input_scale).scale, parameters.scale * input_scale
    )


@pytest.fixture
def rng():
    return np.random.default_rng(0)
