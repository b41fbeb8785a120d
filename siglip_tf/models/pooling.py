"""The MAP head of the image tower, in which one learned probe attends to all tokens."""

import keras
import tensorflow as tf

from siglip_tf.models.transformer import MLP
from siglip_tf.models.variants import TowerSize
from siglip_tf.primitives.attention import ProbeAttention
from siglip_tf.primitives.initializers import xavier_flattened
from siglip_tf.primitives.normalization import LayerNorm


class AttentionPooling(keras.layers.Layer):
    """Computes x = attention(probe, tokens) and x + MLP(norm(x)). There is no residual around the attention.

    Args:
        size: the size of the tower.

    Call arguments:
        tokens: (batch, tokens, width).

    Returns:
        (batch, width).

    Source: "Scaling Vision Transformers", https://arxiv.org/abs/2106.04560
    """

    def __init__(self, size: TowerSize, **kwargs):
        super().__init__(**kwargs)
        self.size = size

    def build(self, shape):
        width = shape[-1]
        self.probe = self.add_weight(shape=(1, 1, width), initializer=xavier_flattened(1, width), name="probe")
        self.attention = ProbeAttention(self.size.num_heads, name="attention", dtype=self.dtype_policy)
        self.mlp_norm = LayerNorm(name="mlp_norm", dtype=self.dtype_policy)
        self.mlp = MLP(self.size.mlp_dim, name="mlp", dtype=self.dtype_policy)
        for layer in (self.attention, self.mlp_norm, self.mlp):
            layer.build(shape)

    def call(self, tokens):
        x = self.attention(tf.convert_to_tensor(self.probe)[0], tokens)
        return (x + self.mlp(self.mlp_norm(x)))[:, 0]
