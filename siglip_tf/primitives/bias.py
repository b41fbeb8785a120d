"""Adds a vector, or a matrix of positions, to all examples. Its gradient is a sum over the whole batch.

Under mixed_bfloat16, TensorFlow's own executor would sum hundreds of thousands of bfloat16 numbers in bfloat16, in
which a sum of ones never exceeds 256. This file sums in float32, as XLA does by itself.
"""

import tensorflow as tf

from siglip_tf.primitives.compilation import is_compiling_with_xla


def add_bias(rows: tf.Tensor, bias: tf.Tensor, by_matmul: bool = False) -> tf.Tensor:
    """Returns rows + bias.

    Args:
        rows: (rows, width).
        bias: (width,).
        by_matmul: whether a compiled step sums the gradient by a matmul. The gradients of queries and values come from
            a kernel of attention, which XLA cannot fuse with a sum. A TPU's matrix unit needs a quarter of the time of
            its vector units for this sum. The matmul uses 8 rows of ones, the smallest tile.
    """

    @tf.custom_gradient
    def add(rows, bias):
        def gradient(upstream):
            if by_matmul and is_compiling_with_xla():
                ones = tf.ones((8, tf.shape(upstream)[0]), upstream.dtype)
                return upstream, tf.matmul(ones, upstream)[0]
            return upstream, _sum(upstream, 0)

        return rows + bias, gradient

    return add(rows, bias)


@tf.custom_gradient
def add_to_all(x: tf.Tensor, shared: tf.Tensor):
    """Returns x (batch, n, width) + shared (1, n, width)."""
    return x + shared, lambda upstream: (upstream, _sum(upstream, 0, keepdims=True))


def _sum(x, axis, keepdims=False):
    if is_compiling_with_xla():
        return tf.reduce_sum(x, axis, keepdims)
    return tf.cast(tf.reduce_sum(tf.cast(x, tf.float32), axis, keepdims), x.dtype)
