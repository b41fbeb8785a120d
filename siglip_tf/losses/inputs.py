"""What every loss checks before it traces anything expensive."""

import tensorflow as tf


def as_embeddings(image_embeddings, text_embeddings) -> tuple[tf.Tensor, tf.Tensor]:
    """Both sides as float tensors (b, d) of one static shape.

    Half precision becomes float32: bfloat16 cannot hold the logits (log_sigmoid(0) is -0.691 there).

    Raises:
        ValueError: for another rank, a dtype that is not floating, an unknown batch size or unequal shapes.
    """
    sides = []
    for name, value in (("image_embeddings", image_embeddings), ("text_embeddings", text_embeddings)):
        value = tf.convert_to_tensor(value)
        if not value.dtype.is_floating:
            raise ValueError(f"Expected {name} of a floating dtype. Received: {value.dtype.name} {value.shape}.")
        if value.shape.rank != 2:
            raise ValueError(f"Expected {name} of shape (batch, dim). Received: {value.shape}.")
        if not value.shape.is_fully_defined():
            raise ValueError(
                f"Expected {name} with a static shape, since the loss divides by the global batch once. Received: "
                f"{value.shape}. Batch the data set with drop_remainder=True."
            )
        sides.append(value if value.dtype == tf.float64 else tf.cast(value, tf.float32))
    images, texts = sides
    if images.shape != texts.shape or images.dtype != texts.dtype:
        raise ValueError(
            "Expected as many images as texts, of one embedding size. Received: image_embeddings "
            f"{images.shape} {images.dtype.name}, text_embeddings {texts.shape} {texts.dtype.name}."
        )
    if images.shape[0] == 0:
        raise ValueError(f"Expected at least one pair. Received: a batch of shape {images.shape}.")
    return images, texts


def as_scalar(name: str, value, dtype: tf.DType) -> tf.Tensor:
    """A scalar of `dtype`; raises ValueError for anything of more than one element."""
    value = tf.cast(tf.convert_to_tensor(value), dtype)
    if value.shape.num_elements() != 1:
        raise ValueError(f"Expected {name} to be a scalar. Received: shape {value.shape}.")
    return tf.reshape(value, ())


def check_tile_size(tile_size: int | None) -> None:
    """Raises ValueError unless `tile_size` is None or a positive integer."""
    if tile_size is not None and (not isinstance(tile_size, int) or tile_size < 1):
        raise ValueError(f"Expected tile_size to be None (automatic) or a positive integer. Received: {tile_size!r}.")
