"""Multi-head attention with kernels by head, (width, heads, head size), as the reference stores them."""

import keras
import tensorflow as tf

from siglip_tf.primitives.initializers import xavier_flattened


@keras.saving.register_keras_serializable(package="siglip_tf")
class MultiHeadAttention(keras.layers.Layer):
    """Every query attends to every key: there is no mask anywhere in SigLIP, pads are attended.

    Args:
        num_heads: heads H; must divide the width.

    Call arguments:
        queries: (batch, n, width).
        keys: (batch, m, width); None for self-attention.

    Returns:
        (batch, n, width).

    Raises:
        ValueError: when built for a width that the heads do not divide.
    """

    def __init__(self, num_heads: int, **kwargs):
        super().__init__(**kwargs)
        self.num_heads = num_heads

    def build(self, queries_shape, keys_shape=None):
        width = queries_shape[-1]
        if width % self.num_heads:
            raise ValueError(f"Expected heads that divide the width {width}. Received: num_heads={self.num_heads}.")
        head_size = width // self.num_heads
        for name in ("query", "key", "value"):
            setattr(self, name, _Projection((width,), (self.num_heads, head_size), name=name, dtype=self.dtype_policy))
        self.out = _Projection((self.num_heads, head_size), (width,), name="out", dtype=self.dtype_policy)
        for projection in (self.query, self.key, self.value, self.out):
            projection.build(None)

    def call(self, queries, keys=None):
        keys = queries if keys is None else keys
        q, k, v = self.query(queries), self.key(keys), self.value(keys)  # (b, n, H, k), (b, m, H, k), (b, m, H, k)
        q *= tf.cast((q.shape[-1]) ** -0.5, q.dtype)
        logits = tf.einsum("bnhk,bmhk->bhnm", q, k)
        weights = tf.cast(tf.nn.softmax(tf.cast(logits, tf.float32)), v.dtype)
        return self.out(tf.einsum("bhnm,bmhk->bnhk", weights, v))

    def get_config(self):
        return {**super().get_config(), "num_heads": self.num_heads}


class _Projection(keras.layers.Layer):
    """A dense layer from the axes `inputs` to the axes `outputs`, with bias."""

    def __init__(self, inputs, outputs, **kwargs):
        super().__init__(**kwargs)
        self._inputs, self._outputs = tuple(inputs), tuple(outputs)

    def build(self, _):
        flat = tf.TensorShape(self._inputs).num_elements(), tf.TensorShape(self._outputs).num_elements()
        self.kernel = self.add_weight(
            shape=(*self._inputs, *self._outputs), initializer=xavier_flattened(*flat), name="kernel"
        )
        self.bias = self.add_weight(shape=self._outputs, initializer="zeros", name="bias")
        self._flat = flat

    def call(self, x):
        outer = x.shape[: x.shape.rank - len(self._inputs)]
        rows = tf.reshape(x, (-1, self._flat[0]))
        y = tf.matmul(rows, tf.reshape(self.kernel, self._flat)) + tf.reshape(self.bias, (-1,))
        leading = [-1 if size is None else size for size in outer]
        return tf.reshape(y, (*leading, *self._outputs))
