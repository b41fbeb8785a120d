"""The text transformer: tokens, learned positions, the same blocks without any mask, and the last position's output."""

import tensorflow as tf

from siglip_tf.models.token_embedding import TokenEmbedding
from siglip_tf.models.transformer import Encoder
from siglip_tf.models.variants import TowerSize
from siglip_tf.primitives.bias import add_to_all
from siglip_tf.primitives.initializers import embedding_normal
from siglip_tf.primitives.projection import Projection


class TextTower(Encoder):
    """Transformer over token ids. Pads are attended, and the pooled last position is usually one of them, by design.

    Args:
        size: width, depth, MLP and heads.
        vocab_size: number of token ids.
        text_length: tokens of a text, padding included.
        embed_dim: size of the embedding that the head gives; None for no head (So400m multilingual).
        token_bottleneck: K of a "bottlenecked" token embedding (section 4.3); None for the whole table.
        **kwargs: of `Encoder`: `dropout`, `stochastic_depth`, `remat`, `attention`, `scan_layers`.

    Call arguments:
        ids: int32 (batch, text_length).
        pooled: False for the tokens behind the final norm.

    Returns:
        (batch, embed_dim), not normalized; (batch, text_length, size.width) where not pooled.
    """

    def __init__(
        self,
        size: TowerSize,
        vocab_size: int,
        text_length: int,
        embed_dim: int | None,
        token_bottleneck: int | None = None,
        **kwargs,
    ):
        super().__init__(size, **kwargs)
        self.vocab_size, self.text_length, self.embed_dim = vocab_size, text_length, embed_dim
        self.token_bottleneck = token_bottleneck

    def build(self, _=None):
        width = self.size.width
        self.token_embedding = TokenEmbedding(
            self.vocab_size, width, self.token_bottleneck, name="token_embedding", dtype=self.dtype_policy
        )
        self.token_embedding.build()
        self.position_embedding = self.add_weight(
            shape=(1, self.text_length, width), initializer=embedding_normal(width), name="position_embedding"
        )
        self.build_encoder((None, self.text_length, width))
        if self.embed_dim is not None:
            self.head = Projection((width,), (self.embed_dim,), "lecun_normal", name="head", dtype=self.dtype_policy)
            self.head.build()

    def call(self, ids, training=False, pooled=True):
        x = add_to_all(self.token_embedding(ids), tf.convert_to_tensor(self.position_embedding))
        x = self.encode(x, training)
        if not pooled:
            return x
        x = x[:, -1]
        return x if self.embed_dim is None else self.head(x)
