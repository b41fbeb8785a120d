"""What a batch may hold, checked while the step is traced; values are checked where they can be read."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from siglip_tf.data.preprocessing import ImagePreprocessing
from siglip_tf.losses import as_group

# Interpolation may overshoot 1 a little; pixels in 0 ... 255 overshoot by far.
LARGEST_PIXEL = 2.0
_WEIGHTS = ("sample_weight", "class_weight")


def check_images(images, image_size: tuple[int, int]) -> tf.Tensor:
    """Images (batch, height, width, 3) as floats in [-1, 1].

    Args:
        images: floats in [-1, 1], or uint8 pixels, which become float32 by x / 127.5 - 1, rounded once.
        image_size: (height, width).

    Raises:
        ValueError: for another rank, dtype or size; in eager mode also for values outside [-1, 1].
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
    """The largest magnitude, float32; NaN where one is among the pixels."""
    return tf.reduce_max(tf.abs(tf.cast(images, tf.float32))) + 0.0 * tf.reduce_sum(tf.cast(images, tf.float32))


def check_pixel(largest: float) -> None:
    """Raises a ValueError for a `largest_pixel` that no normalized image has."""
    if not largest <= LARGEST_PIXEL:
        raise ValueError(
            f"Expected images in [-1, 1]. Received: a value of magnitude {largest:.4g}. Divide pixels in 0 to 255 by "
            "127.5 and subtract 1, or give them as uint8."
        )


def check_token_ids(ids, text_length: int, vocab_size: int) -> tf.Tensor:
    """Token ids int32 (batch, text_length).

    Raises:
        ValueError: for another rank, dtype or length; in eager mode also for an id outside [0, vocab_size).
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
    """An id outside [0, vocab_size) where there is one, int64."""
    ids = tf.cast(ids, tf.int64)
    least = tf.reduce_min(ids)
    return tf.where(least < 0, least, tf.reduce_max(ids))


def check_id(value: int, vocab_size: int) -> None:
    """Raises a ValueError for an id that is not in the table."""
    if not 0 <= value < vocab_size:
        raise ValueError(
            f"Expected token ids in [0, {vocab_size}). Received: {value}. The tokenizer's vocabulary is larger than "
            "vocab_size."
        )


def check_image_embeddings(embeddings, embed_dim: int) -> tf.Tensor:
    """Precomputed image embeddings (batch, embed_dim), any floating dtype, normalized or not.

    Raises:
        ValueError: for another rank, dtype or size.
    """
    embeddings = tf.convert_to_tensor(embeddings)
    if not embeddings.dtype.is_floating:
        raise ValueError(f"Expected image embeddings of a floating dtype. Received: {embeddings.dtype.name}.")
    if embeddings.shape.rank != 2 or embeddings.shape[1] != embed_dim:
        raise ValueError(f"Expected image embeddings of shape (batch, {embed_dim}). Received: {embeddings.shape}.")
    return embeddings


def inputs_of(batch: Any) -> Mapping[str, Any]:
    """The dict of a batch, which Keras may hand over as (inputs, no targets, no weights).

    Raises:
        ValueError: for something else, targets or weights.
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
    """The parts of a batch: "text" with "image" or "image_embedding", and "group" if given, of one static batch size.

    Args:
        batch: what the data set yields.
        examples: the batch size of a replica where it is known and the tensors' shapes do not show it.
        masked: whether the batch may hold a "mask", bool (batch,), that is False for rows that are no examples.

    Raises:
        ValueError: for something that is no dict, a missing part, or an unknown or unequal batch size.
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
    """One caption of each image: (batch, captions, length) -> (batch, length). Other shapes stay as they are.

    Args:
        text: token ids.
        bits: uint32 (batch,), random, to draw by; None for the first caption.
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
    """(height, width) of an integer or a pair; raises ValueError for anything else."""
    pair = (image_size, image_size) if isinstance(image_size, int | np.integer) else image_size
    if not isinstance(pair, tuple | list) or len(pair) != 2 or not all(isinstance(s, int | np.integer) for s in pair):
        raise ValueError(f"Expected image_size as pixels or (height, width). Received: {image_size!r}.")
    if min(pair) < 1:
        raise ValueError(f"Expected a positive image_size. Received: {image_size!r}.")
    return int(pair[0]), int(pair[1])
