"""The tanh approximation of GELU (Keras' default is the exact one), keeping only its input for the backward pass."""

import math

import tensorflow as tf

from siglip_tf.primitives.one_kernel import one_kernel

_LINEAR = 2 * math.sqrt(2 / math.pi)
_CUBIC = _LINEAR * 0.044715


@tf.custom_gradient
def gelu_tanh(x: tf.Tensor) -> tf.Tensor:
    """0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), written as x * sigmoid of twice the argument.

    Args:
        x: any shape, floating.

    Returns:
        The same shape and dtype.
    """

    def gradient(upstream):
        return one_kernel(_gelu_gradient, x, upstream)

    return one_kernel(_gelu, x), gradient


def _gelu(x):
    return x * tf.sigmoid(x * (tf.cast(_LINEAR, x.dtype) + tf.cast(_CUBIC, x.dtype) * x * x))


def _gelu_gradient(x, upstream):
    linear, cubic = tf.cast(_LINEAR, x.dtype), tf.cast(_CUBIC, x.dtype)
    squared = x * x
    gate = tf.sigmoid(x * (linear + cubic * squared))
    return upstream * (gate + x * gate * (1 - gate) * (linear + 3 * cubic * squared))
