"""The encoder that both towers share: pre-norm blocks, bidirectional attention, a final norm."""

import keras
import tensorflow as tf

from siglip_tf.models.variants import TowerSize
from siglip_tf.primitives.activations import gelu_tanh
from siglip_tf.primitives.attention import MultiHeadAttention
from siglip_tf.primitives.dropout import Dropout, StochasticDepth
from siglip_tf.primitives.normalization import LayerNorm
from siglip_tf.primitives.rematerialization import rematerialize

REMAT_POLICIES = ("none", "block", "selective")


class MLP(keras.layers.Layer):
    """Dense, GELU (tanh approximation), dropout, dense.

    Args:
        hidden: hidden units.
        dropout: rate of dropped hidden units.

    Call arguments:
        x: (..., width); the result has the same shape.
    """

    def __init__(self, hidden: int, dropout: float = 0.0, **kwargs):
        super().__init__(**kwargs)
        self.hidden, self.dropout = hidden, dropout

    def build(self, shape):
        def dense(units, name):
            return keras.layers.Dense(
                units,
                kernel_initializer=keras.initializers.GlorotUniform(),
                bias_initializer=keras.initializers.RandomNormal(stddev=1e-6),
                name=name,
                dtype=self.dtype_policy,
            )

        self.fc1, self.fc2 = dense(self.hidden, "fc1"), dense(shape[-1], "fc2")
        self.drop = Dropout(self.dropout, name="drop", dtype=self.dtype_policy)
        self.fc1.build(shape)
        self.drop.build(None)
        self.fc2.build((*shape[:-1], self.hidden))

    def call(self, x, training=False):
        return self.fc2(self.drop(gelu_tanh(self.fc1(x)), training=training))


class Block(keras.layers.Layer):
    """x + attention(norm(x)), then x + MLP(norm(x)); dropout and stochastic depth on both branches.

    Args:
        size: of the tower.
        dropout: rate of dropped units behind attention, inside and behind the MLP.
        stochastic_depth: rate of dropped branches.
        remat: "selective" computes the MLP again in the backward pass; see `Encoder`.

    Call arguments:
        x: (batch, tokens, width); the result has the same shape.
    """

    def __init__(
        self, size: TowerSize, dropout: float = 0.0, stochastic_depth: float = 0.0, remat: str = "none", **kwargs
    ):
        super().__init__(**kwargs)
        self.size, self.dropout, self.stochastic_depth, self.remat = size, dropout, stochastic_depth, remat

    def build(self, shape):
        policy = {"dtype": self.dtype_policy}
        self.attention_norm = LayerNorm(name="attention_norm", **policy)
        self.attention = MultiHeadAttention(self.size.num_heads, name="attention", **policy)
        self.mlp_norm = LayerNorm(name="mlp_norm", **policy)
        self.mlp = MLP(self.size.mlp_dim, self.dropout, name="mlp", **policy)
        for layer in (self.attention_norm, self.attention, self.mlp_norm, self.mlp):
            layer.build(shape)
        self.attention_drop = Dropout(self.dropout, name="attention_drop", **policy)
        self.mlp_drop = Dropout(self.dropout, name="mlp_drop", **policy)
        self.attention_path = StochasticDepth(self.stochastic_depth, name="attention_path", **policy)
        self.mlp_path = StochasticDepth(self.stochastic_depth, name="mlp_path", **policy)
        for layer in (self.attention_drop, self.mlp_drop, self.attention_path, self.mlp_path):
            layer.build(shape)

    def call(self, x, training=False):
        branch = self.attention_drop(self.attention(self.attention_norm(x)), training=training)
        x += self.attention_path(branch, training=training)
        if training and self.remat == "selective":
            variables = self.mlp_norm.trainable_variables + self.mlp.trainable_variables
            return rematerialize(lambda x: self._mlp_half(x, training), variables, x)
        return self._mlp_half(x, training)

    def _mlp_half(self, x, training):
        branch = self.mlp_drop(self.mlp(self.mlp_norm(x), training=training), training=training)
        return x + self.mlp_path(branch, training=training)


class Encoder:
    """The blocks and the final norm of a tower; mixed into it, so that weights are named `block_3/...`.

    Remat policies, by what a block keeps for the backward pass: "none" keeps every tensor, "selective" all but the
    MLP's, "block" the block's input alone.
    """

    def build_encoder(self, size: TowerSize, shape, dropout: float, stochastic_depth: float, remat: str) -> None:
        """Makes blocks and norm for inputs of `shape` (batch, tokens, width).

        Raises:
            ValueError: for an unknown remat policy.
        """
        if remat not in REMAT_POLICIES:
            raise ValueError(f"Expected remat to be one of {', '.join(REMAT_POLICIES)}. Received: {remat!r}.")
        self._remat_blocks = remat == "block"
        # Deeper blocks are dropped more often, as is usual for stochastic depth.
        rates = [stochastic_depth * i / max(size.depth - 1, 1) for i in range(size.depth)]
        self.blocks = [
            Block(size, dropout, rate, remat, name=f"block_{i}", dtype=self.dtype_policy)
            for i, rate in enumerate(rates)
        ]
        for block in self.blocks:
            block.build(shape)
        self.final_norm = LayerNorm(name="final_norm", dtype=self.dtype_policy)
        self.final_norm.build(shape)

    def encode(self, x: tf.Tensor, training: bool) -> tf.Tensor:
        """(batch, tokens, width) -> (batch, tokens, width)."""
        for block in self.blocks:
            if training and self._remat_blocks:
                x = rematerialize(lambda x, block=block: block(x, training=True), block.trainable_variables, x)
            else:
                x = block(x, training=training)
        return self.final_norm(x)
