"""Multi-head attention with kernels of shape (width, heads, head size), as the reference stores them."""

import keras
import tensorflow as tf

from siglip_tf.primitives.bias import add_bias
from siglip_tf.primitives.fused_attention import attention_of_rows
from siglip_tf.primitives.projection import Projection, with_zero_gradient


@keras.saving.register_keras_serializable(package="siglip_tf")
class MultiHeadAttention(keras.layers.Layer):
    """Self-attention, in which every token attends to every token. SigLIP has no masks, so padding takes part.

    Args:
        num_heads: number of heads, which must divide the width.
        fused: use one fused kernel on TPUs and GPUs; see `attention_of_rows`.

    Call arguments:
        rows: (batch * tokens, width). The layer is built for (batch, tokens, width).

    Returns:
        The same shape.

    Raises:
        ValueError: `num_heads` does not divide the width. It is raised when the layer is built.
    """

    def __init__(self, num_heads: int, fused: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.num_heads, self.fused = num_heads, fused

    def build(self, shape):
        self._tokens, width = shape[1:]
        if width % self.num_heads:
            raise ValueError(f"Expected heads that divide the width {width}. Received: num_heads={self.num_heads}.")
        by_head = (self.num_heads, width // self.num_heads)
        policy = {"dtype": self.dtype_policy}
        self.query = Projection((width,), by_head, bias="add_by_matmul", name="query", **policy)
        self.key = Projection((width,), by_head, bias="unused", name="key", **policy)
        self.value = Projection((width,), by_head, bias="add_by_matmul", name="value", **policy)
        self.out = Projection(by_head, (width,), bias="add_by_matmul", name="out", **policy)
        for projection in (self.query, self.key, self.value, self.out):
            projection.build(None)

    def call(self, rows):
        q, k, v = self.query(rows), self.key(rows), self.value(rows)  # (batch * tokens, heads * head size)
        return self.out(attention_of_rows(q, k, v, self._tokens, self.num_heads, self.fused))

    @property
    def matrices(self) -> list[tuple[keras.Variable, tuple[int, ...]]]:
        """Each weight with its shape in a product of rows, where heads and head size are one axis."""
        projections = (self.query, self.key, self.value, self.out)
        return [pair for projection in projections for pair in projection.matrices]

    def get_config(self):
        return {**super().get_config(), "num_heads": self.num_heads, "fused": self.fused}


@keras.saving.register_keras_serializable(package="siglip_tf")
class ProbeAttention(MultiHeadAttention):
    """Attention in which a few queries, shared by all examples, attend to the tokens of each example.

    It is the same function as attention with projected tokens, computed in another order: q . (W_k t) = (W_k^T q) . t,
    and the weighted sum of W_v t is W_v times the weighted sum. So the tokens, by far the largest tensor, need no
    projection.

    Call arguments:
        probe: (n, width).
        tokens: (batch, m, width).

    Returns:
        (batch, n, width).
    """

    def call(self, probe, tokens):
        q = self.query(probe)  # (n, heads * size)
        n, heads, size = q.shape[0], self.num_heads, q.shape[1] // self.num_heads
        q = tf.reshape(q, (n, heads, size)) * tf.cast(size**-0.5, q.dtype)
        key = with_zero_gradient(self.key.effective_kernel(q.dtype), tf.convert_to_tensor(self.key.bias))
        looked_for = tf.reshape(tf.einsum("nhk,dhk->hnd", q, key), (heads * n, -1))
        logits = tf.einsum("bmd,gd->bmg", tokens, looked_for)
        weights = tf.cast(tf.nn.softmax(tf.cast(logits, tf.float32), 1), tokens.dtype)
        pooled = tf.einsum("bmg,bmd->bgd", weights, tokens)
        pooled = tf.reshape(pooled, (-1, heads, n, pooled.shape[2]))
        value = tf.einsum("bhnd,dhk->bnhk", pooled, self.value.effective_kernel(q.dtype))
        value = tf.reshape(value, (-1, heads * size))
        value = add_bias(value, tf.reshape(tf.cast(self.value.bias, q.dtype), (-1,)))
        return tf.reshape(self.out(value), (-1, n, heads * size))
