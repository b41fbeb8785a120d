"""Bicubic and bilinear resizing with antialias in the graph, within two levels of Pillow's.

Pillow resizes one axis, rounds and clips to 8 bits, and resizes the other. Clipping is not linear, so the order
matters (by up to 10 of 255 on hard edges). `tf.image.resize(..., "bicubic", antialias=True)` does not keep the order
and does not clip in between. TensorFlow's kernel is fast along the first axis, where it adds whole rows, and slow along
the second, so the bytes are transposed to make each axis the first one.

Source: Pillow 13 `libImaging/Resample.c`. Bicubic is Keys' filter with a = -0.5; bilinear is a triangle. The width is
resized first, unless the height shrinks by more than twice as many pixels (before Pillow 13: always).
"""

import tensorflow as tf

from siglip_tf.data.images.graph import rarely

_KERNELS = {"bicubic": "keyscubic", "bilinear": "triangle"}


def _resize_first_axis(rows: tf.Tensor, size: int, kernel: str) -> tf.Tensor:
    """Resizes uint8 or float32 (n, columns) to float32 (size, columns), rounded and clipped to 0..255."""
    n, columns = tf.shape(rows)[0], tf.shape(rows)[1]
    resized = tf.raw_ops.ScaleAndTranslate(
        images=tf.reshape(rows, [1, n, 1, columns]),
        size=[size, 1],
        scale=tf.stack([size / tf.cast(n, tf.float32), 1.0]),
        translation=[0.0, 0.0],
        kernel_type=kernel,
        antialias=True,
    )
    # "Fake quantization" with unit steps clips and rounds in one pass.
    return tf.quantization.fake_quant_with_min_max_args(tf.reshape(resized, [size, columns]), 0.0, 255.0, num_bits=8)


def _width_first(image: tf.Tensor, size: int, kernel: str) -> tf.Tensor:
    height, width = tf.unstack(tf.shape(image)[:2])
    columns = tf.transpose(tf.reshape(image, [height, width * 3]))
    narrow = _resize_first_axis(tf.reshape(columns, [width, 3 * height]), size, kernel)
    return _resize_first_axis(tf.transpose(tf.reshape(narrow, [size * 3, height])), size, kernel)


def _height_first(image: tf.Tensor, size: int, kernel: str) -> tf.Tensor:
    height, width = tf.unstack(tf.shape(image)[:2])
    short = _resize_first_axis(tf.reshape(image, [height, width * 3]), size, kernel)
    narrow = _resize_first_axis(tf.reshape(tf.transpose(short), [width, 3 * size]), size, kernel)
    return tf.transpose(tf.reshape(narrow, [size * 3, size]))


def resize_as_pillow(image: tf.Tensor, size: int, resample: str = "bicubic") -> tf.Tensor:
    """Resizes to a square with antialias, like `PIL.Image.resize((size, size), resample)`.

    Args:
        image: uint8 (height, width, 3).
        size: height and width of the result, in pixels.
        resample: "bicubic" or "bilinear".

    Returns:
        uint8 (size, size, 3), within two levels of Pillow's.
    """
    image = tf.convert_to_tensor(image)
    kernel = _KERNELS[resample]
    height, width = tf.unstack(tf.shape(image)[:2])
    shrinks = height - size
    height_first = (shrinks > 0) & (shrinks > 2 * (width - size))
    resized = tf.cond(
        height_first,
        rarely(_height_first, image, size=size, kernel=kernel),
        lambda: _width_first(image, size, kernel),
    )
    return tf.cast(tf.reshape(resized, [size, size, 3]), tf.uint8)
