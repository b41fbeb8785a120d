"""Token embeddings, whole or "bottlenecked" (section 4.3), with a dense gradient."""

import keras
import tensorflow as tf

from siglip_tf.primitives.initializers import embedding_normal, xavier_flattened


class TokenEmbedding(keras.layers.Layer):
    """A table (vocabulary, width), or a table (vocabulary, K) and a projection (K, width) for large vocabularies.

    Args:
        vocab_size: N.
        width: W of the text tower.
        bottleneck: K; None for the whole table.

    Call arguments:
        ids: int32 (batch, tokens), each below vocab_size.

    Returns:
        (batch, tokens, width).
    """

    def __init__(self, vocab_size: int, width: int, bottleneck: int | None = None, **kwargs):
        super().__init__(**kwargs)
        self.vocab_size, self.width, self.bottleneck = vocab_size, width, bottleneck

    def build(self, _=None):
        columns = self.bottleneck or self.width
        self.embedding = self.add_weight(
            shape=(self.vocab_size, columns), initializer=embedding_normal(columns), name="embedding", autocast=False
        )
        if self.bottleneck:
            self.projection = self.add_weight(
                shape=(self.bottleneck, self.width),
                initializer=xavier_flattened(self.bottleneck, self.width),
                name="projection",
            )

    def call(self, ids):
        x = tf.cast(_look_up(tf.convert_to_tensor(self.embedding), ids), self.compute_dtype)
        if not self.bottleneck:
            return x
        # As rows: the gradient of a product of three axes by two has shapes that are known when it runs, and no TPU
        # takes those.
        projected = tf.matmul(tf.reshape(x, (-1, self.bottleneck)), self.projection)
        return tf.reshape(projected, (-1, *ids.shape[1:], self.width))


@tf.custom_gradient
def _look_up(table, ids):
    """Rows of the table. The gradient is dense: optimizers square the slices of a repeated id apart, not their sum.

    The table is float32 and so is the sum over repeated ids, under every dtype policy: in bfloat16 a sum of ones ends
    at 256.
    """

    def gradient(upstream):
        rows = tf.reshape(tf.cast(upstream, table.dtype), (-1, table.shape[1]))
        return tf.math.unsorted_segment_sum(rows, tf.reshape(ids, (-1,)), table.shape[0]), None

    return tf.gather(table, ids), gradient
