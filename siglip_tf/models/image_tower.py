"""The vision transformer: patches, learned positions, pre-norm blocks, and a pooled embedding."""

import keras
import tensorflow as tf

from siglip_tf.models.pooling import AttentionPooling
from siglip_tf.models.transformer import Encoder
from siglip_tf.models.variants import TowerSize
from siglip_tf.primitives.dropout import Dropout
from siglip_tf.primitives.initializers import embedding_normal

IMAGE_POOLS = ("map", "gap", "tok")


class ImageTower(Encoder, keras.layers.Layer):
    """ViT without a projection: the embedding has the tower's width.

    Args:
        size: width, depth, MLP and heads.
        patch_size: side P of a patch in pixels; a rest that is smaller than a patch at the right and the bottom of an
            image is not seen (384 = 27 x 14 + 6), as in the reference.
        image_size: (height, width) in pixels.
        pool: "map" (attention with a learned probe), "gap" (mean of the tokens) or "tok" (a class token, AugReg).
        dropout: rate of dropped units while training.
        stochastic_depth: rate of dropped branches of the deepest block while training.
        remat: what blocks keep for the backward pass: "none" of it is computed again, "selective" or "block".
        attention: "einsum", or "fused" for one kernel on TPU.
        scan_layers: one loop over the blocks while training.

    Call arguments:
        images: (batch, height, width, 3) in [-1, 1].
        pooled: False for the tokens behind the final norm.

    Returns:
        (batch, size.width), not normalised; (batch, tokens, size.width) where not pooled.
    """

    def __init__(
        self,
        size: TowerSize,
        patch_size: int,
        image_size: tuple[int, int],
        pool: str = "map",
        dropout: float = 0.0,
        stochastic_depth: float = 0.0,
        remat: str = "none",
        attention: str = "einsum",
        scan_layers: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if pool not in IMAGE_POOLS:
            raise ValueError(f"Expected image_pool to be one of {', '.join(IMAGE_POOLS)}. Received: {pool!r}.")
        if min(image_size) < patch_size:
            raise ValueError(
                f"Expected images of at least one patch of {patch_size} pixels. Received: image_size={image_size}."
            )
        self.size, self.patch_size, self.image_size, self.pool = size, patch_size, tuple(image_size), pool
        self.dropout, self.stochastic_depth, self.remat = dropout, stochastic_depth, remat
        self.attention, self.scan_layers = attention, scan_layers

    def build(self, _=None):
        width = self.size.width
        rows, columns = (side // self.patch_size for side in self.image_size)
        self.patch_embedding = keras.layers.Conv2D(
            width,
            self.patch_size,
            strides=self.patch_size,
            kernel_initializer="lecun_normal",
            name="patch_embedding",
            dtype=self.dtype_policy,
        )
        self.patch_embedding.build((None, *self.image_size, 3))
        self.position_embedding = self.add_weight(
            shape=(1, rows * columns, width), initializer=embedding_normal(width), name="position_embedding"
        )
        if self.pool == "tok":
            self.class_token = self.add_weight(shape=(1, 1, width), initializer="zeros", name="class_token")
        self.drop = Dropout(self.dropout, name="drop", dtype=self.dtype_policy)
        shape = (None, rows * columns + (self.pool == "tok"), width)
        self.drop.build(shape)
        self.build_encoder(
            self.size, shape, self.dropout, self.stochastic_depth, self.remat, self.attention, self.scan_layers
        )
        if self.pool == "map":
            self.head = AttentionPooling(self.size, name="head", dtype=self.dtype_policy)
            self.head.build(shape)

    def call(self, images, training=False, pooled=True):
        x = self.patch_embedding(images)
        x = tf.reshape(x, (-1, x.shape[1] * x.shape[2], x.shape[3])) + self.position_embedding
        if self.pool == "tok":
            token = tf.repeat(tf.convert_to_tensor(self.class_token), tf.shape(x)[0], 0)
            x = tf.concat([token, x], 1)
        x = self.encode(self.drop(x, training=training), training)
        if not pooled:
            return x
        if self.pool == "map":
            return self.head(x)
        return x[:, 0] if self.pool == "tok" else tf.reduce_mean(x, 1)
