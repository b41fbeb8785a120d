"""The vision transformer: patches, learned positions, pre-norm blocks, and a pooled embedding."""

import keras
import tensorflow as tf

from siglip_tf.models.pooling import AttentionPooling
from siglip_tf.models.transformer import Encoder
from siglip_tf.models.variants import TowerSize
from siglip_tf.primitives.bias import add_bias, add_to_all
from siglip_tf.primitives.initializers import embedding_normal

IMAGE_POOLS = ("map", "gap", "tok")


class PatchEmbedding(keras.layers.Conv2D):
    """Projects images (batch, height, width, 3) to patches (batch, patches, filters) by a convolution.

    `add_bias` sums the bias' gradient over all patches of a batch. Files hold all weights, because Keras' own files
    merge the adapters and cannot restore them.
    """

    def call(self, images):
        patches = self.convolution_op(images, self.kernel)
        rows = add_bias(tf.reshape(patches, (-1, self.filters)), tf.convert_to_tensor(self.bias))
        return tf.reshape(rows, (-1, patches.shape[1] * patches.shape[2], self.filters))

    def save_own_variables(self, store):
        keras.layers.Layer.save_own_variables(self, store)

    def load_own_variables(self, store):
        keras.layers.Layer.load_own_variables(self, store)


class ImageTower(Encoder):
    """A vision transformer without a projection, so that the embedding has the tower's width.

    Args:
        size: width, depth, MLP width, and heads.
        patch_size: height and width P of a patch in pixels. As in the reference, pixels beyond the last whole patch at
            the right and the bottom are ignored (384 = 27 x 14 + 6).
        image_size: (height, width) in pixels.
        pool: "map" (attention with a learned probe), "gap" (mean of the tokens), or "tok" (a class token, AugReg).
        **kwargs: arguments of `Encoder`: `dropout`, `stochastic_depth`, `remat`, `attention`, `scan_layers`.

    Call arguments:
        images: (batch, height, width, 3) in [-1, 1].
        pooled: whether to return the pooled embedding. If False, the tokens after the final norm are returned.

    Returns:
        (batch, size.width), not normalized, or (batch, tokens, size.width) if not pooled.

    Raises:
        ValueError: if the pool is unknown, or the image is smaller than a patch.
    """

    def __init__(
        self,
        size: TowerSize,
        patch_size: int,
        image_size: tuple[int, int],
        pool: str = "map",
        **kwargs,
    ):
        super().__init__(size, **kwargs)
        if pool not in IMAGE_POOLS:
            raise ValueError(f"Expected image_pool to be one of {', '.join(IMAGE_POOLS)}. Received: {pool!r}.")
        if min(image_size) < patch_size:
            raise ValueError(
                f"Expected images of at least one patch of {patch_size} pixels. Received: image_size={image_size}."
            )
        self.patch_size, self.image_size, self.pool = patch_size, tuple(image_size), pool

    def build(self, _=None):
        width = self.size.width
        rows, columns = (side // self.patch_size for side in self.image_size)
        self.patch_embedding = PatchEmbedding(
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
        shape = (None, rows * columns + (self.pool == "tok"), width)
        self.build_encoder(shape)
        if self.pool == "map":
            self.head = AttentionPooling(self.size, name="head", dtype=self.dtype_policy)
            self.head.build(shape)

    def call(self, images, training=False, pooled=True):
        x = self.patch_embedding(images)
        x = add_to_all(x, tf.convert_to_tensor(self.position_embedding))
        if self.pool == "tok":
            token = add_to_all(tf.zeros_like(x[:, :1]), tf.convert_to_tensor(self.class_token))
            x = tf.concat([token, x], 1)
        x = self.encode(x, training)
        if not pooled:
            return x
        if self.pool == "map":
            return self.head(x)
        return x[:, 0] if self.pool == "tok" else tf.reduce_mean(x, 1)
