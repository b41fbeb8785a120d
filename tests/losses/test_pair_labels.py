"""Pairs of one group and equal captions: loss, gradients and counts equal dense float64 autodiff."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from siglip_tf import losses
from siglip_tf.distribution import current_ring
from siglip_tf.losses import Negatives, pair_labels
from tests.losses import dense

T, B = np.float32(np.log(10)), np.float32(-10)


def autodiff(loss, x, y, positive, ignored, t=T, b=B):
    """Algorithm 1, or cross entropy against uniform targets, by TensorFlow's autodiff over the whole float64 matrix."""
    inputs = [tf.constant(v, tf.float64) for v in (x, y, t, b)]
    n = len(x)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        x, y, t, b = inputs
        logits = tf.exp(t) * tf.matmul(x, y, transpose_b=True)
        if loss == "sigmoid":
            terms = tf.math.softplus(-np.where(positive, 1.0, -1.0) * (logits + b))
            value = tf.reduce_sum(np.where(ignored, 0.0, 1.0) * terms) / n
        else:
            inputs = inputs[:3]
            logits += np.where(ignored, -1e9, 0.0)
            targets = positive / positive.sum(1, keepdims=True)
            rows = tf.nn.softmax_cross_entropy_with_logits(targets, logits)
            columns = tf.nn.softmax_cross_entropy_with_logits(targets.T, tf.transpose(logits))
            value = tf.reduce_mean(rows + columns) / 2
    return [value, *tape.gradient(value, inputs)]


def masks(group, same_group, captions=None, equal_captions="negative"):
    """positive and ignored (n, n), by comparing the whole rows of Python values."""
    n = len(group)
    positive, ignored = np.eye(n, dtype=bool), np.zeros((n, n), bool)
    for keys, choice in ((list(group), same_group), (captions, equal_captions)):
        if keys is None or choice == "negative":
            continue
        equal = np.array([[a == b for b in keys] for a in keys])
        if choice == "positive":
            positive |= equal
        else:
            ignored |= equal
    return positive, ignored & ~positive


def check(found, expected, tolerance=1e-6):
    for got, right in zip(found, expected, strict=True):
        assert dense.relative_error(got, right) < tolerance


@pytest.mark.parametrize("loss", ["sigmoid", pytest.param("softmax", marks=pytest.mark.slow)])
def test_loss_and_all_gradients_equal_float64_autodiff(rng, loss):
    n = 15
    scalars = (T, B) if loss == "sigmoid" else (T,)
    rules = [
        ("positive", "negative", 4),
        ("ignore", "negative", None),
        ("negative", "ignore", 7),
        ("positive", "ignore", None),
        ("ignore", "positive", None),
    ]
    for seed, (same_group, equal_captions, tile_size) in enumerate(rules):
        x, y = dense.pairs(rng, n, alike=0.4)
        group = np.random.default_rng(seed).integers(0, 6, n) << 33  # only the upper half of the bits differs
        captions = np.random.default_rng(seed + 9).integers(0, 3, (n, 2))
        positive, ignored = masks(group, same_group, [tuple(row) for row in captions], equal_captions)
        inputs = [tf.constant(v) for v in (x, y, *scalars)]
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            value = getattr(losses, f"{loss}_loss")(
                *inputs,
                tile_size=tile_size,
                group=group,
                same_group=same_group,
                token_ids=captions,
                equal_captions=equal_captions,
            )
        check([value, *tape.gradient(value, inputs)], autodiff(loss, x, y, positive, ignored))


def test_pairs_are_counted_and_the_sums_of_their_logits_are_right(rng):
    x, y = dense.pairs(rng, 11)
    group, captions = np.arange(11) // 3, (np.arange(11) // 4)[:, None]
    labels = pair_labels(group, "positive", captions, "ignore", 11)
    positive, ignored = masks(group, "positive", list(captions[:, 0]), "ignore")
    positive &= ~np.eye(11, dtype=bool)
    for evaluate, scalars, bias in (
        (losses.sigmoid_loss_and_gradients, (T, B), B),
        (losses.softmax_loss_and_gradients, (T,), 0),
    ):
        logits = np.exp(T) * x.astype(np.float64) @ y.T + bias
        for gradients in (True, False):
            result = evaluate(current_ring(), x, y, *scalars, tile_size=4, labels=labels, gradients=gradients)
            found = {name: float(value) for name, value in result.pair_sums.items()}
            assert found["positive_pairs"] == positive.sum() and found["ignored_pairs"] == ignored.sum()
            np.testing.assert_allclose(found["positive_pair_logits"], logits[positive].sum(), rtol=1e-5)
            np.testing.assert_allclose(found["ignored_pair_logits"], logits[ignored].sum(), rtol=1e-5)


def test_all_of_one_group_and_each_of_its_own(rng):
    x, y = dense.pairs(rng, 7)
    one = np.zeros(7, np.int64)
    everything = np.ones((7, 7), bool)
    check([losses.sigmoid_loss(x, y, T, B, group=one)], autodiff("sigmoid", x, y, everything, ~everything)[:1])
    check([losses.softmax_loss(x, y, T, group=one)], autodiff("softmax", x, y, everything, ~everything)[:1])
    alone = losses.sigmoid_loss(x, y, T, B, group=one, same_group="ignore")
    check([alone], [np.mean(np.logaddexp(0, -(np.exp(T) * np.sum(x.astype(np.float64) * y, 1) + B)))])
    assert losses.softmax_loss(x, y, T, group=one, same_group="ignore") == 0
    check([losses.sigmoid_loss(x, y, T, B, group=np.arange(7))], dense.sigmoid(x, y, T, B)[:1])


def test_masked_negatives_are_chosen_among_what_is_negative(rng):
    n, kept = 24, 40
    x, y = dense.pairs(rng, n)
    group = np.arange(n) // 3
    positive, _ = masks(group, "positive")
    logits = np.asarray(np.exp(T) * x.astype(np.float64) @ y.T + B)
    for keep, sign in (("hardest", 1), ("easiest", -1)):
        order = np.sort(np.where(positive, -np.inf, sign * logits).ravel())[::-1]
        weights = (sign * logits >= order[kept - 1]) & ~positive
        expected = autodiff("sigmoid", x, y, positive, ~positive & ~weights)
        result = losses.sigmoid_loss_and_gradients(
            current_ring(),
            *(tf.constant(v) for v in (x, y, T, B)),
            7,
            Negatives(keep, kept / n),
            labels=pair_labels(group, "positive", None, "negative", n),
        )
        check([result.loss, *result.gradients()], expected, 2e-6)
    # More are asked for than there are: all of them.
    result = losses.sigmoid_loss_and_gradients(
        current_ring(),
        *(tf.constant(v) for v in (x, y, T, B)),
        negatives=Negatives("hardest", n - 2),
        labels=pair_labels(group, "ignore", None, "negative", n),
    )
    own = np.eye(n, dtype=bool)
    check([result.loss], autodiff("sigmoid", x, y, own, positive & ~own)[:1])


def test_wrong_groups_are_named(rng):
    x = dense.unit(rng, 4)
    loss = functools.partial(losses.sigmoid_loss, x, x, T, B)
    cases = [
        ({"group": np.zeros(4, np.float32)}, r"'group' as int64.*Received: dtype float32"),
        ({"group": [0.5, 1.0, 2.0, 3.0]}, "'group' as int64.*float32"),
        ({"group": [True, False, True, True]}, "'group' as int64.*bool"),
        ({"group": ["a", "b", "a", "c"]}, "'group' as int64.*string"),
        ({"group": [1, 2, 3]}, r"'group' of shape \(4,\).*\(3,\)"),
        ({"group": [[1], [2], [3], [4]]}, r"'group' of shape \(4,\).*\(4, 1\)"),
        ({"group": [1, -7, 3, 4]}, "from 0 on. Received: -7"),
        ({"group": [1, 2, 3, 4], "same_group": "positives"}, "same_group.*Received: 'positives'"),
        ({"token_ids": np.zeros(4, np.int32)}, r"token ids of shape \(4, length\)"),
        ({"token_ids": np.zeros((4, 3), np.float32)}, "integer token ids.*float32"),
        ({"token_ids": np.zeros((4, 3), np.int32), "equal_captions": True}, "equal_captions.*Received: True"),
        ({"precision": "float16"}, "precision to be one of float32, bfloat16. Received: 'float16'"),
    ]
    for options, message in cases:
        with pytest.raises(ValueError, match=message):
            loss(**options)
    graph = tf.function(lambda group: loss(group=group), autograph=False)
    with pytest.raises(tf.errors.InvalidArgumentError, match="from 0 on"):
        graph(tf.constant([1, -7, 3, 4]))


def test_hashes_of_captions_differ_where_captions_do():
    ids = np.random.default_rng(0).integers(0, 50, (4000, 3)).astype(np.int32)  # many near twins and permutations
    keys = losses.pair_labels(None, "negative", ids, "ignore", 4000).keys[0].numpy()
    assert len({tuple(row) for row in keys}) == len({tuple(row) for row in ids})
    for half in range(2):
        assert len(set(keys[:, half])) > 0.999 * len({tuple(row) for row in ids})
