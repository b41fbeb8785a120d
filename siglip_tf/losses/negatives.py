"""Masks for negatives (section 4.8): random, hardest, or easiest, at a given ratio over the global batch.

The k hardest of n (n - 1) pairs are found without their matrix. Every pair has an integer key: for a choice by logit,
the bits of the float in an order-preserving form; for a random choice, a hash of the pair's ids. The k-th largest key
is found four bits at a time. Each of eight rounds goes around the ring once and counts, tile by tile, how many keys
reach each of fifteen candidate thresholds.

A compiler may fuse the rounds and the loss differently and then round the same logit in two ways. So the loss does not
test whether a logit equals the threshold. Instead, a last round counts the pairs above the threshold and the pairs
within `_MARGIN` of it, and the latter share the remaining weight equally. So the total weight is exactly k, for any
number of replicas, tile size, and compiler, even if many logits are equal.
"""

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from siglip_tf.distribution import Ring
from siglip_tf.losses.all_pairs import Total, visit_all_pairs
from siglip_tf.losses.pair_labels import PairLabels
from siglip_tf.primitives.hashing import hash_bits

_LOWEST = -(2**31)
_BITS = 4
_CANDIDATES = 2**_BITS - 1
# Replicas sum counts in parts that float32 holds exactly, even when thousands of them are added. A batch of a million
# has 10^12 pairs, and not every strategy can reduce integers.
_PART = 2**12
_PARTS = 4
# A fraction of t + |b|, the largest magnitude of a logit. It is about twenty times as large as the effect of the order
# of a float32 sum.
_MARGIN = 2.0**-19


@dataclasses.dataclass(frozen=True)
class Negatives:
    """A choice of negatives.

    Attributes:
        keep: "random", "hardest" (highest loss), or "easiest" (lowest loss).
        ratio: number of negatives per positive, averaged over the global batch. At most n - 1 exist.
    """

    keep: str
    ratio: float

    def __post_init__(self):
        if self.keep not in ("random", "hardest", "easiest"):
            raise ValueError(f"Expected keep to be 'random', 'hardest' or 'easiest'. Received: {self.keep!r}.")
        if not self.ratio > 0:
            raise ValueError(f"Expected a ratio of negatives to positives above 0. Received: {self.ratio!r}.")


# Maps (logits (i, j), image extras, text extras, diagonal) to the weights (i, j) of pairs as negatives, or to None if
# all weights are 1.
WeightFunction = Callable[[tf.Tensor, list[tf.Tensor], list[tf.Tensor], bool], tf.Tensor | None]


def weigh(
    negatives: Negatives | None,
    ring: Ring,
    scaled_images: tf.Tensor,
    texts: tf.Tensor,
    logits_of: Callable[[tf.Tensor, tf.Tensor, bool], tf.Tensor],
    labels: PairLabels,
    *,
    largest: tf.Tensor,
    tile_size: int,
    seed: tf.Tensor | int,
) -> tuple[list[tf.Tensor], WeightFunction]:
    """Computes the weight of every pair as a negative.

    Args:
        negatives: the choice of negatives. None keeps all of them at no cost.
        ring: the replicas.
        scaled_images: (b, d), image embeddings times temperature.
        texts: (b, d), text embeddings.
        logits_of: maps (images, texts, diagonal) to the logits of a tile.
        labels: pairs that are not negatives. Their weight is 0.
        largest: scalar, the largest magnitude that a logit can have.
        tile_size: number of rows and columns of a tile.
        seed: int32 scalar, the seed of a random choice.

    Returns:
        The extras, which are tensors (b, ...) that the weight function reads for images and for texts besides their
        embeddings (the keys of `labels` come first), and the weight function.
    """
    b = scaled_images.shape[0]
    n = b * ring.size
    pairs = _Pairs(ring, scaled_images, texts, logits_of, labels, list(labels.keys), tile_size)
    if negatives is None or negatives.ratio >= n - 1:
        return pairs.extras, lambda logits, *where: pairs.zero_unless_negative(None, *where)
    examples = labels.count(ring, b, tf.float64)
    kept = (
        tf.constant(round(negatives.ratio * examples), tf.int64)
        if isinstance(examples, int)
        else (tf.cast(tf.round(negatives.ratio * examples), tf.int64))
    )
    if negatives.keep == "random":
        pairs.extras.append(ring.index() * b + tf.range(b))
        return pairs.extras, _random(pairs, kept, seed)
    return pairs.extras, _by_score(pairs, kept, -1 if negatives.keep == "easiest" else 1, largest)


def _random(pairs, kept, seed):
    """Returns weights that keep the pairs with the largest hashes. Integers have the same bits in every program."""

    def hashes(_, image_extras, text_extras):
        bits = hash_bits(seed, image_extras[-1][:, None], text_extras[-1][None, :])
        return tf.maximum(tf.bitcast(bits, tf.int32), _LOWEST + 1)

    threshold, above, reaching = pairs.last_kept(hashes, kept)
    one, nothing = pairs.scalar(1), pairs.scalar(0)
    share = _share(kept, above, reaching, one.dtype)

    def weights(logits, image_extras, text_extras, diagonal):
        keys = hashes(logits, image_extras, text_extras)
        chosen = tf.where(keys > threshold, one, tf.where(keys == threshold, share, nothing))
        return pairs.zero_unless_negative(chosen, image_extras, text_extras, diagonal)

    return weights


def _by_score(pairs, kept, sign, largest):
    """Returns weights that keep the pairs with the largest sign * logit."""
    one, nothing, sign = pairs.scalar(1), pairs.scalar(0), pairs.scalar(sign)
    threshold, _, _ = pairs.last_kept(lambda logits, *_: tf.maximum(_ordered(sign * logits), _LOWEST + 1), kept)
    threshold = tf.cast(_value_of(threshold), one.dtype)
    lowest, highest = threshold - _MARGIN * largest, threshold + _MARGIN * largest
    above, reaching = tf.unstack(pairs.count(lambda logits, *_: [sign * logits > highest, sign * logits >= lowest], 2))
    share = _share(kept, above, reaching, one.dtype)

    def weights(logits, image_extras, text_extras, diagonal):
        score = sign * logits
        chosen = tf.where(score > highest, one, tf.where(score >= lowest, share, nothing))
        return pairs.zero_unless_negative(chosen, image_extras, text_extras, diagonal)

    return weights


@dataclasses.dataclass(frozen=True)
class _Pairs:
    """The pairs of the global batch, and counts over them. The attributes are the arguments of `weigh`."""

    ring: Ring
    images: tf.Tensor
    texts: tf.Tensor
    logits_of: Callable[[tf.Tensor, tf.Tensor, bool], tf.Tensor]
    labels: PairLabels
    extras: list[tf.Tensor]
    tile_size: int

    def scalar(self, value):
        return tf.constant(value, self.images.dtype)

    def are_negatives(self, image_extras, text_extras, diagonal):
        """Returns bool (i, j), or None if all pairs except (k, k) are negatives."""
        if not self.labels:
            return None
        positive, ignored = self.labels.of_tile(image_extras, text_extras, diagonal)
        return ~(positive | ignored)

    def zero_unless_negative(self, weights, image_extras, text_extras, diagonal):
        mask = self.are_negatives(image_extras, text_extras, diagonal)
        if mask is None:
            return weights
        return tf.where(mask, self.scalar(1) if weights is None else weights, self.scalar(0))

    def count(self, tests, size):
        """Counts the negatives of the global batch that pass each of `size` tests: int64 (size,)."""

        def tile(images, texts, diagonal):
            images, *image_extras = images
            texts, *text_extras = texts
            passed = tests(self.logits_of(images, texts, diagonal), image_extras, text_extras)
            mask = self.are_negatives(image_extras, text_extras, diagonal)
            if mask is not None:
                passed = [each & mask for each in passed]
            if diagonal:
                passed = [tf.linalg.set_diag(each, tf.zeros(each.shape[:1], tf.bool)) for each in passed]
            counts = [tf.math.count_nonzero(each, 1, dtype=tf.int32) for each in passed]
            return [tf.cast(tf.stack(counts, 1), images.dtype)], []

        images, texts = [self.images, *self.extras], [self.texts, *self.extras]
        (counts,), _ = visit_all_pairs(self.ring, images, texts, [Total((size,))], [], tile, self.tile_size)
        counts = tf.reduce_sum(tf.cast(counts, tf.int64), 0)
        parts = tf.stack([counts // _PART**i % _PART for i in range(_PARTS)])
        (parts,) = self.ring.sum([tf.cast(parts, tf.float32)])
        return tf.add_n([tf.cast(parts[i], tf.int64) * _PART**i for i in range(_PARTS)])

    def last_kept(self, keys_of, kept):
        """Returns the key of the last negative kept, how many keys are larger, and how many are at least as large."""

        def reaching(candidates):
            def tests(logits, image_extras, text_extras):
                keys = keys_of(logits, image_extras, text_extras)
                return [keys >= candidates[c] for c in range(_CANDIDATES)]

            return self.count(tests, _CANDIDATES)

        n = self.images.shape[0] * self.ring.size
        return _kth_largest(reaching, kept, pairs=n * (n - 1))


def _share(kept, above, reaching, dtype):
    """Returns the weight of each pair at the threshold, within [0, 1] even if rounding moved a pair across it."""
    share = tf.math.divide_no_nan(tf.cast(kept - above, dtype), tf.cast(reaching - above, dtype))
    return tf.clip_by_value(share, 0, 1)


def _kth_largest(reaching_of, k, pairs):
    """Finds, in eight rounds, the k-th largest key, how many keys are larger, and how many are at least as large."""
    threshold = tf.constant(_LOWEST, tf.int32)
    above, reaching = tf.zeros((), tf.int64), tf.constant(pairs, tf.int64)
    for shift in range(32 - _BITS, -1, -_BITS):
        candidates = threshold + tf.range(1, _CANDIDATES + 1) * tf.constant(1 << shift, tf.int32)
        # counts[0] belongs to the threshold itself, the last entry to the threshold after the last candidate.
        counts = tf.concat([reaching[None], reaching_of(candidates), above[None]], 0)
        chosen = tf.reduce_sum(tf.cast(counts[1:-1] >= k, tf.int32))
        threshold += chosen * tf.constant(1 << shift, tf.int32)
        reaching, above = counts[chosen], counts[chosen + 1]
    return threshold, above, reaching


def _ordered(values):
    """Maps floats to int32 of the same order. The bits below the sign of negative floats are flipped."""
    bits = tf.bitcast(tf.cast(values, tf.float32), tf.int32)
    return _flipped(bits)


def _value_of(key):
    """Returns the float of a key of `_ordered`, or minus infinity if there are fewer negatives than k."""
    return tf.where(key == _LOWEST, -tf.constant(float("inf")), tf.bitcast(_flipped(key), tf.float32))


def _flipped(bits):
    return tf.bitwise.bitwise_xor(bits, tf.bitwise.bitwise_and(tf.bitwise.right_shift(bits, 31), 0x7FFFFFFF))
