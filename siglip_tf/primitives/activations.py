"""The tanh approximation of GELU (Keras' default is exact). It keeps only its input for the backward pass."""

import math

import tensorflow as tf

from siglip_tf.primitives.one_kernel import one_kernel

_LINEAR = 2 * math.sqrt(2 / math.pi)
_CUBIC = _LINEAR * 0.044715
# For larger magnitudes the gate is 0 or 1: exactly in float32 and half precision, and up to 1e-138 in float64.
_SATURATED = 16.0


@tf.custom_gradient
def gelu_tanh(x: tf.Tensor) -> tf.Tensor:
    """Returns 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), computed as x * sigmoid of twice the argument.

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
    # In float16, the square of a larger number is infinite, and infinity times the slope of a saturated gate is NaN.
    x = tf.clip_by_value(x, tf.cast(-_SATURATED, x.dtype), tf.cast(_SATURATED, x.dtype))
    squared = x * x
    gate = tf.sigmoid(x * (linear + cubic * squared))
    return upstream * (gate + x * gate * (1 - gate) * (linear + 3 * cubic * squared))
