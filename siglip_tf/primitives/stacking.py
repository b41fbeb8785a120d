"""Stacks tensors of the same shape, so that a tower of twelve equal blocks needs a twelfth of the ops.

XLA compiles every reduction separately, so a TPU's compiler spends most of its time on the updates and norms of weights
rather than on the towers. With TensorFlow's own executor, the copies would cost more than they save.
"""

from collections.abc import Hashable, Sequence

import tensorflow as tf


def groups_of(keys: Sequence[Hashable]) -> list[list[int]]:
    """Returns the positions of equal keys, in the order of first appearance."""
    found: dict[Hashable, list[int]] = {}
    for position, key in enumerate(keys):
        found.setdefault(key, []).append(position)
    return list(found.values())


def stack(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """Stacks tensors on a new leading axis. A single tensor stays as it is."""
    return tf.stack(tensors) if len(tensors) > 1 else tf.convert_to_tensor(tensors[0])


def unstack(tensor: tf.Tensor, count: int) -> list[tf.Tensor]:
    """Returns the `count` tensors that `stack` stacked."""
    return tf.unstack(tensor, count) if count > 1 else [tensor]


def sums_of_squares(tensors: Sequence[tf.Tensor], stacked: bool) -> list[tf.Tensor]:
    """Returns the sum of squares of each tensor, a float32 scalar. `stacked` computes equal shapes together."""
    if not stacked:
        return [2.0 * tf.nn.l2_loss(tf.cast(t, tf.float32)) for t in tensors]
    sums: list[tf.Tensor] = [None] * len(tensors)
    for group in groups_of([(tuple(t.shape), t.dtype) for t in tensors]):
        together = tf.cast(stack([tensors[i] for i in group]), tf.float32)
        axes = list(range(len(group) > 1, together.shape.rank))
        for i, value in zip(group, unstack(tf.reduce_sum(tf.square(together), axes), len(group)), strict=True):
            sums[i] = value
    return sums
