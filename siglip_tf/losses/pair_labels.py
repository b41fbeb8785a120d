"""Pairs that are not negatives: several pictures of the same thing, or the same caption on several pictures.

An image and the text of another pair may belong together. For this, each pair of the batch has a key: the number of its
group, or a hash of its caption's token ids. Two pairs with equal keys anywhere in the global batch are positives or are
ignored. Keys have 64 bits, stored as two int32, which the collectives of every strategy support. They move around the
ring with the texts and are compared tile by tile.
"""

import dataclasses
from collections.abc import Sequence

import tensorflow as tf

from siglip_tf.distribution import Ring
from siglip_tf.primitives.hashing import hash_bits

CHOICES = ("negative", "positive", "ignore")
_PADDING = "padding"  # An internal choice, for every pair with a row that only pads the batch.
# Sums over the pairs that are not negatives, except an image with its own text.
PAIR_SUMS = ("positive_pairs", "positive_pair_logits", "ignored_pairs", "ignored_pair_logits")


@dataclasses.dataclass(frozen=True)
class PairLabels:
    """The rules for pairs with equal keys.

    Attributes:
        keys: int32 tensors (b, 2) of this replica's pairs, one for each rule; see `group_keys` and `caption_keys`.
        choices: "positive" or "ignore" for each rule. If two rules disagree, the pair is a positive.
        mask: bool (b,), which rows are examples. The other rows pad a last, smaller batch, and their pairs do not
            count. None means that all rows are examples. Only for a loss without gradients.
    """

    keys: tuple[tf.Tensor, ...] = ()
    choices: tuple[str, ...] = ()
    mask: tf.Tensor | None = None

    def __bool__(self):
        return bool(self.keys)

    def of_tile(
        self, of_images: Sequence[tf.Tensor], of_texts: Sequence[tf.Tensor], diagonal: bool
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns which pairs of a tile are positives and which are ignored, each bool (i, j).

        Pairs (k, k) of a tile on the diagonal are neither, because the losses compute an image with its own text
        separately.

        Args:
            of_images: keys (i, 2) for each rule. Further tensors are not read.
            of_texts: keys (j, 2) for each rule.
            diagonal: whether pair (k, k) is an image with its own text.
        """
        found = {
            choice: tf.zeros((of_images[0].shape[0], of_texts[0].shape[0]), tf.bool)
            for choice in ("positive", "ignore", _PADDING)
        }
        for image_keys, text_keys, choice in zip(of_images, of_texts, self.choices, strict=False):
            if choice == _PADDING:
                equal = (image_keys[:, None, 0] > 0) | (text_keys[None, :, 0] > 0)
            else:
                equal = tf.reduce_all(image_keys[:, None, :] == text_keys[None, :, :], -1)
            if diagonal:
                equal = tf.linalg.set_diag(equal, tf.zeros(equal.shape[:1], tf.bool))
            found[choice] |= equal
        positive = found["positive"] & ~found[_PADDING]
        return positive, (found["ignore"] | found[_PADDING]) & ~positive

    def of_examples(self, values: tf.Tensor) -> tf.Tensor:
        """Returns values (b,) of this replica's rows, with 0 for rows that are not examples."""
        return values if self.mask is None else tf.where(self.mask, values, tf.zeros((), values.dtype))

    def count(self, ring: Ring, examples: int, dtype: tf.DType) -> int | tf.Tensor:
        """Counts the examples of the global batch: an integer, or a scalar tensor if there is a mask."""
        if self.mask is None:
            return examples * ring.size
        (count,) = ring.sum([tf.reduce_sum(tf.cast(self.mask, dtype))])
        return count


def pair_sums(positive: tf.Tensor, ignored: tf.Tensor, logits: tf.Tensor) -> list[tf.Tensor]:
    """Returns `PAIR_SUMS` of a tile, (i,) each, one value for each image."""
    sums = []
    for mask in (positive, ignored):
        sums.append(tf.reduce_sum(tf.cast(mask, logits.dtype), 1))
        sums.append(tf.reduce_sum(tf.where(mask, logits, tf.zeros((), logits.dtype)), 1))
    return sums


def pair_labels(
    group, same_group: str, token_ids, equal_captions: str, examples: int, mask: tf.Tensor | None = None
) -> PairLabels:
    """Returns the labels of a batch.

    Args:
        group: integers (b,), or None.
        same_group: what two pairs of the same group are, one of `CHOICES`.
        token_ids: integers (b, length), or None.
        equal_captions: what two pairs with equal token ids are, one of `CHOICES`.
        examples: number of pairs b.
        mask: see `PairLabels`.

    Raises:
        ValueError: a choice, shape, or dtype is not as above, or a group is negative and its value is known at trace
            time.
    """
    check_choices(same_group=same_group, equal_captions=equal_captions)
    rules = []
    if group is not None and same_group != "negative":
        rules.append((group_keys(group, examples), same_group))
    if token_ids is not None and equal_captions != "negative":
        rules.append((caption_keys(token_ids, examples), equal_captions))
    if mask is not None:
        rules.append((tf.repeat(tf.cast(~mask, tf.int32)[:, None], 2, 1), _PADDING))
    return PairLabels(tuple(keys for keys, _ in rules), tuple(choice for _, choice in rules), mask)


def check_choices(**choices: str) -> None:
    """Raises a ValueError unless every value is one of `CHOICES`."""
    for name, choice in choices.items():
        if choice not in CHOICES:
            raise ValueError(f"Expected {name} to be one of {', '.join(CHOICES)}. Received: {choice!r}.")


def as_group(group, examples: int | None = None) -> tf.Tensor:
    """Returns the numbers of groups as int64 (b,).

    Raises:
        ValueError: the rank is not 1, the dtype is not an integer, the number of pairs is not `examples`, or a number
            is negative. In a graph, a negative number is an error of the step, if the device checks assertions; a TPU
            does not.
    """
    group = tf.convert_to_tensor(group)
    if not group.dtype.is_integer:
        raise ValueError(
            f"Expected 'group' as int64, the number of each pair's group. Received: dtype {group.dtype.name}, "
            f"shape {group.shape}."
        )
    if group.shape.rank != 1 or (examples is not None and group.shape[0] not in (None, examples)):
        expected = "(batch,)" if examples is None else f"({examples},)"
        raise ValueError(f"Expected 'group' of shape {expected}, one number per pair. Received: shape {group.shape}.")
    group = tf.cast(group, tf.int64)
    value = tf.get_static_value(group)
    if value is not None:
        if (value < 0).any():
            raise ValueError(f"Expected 'group' of numbers from 0 on. Received: {int(value[value < 0][0])}.")
        return group
    # Use the raw op, because `tf.debugging` puts it into a branch, which a compiled step would have to run.
    check = tf.raw_ops.Assert(
        condition=tf.reduce_all(group >= 0),
        data=["Expected 'group' of numbers from 0 on. Received:", group],
        summarize=8,
    )
    with tf.control_dependencies([check]):
        return tf.identity(group)


def group_keys(group, examples: int | None = None) -> tf.Tensor:
    """Returns the numbers of groups (b,) as keys, int32 (b, 2). Errors are those of `as_group`."""
    group = as_group(group, examples)
    return tf.stack(
        [tf.cast(group, tf.int32), tf.cast(tf.bitwise.right_shift(group, tf.constant(32, tf.int64)), tf.int32)], 1
    )


def caption_keys(token_ids, examples: int | None = None) -> tf.Tensor:
    """Returns two 32-bit hashes of each row of token ids (b, length) as keys, int32 (b, 2).

    Captions that are equal after tokenization get equal keys. The probability that any two of a million different
    captions share a key is 3e-8.

    Raises:
        ValueError: the rank is not 2, the dtype is not an integer, or the number of pairs is not `examples`.
    """
    token_ids = tf.convert_to_tensor(token_ids)
    if not token_ids.dtype.is_integer or token_ids.shape.rank != 2 or examples not in (None, token_ids.shape[0]):
        raise ValueError(
            f"Expected integer token ids of shape ({'batch' if examples is None else examples}, length). Received: "
            f"{token_ids.dtype.name} {token_ids.shape}."
        )
    token_ids = tf.cast(token_ids, tf.int32)
    position = tf.range(token_ids.shape[1])
    # int32 sums wrap around, which is fine for a sum of hashes.
    hashes = [tf.bitcast(hash_bits(seed, position, token_ids), tf.int32) for seed in (1, 2)]
    return tf.stack([tf.reduce_sum(values, 1) for values in hashes], 1)
