"""The text transformer: tokens, learned positions, the same blocks without any mask, and the last position's output."""

import keras

from siglip_tf.models.token_embedding import TokenEmbedding
from siglip_tf.models.transformer import Encoder
from siglip_tf.models.variants import TowerSize
from siglip_tf.primitives.dropout import Dropout
from siglip_tf.primitives.initializers import embedding_normal


class TextTower(Encoder, keras.layers.Layer):
    """Transformer over token ids. Pads are attended, and the pooled last position is usually one of them, by design.

    Args:
        size: width, depth, MLP and heads.
        vocab_size: number of token ids.
        text_length: tokens of a text, padding included.
        embed_dim: size of the embedding that the head gives; None for no head (So400m multilingual).
        token_bottleneck: K of a "bottlenecked" token embedding (section 4.3); None for the whole table.
        dropout: rate of dropped units while training.
        stochastic_depth: rate of dropped branches of the deepest block while training.
        remat: what blocks keep for the backward pass: "none" of it is computed again, "selective" or "block".
        attention: "einsum", or "fused" for one kernel on TPU.
        scan_layers: one loop over the blocks while training.

    Call arguments:
        ids: int32 (batch, text_length).
        pooled: False for the tokens behind the final norm.

    Returns:
        (batch, embed_dim), not normalised; (batch, text_length, size.width) where not pooled.
    """

    def __init__(
        self,
        size: TowerSize,
        vocab_size: int,
        text_length: int,
        embed_dim: int | None,
        token_bottleneck: int | None = None,
        dropout: float = 0.0,
        stochastic_depth: float = 0.0,
        remat: str = "none",
        attention: str = "einsum",
        scan_layers: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.size, self.vocab_size, self.text_length, self.embed_dim = size, vocab_size, text_length, embed_dim
        self.token_bottleneck = token_bottleneck
        self.dropout, self.stochastic_depth, self.remat = dropout, stochastic_depth, remat
        self.attention, self.scan_layers = attention, scan_layers

    def build(self, _=None):
        width = self.size.width
        self.token_embedding = TokenEmbedding(
            self.vocab_size, width, self.token_bottleneck, name="token_embedding", dtype=self.dtype_policy
        )
        self.token_embedding.build()
        self.position_embedding = self.add_weight(
            shape=(1, self.text_length, width), initializer=embedding_normal(width), name="position_embedding"
        )
        shape = (None, self.text_length, width)
        self.drop = Dropout(self.dropout, name="drop", dtype=self.dtype_policy)
        self.drop.build(shape)
        self.build_encoder(
            self.size, shape, self.dropout, self.stochastic_depth, self.remat, self.attention, self.scan_layers
        )
        if self.embed_dim is not None:
            self.head = keras.layers.Dense(
                self.embed_dim, kernel_initializer="lecun_normal", name="head", dtype=self.dtype_policy
            )
            self.head.build((None, width))

    def call(self, ids, training=False, pooled=True):
        x = self.token_embedding(ids) + self.position_embedding
        x = self.encode(self.drop(x, training=training), training)
        if not pooled:
            return x
        x = x[:, -1]
        return x if self.embed_dim is None else self.head(x)
