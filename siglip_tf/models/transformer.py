"""The encoder of both towers: pre-norm blocks with bidirectional attention, and a final norm."""

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
# Policies of earlier versions. They kept more tensors than "block" and were slower and larger on every chip.
OLD_REMAT_POLICIES = ("selective", "attention")
ATTENTIONS = ("einsum", "fused")


def remat_policy(name: str) -> str:
    """Returns the policy called `name`. "selective" and "attention" of earlier versions mean "block".

    Raises:
        ValueError: if the name is unknown.
    """
    if name in OLD_REMAT_POLICIES:
        return "block"
    if name not in REMAT_POLICIES:
        raise ValueError(f"Expected remat to be one of {', '.join(REMAT_POLICIES)}. Received: {name!r}.")
    return name


class MLP(keras.layers.Layer):
    """Applies a dense layer, GELU (tanh approximation), dropout, and another dense layer.

    Args:
        hidden: number of hidden units.
        dropout: rate of dropped hidden units.

    Call arguments:
        x: (..., width). For training with dropout, x must be (batch * tokens, width), and the layer must be built for
            (batch, tokens, width).

    Returns:
        The same shape as x.
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
        # A TPU's compiler would merge both matmuls into one kernel, in which the first one is slower than alone.
        return self.fc2(stored(hidden))


class Block(keras.layers.Layer):
    """Computes x + attention(norm(x)), then x + MLP(norm(x)), with dropout and stochastic depth on both branches.

    The tokens of all examples are rows of one matrix. With a separate axis of tokens, a TPU would pad or copy the
    tensor between any two matmuls, because for example 196 tokens are not a multiple of its tiles.

    Args:
        size: the size of the tower.
        dropout: rate of dropped units after attention, inside the MLP, and after the MLP.
        stochastic_depth: rate of dropped branches.
        attention: "einsum", or "fused" for one kernel on TPUs and GPUs.

    Call arguments:
        x: (batch * tokens, width). The layer must be built for (batch, tokens, width).

    Returns:
        (batch * tokens, width).
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
    """The base class of both towers, with blocks and a final norm.

    Args:
        size: width, depth, MLP width, and heads.
        dropout: rate of dropped units during training.
        stochastic_depth: rate of dropped branches of the deepest block during training.
        remat: "none" keeps every tensor for the backward pass. "block" keeps only the input of every block and computes
            the block again. "selective" and "attention" of earlier versions mean "block".
        attention: "einsum", or "fused" for one kernel on TPUs and GPUs.
        scan_layers: whether training runs the blocks in a loop. It needs remat="block" and no stochastic depth.

    Raises:
        ValueError: if the remat policy or the attention is unknown, or the blocks cannot run in a loop.
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
        """Creates dropout, blocks, and norm for inputs of `shape` (batch, tokens, width)."""
        self.drop = Dropout(self.dropout, name="drop", dtype=self.dtype_policy)
        self.drop.build(shape)
        # Deeper blocks are dropped more often, as usual for stochastic depth.
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
        """Applies blocks and norm: (batch, tokens, width) -> (batch, tokens, width)."""
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
    """Applies random layers to rows (batch * tokens, units). They see (batch, tokens, units): masks are per example."""
    if not training or not any(layer.rate for layer in layers):
        return rows
    x = tf.reshape(rows, (-1, tokens, rows.shape[-1]))
    for layer in layers:
        x = layer(x, training=training)
    return tf.reshape(x, (-1, rows.shape[-1]))
