"""Layer normalization with its gradient in closed form, and l2 normalization, both in float32."""

import keras
import tensorflow as tf

from siglip_tf.primitives.compilation import is_compiling_with_xla

# The reference's value. In float16 it is 0.
_L2_EPSILON = 1e-8


def l2_normalize(x: tf.Tensor) -> tf.Tensor:
    """Returns x / (|x| + 1e-8) along the last axis. Zeros stay zeros.

    An exporter may store the 1e-8 as float16 (LiteRT does) or compute in float16. Both make it 0, so a norm of zero is
    replaced once more. This does not change a bit in float32. The gradient of a zero vector is that of a division by
    1e-8, while the gradient of the square root alone would be NaN.

    Args:
        x: (..., width), floating; computed in float32.

    Returns:
        float32 (..., width).
    """
    x = tf.cast(x, tf.float32)
    square = tf.reduce_sum(x * x, -1, keepdims=True)
    is_zero = tf.equal(square, 0.0)
    norm = tf.where(is_zero, 0.0, tf.sqrt(tf.where(is_zero, 1.0, square))) + _L2_EPSILON
    return x / tf.where(tf.equal(norm, 0.0), 1.0, norm)


@keras.saving.register_keras_serializable(package="siglip_tf")
class LayerNorm(keras.layers.Layer):
    """Normalizes the last axis, and applies scale and bias. Statistics are float32 for every compute dtype.

    Args:
        epsilon: added to the variance; 1e-6 as in the reference (Keras' default is 1e-3).

    Call arguments:
        inputs: (..., width).
    """

    def __init__(self, epsilon: float = 1e-6, **kwargs):
        super().__init__(**kwargs)
        self.epsilon = epsilon

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones", name="scale")
        self.bias = self.add_weight(shape=(shape[-1],), initializer="zeros", name="bias")

    def call(self, inputs):
        scale, bias = tf.cast(self.scale, tf.float32), tf.cast(self.bias, tf.float32)
        return _layer_norm(tf.convert_to_tensor(inputs), scale, bias, self.epsilon)

    def get_config(self):
        return {**super().get_config(), "epsilon": self.epsilon}


def _layer_norm(x, scale, bias, epsilon):
    @tf.custom_gradient
    def normalize(x, scale, bias):
        x32 = tf.cast(x, tf.float32)
        mean = tf.reduce_mean(x32, -1, keepdims=True)
        centered = x32 - mean
        if is_compiling_with_xla():
            # XLA computes both sums in the pass that produces x, as in the reference's framework.
            variance = tf.maximum(tf.reduce_mean(tf.square(x32), -1, keepdims=True) - tf.square(mean), 0.0)
        else:
            variance = tf.reduce_mean(tf.square(centered), -1, keepdims=True)
        inverse = tf.math.rsqrt(variance + epsilon)

        def gradient(upstream):
            upstream = tf.cast(upstream, tf.float32)
            normal = (tf.cast(x, tf.float32) - mean) * inverse
            others = list(range(x.shape.rank - 1))
            scaled = upstream * scale
            dx = inverse * (
                scaled
                - tf.reduce_mean(scaled, -1, keepdims=True)
                - normal * tf.reduce_mean(scaled * normal, -1, keepdims=True)
            )
            return tf.cast(dx, x.dtype), tf.reduce_sum(upstream * normal, others), tf.reduce_sum(upstream, others)

        return tf.cast(centered * (inverse * scale) + bias, x.dtype), gradient

    return normalize(x, scale, bias)
