"""Block-wise integers, and rounding that lets later rows make up for errors."""

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.compression.blockwise import BlockFormat, quantize_blocks
from graphopt.compression.gptq import quantize_compensated, shrunk_gram

FORMATS = [
    BlockFormat(bits, size, symmetric)
    for bits, symmetric in ((4, False), (4, True), (8, True))
    for size in (0, 16, 128)
]


def random_weight(inputs=100, outputs=30, seed=0):
    return np.random.default_rng(seed).standard_normal((inputs, outputs)).astype(np.float32)


def sqnr_db(wanted, found):
    return 10 * np.log10(np.square(wanted).sum() / np.square(wanted - found).sum())


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_no_weight_is_further_off_than_its_scale(form):
    weight = random_weight()
    found = quantize_blocks(weight, form)
    rows = np.arange(100) // (form.size or 100)
    assert found.integers.min() >= form.limits[0]
    assert found.integers.max() <= form.limits[1]
    # Half a step, or more where the search cut a value off.
    off = np.abs(found.dequantized() - weight) / np.abs(found.scale[rows])
    assert off.max() < (4.5 if form.bits == 4 else 0.5001)
    assert np.median(off) < 0.3


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_zeros_and_constants_are_exact(form):
    weight = np.zeros((40, 3), np.float32)
    weight[:, 1] = 0.7
    weight[:, 2] = -1e-30
    found = quantize_blocks(weight, form)
    assert np.all(np.isfinite(found.scale))
    assert np.all(found.scale != 0)
    np.testing.assert_allclose(found.dequantized(), weight, rtol=1e-6, atol=2e-18)


def test_formats():
    assert BlockFormat(4, 32, symmetric=True).dtype == ir.DataType.INT4
    assert BlockFormat(4, 32, symmetric=False).dtype == ir.DataType.UINT4
    assert BlockFormat(8, 32, symmetric=True).dtype == ir.DataType.INT8
    assert BlockFormat(4, 32, symmetric=True).blocks(33) == 2
    assert BlockFormat(4, 0, symmetric=True).blocks(33) == 1


def test_search_and_importance_pay():
    weight = random_weight(256)
    form = BlockFormat(4, 32, symmetric=False)
    share = np.where(np.arange(256) % 32 < 4, 100.0, 1.0).astype(np.float32)
    plain, weighed = quantize_blocks(weight, form), quantize_blocks(weight, form, share)
    errors = [np.square(found.dequantized() - weight).T @ share for found in (plain, weighed)]
    assert errors[1].sum() < 0.8 * errors[0].sum()
    assert sqnr_db(weight, plain.dequantized()) > 22.0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(value):
    weight = random_weight()
    weight[3, 4] = value
    with pytest.raises(ValueError, match="NaN or infinite"):
        quantize_blocks(weight, BlockFormat(4, 32, symmetric=False))


def correlated(rows, inputs=96):
    random = np.random.default_rng(1)
    mixing = random.standard_normal((inputs, inputs)) * np.exp(random.standard_normal(inputs))
    mixing[:, :8] *= 10
    return random.standard_normal((rows, inputs)) @ mixing.T


@pytest.mark.parametrize("by_activation", [True, False])
@pytest.mark.parametrize("size", [0, 16, 64])
@pytest.mark.parametrize("symmetric", [True, False])
def test_errors_are_made_up_for(by_activation, size, symmetric):
    seen, unseen = np.split(correlated(8000), 2)
    gram, weight = seen.T @ seen / len(seen), random_weight(96, 24)
    form = BlockFormat(4, size, symmetric)
    rounded = quantize_blocks(weight, form).dequantized()
    made_up = quantize_compensated(
        weight, shrunk_gram(gram, len(seen)), form, by_activation=by_activation
    ).dequantized()
    wanted = unseen @ weight
    gain_db = sqnr_db(wanted, unseen @ made_up) - sqnr_db(wanted, unseen @ rounded)
    assert gain_db > 3.0


def test_few_rows_of_unrelated_inputs_do_no_harm():
    random, weight = np.random.default_rng(2), random_weight(96, 24)
    seen, unseen = random.standard_normal((120, 96)), random.standard_normal((4000, 96))
    form, gram = BlockFormat(4, 32, symmetric=False), seen.T @ seen / len(seen)
    wanted = unseen @ weight

    def quality(matrix):
        found = quantize_compensated(weight, matrix, form).dequantized()
        return sqnr_db(wanted, unseen @ found)

    rounded = sqnr_db(wanted, unseen @ quantize_blocks(weight, form).dequantized())
    assert quality(gram) < rounded - 1.0  # the fault that shrinking is for
    assert quality(shrunk_gram(gram, len(seen))) > rounded - 0.1


def test_inputs_without_energy_have_nothing_to_do_with_others():
    gram = np.array([[4.0, 1e-9, 2.0], [1e-9, -1e-300, 1e-9], [2.0, 1e-9, 1.0]])
    with np.errstate(all="raise"):
        shrunk = shrunk_gram(gram, 3)
    assert np.isfinite(shrunk).all()
    assert np.array_equal(np.diagonal(shrunk), np.diagonal(gram))


def test_a_matrix_without_inputs_is_refused():
    with pytest.raises(ValueError, match="0 or not finite"):
        quantize_compensated(
            random_weight(4, 4), np.zeros((4, 4)), BlockFormat(4, 16, symmetric=True)
        )
