"""Adding one vector, or one matrix of positions, to all examples: its gradient is a sum over a whole batch.

Under mixed_bfloat16 TensorFlow's own executor would add up hundreds of thousands of bfloat16 numbers in bfloat16, where
a sum of ones ends at 256. Here it sums in float32. XLA does so by itself.
"""

import tensorflow as tf

from siglip_tf.primitives.compilation import is_compiling_with_xla


def add_bias(rows: tf.Tensor, bias: tf.Tensor, by_matmul: bool = False) -> tf.Tensor:
    """rows + bias.

    Args:
        rows: (rows, width).
        bias: (width,).
        by_matmul: whether a compiled step sums the gradient by a matmul. What comes back to queries and values leaves a
            kernel of attention, with which no sum can be fused. A TPU's matrix unit adds it up in a quarter of the time
            of its vector units; a tile of 8 rows of ones is its smallest.
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
    """x (batch, n, width) + shared (1, n, width)."""
    return x + shared, lambda upstream: (upstream, _sum(upstream, 0, keepdims=True))


def _sum(x, axis, keepdims=False):
    if is_compiling_with_xla():
        return tf.reduce_sum(x, axis, keepdims)
    return tf.cast(tf.reduce_sum(tf.cast(x, tf.float32), axis, keepdims), x.dtype)
