"""Sums that float32 can be trusted with: one running sum drifts (0.7 % over 4096 x 4096 losses under XLA:CPU)."""

import math

import tensorflow as tf


def total(values: tf.Tensor) -> tf.Tensor:
    """The sum of all elements, scalar, added in two levels so that no running sum has more than sqrt(size) terms."""
    values = tf.reshape(values, (-1,))
    size = values.shape[0]
    rows = math.isqrt(size - 1) + 1
    padded = tf.pad(values, [[0, rows * rows - size]])
    return tf.reduce_sum(tf.reduce_sum(tf.reshape(padded, (rows, rows)), axis=1))
