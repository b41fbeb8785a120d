"""The softmax baseline equals dense float64 numpy, whatever the tile size."""

import math

import numpy as np
import pytest
import tensorflow as tf

from siglip_tf import losses
from tests.losses import dense


@pytest.mark.parametrize("n", [7, 256])
@pytest.mark.parametrize("tile_size", [None, 3, 100])
@pytest.mark.parametrize("temperature", [1, 100])
def test_loss_and_all_gradients_equal_float64(rng, n, tile_size, temperature):
    if tile_size == 3 and n > 7:
        n = 40
    x, y = dense.pairs(rng, n, alike=0.2)
    t = np.float32(math.log(temperature))
    inputs = [tf.convert_to_tensor(v) for v in (x, y, t)]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        loss = losses.softmax_loss(*inputs, tile_size=tile_size)
    expected = dense.softmax(x, y, t)
    for value, right in zip([loss, *tape.gradient(loss, inputs)], expected, strict=True):
        # A logit of size t carries t * 2^-24 of rounding, and the loss is as small as exp of a difference of two.
        assert dense.relative_error(value, right) < 2e-6 * max(1, temperature / 5)


def test_one_pair_has_no_loss(rng):
    x = tf.constant(dense.unit(rng, 1))
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = losses.softmax_loss(x, x, 1.0)
    assert float(loss) == 0
    assert np.all(tape.gradient(loss, x) == 0)
