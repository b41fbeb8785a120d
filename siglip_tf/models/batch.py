"""Checks batches while the step is traced. Values are checked in eager mode only, where they can be read."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from siglip_tf.data.preprocessing import ImagePreprocessing
from siglip_tf.losses import as_group

# Interpolation may exceed 1 a little. Pixels in 0 to 255 exceed this limit by far.
LARGEST_PIXEL = 2.0
_WEIGHTS = ("sample_weight", "class_weight")


def check_images(images, image_size: tuple[int, int]) -> tf.Tensor:
    """Returns images (batch, height, width, 3) as floats in [-1, 1].

    Args:
        images: floats in [-1, 1], or uint8 pixels, which become float32 by x / 127.5 - 1, rounded once.
        image_size: (height, width) in pixels.

    Raises:
        ValueError: if the rank, dtype, or size is wrong, or, in eager mode, if values are outside [-1, 1].
    """
    images = tf.convert_to_tensor(images)
    if not (images.dtype.is_floating or images.dtype == tf.uint8):
        raise ValueError(
            f"Expected float images in [-1, 1] or uint8 pixels. Received: dtype {images.dtype.name}. Cast pixels in 0 "
            "to 255 to uint8, or use siglip_tf.data.ImagePreprocessing."
        )
    if images.shape.rank != 4 or tuple(images.shape[1:]) != (*image_size, 3):
        raise ValueError(
            f"Expected images of shape (batch, {image_size[0]}, {image_size[1]}, 3). Received: {images.shape}."
        )
    if images.dtype == tf.uint8:
        return ImagePreprocessing.normalize(images)
    if tf.executing_eagerly() and images.shape[0]:
        check_pixel(float(largest_pixel(images)))
    return images


def largest_pixel(images: tf.Tensor) -> tf.Tensor:
    """Returns the largest magnitude as a float32 scalar, or NaN if any pixel is NaN."""
    return tf.reduce_max(tf.abs(tf.cast(images, tf.float32))) + 0.0 * tf.reduce_sum(tf.cast(images, tf.float32))


def check_pixel(largest: float) -> None:
    """Raises a ValueError if a result of `largest_pixel` is too large for normalized images."""
    if not largest <= LARGEST_PIXEL:
        raise ValueError(
            f"Expected images in [-1, 1]. Received: a value of magnitude {largest:.4g}. Divide pixels in 0 to 255 by "
            "127.5 and subtract 1, or give them as uint8."
        )


def check_token_ids(ids, text_length: int, vocab_size: int) -> tf.Tensor:
    """Returns token ids as int32 (batch, text_length).

    Raises:
        ValueError: if the rank, dtype, or length is wrong, or, in eager mode, if an id is outside [0, vocab_size).
    """
    ids = tf.convert_to_tensor(ids)
    if not ids.dtype.is_integer:
        raise ValueError(f"Expected int32 token ids. Received: dtype {ids.dtype.name}.")
    if ids.shape.rank != 2 or ids.shape[1] != text_length:
        longer = ids.shape.rank == 2 and (ids.shape[1] or 0) > text_length
        hint = " Cut longer texts in the tokenizer (siglip_tf.data.Tokenizer keeps the EOS)." if longer else ""
        raise ValueError(f"Expected token ids of shape (batch, {text_length}). Received: {ids.shape}.{hint}")
    if tf.executing_eagerly() and ids.shape[0]:
        check_id(int(farthest_id(ids, vocab_size)), vocab_size)
    return tf.cast(ids, tf.int32)


def farthest_id(ids: tf.Tensor, vocab_size: int) -> tf.Tensor:
    """Returns an id outside [0, vocab_size) if there is one, as an int64 scalar."""
    ids = tf.cast(ids, tf.int64)
    least = tf.reduce_min(ids)
    return tf.where(least < 0, least, tf.reduce_max(ids))


def check_id(value: int, vocab_size: int) -> None:
    """Raises a ValueError if an id is not in the embedding table."""
    if not 0 <= value < vocab_size:
        raise ValueError(
            f"Expected token ids in [0, {vocab_size}). Received: {value}. The tokenizer's vocabulary is larger than "
            "vocab_size."
        )


def check_image_embeddings(embeddings, embed_dim: int) -> tf.Tensor:
    """Returns stored image embeddings (batch, embed_dim) of any floating dtype, normalized or not.

    Raises:
        ValueError: if the rank, dtype, or size is wrong.
    """
    embeddings = tf.convert_to_tensor(embeddings)
    if not embeddings.dtype.is_floating:
        raise ValueError(f"Expected image embeddings of a floating dtype. Received: {embeddings.dtype.name}.")
    if embeddings.shape.rank != 2 or embeddings.shape[1] != embed_dim:
        raise ValueError(f"Expected image embeddings of shape (batch, {embed_dim}). Received: {embeddings.shape}.")
    return embeddings


def inputs_of(batch: Any) -> Mapping[str, Any]:
    """Returns the dict of a batch, which Keras may pass as (inputs, None, None).

    Raises:
        ValueError: if the batch is not a dict, or has targets or weights.
    """
    if isinstance(batch, tuple) and len(batch) > 0 and all(part is None for part in batch[1:]):
        batch = batch[0]
    if not isinstance(batch, Mapping):
        raise ValueError(
            'Expected the data set to yield {"image": ..., "text": ...} or {"image_embedding": ..., "text": ...}, '
            "without targets and weights: an image's target is its own text. "
            f"Received: {type(batch).__name__}."
        )
    given = [key for key in _WEIGHTS if key in batch]
    if given:
        raise ValueError(f"Expected no weights of examples: the loss is over pairs of examples. Received: {given}.")
    return batch


def check_training_batch(batch: Any, examples: int | None = None, masked: bool = False) -> dict[str, tf.Tensor]:
    """Returns the parts of a batch: "text", "image" or "image_embedding", and "group" and "mask" if given.

    Args:
        batch: an element of the data set.
        examples: the batch size of a replica, if it is known but the shapes of the tensors do not show it.
        masked: whether the batch may have a "mask", bool (batch,), which is False for rows that are padding.

    Returns:
        Tensors with the same static batch size.

    Raises:
        ValueError: if the batch is not a dict, a part is missing, or the batch sizes are unknown or differ.
    """
    batch = inputs_of(batch)
    image_key = "image_embedding" if "image_embedding" in batch else "image"
    missing = [key for key in (image_key, "text") if key not in batch]
    if missing:
        raise ValueError(f"Expected a batch with {image_key!r} and 'text'. Received: keys {sorted(batch)}.")
    parts = {key: tf.convert_to_tensor(batch[key]) for key in (image_key, "text")}
    if "group" in batch:
        parts["group"] = as_group(batch["group"])
    if "mask" in batch:
        parts["mask"] = _as_mask(batch["mask"], masked)
    if examples is not None:
        parts = {
            key: tf.ensure_shape(part, (examples, *part.shape[1:])) if part.shape.rank and not part.shape[0] else part
            for key, part in parts.items()
        }
    sizes = {key: part.shape[0] if part.shape.rank else None for key, part in parts.items()}
    if None in sizes.values():
        raise ValueError(
            "Expected a static batch size: the loss divides by the global batch, and a smaller last batch would be "
            f"divided wrongly. Received: shapes {[str(p.shape) for p in parts.values()]}. Batch the data set with "
            "drop_remainder=True; where batches are made elsewhere, set their static shape with tf.ensure_shape."
        )
    if len(set(sizes.values())) != 1:
        raise ValueError(
            f"Expected as many images as texts, and groups where there are. Received: batch sizes {sizes}."
        )
    return parts


def _as_mask(mask, masked: bool) -> tf.Tensor:
    if not masked:
        raise ValueError(
            "Expected no 'mask' in training: every row is a pair of the loss. Leave the key out, and the rows that it "
            "masks too."
        )
    mask = tf.convert_to_tensor(mask)
    if mask.dtype != tf.bool or mask.shape.rank != 1:
        raise ValueError(f"Expected 'mask' as bool (batch,). Received: {mask.dtype.name} {mask.shape}.")
    return mask


def one_caption(text: tf.Tensor, bits: tf.Tensor | None = None) -> tf.Tensor:
    """Selects one caption of each image: (batch, captions, length) -> (batch, length). Other shapes do not change.

    Args:
        text: token ids.
        bits: random bits, uint32 (batch,), which select the caption. None selects the first caption.

    Raises:
        ValueError: if the number of captions is unknown or 0.
    """
    if text.shape.rank != 3:
        return text
    captions = text.shape[1]
    if not captions:
        raise ValueError(f"Expected a static number of captions, at least one. Received: text of shape {text.shape}.")
    if bits is None:
        return text[:, 0]
    return tf.gather(text, tf.cast(bits % tf.constant(captions, tf.uint32), tf.int32), batch_dims=1)


def as_image_size(image_size) -> tuple[int, int]:
    """Converts an integer or a pair to (height, width).

    Raises:
        ValueError: if `image_size` is anything else, or is not positive.
    """
    pair = (image_size, image_size) if isinstance(image_size, int | np.integer) else image_size
    if not isinstance(pair, tuple | list) or len(pair) != 2 or not all(isinstance(s, int | np.integer) for s in pair):
        raise ValueError(f"Expected image_size as pixels or (height, width). Received: {image_size!r}.")
    if min(pair) < 1:
        raise ValueError(f"Expected a positive image_size. Received: {image_size!r}.")
    return int(pair[0]), int(pair[1])
