"""Multi-head attention with kernels by head, (width, heads, head size), as the reference stores them."""

import keras
import tensorflow as tf

from siglip_tf.primitives.bias import add_bias
from siglip_tf.primitives.fused_attention import attention_of_rows
from siglip_tf.primitives.initializers import xavier_flattened


@keras.saving.register_keras_serializable(package="siglip_tf")
class MultiHeadAttention(keras.layers.Layer):
    """Every query attends to every key: there is no mask anywhere in SigLIP, pads are attended.

    Args:
        num_heads: heads H; must divide the width.

    Call arguments:
        queries: (batch, n, width), or (1, n, width) if all examples share them.
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
        by_head = {"inputs": (width,), "outputs": (self.num_heads, head_size), "dtype": self.dtype_policy}
        self.query = _Projection(**by_head, name="query")
        self.key = _Projection(**by_head, name="key", adds_bias=False)
        self.value = _Projection(**by_head, name="value")
        self.out = _Projection((self.num_heads, head_size), (width,), name="out", dtype=self.dtype_policy)
        for projection in (self.query, self.key, self.value, self.out):
            projection.build(None)

    def call(self, queries, keys=None):
        if keys is not None and queries.shape[0] == 1:
            return self._pool(queries, keys)
        keys = queries if keys is None else keys
        q, k, v = self.query(queries), self.key(keys), self.value(keys)  # (b, n, H, k), (b, m, H, k), (b, m, H, k)
        q *= tf.cast((q.shape[-1]) ** -0.5, q.dtype)
        logits = tf.einsum("bnhk,bmhk->bhnm", q, k)
        weights = tf.cast(tf.nn.softmax(tf.cast(logits, tf.float32)), v.dtype)
        return self.out(tf.einsum("bhnm,bmhk->bnhk", weights, v))

    def _pool(self, queries, tokens):
        """A few queries that all examples share, as a probe is: tokens are weighted first and projected then.

        q . (W_k t) = (W_k^T q) . t, and the weighted sum of W_v t is W_v of the weighted sum: tokens themselves, by far
        the largest tensor, pass no projection.
        """
        q = self.query(queries)[0]  # (n, H, k)
        n, heads, size = q.shape
        looked_for = tf.einsum("nhk,dhk->hnd", q * tf.cast(size**-0.5, q.dtype), tf.cast(self.key.kernel, q.dtype))
        looked_for = tf.reshape(looked_for, (heads * n, -1))
        logits = tf.einsum("bmd,gd->bmg", tokens, looked_for)
        weights = tf.cast(tf.nn.softmax(tf.cast(logits, tf.float32), 1), tokens.dtype)
        pooled = tf.einsum("bmg,bmd->bgd", weights, tokens)
        pooled = tf.reshape(pooled, (-1, heads, n, pooled.shape[2]))
        value = self.value
        return self.out(
            tf.einsum("bhnd,dhk->bnhk", pooled, tf.cast(value.kernel, q.dtype)) + tf.cast(value.bias, q.dtype)
        )

    def project_rows(self, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Queries, keys and values of self-attention: (rows, width) -> 3 x (rows, width), heads side by side."""
        return self.query(rows, flat=True), self.key(rows, flat=True), self.value(rows, flat=True)

    def attend_rows(self, q: tf.Tensor, k: tf.Tensor, v: tf.Tensor, tokens: int, fused: bool) -> tf.Tensor:
        """What `project_rows` gave -> (rows, width) before the output projection; see `attention_of_rows`."""
        return attention_of_rows(q, k, v, tokens, self.num_heads, fused)

    @property
    def matrices(self) -> list[tuple[keras.Variable, tuple[int, ...]]]:
        """Each weight with the shape that it has in a matmul of rows: the heads' axes are one there."""
        projections = (self.query, self.key, self.value, self.out)
        return [pair for projection in projections for pair in projection.matrices]

    def get_config(self):
        return {**super().get_config(), "num_heads": self.num_heads}


class _Projection(keras.layers.Layer):
    """A dense layer from the axes `inputs` to the axes `outputs`, with bias.

    A bias of the keys adds the same to all logits of a query, which softmax takes away again: `adds_bias=False` keeps
    the weight, as checkpoints have it, and leaves out the addition. Its gradient then is zero exactly, where rounding
    noise would be scaled up to whole steps by every optimizer that normalises.
    """

    def __init__(self, inputs, outputs, adds_bias=True, **kwargs):
        super().__init__(**kwargs)
        self._inputs, self._outputs, self._adds_bias = tuple(inputs), tuple(outputs), adds_bias

    def build(self, _):
        flat = tf.TensorShape(self._inputs).num_elements(), tf.TensorShape(self._outputs).num_elements()
        self.kernel = self.add_weight(
            shape=(*self._inputs, *self._outputs), initializer=xavier_flattened(*flat), name="kernel"
        )
        self.bias = self.add_weight(shape=self._outputs, initializer="zeros", name="bias")
        self._flat = flat

    @property
    def matrices(self):
        return [(self.kernel, self._flat), (self.bias, self._flat[1:])]

    def call(self, x, flat=False):
        """`flat`: x is (rows, product of the inputs), and so is the result."""
        rows = x if flat else tf.reshape(x, (-1, self._flat[0]))
        y = tf.matmul(rows, tf.reshape(self.kernel, self._flat))
        if self._adds_bias:
            y = add_bias(y, tf.reshape(self.bias, (-1,)))
        if flat:
            return y
        outer = x.shape[: x.shape.rank - len(self._inputs)]
        leading = [-1 if size is None else size for size in outer]
        return tf.reshape(y, (*leading, *self._outputs))
