"""Masked negatives are exactly those that a sort of the whole matrix would keep."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from siglip_tf.distribution import current_ring
from siglip_tf.losses import Negatives, sigmoid_loss_and_gradients
from siglip_tf.primitives.hashing import hash_bits
from tests.losses import dense

T, B = np.float32(np.log(10)), np.float32(-4)


def kept_weights(keys, kept):
    """(n, n) weights that keep the `kept` largest keys off the diagonal."""
    keys = np.where(np.eye(len(keys), dtype=bool), -np.inf, keys)
    threshold = np.sort(keys.ravel())[-kept]
    above, tied = keys > threshold, keys == threshold
    return above + tied * (kept - above.sum()) / tied.sum()


def evaluate(x, y, negatives, tile_size=None, seed=0):
    arguments = [tf.constant(v) for v in (x, y, T, B)]
    return sigmoid_loss_and_gradients(current_ring(), *arguments, tile_size, negatives, seed)


@pytest.mark.parametrize(
    ("keep", "ratio", "tile_size"),
    [("hardest", 1.6, None), ("easiest", 30.2, 9)]
    + [
        pytest.param(keep, ratio, tile_size, marks=pytest.mark.slow)
        for keep, ratio, tile_size in itertools.product(("hardest", "easiest"), (1.6, 30.2), (None, 9))
    ],
)
def test_hardest_and_easiest_equal_a_sort(rng, keep, ratio, tile_size):
    x, y = dense.pairs(rng, 40)
    logits = np.asarray(tf.matmul(np.exp(T) * x, y, transpose_b=True) + B, np.float64)
    weights = kept_weights(logits if keep == "hardest" else -logits, round(ratio * 40))
    result = evaluate(x, y, Negatives(keep, ratio), tile_size)
    expected = dense.sigmoid(x, y, T, B, weights)
    for value, right in zip([result.loss, *result.gradients()], expected, strict=True):
        assert dense.relative_error(value, right) < 1e-5


def test_ties_share_what_is_left():
    x = np.tile(np.eye(3, dtype=np.float32)[:1], (10, 1))  # every logit is the same
    result = evaluate(x, x, Negatives("hardest", 2))
    expected = dense.sigmoid(x, x, T, B, np.full((10, 10), 20 / 90))
    assert dense.relative_error(result.loss, expected[0]) < 1e-6


def test_random_negatives_are_a_fair_and_seeded_choice(rng):
    x, y = dense.pairs(rng, 64)
    first, again, other = (evaluate(x, y, Negatives("random", 4), seed=seed).loss for seed in (1, 1, 2))
    assert first == again != other
    keys = np.asarray(tf.bitcast(hash_bits(1, tf.range(64)[:, None], tf.range(64)[None, :]), tf.int32), np.float64)
    weights = kept_weights(keys, 4 * 64)
    assert dense.relative_error(first, dense.sigmoid(x, y, T, B, weights)[0]) < 1e-6
    # Kept pairs spread over rows and columns like a fair choice of 256 in 4032: 4 a row, variance below 4.
    assert np.abs(weights.sum(0) - 4).max() < 8 and np.abs(weights.sum(1) - 4).max() < 8


def test_a_ratio_that_keeps_all_costs_nothing(rng):
    x, y = dense.pairs(rng, 12)
    assert evaluate(x, y, Negatives("random", 11)).loss == evaluate(x, y, None).loss


@pytest.mark.parametrize(("keep", "ratio", "message"), [("hard", 1, "Received: 'hard'"), ("random", 0, "above 0")])
def test_wrong_choices_are_named(keep, ratio, message):
    with pytest.raises(ValueError, match=message):
        Negatives(keep, ratio)
