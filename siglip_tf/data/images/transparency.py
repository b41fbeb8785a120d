"""Transparent pictures: composed on white, or without their alpha channel.

Source: Pillow `Image.alpha_composite` (`libImaging/AlphaComposite.c`) over an opaque white picture.
"""

import functools
import logging

import numpy as np
import tensorflow as tf

ALPHA = ("white", "drop")

_logger = logging.getLogger(__name__)


def on_white(pixels: tf.Tensor) -> tf.Tensor:
    """Composes uint8 (height, width, 4), straight alpha, on white: uint8 (height, width, 3), bit for bit as Pillow."""
    pixels = tf.cast(pixels, tf.int32)
    colors, alpha = pixels[..., :3], pixels[..., 3:]
    # Pillow divides by 255 with 7 extra bits.
    scaled = 128 * (colors * alpha + 255 * (255 - alpha) + 128)
    return tf.cast((scaled // 256 + scaled) // 256 // 128, tf.uint8)


def without_alpha(pixels: tf.Tensor, alpha: str, note: bool) -> tf.Tensor:
    """Returns the RGB pixels of a picture that may be transparent.

    Args:
        pixels: uint8 (height, width, 4), straight alpha.
        alpha: "white" composes on white, "drop" keeps the colors under the transparency.
        note: whether to log once in this process that "drop" met a transparent picture.

    Returns:
        uint8 (height, width, 3).
    """
    if alpha == "white":
        return on_white(pixels)
    if not note:
        return pixels[..., :3]
    transparent = tf.reduce_any(pixels[..., 3] < 255)
    noted = tf.cond(transparent, lambda: tf.numpy_function(_note, [], tf.int64), lambda: tf.constant(0, tf.int64))
    with tf.control_dependencies([noted]):
        return tf.identity(pixels[..., :3])


def _note() -> np.int64:
    _say_once()
    return np.int64(0)


@functools.cache
def _say_once() -> None:
    _logger.warning(
        'Some pictures are transparent, and this preprocessing drops their alpha (alpha="drop"): the model sees the '
        'colors under the transparency. Models that are trained from scratch can use alpha="white".'
    )
