"""Token embeddings, with a full table or a bottleneck (section 4.3), and a dense gradient."""

import keras
import tensorflow as tf

from siglip_tf.primitives.initializers import embedding_normal, xavier_flattened


class TokenEmbedding(keras.layers.Layer):
    """A table (vocabulary, width), or a table (vocabulary, K) and a projection (K, width) for large vocabularies.

    Args:
        vocab_size: number of token ids.
        width: width of the text tower.
        bottleneck: K, or None for a full table.

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
        # Use rows: the gradient of a product of tensors with three and two axes has dynamic shapes, which TPUs do not
        # support.
        projected = tf.matmul(tf.reshape(x, (-1, self.bottleneck)), self.projection)
        return tf.reshape(projected, (-1, *ids.shape[1:], self.width))


@tf.custom_gradient
def _look_up(table, ids):
    """Looks up rows of the table, with a dense gradient.

    With a sparse gradient, optimizers would square the slices of a repeated id separately and not their sum. The table
    and the sum over repeated ids are float32 under every dtype policy, because a sum of ones in bfloat16 stops at 256.
    """

    def gradient(upstream):
        rows = tf.reshape(tf.cast(upstream, table.dtype), (-1, table.shape[1]))
        return tf.math.unsorted_segment_sum(rows, tf.reshape(ids, (-1,)), table.shape[0]), None

    return tf.gather(table, ids), gradient
