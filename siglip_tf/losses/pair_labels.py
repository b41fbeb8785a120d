"""Pairs that are no negatives: several pictures of one thing, or one caption on several pictures.

An image and the text of another pair may belong together. Each pair of the batch then carries a key: the number of its
group, or a hash of its caption's token ids. Two pairs of equal keys anywhere in the global batch are positives, or are
left out. Keys are 64 bits, kept as two int32, which every collective of every strategy carries. They travel with the
texts and are compared tile by tile.
"""

import dataclasses
from collections.abc import Sequence

import tensorflow as tf

from siglip_tf.distribution import Ring
from siglip_tf.primitives.hashing import hash_bits

CHOICES = ("negative", "positive", "ignore")
_PADDING = "padding"  # a choice of our own: every pair with a row that only fills the batch
# What is known of pairs that are no negatives, beside an image and its own text.
PAIR_SUMS = ("positive_pairs", "positive_pair_logits", "ignored_pairs", "ignored_pair_logits")


@dataclasses.dataclass(frozen=True)
class PairLabels:
    """What pairs of equal keys are.

    Attributes:
        keys: tensors (b, 2) int32 of this replica's pairs, one for each rule; see `group_keys` and `caption_keys`.
        choices: "positive" or "ignore" for each of them. Where two rules disagree, the pair is a positive.
        mask: bool (b,), which rows are examples; the others fill a last, smaller batch, and no pair of theirs counts.
            None where all rows are. Only for a loss without gradients.
    """

    keys: tuple[tf.Tensor, ...] = ()
    choices: tuple[str, ...] = ()
    mask: tf.Tensor | None = None

    def __bool__(self):
        return bool(self.keys)

    def of_tile(
        self, of_images: Sequence[tf.Tensor], of_texts: Sequence[tf.Tensor], diagonal: bool
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Which pairs of a tile are positives and which are left out, each bool (i, j).

        Pairs (k, k) of a tile on the diagonal are neither: the losses compute an image with its own text apart.

        Args:
            of_images: (i, 2) for each rule; tensors after these are not read.
            of_texts: (j, 2), likewise.
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
        """Values (b,) of this replica's rows, 0 where a row is no example."""
        return values if self.mask is None else tf.where(self.mask, values, tf.zeros((), values.dtype))

    def count(self, ring: Ring, examples: int, dtype: tf.DType) -> int | tf.Tensor:
        """The examples of the global batch: an integer, or a scalar where some rows are none."""
        if self.mask is None:
            return examples * ring.size
        (count,) = ring.sum([tf.reduce_sum(tf.cast(self.mask, dtype))])
        return count


def pair_sums(positive: tf.Tensor, ignored: tf.Tensor, logits: tf.Tensor) -> list[tf.Tensor]:
    """`PAIR_SUMS` of a tile, for each of its images, (i,)."""
    sums = []
    for mask in (positive, ignored):
        sums.append(tf.reduce_sum(tf.cast(mask, logits.dtype), 1))
        sums.append(tf.reduce_sum(tf.where(mask, logits, tf.zeros((), logits.dtype)), 1))
    return sums


def pair_labels(
    group, same_group: str, token_ids, equal_captions: str, examples: int, mask: tf.Tensor | None = None
) -> PairLabels:
    """The labels of a batch.

    Args:
        group: integers (b,), or None where there are no groups.
        same_group: what pairs of one group are, one of `CHOICES`.
        token_ids: integers (b, length), or None.
        equal_captions: what pairs of equal token ids are, one of `CHOICES`.
        examples: b.
        mask: as `PairLabels.mask`.

    Raises:
        ValueError: for another choice, shape or dtype, and for negative groups where their values can be seen.
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
    """Raises ValueError unless every value is one of `CHOICES`."""
    for name, choice in choices.items():
        if choice not in CHOICES:
            raise ValueError(f"Expected {name} to be one of {', '.join(CHOICES)}. Received: {choice!r}.")


def as_group(group, examples: int | None = None) -> tf.Tensor:
    """Numbers of groups as int64 (b,).

    Raises:
        ValueError: for another rank or dtype, another number of pairs than `examples`, or a negative number. In a graph
            the last is an error of the step, as far as the device checks assertions; a TPU does not.
    """
    group = tf.convert_to_tensor(group)
    if not group.dtype.is_integer:
        raise ValueError(
            f"Expected 'group' as int64, the number of each pair's group. Received: dtype {group.dtype.name}, "
            f"shape {group.shape}."
        )
    if group.shape.rank != 1 or (examples is not None and group.shape[0] not in (None, examples)):
        expected = "(batch,)" if examples is None else f"({examples},)"
        raise ValueError(f"Expected 'group' of shape {expected}, one number a pair. Received: shape {group.shape}.")
    group = tf.cast(group, tf.int64)
    value = tf.get_static_value(group)
    if value is not None:
        if (value < 0).any():
            raise ValueError(f"Expected 'group' of numbers from 0 on. Received: {int(value[value < 0][0])}.")
        return group
    # The op by itself: `tf.debugging` puts it into a branch, which a compiled step would have to run.
    check = tf.raw_ops.Assert(
        condition=tf.reduce_all(group >= 0),
        data=["Expected 'group' of numbers from 0 on. Received:", group],
        summarize=8,
    )
    with tf.control_dependencies([check]):
        return tf.identity(group)


def group_keys(group, examples: int | None = None) -> tf.Tensor:
    """Numbers of groups (b,) as keys (b, 2) int32; errors as `as_group`."""
    group = as_group(group, examples)
    return tf.stack(
        [tf.cast(group, tf.int32), tf.cast(tf.bitwise.right_shift(group, tf.constant(32, tf.int64)), tf.int32)], 1
    )


def caption_keys(token_ids, examples: int | None = None) -> tf.Tensor:
    """Two 32-bit hashes of each row of token ids (b, length), as keys (b, 2) int32.

    Captions that are equal after tokenization get equal keys. Two of a million different captions share a key with a
    probability of 3e-8.

    Raises:
        ValueError: for another rank or dtype, or another number of pairs than `examples`.
    """
    token_ids = tf.convert_to_tensor(token_ids)
    if not token_ids.dtype.is_integer or token_ids.shape.rank != 2 or examples not in (None, token_ids.shape[0]):
        raise ValueError(
            f"Expected integer token ids of shape ({'batch' if examples is None else examples}, length). Received: "
            f"{token_ids.dtype.name} {token_ids.shape}."
        )
    token_ids = tf.cast(token_ids, tf.int32)
    position = tf.range(token_ids.shape[1])
    # int32 sums wrap around, which a sum of hashes may do.
    hashes = [tf.bitcast(hash_bits(seed, position, token_ids), tf.int32) for seed in (1, 2)]
    return tf.stack([tf.reduce_sum(values, 1) for values in hashes], 1)
