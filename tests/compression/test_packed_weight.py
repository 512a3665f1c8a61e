"""Weights as integers in blocks, with errors that cancel."""

import numpy as np
import pytest

from graphopt.compression import (
    WeightView,
    pack_weight,
    trace_weight,
    unpack_weight,
    weight_view,
)
from graphopt.ir import from_text


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_each_weight_is_within_one_step():
    weight = drawn(6, 96, 5)
    packed = pack_weight(weight, WeightView(6, 96, 5), block_size=32)
    assert packed.integers.shape == (6, 3, 32, 5)
    assert packed.scale.shape == (6, 3, 1, 5)
    error = np.abs(unpack_weight(packed, weight.shape) - weight).reshape(packed.integers.shape)
    assert np.all(error <= packed.scale.astype(np.float32) * 1.0001)
    assert np.abs(packed.integers).max() == 127


def test_an_outlier_costs_precision_in_its_block_only():
    weight = drawn(1, 64, 1)
    weight[0, 3] = 1000.0
    packed = pack_weight(weight, WeightView(1, 64, 1), block_size=32)
    error = np.abs(unpack_weight(packed, weight.shape) - weight)[0, :, 0]
    assert error[32:].max() < 0.05 < error[:32].max()


def test_kernels_and_channels_keep_their_sums():
    weight = drawn(8, 16, 3, 3)
    view = WeightView(8, 144, 1, kernel=9)
    restored = unpack_weight(pack_weight(weight, view), weight.shape)
    scale = np.abs(weight).reshape(8, -1).max(axis=1) / 127
    rest = (restored - weight).astype(np.float64)
    nearest = np.rint(weight / scale[:, None, None, None]) * scale[:, None, None, None] - weight
    channel = np.abs(rest.sum(axis=(1, 2, 3)))
    assert np.all(channel <= 0.51 * scale)
    assert np.abs(nearest.sum(axis=(1, 2, 3))).max() > 2 * channel.max()
    # Kernels come first, then channels: a few kernels give way again.
    assert np.quantile(np.abs(rest.sum(axis=(2, 3))) / scale[:, None], 0.9) <= 0.6


def test_16_bits_lose_next_to_nothing():
    weight = drawn(4, 100)
    packed = pack_weight(weight, WeightView(4, 100, 1), bits=16, block_size=None)
    assert packed.integers.dtype == np.int16
    assert packed.blocks == 1
    assert np.abs(unpack_weight(packed, weight.shape) - weight).max() < 2e-4


@pytest.mark.parametrize("factor", [1e-30, 1e-6, 1e30])
def test_scales_that_are_no_float16_are_float32(factor):
    weight = drawn(2, 64) * np.float32(factor)
    packed = pack_weight(weight, WeightView(2, 64, 1))
    assert packed.scale.dtype == np.float32
    error = np.abs(unpack_weight(packed, weight.shape) - weight)
    assert error.max() < 0.05 * factor


def test_zeros_stay_zeros():
    weight = np.zeros((2, 64), np.float32)
    weight[1, :32] = 1.0
    packed = pack_weight(weight, WeightView(2, 64, 1))
    assert np.array_equal(unpack_weight(packed, weight.shape)[0], weight[0])
    assert np.all(np.isfinite(packed.scale))
    assert np.all(packed.scale > 0)


def test_rows_are_packed_as_they_would_be_alone():
    weight = drawn(3, 1 << 21)
    view = WeightView(3, 1 << 21, 1)
    together = pack_weight(weight, view).integers
    alone = pack_weight(weight[2:], WeightView(1, 1 << 21, 1)).integers
    assert np.array_equal(together[2:], alone)


IMAGE = "(float[N,4,H,W] x) => (float[N,M,A,B] y)"
ROWS = "(float[N,4] x) => (float[N,6] y)"
SEQUENCE = "(float[S,N,4] x) => (float[S,D,N,3] y)"


@pytest.mark.parametrize(
    ("model", "shape", "index", "expected"),
    [
        (IMAGE + "{ y = Conv(x, w) }", (6, 4, 3, 3), 1, WeightView(6, 36, 1, 9)),
        (IMAGE + "{ y = ConvTranspose(x, w) }", (4, 6, 2, 2), 1, WeightView(1, 4, 24)),
        (IMAGE + "{ y = ConvTranspose<group=4>(x, w) }", (4, 1, 2, 2), 1, WeightView(4, 4, 1)),
        (ROWS + "{ y = MatMul(x, w) }", (4, 6), 1, WeightView(1, 4, 6)),
        (ROWS + "{ y = Gemm<transB = 1>(x, w) }", (6, 4), 1, WeightView(6, 4, 1)),
        (ROWS + "{ t = Transpose(w)  y = MatMul(x, t) }", (6, 4), 1, WeightView(6, 4, 1)),
        (SEQUENCE + "{ y = LSTM<hidden_size = 3>(x, w, w) }", (2, 12, 3), 2, WeightView(24, 3, 1)),
    ],
)
def test_operators_sum_along_their_axes(model, shape, index, expected):
    numbers = ", ".join(["1.0"] * int(np.prod(shape)))
    dims = ",".join(map(str, shape))
    node = list(from_text(model.replace("{", f"<float[{dims}] w = {{{numbers}}}> {{", 1)).graph)[-1]
    assert weight_view(node, trace_weight(node.inputs[index])) == expected
