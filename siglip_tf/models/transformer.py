"""The encoder that both towers share: pre-norm blocks, bidirectional attention, a final norm."""

import keras
import tensorflow as tf

from siglip_tf.models.block_loop import loop_over_blocks
from siglip_tf.models.variants import TowerSize
from siglip_tf.primitives.activations import gelu_tanh
from siglip_tf.primitives.attention import MultiHeadAttention
from siglip_tf.primitives.compilation import stored
from siglip_tf.primitives.dropout import Dropout, StochasticDepth, own_random_state, random_state
from siglip_tf.primitives.normalization import LayerNorm
from siglip_tf.primitives.projection import Projection
from siglip_tf.primitives.rematerialization import rematerialize

REMAT_POLICIES = ("none", "block")
# Policies of earlier versions, which kept more than "block" does and were slower and larger on every chip.
OLD_REMAT_POLICIES = ("selective", "attention")
ATTENTIONS = ("einsum", "fused")


def remat_policy(name: str) -> str:
    """The policy called `name`; "block" for the names "selective" and "attention" of earlier versions.

    Raises:
        ValueError: for an unknown name.
    """
    if name in OLD_REMAT_POLICIES:
        return "block"
    if name not in REMAT_POLICIES:
        raise ValueError(f"Expected remat to be one of {', '.join(REMAT_POLICIES)}. Received: {name!r}.")
    return name


class MLP(keras.layers.Layer):
    """Dense, GELU (tanh approximation), dropout, dense.

    Args:
        hidden: hidden units.
        dropout: rate of dropped hidden units.

    Call arguments:
        x: (..., width); the result has the same shape. With dropout while training: (batch * tokens, width), built for
            (batch, tokens, width).
    """

    def __init__(self, hidden: int, dropout: float = 0.0, **kwargs):
        super().__init__(**kwargs)
        self.hidden, self.dropout = hidden, dropout

    def build(self, shape):
        self._tokens, width = shape[1:]
        small = keras.initializers.RandomNormal(stddev=1e-6)
        policy = {"bias_initializer": small, "dtype": self.dtype_policy}
        self.fc1 = Projection((width,), (self.hidden,), name="fc1", **policy)
        self.fc2 = Projection((self.hidden,), (width,), name="fc2", **policy)
        self.drop = Dropout(self.dropout, name="drop", dtype=self.dtype_policy)
        for layer in (self.fc1, self.fc2, self.drop):
            layer.build(None)

    def call(self, x, training=False):
        hidden = by_example([self.drop], gelu_tanh(self.fc1(x)), self._tokens, training)
        # A TPU's compiler makes one kernel of both matmuls, in which the first is slower than it is alone.
        return self.fc2(stored(hidden))


class Block(keras.layers.Layer):
    """x + attention(norm(x)), then x + MLP(norm(x)); dropout and stochastic depth on both branches.

    Tokens of all examples are rows of one matrix: 196 tokens are no multiple of a TPU's tiles, and a third axis would
    be padded, or laid out otherwise and copied, between any two matmuls.

    Args:
        size: of the tower.
        dropout: rate of dropped units behind attention, inside and behind the MLP.
        stochastic_depth: rate of dropped branches.
        attention: "einsum", or "fused" for one kernel on TPUs and GPUs.

    Call arguments:
        x: (batch * tokens, width), built for (batch, tokens, width); the result has the same shape.
    """

    def __init__(
        self,
        size: TowerSize,
        dropout: float = 0.0,
        stochastic_depth: float = 0.0,
        attention: str = "einsum",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.size, self.dropout, self.stochastic_depth = size, dropout, stochastic_depth
        self.fused = attention == "fused"

    def build(self, shape):
        self._tokens = shape[1]
        policy = {"dtype": self.dtype_policy}
        self.attention_norm = LayerNorm(name="attention_norm", **policy)
        self.attention = MultiHeadAttention(self.size.num_heads, self.fused, name="attention", **policy)
        self.mlp_norm = LayerNorm(name="mlp_norm", **policy)
        self.mlp = MLP(self.size.mlp_dim, self.dropout, name="mlp", **policy)
        self.attention_drop = Dropout(self.dropout, name="attention_drop", **policy)
        self.mlp_drop = Dropout(self.dropout, name="mlp_drop", **policy)
        self.attention_path = StochasticDepth(self.stochastic_depth, name="attention_path", **policy)
        self.mlp_path = StochasticDepth(self.stochastic_depth, name="mlp_path", **policy)
        norms_and_branches = (self.attention_norm, self.attention, self.mlp_norm, self.mlp)
        random = (self.attention_drop, self.mlp_drop, self.attention_path, self.mlp_path)
        for layer in (*norms_and_branches, *random):
            layer.build(shape)

    def call(self, x, training=False):
        def dropped(branch, *layers):
            return by_example(layers, branch, self._tokens, training)

        x = x + dropped(self.attention(self.attention_norm(x)), self.attention_drop, self.attention_path)
        return x + dropped(self.mlp(self.mlp_norm(x), training=training), self.mlp_drop, self.mlp_path)


class Encoder(keras.layers.Layer):
    """Blocks and a final norm: what an image tower and a text tower have in common, as their base class.

    Args:
        size: width, depth, MLP and heads.
        dropout: rate of dropped units while training.
        stochastic_depth: rate of dropped branches of the deepest block while training.
        remat: "none" keeps every tensor for the backward pass; "block" keeps the input of every block and computes the
            block again. "selective" and "attention" of earlier versions mean "block".
        attention: "einsum", or "fused" for one kernel on TPUs and GPUs.
        scan_layers: one loop over the blocks while training; needs remat="block".

    Raises:
        ValueError: for an unknown remat policy or attention, or a loop over blocks that cannot be one.
    """

    def __init__(
        self,
        size: TowerSize,
        dropout: float = 0.0,
        stochastic_depth: float = 0.0,
        remat: str = "none",
        attention: str = "einsum",
        scan_layers: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.size, self.dropout, self.stochastic_depth = size, dropout, stochastic_depth
        self.remat, self.attention, self.scan_layers = remat_policy(remat), attention, scan_layers
        if attention not in ATTENTIONS:
            raise ValueError(f"Expected attention to be one of {', '.join(ATTENTIONS)}. Received: {attention!r}.")
        if scan_layers and (self.remat == "none" or stochastic_depth):
            raise ValueError(
                'Expected remat="block" and no stochastic depth with scan_layers=True. Received: '
                f"remat={remat!r}, stochastic_depth={stochastic_depth}."
            )

    def build_encoder(self, shape) -> None:
        """Makes dropout, blocks and norm for inputs of `shape` (batch, tokens, width)."""
        self.drop = Dropout(self.dropout, name="drop", dtype=self.dtype_policy)
        self.drop.build(shape)
        # Deeper blocks are dropped more often, as is usual for stochastic depth.
        rates = [self.stochastic_depth * i / max(self.size.depth - 1, 1) for i in range(self.size.depth)]
        self.blocks = [
            Block(self.size, self.dropout, rate, self.attention, name=f"block_{i}", dtype=self.dtype_policy)
            for i, rate in enumerate(rates)
        ]
        for block in self.blocks:
            block.build(shape)
        self.final_norm = LayerNorm(name="final_norm", dtype=self.dtype_policy)
        self.final_norm.build(shape)

    def encode(self, x: tf.Tensor, training: bool) -> tf.Tensor:
        """(batch, tokens, width) -> (batch, tokens, width)."""
        tokens, width = x.shape[1:]
        random = [
            self.drop,
            *(layer for block in self.blocks for layer in (block.attention_drop, block.attention_path)),
        ]
        with random_state(own_random_state(random) if training else None):
            rows = tf.reshape(self.drop(x, training=training), (-1, width))
            if training and self.scan_layers:
                rows = loop_over_blocks(self.blocks, rows)
            else:
                for block in self.blocks:
                    again = training and self.remat == "block"
                    rows = rematerialize(block, rows, training=True) if again else block(rows, training=training)
        return tf.reshape(self.final_norm(rows), (-1, tokens, width))


def by_example(layers, rows: tf.Tensor, tokens: int, training: bool) -> tf.Tensor:
    """Random layers applied to rows (batch * tokens, units). They see (batch, tokens, units): masks are of examples."""
    if not training or not any(layer.rate for layer in layers):
        return rows
    x = tf.reshape(rows, (-1, tokens, rows.shape[-1]))
    for layer in layers:
        x = layer(x, training=training)
    return tf.reshape(x, (-1, rows.shape[-1]))
