"""Logits of one tile, negatives only: positives are computed apart, where float32 can hold them."""

import tensorflow as tf

# Where a positive would stand: its softplus, sigmoid and exponential are 0, and it is never the largest of a row.
NOT_A_NEGATIVE = -1e9


def negative_logits(scaled_images: tf.Tensor, texts: tf.Tensor, diagonal: bool, bias: tf.Tensor | None) -> tf.Tensor:
    """t * x.y + b of a tile.

    Args:
        scaled_images: (i, d) image embeddings times the temperature.
        texts: (j, d).
        diagonal: whether pair (k, k) is a positive; it gets `NOT_A_NEGATIVE`.
        bias: scalar, or None.

    Returns:
        (i, j).
    """
    logits = tf.matmul(scaled_images, texts, transpose_b=True)
    if bias is not None:
        logits += bias
    if diagonal:
        logits = tf.linalg.set_diag(logits, tf.fill(logits.shape[:1], tf.cast(NOT_A_NEGATIVE, logits.dtype)))
    return logits
