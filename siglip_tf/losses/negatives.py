"""Masks for negatives (section 4.8): random, hardest or easiest, at a positive : negative ratio over the global batch.

Which pairs are the k hardest of n (n - 1) is found without their matrix: every pair has an integer key (of a logit,
the bits of the float in an order-preserving form; of a random choice, a hash of the pair's ids), and the k-th largest
key is built four bits at a time. Each of the eight rounds goes once round the ring and counts, tile by tile, the keys
that reach fifteen candidate thresholds. Pairs that tie at the threshold share what is left, so that exactly k
negatives' weight is kept whatever the number of replicas or the tile size.
"""

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from siglip_tf.distribution import Ring
from siglip_tf.losses.ring_pass import ring_pass
from siglip_tf.losses.tiling import Total
from siglip_tf.primitives.hashing import hash_bits

_LOWEST = -(2**31)
_BITS = 4
_CANDIDATES = 2**_BITS - 1
# Counts cross replicas in parts that float32 holds exactly, also when thousands of them are added: a batch of a million
# has 10^12 pairs, and integers are not reduced on every strategy.
_PART = 2**12
_PARTS = 4


@dataclasses.dataclass(frozen=True)
class Negatives:
    """A choice of negatives.

    Attributes:
        keep: "random", "hardest" (highest loss) or "easiest" (lowest loss).
        ratio: negatives kept for each positive, averaged over the global batch; at most n - 1 exist.
    """

    keep: str
    ratio: float

    def __post_init__(self):
        if self.keep not in ("random", "hardest", "easiest"):
            raise ValueError(f"Expected keep to be 'random', 'hardest' or 'easiest'. Received: {self.keep!r}.")
        if not self.ratio > 0:
            raise ValueError(f"Expected a ratio of negatives to positives above 0. Received: {self.ratio!r}.")


# (logits (i, j), image extras, text extras) -> weights (i, j), or None where all negatives count.
WeightFunction = Callable[[tf.Tensor, list[tf.Tensor], list[tf.Tensor]], tf.Tensor | None]


def weigh(
    negatives: Negatives | None,
    ring: Ring,
    scaled_images: tf.Tensor,
    texts: tf.Tensor,
    logits_of: Callable[[tf.Tensor, tf.Tensor, bool], tf.Tensor],
    *,
    tile_size: int,
    seed: tf.Tensor | int,
) -> tuple[list[tf.Tensor], list[tf.Tensor], WeightFunction]:
    """Finds the threshold of a choice of negatives.

    Args:
        negatives: the choice; None keeps all of them at no cost.
        ring: the replicas.
        scaled_images: (b, d) images times temperature.
        texts: (b, d).
        logits_of: the logits of a tile; must give the same bits here and in the loss.
        tile_size: as in the loss.
        seed: int32 scalar of a random choice.

    Returns:
        Tensors that the weight function reads for images and for texts beside their embeddings, and that function.
    """
    b = scaled_images.shape[0]
    n = b * ring.size
    if negatives is None or negatives.ratio >= n - 1:
        return [], [], lambda *_: None
    ids = ring.index() * b + tf.range(b)
    extras = [ids] if negatives.keep == "random" else []

    def keys(logits, image_extras, text_extras):
        if negatives.keep == "random":
            bits = hash_bits(seed, image_extras[0][:, None], text_extras[0][None, :])
            return tf.maximum(tf.bitcast(bits, tf.int32), _LOWEST + 1)
        return _ordered(logits if negatives.keep == "hardest" else -logits)

    def count_tile(candidates):
        def tile(images, texts, diagonal):
            scaled_images, *image_extras = images
            texts, *text_extras = texts
            tile_keys = keys(logits_of(scaled_images, texts, diagonal), image_extras, text_extras)
            if diagonal:
                tile_keys = tf.linalg.set_diag(tile_keys, tf.fill(tile_keys.shape[:1], _LOWEST))
            reached = [tf.math.count_nonzero(tile_keys >= candidates[c], 1, dtype=tf.int32) for c in range(_CANDIDATES)]
            return [tf.cast(tf.stack(reached, 1), scaled_images.dtype)], []

        return tile

    def count(candidates):
        (counts,), _ = ring_pass(
            ring,
            [scaled_images, *extras],
            [texts, *extras],
            [Total((_CANDIDATES,))],
            [],
            count_tile(candidates),
            tile_size,
        )
        counts = tf.reduce_sum(tf.cast(counts, tf.int64), 0)
        parts = tf.stack([counts // _PART**i % _PART for i in range(_PARTS)])
        (parts,) = ring.sum([tf.cast(parts, tf.float32)])
        return tf.add_n([tf.cast(parts[i], tf.int64) * _PART**i for i in range(_PARTS)])

    kept = tf.constant(round(negatives.ratio * n), tf.int64)
    threshold, above, reaching = _kth_largest(count, kept, pairs=n * (n - 1))
    share = tf.cast(kept - above, scaled_images.dtype) / tf.cast(reaching - above, scaled_images.dtype)

    def weights(logits, image_extras, text_extras):
        tile_keys = keys(logits, image_extras, text_extras)
        one, nothing = tf.ones((), logits.dtype), tf.zeros((), logits.dtype)
        return tf.where(tile_keys > threshold, one, tf.where(tile_keys == threshold, share, nothing))

    return extras, extras, weights


def _kth_largest(count, k, pairs):
    """The k-th largest key, how many keys are above it, and how many reach it; eight rounds of `count`."""
    threshold = tf.constant(_LOWEST, tf.int32)
    above, reaching = tf.zeros((), tf.int64), tf.constant(pairs, tf.int64)
    for shift in range(32 - _BITS, -1, -_BITS):
        candidates = threshold + tf.range(1, _CANDIDATES + 1) * tf.constant(1 << shift, tf.int32)
        # counts[0] reaches the threshold itself; the last entry reaches the one after the last candidate.
        counts = tf.concat([reaching[None], count(candidates), above[None]], 0)
        chosen = tf.reduce_sum(tf.cast(counts[1:-1] >= k, tf.int32))
        threshold += chosen * tf.constant(1 << shift, tf.int32)
        reaching, above = counts[chosen], counts[chosen + 1]
    return threshold, above, reaching


def _ordered(values):
    """float -> int32 with the same order: negative floats have their bits below the sign flipped."""
    bits = tf.bitcast(tf.cast(values, tf.float32), tf.int32)
    return tf.bitwise.bitwise_xor(bits, tf.bitwise.bitwise_and(tf.bitwise.right_shift(bits, 31), 0x7FFFFFFF))
