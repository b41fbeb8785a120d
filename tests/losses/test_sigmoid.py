"""The sigmoid loss equals Algorithm 1 in float64 numpy, whatever the tile size."""

import math

import numpy as np
import pytest
import tensorflow as tf

from siglip_tf import losses
from siglip_tf.distribution import current_ring
from tests.losses import dense

T, B = np.float32(math.log(10)), np.float32(-10)


def value_and_gradients(x, y, t=T, b=B, tile_size=None):
    inputs = [tf.convert_to_tensor(v) for v in (x, y, t, b)]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        loss = losses.sigmoid_loss(*inputs, tile_size=tile_size)
    return [loss, *tape.gradient(loss, inputs)]


@pytest.mark.parametrize("n", [1, 7, 256, 1000])
@pytest.mark.parametrize("tile_size", [None, 3, 64, 300])
def test_loss_and_all_gradients_equal_float64(rng, n, tile_size):
    if tile_size == 3 and n > 7:
        n = 40  # the same uneven tail without a hundred thousand tiles
    x, y = dense.pairs(rng, n)
    for got, expected in zip(value_and_gradients(x, y, tile_size=tile_size), dense.sigmoid(x, y, T, B), strict=True):
        assert dense.relative_error(got, expected) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("jit", [False, True])
def test_float32_holds_the_many_small_negatives_at_4096(rng, jit):
    x, y = dense.unit(rng, 4096, 8), dense.unit(rng, 4096, 8)
    function = tf.function(losses.sigmoid_loss, jit_compile=jit)
    expected = dense.sigmoid(x, y, T, B)[0]
    assert abs(float(function(x, y, T, B)) / expected - 1) < 1e-5


@pytest.mark.parametrize(("n", "expected"), [(256, 10.01), (4096, 10.19)])
def test_the_initial_loss_is_that_of_orthogonal_embeddings(n, expected):
    x = np.eye(2, dtype=np.float32)[[0] * n]
    y = np.eye(2, dtype=np.float32)[[1] * n]
    assert round(float(losses.sigmoid_loss(x, y, T, B)), 2) == expected


def test_upstream_gradients_scale_the_result(rng):
    x, y = (tf.constant(v) for v in dense.pairs(rng, 9))
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = 3 * losses.sigmoid_loss(x, y, T, B, tile_size=4)
    expected = 3 * dense.sigmoid(x, y, T, B)[1]
    assert dense.relative_error(tape.gradient(loss, x), expected) < 1e-6


def test_extreme_logits_stay_finite(rng):
    x, y = dense.unit(rng, 30), dense.unit(rng, 30)
    got = value_and_gradients(x, y, np.float32(math.log(1000)), np.float32(50))
    for value, expected in zip(got, dense.sigmoid(x, y, np.log(np.float32(1000)), 50), strict=True):
        assert np.all(np.isfinite(value))
        assert dense.relative_error(value, expected) < 1e-5


def test_float64_embeddings_are_computed_in_float64(rng):
    x, y = (v.astype(np.float64) for v in dense.pairs(rng, 20))
    got = value_and_gradients(x, y, np.float64(2), np.float64(-9), tile_size=6)
    for value, expected in zip(got, dense.sigmoid(x, y, 2, -9), strict=True):
        assert value.dtype == tf.float64
        assert dense.relative_error(value, expected) < 1e-13


def test_half_precision_embeddings_give_a_float32_loss(rng):
    x, y = (tf.cast(v, tf.bfloat16) for v in dense.pairs(rng, 20))
    loss, dx, *_ = value_and_gradients(x, y)
    assert loss.dtype == tf.float32 and dx.dtype == tf.bfloat16
    assert dense.relative_error(loss, dense.sigmoid(tf.cast(x, tf.float32), tf.cast(y, tf.float32), T, B)[0]) < 1e-6


@pytest.mark.parametrize("loss", [losses.sigmoid_loss_and_gradients, losses.softmax_loss_and_gradients])
def test_without_gradients_and_with_frozen_images_the_rest_is_the_same(rng, loss):
    x, y = (tf.constant(v) for v in dense.pairs(rng, 30))
    scalars = (T, B) if loss is losses.sigmoid_loss_and_gradients else (T,)
    whole, bare, frozen = (
        loss(current_ring(), x, y, *(tf.constant(s) for s in scalars), tile_size=8, **options)
        for options in ({}, {"gradients": False}, {"frozen_images": True})
    )
    assert bare.gradients() == [] and frozen.image_gradient is None
    assert dense.relative_error(bare.loss, whole.loss) < 1e-6
    assert dense.relative_error(frozen.text_gradient, whole.text_gradient) < 1e-6
    assert dense.relative_error(frozen.log_temperature_gradient, whole.log_temperature_gradient) < 1e-6


def test_wrong_input_is_named(rng):
    x = dense.unit(rng, 4)
    cases = [
        ((x[0], x, T, B), r"image_embeddings of shape \(batch, dim\). Received: \(24,\)"),
        ((x.astype(np.int32), x, T, B), "floating dtype. Received: int32"),
        ((x, x[:3], T, B), r"as many images as texts.*\(4, 24\).*\(3, 24\)"),
        ((x[:0], x[:0], T, B), "at least one pair"),
        ((x, x, [1.0, 2.0], B), "log_temperature to be a scalar"),
        ((x, x, T, B, 0), "tile_size to be None .* Received: 0"),
    ]
    for arguments, message in cases:
        with pytest.raises(ValueError, match=message):
            losses.sigmoid_loss(*arguments)
    ragged = tf.function(losses.sigmoid_loss, input_signature=[tf.TensorSpec([None, 24])] * 2 + [tf.TensorSpec([])] * 2)
    with pytest.raises(ValueError, match="drop_remainder=True"):
        ragged.get_concrete_function()
