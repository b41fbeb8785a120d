"""Pillow's antialiased resizing, bit for bit and to any size, with TensorFlow's own operations.

`resize_as_pillow` is faster and differs by at most two levels. `fused_resize` is faster still, but a SavedModel cannot
hold it. This file repeats Pillow's integer arithmetic: weights of 22 binary places, a sum over the taps, and rounding
to 8 bits after each axis.

Source: Pillow 13 `libImaging/Resample.c`.
"""

import tensorflow as tf

_PRECISION = 22
_RADIUS = {"bilinear": 1.0, "bicubic": 2.0}


def resize_exactly(image: tf.Tensor, size: tuple[tf.Tensor | int, tf.Tensor | int], resample: str) -> tf.Tensor:
    """Resizes like `PIL.Image.resize((width, height), resample)`.

    Args:
        image: uint8 (height, width, 3).
        size: (height, width) of the result, numbers or int32 scalars.
        resample: "bicubic" or "bilinear".

    Returns:
        uint8 (*size, 3).
    """
    rows, columns = size

    def width_first() -> tf.Tensor:
        return _resize_rows(_resize_columns(image, columns, resample), rows, resample)

    def height_first() -> tf.Tensor:
        return _resize_columns(_resize_rows(image, rows, resample), columns, resample)

    height, width = tf.unstack(tf.shape(image)[:2])
    shrinks = height - rows
    return tf.cond((shrinks > 0) & (shrinks > 2 * (width - columns)), height_first, width_first)


def _resize_rows(image: tf.Tensor, size: tf.Tensor | int, resample: str) -> tf.Tensor:
    height, width = tf.unstack(tf.shape(image)[:2])
    resized = _resize_first_axis(tf.reshape(image, [height, width * 3]), size, resample)
    return tf.reshape(resized, [size, width, 3])


def _resize_columns(image: tf.Tensor, size: tf.Tensor | int, resample: str) -> tf.Tensor:
    return tf.transpose(_resize_rows(tf.transpose(image, [1, 0, 2]), size, resample), [1, 0, 2])


@tf.autograph.experimental.do_not_convert
def _resize_first_axis(rows: tf.Tensor, size: tf.Tensor | int, resample: str) -> tf.Tensor:
    """Resizes uint8 (n, values) to uint8 (size, values)."""
    n = tf.shape(rows)[0]
    first, weights = _taps(n, size, resample)

    def add(tap: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        values = tf.cast(tf.gather(rows, tf.minimum(first + tap, n - 1)), tf.int32)
        return tap + 1, total + weights[:, tap, None] * values

    half = tf.fill([size, tf.shape(rows)[1]], 1 << (_PRECISION - 1))
    taps = tf.shape(weights)[1]
    _, total = tf.while_loop(
        lambda tap, _: tap < taps,
        add,
        (tf.constant(0), half),
        shape_invariants=(tf.TensorShape([]), tf.TensorShape([None, None])),
    )
    return tf.cast(tf.clip_by_value(tf.bitwise.right_shift(total, _PRECISION), 0, 255), tf.uint8)


def _taps(n: tf.Tensor, size: tf.Tensor | int, resample: str) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the first row that each new row is made of, int32 (size,), and the weights, int32 (size, taps)."""
    scale = tf.cast(n, tf.float64) / tf.cast(size, tf.float64)
    stretch = tf.maximum(scale, 1.0)
    support = _RADIUS[resample] * stretch
    center = (tf.cast(tf.range(size), tf.float64) + 0.5) * scale
    first = tf.cast(tf.maximum(center - support + 0.5, 0.0), tf.int32)
    last = tf.minimum(tf.cast(center + support + 0.5, tf.int32), n)
    place = first[:, None] + tf.range(2 * tf.cast(tf.math.ceil(support), tf.int32) + 1)
    weights = _kernel(tf.abs((tf.cast(place, tf.float64) - center[:, None] + 0.5) * (1 / stretch)), resample)
    weights = tf.where(place < last[:, None], weights, 0.0)
    weights /= tf.reduce_sum(weights, axis=1, keepdims=True)
    fixed = weights * (1 << _PRECISION)
    return first, tf.cast(fixed + tf.where(fixed < 0, tf.constant(-0.5, tf.float64), 0.5), tf.int32)


def _kernel(x: tf.Tensor, resample: str) -> tf.Tensor:
    """Returns the filter's value at a distance of x >= 0 pixels."""
    if resample == "bilinear":
        return tf.maximum(1 - x, 0.0)
    a = -0.5  # Keys' cubic
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return tf.where(x < 1, near, tf.where(x < 2, far, 0.0))
