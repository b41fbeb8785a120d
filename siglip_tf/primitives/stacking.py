"""Tensors of one shape as one tensor: a tower of twelve equal blocks is then a twelfth of the operations.

XLA compiles every reduction apart, so that the weights' updates and norms, and not the towers, are what a TPU's
compiler spends its time on. TensorFlow's own executor would pay for the copies.
"""

from collections.abc import Hashable, Sequence

import tensorflow as tf


def groups_of(keys: Sequence[Hashable]) -> list[list[int]]:
    """Positions of equal keys, in the order of their first."""
    found: dict[Hashable, list[int]] = {}
    for position, key in enumerate(keys):
        found.setdefault(key, []).append(position)
    return list(found.values())


def stack(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """A leading axis over the tensors; one alone stays as it is."""
    return tf.stack(tensors) if len(tensors) > 1 else tf.convert_to_tensor(tensors[0])


def unstack(tensor: tf.Tensor, count: int) -> list[tf.Tensor]:
    """What `stack` was given."""
    return tf.unstack(tensor, count) if count > 1 else [tensor]


def sums_of_squares(tensors: Sequence[tf.Tensor], stacked: bool) -> list[tf.Tensor]:
    """float32 scalar of each tensor; `stacked` takes those of one shape together."""
    if not stacked:
        return [2.0 * tf.nn.l2_loss(tf.cast(t, tf.float32)) for t in tensors]
    sums: list[tf.Tensor] = [None] * len(tensors)
    for group in groups_of([(tuple(t.shape), t.dtype) for t in tensors]):
        together = tf.cast(stack([tensors[i] for i in group]), tf.float32)
        axes = list(range(len(group) > 1, together.shape.rank))
        for i, value in zip(group, unstack(tf.reduce_sum(tf.square(together), axes), len(group)), strict=True):
            sums[i] = value
    return sums
