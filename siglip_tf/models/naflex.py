"""SigLIP 2's NaFlex image tower, which accepts pictures of any shape and resizes the positions to each picture's grid.

This tower is for embedding and serving; it cannot be trained. Training would need masks in every attention, in its
gradient, in the loop over blocks, and in the fused kernel. TPUs would also need buckets of static shapes.

Source: "SigLIP 2", https://arxiv.org/abs/2502.14786; big_vision `models/proj/image_text/naflex_vit.py`.
"""

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from siglip_tf.data import NaFlexPreprocessing
from siglip_tf.models.image_tower import ImageTower
from siglip_tf.models.pooling import AttentionPooling
from siglip_tf.models.transformer import Block
from siglip_tf.models.variants import TowerSize
from siglip_tf.primitives.initializers import embedding_normal
from siglip_tf.primitives.normalization import LayerNorm

# The logit of a padding patch. Its weight becomes 0, and float16 can represent the number.
_MASKED = -3e4


def image_tower(
    size: TowerSize,
    patch_size: int,
    image_size: tuple[int, int],
    pool: str,
    max_patches: int | None,
    options: Mapping[str, Any],
) -> keras.layers.Layer:
    """Returns the image tower of a `SigLIP`, not built yet. It is a NaFlex tower if `max_patches` is given.

    Args:
        size: width, depth, MLP width, and heads.
        patch_size: height and width of a patch in pixels.
        image_size: (height, width) in pixels.
        pool: the pooling of the tower.
        max_patches: the largest number of patches of a NaFlex tower, or None for a tower of a fixed resolution.
        options: further arguments of `ImageTower`. A NaFlex tower uses only the dtype.

    Raises:
        ValueError: if `max_patches` is given and the resolution is not a square of whole patches, or the pool is not
            "map".
    """
    if max_patches is None:
        return ImageTower(size, patch_size, image_size, pool, name="image", **options)
    grid = image_size[0] // patch_size
    if image_size != (grid * patch_size,) * 2 or grid < 1:
        raise ValueError(
            f"Expected image_size to be a square of whole patches of {patch_size} pixels with max_patches="
            f"{max_patches}. Received: image_size={image_size}."
        )
    if pool != "map":
        raise ValueError(f"Expected image_pool='map' with max_patches. Received: {pool!r}.")
    return NaFlexTower(size, patch_size, grid, name="image", dtype=options["dtype"])


def patches_of(images, model: keras.Model) -> dict[str, tf.Tensor]:
    """Returns the patches and grids of the images that were passed to `SigLIP.encode_image`.

    Args:
        images: a dict with batched "patches" and "grid", a list of pictures (encoded or uint8 (height, width, 3)), or a
            string tensor (batch,) of encoded pictures.
        model: a `SigLIP` with a NaFlex tower.

    Returns:
        "patches", float (batch, patches, patch_size * patch_size * 3) in [-1, 1], and "grid", int32 (batch, 2).

    Raises:
        ValueError: if the images have another form, the patches have another size, or, in eager mode, a grid has more
            patches than there are.
    """
    values = 3 * model.image.patch_size**2
    if not isinstance(images, Mapping):
        preprocess = getattr(model.preprocessing, "image", None)
        preprocess = preprocess or NaFlexPreprocessing(model.image.patch_size, model.max_patches)
        if isinstance(images, list | tuple):
            if not images:
                raise ValueError("Expected at least one picture. Received: an empty list.")
            prepared = [preprocess(image) for image in images]
            return {key: tf.stack([each[key] for each in prepared]) for key in ("patches", "grid")}
        images = tf.convert_to_tensor(images)
        if images.dtype != tf.string or images.shape.rank != 1:
            raise ValueError(
                "Expected {'patches': ..., 'grid': ...}, a list of pictures, or strings (batch,): a NaFlex model takes "
                f"pictures of any size. Received: {images.dtype.name} {images.shape}."
            )
        pixels = tf.map_fn(preprocess.pixels, images, fn_output_signature=preprocess.spec)
        return preprocess.normalize(pixels)
    if missing := [key for key in ("patches", "grid") if key not in images]:
        raise ValueError(f"Expected 'patches' and 'grid'. Received: {sorted(images)}, without {missing[0]!r}.")
    patches, grid = tf.convert_to_tensor(images["patches"]), tf.cast(images["grid"], tf.int32)
    if patches.dtype == tf.uint8:
        patches = NaFlexPreprocessing.normalize({"patches": patches})["patches"]
    if not patches.dtype.is_floating or patches.shape.rank != 3 or patches.shape[2] != values:
        raise ValueError(
            f"Expected patches of shape (batch, patches, {values}), uint8 or in [-1, 1]. Received: "
            f"{patches.dtype.name} {patches.shape}."
        )
    if grid.shape.rank != 2 or grid.shape[1] != 2:
        raise ValueError(f"Expected a grid of shape (batch, 2). Received: {grid.shape}.")
    if tf.executing_eagerly() and len(grid):
        least, most = int(tf.reduce_min(grid)), int(tf.reduce_max(tf.reduce_prod(grid, 1)))
        if least < 1 or most > patches.shape[1]:
            raise ValueError(f"Expected grids of 1 to {patches.shape[1]} patches. Received: {grid.numpy().tolist()}.")
    return {"patches": patches, "grid": grid}


class NaFlexTower(keras.layers.Layer):
    """A vision transformer for pictures of different shapes. Padding is masked in every attention.

    Args:
        size: width, depth, MLP width, and heads.
        patch_size: height and width of a patch in pixels.
        grid: rows and columns of the square grid of learned positions.

    Call arguments:
        images: a dict with "patches", float (batch, patches, patch_size * patch_size * 3) in [-1, 1], and "grid",
            int32 (batch, 2), the rows and columns of each picture. A picture's patches come first, row by row, followed
            by padding.
        pooled: whether to return the pooled embedding. If False, the tokens after the final norm are returned; those of
            padding have no meaning.

    Returns:
        (batch, size.width), not normalized, or (batch, patches, size.width) if not pooled.

    Raises:
        ValueError: if `training` is True.
    """

    pool = "map"

    def __init__(self, size: TowerSize, patch_size: int, grid: int, **kwargs):
        super().__init__(**kwargs)
        self.size, self.patch_size, self.grid = size, patch_size, grid

    def build(self, _=None):
        width, values = self.size.width, 3 * self.patch_size**2
        self.patch_embedding = keras.layers.Dense(
            width, kernel_initializer="lecun_normal", name="patch_embedding", dtype=self.dtype_policy
        )
        self.patch_embedding.build((None, None, values))
        self.position_embedding = self.add_weight(
            shape=(1, self.grid**2, width), initializer=embedding_normal(width), name="position_embedding"
        )
        shape = (None, self.grid**2, width)
        self.blocks = [Block(self.size, name=f"block_{i}", dtype=self.dtype_policy) for i in range(self.size.depth)]
        self.final_norm = LayerNorm(name="final_norm", dtype=self.dtype_policy)
        self.head = AttentionPooling(self.size, name="head", dtype=self.dtype_policy)
        for layer in (*self.blocks, self.final_norm, self.head):
            layer.build(shape)

    def call(self, images: Mapping[str, tf.Tensor], training=False, pooled=True):
        if training:
            raise ValueError("Expected training=False: NaFlex towers do not train here. Use a fixed resolution.")
        patches, grid = images["patches"], images["grid"]
        mask = tf.range(tf.shape(patches)[1]) < tf.reduce_prod(grid, 1, keepdims=True)  # (batch, patches)
        positions = resized_positions(tf.convert_to_tensor(self.position_embedding), grid, tf.shape(patches)[1])
        x = self.patch_embedding(patches)
        x += tf.cast(positions, x.dtype)
        for block in self.blocks:
            y = block.attention_norm(x)
            x += masked_attention(block.attention, y, y, mask)
            x += block.mlp(block.mlp_norm(x))
        x = self.final_norm(x)
        if not pooled:
            return x
        probe = tf.repeat(tf.cast(tf.convert_to_tensor(self.head.probe), x.dtype), tf.shape(x)[0], 0)
        pooled = masked_attention(self.head.attention, probe, x, mask)
        return (pooled + self.head.mlp(self.head.mlp_norm(pooled)))[:, 0]


def masked_attention(layer: keras.layers.Layer, queries: tf.Tensor, tokens: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Computes attention with the weights of a `MultiHeadAttention` to the tokens for which the mask is True.

    Args:
        layer: a built layer, whose weights have an axis of heads.
        queries: (batch, n, width).
        tokens: (batch, m, width).
        mask: bool (batch, m).

    Returns:
        (batch, n, width).
    """

    def project(part, equation, x):
        kernel, bias = (tf.cast(tf.convert_to_tensor(weight), x.dtype) for weight in (part.kernel, part.bias))
        return tf.einsum(equation, x, kernel) + bias

    q = project(layer.query, "bnd,dhk->bnhk", queries)
    k = project(layer.key, "bmd,dhk->bmhk", tokens)
    v = project(layer.value, "bmd,dhk->bmhk", tokens)
    logits = tf.cast(tf.einsum("bnhk,bmhk->bhnm", q * tf.cast(q.shape[-1] ** -0.5, q.dtype), k), tf.float32)
    weights = tf.nn.softmax(tf.where(mask[:, None, None], logits, _MASKED))
    return project(layer.out, "bnhk,hkd->bnd", tf.einsum("bhnm,bmhk->bnhk", tf.cast(weights, v.dtype), v))


def resized_positions(embedding: tf.Tensor, grid: tf.Tensor, patches: tf.Tensor) -> tf.Tensor:
    """Resamples position embeddings bilinearly with antialiasing to the grid of each picture.

    Args:
        embedding: the learned positions (1, side * side, width).
        grid: int32 (batch, 2), the rows and columns of each picture.
        patches: an int32 scalar, the number of positions to return.

    Returns:
        float32 (batch, patches, width). Positions beyond rows * columns repeat the first one.
    """
    side, width = round(embedding.shape[1] ** 0.5), embedding.shape[2]
    columns = grid[:, 1:]
    number = tf.range(patches) * tf.cast(tf.range(patches) < tf.reduce_prod(grid, 1, keepdims=True), tf.int32)
    place = tf.stack([number // columns, number % columns], -1)  # (batch, patches, 2)
    # A triangle filter around each point's position in the learned grid. Its width is that of the coarser grid's cells.
    scale = side / tf.cast(grid, tf.float32)[:, None]
    support = tf.maximum(scale, 1.0)
    center = (tf.cast(place, tf.float32) + 0.5) * scale - 0.5
    distance = tf.abs(tf.range(side, dtype=tf.float32) - center[..., None])  # (batch, patches, 2, side)
    weights = tf.maximum(1 - distance / support[..., None], 0.0)
    weights /= tf.reduce_sum(weights, -1, keepdims=True)
    table = tf.reshape(tf.cast(embedding, tf.float32), (side, side, width))
    by_column = tf.einsum("bnc,rcd->bnrd", weights[:, :, 1], table)
    return tf.einsum("bnr,bnrd->bnd", weights[:, :, 0], by_column)
